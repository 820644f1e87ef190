//! The anomalies of isolation, each named for what would go wrong.

use meridian_client::{Client, Isolation, KvError, Row, ScanOptions, Transaction, TxnOptions};
use meridian_e2e::{Cluster, Layout};
use meridian_types::KeyRange;

/// One cluster for all of them: each uses keys of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anomalies() {
    let cluster = Cluster::start(Layout {
        routers: 1,
        ..Layout::default()
    })
    .await;
    let client = cluster.client().await;
    lost_update(&client).await;
    write_skew_is_allowed_under_snapshot_isolation(&client).await;
    write_skew_is_refused_when_serializable(&client).await;
    write_skew_is_refused_for_update(&client).await;
    read_your_writes(&client).await;
    non_repeatable_read(&client).await;
    phantom_under_the_snapshot(&client).await;
    phantom_is_refused_when_serializable(&client).await;
    dirty_read(&client).await;
    stale_read_after_an_acknowledged_commit(&client).await;
}

async fn begin(client: &Client, isolation: Isolation) -> Transaction {
    client
        .begin(TxnOptions {
            isolation,
            ..TxnOptions::default()
        })
        .await
        .expect("a transaction begins")
}

async fn rows(txn: &Transaction, prefix: &str) -> Vec<Row> {
    let scan = txn
        .scan(KeyRange::prefix(prefix.into()), ScanOptions::default())
        .await;
    scan.expect("a scan begins").collect().await.expect("a scan ends")
}

fn assert_conflict<T: std::fmt::Debug>(result: Result<T, meridian_client::Error>, key: &str) {
    match result {
        Err(error) => match error.kv() {
            Some(KvError::Conflict { key: on, .. }) => assert_eq!(on.as_ref(), key.as_bytes()),
            other => panic!("expected a conflict on {key}, got {other:?}"),
        },
        Ok(value) => panic!("expected a conflict on {key}, it committed: {value:?}"),
    }
}

async fn lost_update(client: &Client) {
    client.put("lost/counter", "10").await.unwrap();
    let first = begin(client, Isolation::Snapshot).await;
    let second = begin(client, Isolation::Snapshot).await;
    assert_eq!(
        first.get("lost/counter").await.unwrap().as_deref(),
        Some(&b"10"[..])
    );
    assert_eq!(
        second.get("lost/counter").await.unwrap().as_deref(),
        Some(&b"10"[..])
    );
    first.put("lost/counter", "11").await.unwrap();
    second.put("lost/counter", "12").await.unwrap();
    first.commit().await.unwrap();
    assert_conflict(second.commit().await, "lost/counter");
    assert_eq!(
        client.get("lost/counter").await.unwrap().as_deref(),
        Some(&b"11"[..])
    );
}

/// Two doctors on call, each signs off because the other one is there.
async fn both_sign_off(client: &Client, prefix: &str, isolation: Isolation, for_update: bool) -> bool {
    let keys = [format!("{prefix}/alice"), format!("{prefix}/bob")];
    for key in &keys {
        client.put(key.clone(), "on").await.unwrap();
    }
    let first = begin(client, isolation).await;
    let second = begin(client, isolation).await;
    for txn in [&first, &second] {
        for key in &keys {
            let value = if for_update {
                txn.get_for_update(key.clone()).await.unwrap()
            } else {
                txn.get(key.clone()).await.unwrap()
            };
            assert_eq!(value.as_deref(), Some(&b"on"[..]));
        }
    }
    first.put(keys[0].clone(), "off").await.unwrap();
    second.put(keys[1].clone(), "off").await.unwrap();
    first.commit().await.unwrap();
    match second.commit().await {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error.kv(), Some(KvError::Conflict { .. })), "{error}");
            assert!(error.is_retryable());
            false
        }
    }
}

async fn write_skew_is_allowed_under_snapshot_isolation(client: &Client) {
    assert!(both_sign_off(client, "skew/snapshot", Isolation::Snapshot, false).await);
}

async fn write_skew_is_refused_when_serializable(client: &Client) {
    assert!(!both_sign_off(client, "skew/serializable", Isolation::Serializable, false).await);
}

async fn write_skew_is_refused_for_update(client: &Client) {
    assert!(!both_sign_off(client, "skew/for-update", Isolation::Snapshot, true).await);
}

async fn read_your_writes(client: &Client) {
    client.put("own/a", "old").await.unwrap();
    client.put("own/c", "old").await.unwrap();
    let txn = begin(client, Isolation::Snapshot).await;
    txn.put("own/a", "new").await.unwrap();
    txn.put("own/b", "new").await.unwrap();
    txn.delete("own/c").await.unwrap();
    assert_eq!(txn.get("own/a").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(txn.get("own/c").await.unwrap(), None);
    let seen = rows(&txn, "own/").await;
    let keys: Vec<_> = seen.iter().map(|row| row.key.to_string()).collect();
    assert_eq!(keys, ["own/a", "own/b"]);
    txn.rollback().await.unwrap();
    assert_eq!(
        client.get("own/a").await.unwrap().as_deref(),
        Some(&b"old"[..]),
        "rolled back"
    );
}

async fn non_repeatable_read(client: &Client) {
    client.put("repeat/key", "1").await.unwrap();
    let reader = begin(client, Isolation::Snapshot).await;
    assert_eq!(
        reader.get("repeat/key").await.unwrap().as_deref(),
        Some(&b"1"[..])
    );
    client.put("repeat/key", "2").await.unwrap();
    assert_eq!(
        reader.get("repeat/key").await.unwrap().as_deref(),
        Some(&b"1"[..])
    );
    reader
        .commit()
        .await
        .expect("a transaction that only read never aborts");
}

async fn phantom_under_the_snapshot(client: &Client) {
    client.put("phantom/a", "1").await.unwrap();
    let reader = begin(client, Isolation::Snapshot).await;
    assert_eq!(rows(&reader, "phantom/").await.len(), 1);
    client.put("phantom/b", "1").await.unwrap();
    assert_eq!(rows(&reader, "phantom/").await.len(), 1);
    reader.commit().await.unwrap();
    let later = begin(client, Isolation::Snapshot).await;
    assert_eq!(rows(&later, "phantom/").await.len(), 2);
    later.rollback().await.unwrap();
}

async fn phantom_is_refused_when_serializable(client: &Client) {
    client.put("phantom2/a", "1").await.unwrap();
    let counter = begin(client, Isolation::Serializable).await;
    let seen = rows(&counter, "phantom2/").await;
    client.put("phantom2/b", "1").await.unwrap();
    counter
        .put("phantom2-count", seen.len().to_string())
        .await
        .unwrap();
    assert_conflict(counter.commit().await, "phantom2/b");
}

async fn dirty_read(client: &Client) {
    client.put("dirty/key", "committed").await.unwrap();
    let writer = begin(client, Isolation::Snapshot).await;
    writer.put("dirty/key", "uncommitted").await.unwrap();
    assert_eq!(
        writer.get("dirty/key").await.unwrap().as_deref(),
        Some(&b"uncommitted"[..])
    );
    assert_eq!(
        client.get("dirty/key").await.unwrap().as_deref(),
        Some(&b"committed"[..])
    );
    writer.rollback().await.unwrap();
}

/// Strong: whoever begins after an acknowledgement sees the commit, also through another client.
async fn stale_read_after_an_acknowledged_commit(client: &Client) {
    for round in 0..50 {
        let value = round.to_string();
        client.put("strong/key", value.clone()).await.unwrap();
        let seen = client.get("strong/key").await.unwrap();
        assert_eq!(seen.as_deref(), Some(value.as_bytes()), "round {round}");
    }
}
