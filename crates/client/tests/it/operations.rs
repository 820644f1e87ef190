//! Reads, writes and scans as such.

use std::time::Duration;

use futures::TryStreamExt;
use meridian_client::fake::{FakeCluster, Fault};
use meridian_client::{Client, KeyRange, KvError, Predicate, ScanOptions, TxnOptions};

use crate::over_tcp;

async fn filled(cluster: &FakeCluster, rows: usize) -> Client {
    let client = over_tcp(cluster).await;
    client
        .transact(|txn| async move {
            for n in 0..rows {
                txn.put(format!("k{n:04}").as_str(), format!("v{}", n % 10))
                    .await?;
            }
            Ok(())
        })
        .await
        .unwrap();
    client
}

#[tokio::test]
async fn scans_are_streamed_in_pages() {
    let cluster = FakeCluster::new();
    cluster.set_page_rows(7);
    let client = filled(&cluster, 1_000).await;
    let txn = client.begin(TxnOptions::read_only()).await.unwrap();
    let range = || KeyRange::prefix("k".into());
    let scan = txn.scan(range(), ScanOptions::default()).await.unwrap();
    let rows: Vec<_> = scan.into_stream().try_collect().await.unwrap();
    assert_eq!(rows.len(), 1_000);
    assert!(rows.is_sorted_by(|a, b| a.key < b.key));

    let last = ScanOptions::default().reverse().limit(3).keys_only();
    let rows = client.scan(range(), last).await.unwrap();
    let keys: Vec<_> = rows.iter().map(|row| row.key.to_string()).collect();
    assert_eq!(keys, ["k0999", "k0998", "k0997"]);
    assert!(rows.iter().all(|row| row.value.is_empty()));

    let fives = ScanOptions::default().filter(Predicate::Equal("v5".into()));
    assert_eq!(client.scan(range(), fives).await.unwrap().len(), 100);
    assert_eq!(client.count(KeyRange::prefix("k01".into())).await.unwrap(), 100);
    assert_eq!(client.count(KeyRange::prefix("z".into())).await.unwrap(), 0);
}

#[tokio::test]
async fn a_scan_reads_ahead_one_page_and_stops_when_it_is_dropped() {
    let cluster = FakeCluster::new();
    cluster.set_page_rows(5);
    let client = filled(&cluster, 1_000).await;
    let txn = client.begin(TxnOptions::read_only()).await.unwrap();
    let mut scan = txn.scan(KeyRange::all(), ScanOptions::default()).await.unwrap();
    assert_eq!(scan.next_page().await.unwrap().len(), 5);
    drop(scan);
    // The same session is in order: when this is answered, so is everything before it.
    txn.get("k0000").await.unwrap();
    assert!(cluster.counters().pages <= 2, "{:?}", cluster.counters());
}

#[tokio::test]
async fn batches_answer_in_the_order_of_the_keys() {
    let cluster = FakeCluster::new();
    let client = filled(&cluster, 20).await;
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    let found = txn.batch_get(["k0003", "none", "k0001"]).await.unwrap();
    let text: Vec<_> = found.iter().map(|value| value.as_deref()).collect();
    assert_eq!(text, [Some(&b"v3"[..]), None, Some(&b"v1"[..])]);
}

#[tokio::test]
async fn ranges_are_deleted_and_an_inverted_one_deletes_nothing() {
    let cluster = FakeCluster::new();
    let client = filled(&cluster, 100).await;
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    for inverted in [("k", ""), ("z", "a"), ("", "")] {
        let range = KeyRange::new(inverted.0.into(), inverted.1.into());
        assert_eq!(txn.count(range.clone()).await.unwrap(), 0);
        assert_eq!(txn.delete_range(range).await.unwrap(), 0);
    }
    let deleted = txn.delete_range(KeyRange::prefix("k000".into())).await.unwrap();
    assert_eq!(deleted, 10);
    txn.commit().await.unwrap();
    assert_eq!(client.count(KeyRange::all()).await.unwrap(), 90);
}

