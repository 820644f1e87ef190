//! Anomalies, named.

use meridian_client::fake::FakeCluster;
use meridian_client::{KeyRange, KvError, ScanOptions, TxnOptions};

use crate::{increment, over_tcp};

#[tokio::test]
async fn lost_update_does_not_happen() {
    let client = FakeCluster::new().client();
    let first = client.begin(TxnOptions::default()).await.unwrap();
    let second = client.begin(TxnOptions::default()).await.unwrap();
    assert_eq!(first.get("x").await.unwrap(), None);
    assert_eq!(second.get("x").await.unwrap(), None);
    first.put("x", "1").await.unwrap();
    second.put("x", "2").await.unwrap();
    let committed = first.commit().await.unwrap();
    let refused = second.commit().await.unwrap_err();
    let conflict = KvError::Conflict {
        key: "x".into(),
        with: committed.timestamp,
    };
    assert_eq!(refused.kv(), Some(&conflict));
    assert!(refused.is_retryable() && refused.is_definite());
    assert_eq!(client.get("x").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn concurrent_increments_all_count() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    // Spawned: the futures of the library must be `Send`.
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    increment(&client, "hot").await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(client.get("hot").await.unwrap().unwrap(), "80");
    assert_eq!(cluster.counters().sessions, 1, "all share one session");
}

async fn skew(options: TxnOptions, for_update: bool) -> bool {
    let client = FakeCluster::new().client();
    client.put("a", "on call").await.unwrap();
    client.put("b", "on call").await.unwrap();
    let first = client.begin(options).await.unwrap();
    let second = client.begin(options).await.unwrap();
    for (txn, other, own) in [(&first, "b", "a"), (&second, "a", "b")] {
        let seen = if for_update {
            txn.get_for_update(other).await
        } else {
            txn.get(other).await
        };
        assert!(seen.unwrap().is_some());
        txn.delete(own).await.unwrap();
    }
    first.commit().await.unwrap();
    second.commit().await.is_ok()
}

#[tokio::test]
async fn write_skew_is_stopped_when_reads_are_checked() {
    assert!(skew(TxnOptions::default(), false).await);
    assert!(!skew(TxnOptions::default(), true).await);
    assert!(!skew(TxnOptions::serializable(), false).await);
}

#[tokio::test]
async fn reads_are_repeatable_and_there_are_no_phantoms() {
    let client = FakeCluster::new().client();
    client.put("k1", "old").await.unwrap();
    let txn = client.begin(TxnOptions::read_only()).await.unwrap();
    assert_eq!(txn.get("k1").await.unwrap().unwrap(), "old");
    client.put("k1", "new").await.unwrap();
    client.put("k2", "new").await.unwrap();
    assert_eq!(txn.get("k1").await.unwrap().unwrap(), "old");
    let rows = txn.scan(KeyRange::all(), ScanOptions::default()).await.unwrap();
    assert_eq!(rows.collect().await.unwrap().len(), 1);
    txn.commit().await.unwrap();
    assert_eq!(client.count(KeyRange::all()).await.unwrap(), 2);
}

#[tokio::test]
async fn own_writes_are_read() {
    let client = FakeCluster::new().client();
    client.put("k2", "theirs").await.unwrap();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k1", "mine").await.unwrap();
    txn.delete("k2").await.unwrap();
    assert_eq!(txn.get("k1").await.unwrap().unwrap(), "mine");
    assert_eq!(txn.get("k2").await.unwrap(), None);
    assert_eq!(txn.count(KeyRange::all()).await.unwrap(), 1);
    drop(txn);
    assert_eq!(client.get("k1").await.unwrap(), None);
    assert_eq!(client.get("k2").await.unwrap().unwrap(), "theirs");
}

#[tokio::test]
async fn the_past_is_read_at_a_timestamp_while_it_is_kept() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    let first = client.put("k", "1").await.unwrap();
    client.put("k", "2").await.unwrap();
    let then = TxnOptions::at(first.timestamp);
    let txn = client.begin(then).await.unwrap();
    let found = txn.get_versioned("k").await.unwrap().unwrap();
    assert_eq!(
        (found.value.as_ref(), found.timestamp),
        (&b"1"[..], first.timestamp)
    );
    assert_eq!(
        txn.put("k", "3").await.unwrap_err().kv(),
        Some(&KvError::ReadOnly)
    );
    cluster.expire_snapshots();
    let late = client.begin(then).await.unwrap().get("k").await.unwrap_err();
    assert!(
        matches!(late.kv(), Some(KvError::SnapshotTooOld { .. })),
        "{late}"
    );
}