#[tokio::test]
async fn savepoints_take_back_what_came_after_them() {
    let client = FakeCluster::new().client();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("a", "1").await.unwrap();
    txn.savepoint("s").await.unwrap();
    txn.put("b", "2").await.unwrap();
    txn.rollback_to("s").await.unwrap();
    txn.put("c", "3").await.unwrap();
    txn.commit().await.unwrap();
    let rows = client
        .scan(KeyRange::all(), ScanOptions::default())
        .await
        .unwrap();
    let keys: Vec<_> = rows.iter().map(|row| row.key.to_string()).collect();
    assert_eq!(keys, ["a", "c"]);
}

#[tokio::test]
async fn what_a_pipelined_write_met_surfaces_at_commit() {
    let client = FakeCluster::new().client();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.rollback_to("nowhere").await.unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error.kv(), Some(KvError::Invalid { .. })), "{error}");
}

#[tokio::test]
async fn limits_are_named() {
    let client = FakeCluster::new().client();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    let long = "k".repeat(4_097);
    assert!(txn.put(&long[..4_096], vec![0; 1 << 20]).await.is_ok());
    let error = txn.put(long.as_str(), "v").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "key length in bytes is 4097, the limit is 4096"
    );
    let error = txn.put("k", vec![0; (1 << 20) + 1]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "value length in bytes is 1048577, the limit is 1048576"
    );
    assert!(matches!(
        txn.get("").await.unwrap_err().kv(),
        Some(KvError::Invalid { .. })
    ));
    assert!(
        txn.commit().await.is_ok(),
        "a refused write does not spoil the others"
    );
}

#[tokio::test]
async fn a_full_transaction_passes_through_the_bounded_queue() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    for n in 0..10_000 {
        txn.put(format!("k{n:05}").as_str(), vec![7; 1_000])
            .await
            .unwrap();
    }
    txn.commit().await.unwrap();
    assert_eq!(client.count(KeyRange::all()).await.unwrap(), 10_000);
}

#[tokio::test]
async fn many_transactions_share_a_session() {
    let cluster = FakeCluster::new();
    let client = filled(&cluster, 10).await;
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(client.begin(TxnOptions::default()).await.unwrap());
    }
    for txn in &open {
        assert_eq!(txn.get("k0001").await.unwrap().unwrap(), "v1");
    }
    assert_eq!(cluster.counters().sessions, 1);
    let ids: std::collections::BTreeSet<_> = open.iter().map(|txn| txn.id()).collect();
    assert_eq!(ids.len(), 200);
    assert!(ids.iter().all(|id| id.0.get_version_num() == 7));
}

#[tokio::test]
async fn what_the_server_has_no_place_for_waits_here_and_is_not_sent_when_nobody_wants_it_any_more() {
    let cluster = FakeCluster::new();
    cluster.set_operations(2);
    cluster.inject([Fault::Silence, Fault::Silence]);
    let client = cluster.client_with(Client::builder().sessions(1));
    let unanswered: Vec<_> = ["a", "b"]
        .map(|key| {
            let client = client.clone();
            tokio::spawn(async move { client.put(key, "1").await })
        })
        .into();
    while cluster.counters().commits < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let patience = Duration::from_millis(50);
    let third = tokio::time::timeout(patience, client.put("c", "1")).await;
    assert!(third.is_err(), "{third:?}");
    let in_time = TxnOptions {
        deadline: Some(patience),
        ..TxnOptions::default()
    };
    let refused = client.transact_with(in_time, |txn| async move { txn.get("a").await });
    refused.await.unwrap_err();
    for put in unanswered {
        put.abort();
    }
    client.put("d", "1").await.unwrap();
    assert_eq!(cluster.counters().commits, 3, "the third was sent");
    assert_eq!(client.get("c").await.unwrap(), None);
}
