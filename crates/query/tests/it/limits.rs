//! Every bound is checked, named, and gives back what it held.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::ManualClock;
use meridian_query::Config;
use meridian_rpc::KvError;
use meridian_rpc::v1::{BeginRequest, PutRequest};
use meridian_types::Timestamp;

use crate::cluster::{Cluster, Txn, test_config};

async fn put(txn: &mut Txn, key: usize, value: usize) -> Result<(), KvError> {
    let request = PutRequest {
        transaction: txn.handle(),
        key: Bytes::from(vec![b'k'; key]),
        value: Bytes::from(vec![b'v'; value]),
    };
    let put = txn.client.put(request).await;
    put.map(drop)
        .map_err(|status| KvError::from_status(&status).expect("ours"))
}

fn limit(error: &KvError) -> (&str, u64, u64) {
    match error {
        KvError::LimitExceeded { limit, allowed, got } => (limit, *allowed, *got),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn limits_are_named() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    assert!(matches!(put(&mut txn, 0, 1).await, Err(KvError::Invalid { .. })));
    put(&mut txn, 4_096, 1 << 20).await.unwrap();
    let error = put(&mut txn, 4_097, 1).await.unwrap_err();
    assert_eq!(limit(&error), ("key length in bytes", 4_096, 4_097));
    let error = put(&mut txn, 1, (1 << 20) + 1).await.unwrap_err();
    assert_eq!(limit(&error), ("value length in bytes", 1 << 20, (1 << 20) + 1));
    for key in 10..18 {
        put(&mut txn, key, 1 << 20).await.unwrap();
    }
    let error = put(&mut txn, 20, 1 << 20).await.unwrap_err();
    assert_eq!(limit(&error).0, "bytes written by the transaction");
    // A refused write changes nothing, and the transaction goes on.
    txn.commit().await.unwrap();
    assert_eq!(cluster.world.core().versions.len(), 9);
    assert_eq!(cluster.figure("bytes_held"), 0);
}

#[tokio::test]
async fn transactions_and_bytes_are_bounded_over_all_clients() {
    let config = Config {
        max_open_transactions: 3,
        max_buffered_bytes: 1 << 20,
        ..test_config()
    };
    let cluster = Cluster::with(config).await;
    let mut txns = Vec::new();
    for _ in 0..3 {
        txns.push(cluster.begin().await);
    }
    let status = cluster.client().begin(BeginRequest::default()).await.unwrap_err();
    let error = KvError::from_status(&status).unwrap();
    assert!(matches!(error, KvError::Overloaded { .. }) && error.retry_after() > Some(Duration::ZERO));
    txns.pop().unwrap().rollback().await.unwrap();
    txns.push(cluster.begin().await);

    put(&mut txns[0], 1, 600_000).await.unwrap();
    assert!(matches!(
        put(&mut txns[1], 1, 600_000).await,
        Err(KvError::Overloaded { .. })
    ));
    txns[0].rollback().await.unwrap();
    put(&mut txns[1], 1, 600_000).await.unwrap();
    txns[1].commit().await.unwrap();
    assert_eq!(cluster.figure("bytes_held"), 0);
}

#[tokio::test]
async fn idle_and_old_transactions_are_rolled_back_and_told_so() {
    let config = Config {
        idle_timeout_ms: 100,
        max_age_ms: 400,
        ..test_config()
    };
    let cluster = Cluster::with(config).await;
    let mut idle = cluster.begin().await;
    let mut busy = cluster
        .begin_with(BeginRequest {
            idle_timeout_ms: 10_000,
            ..BeginRequest::default()
        })
        .await;
    idle.put("a", "1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(250)).await;
    let error = idle.commit().await.unwrap_err();
    assert!(
        matches!(&error, KvError::Aborted { why } if why.contains("nobody used it")),
        "{error}"
    );
    assert!(matches!(idle.get("a").await, Err(KvError::Aborted { .. })));
    busy.put("a", "1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = busy.put("b", "1").await.unwrap_err();
    assert!(
        matches!(&error, KvError::Aborted { why } if why.contains("begin again")),
        "{error}"
    );
    assert_eq!(cluster.figure("transactions_open"), 0);
    assert_eq!(cluster.figure("bytes_held"), 0);
    assert_eq!(cluster.world.core().records, 0);
}

#[tokio::test]
async fn ended_transactions_are_remembered_within_a_bound() {
    let cluster = Cluster::with(Config {
        finished_transactions: 2,
        ..test_config()
    })
    .await;
    let mut txns = Vec::new();
    for _ in 0..4 {
        let mut txn = cluster.begin().await;
        txn.put("a", "1").await.unwrap();
        txn.commit().await.unwrap();
        txns.push(txn);
    }
    assert!(matches!(
        txns[0].commit().await,
        Err(KvError::TransactionNotFound { .. })
    ));
    assert!(txns[3].commit().await.is_ok());
}

#[tokio::test]
async fn a_clock_that_is_not_trusted_takes_no_new_transaction() {
    let clock = Arc::new(ManualClock::new(
        Timestamp(10_000_000_000),
        Duration::from_secs(2),
    ));
    let cluster = Cluster::with_clock(test_config(), clock).await;
    let status = cluster.client().begin(BeginRequest::default()).await.unwrap_err();
    assert!(
        matches!(KvError::from_status(&status), Some(KvError::Unavailable { what, .. }) if what.contains("clock"))
    );
    assert!(!cluster.started.service.is_ready());
}

#[tokio::test]
async fn handles_of_others_are_not_known() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    let other = meridian_rpc::handle::TxnHandle {
        node: "elsewhere".into(),
        ..meridian_rpc::handle::TxnHandle::decode(&txn.handle()).unwrap()
    };
    txn.begun.transaction = other.encode();
    assert!(matches!(
        txn.get("a").await,
        Err(KvError::TransactionNotFound { .. })
    ));
    txn.begun.transaction = "rubbish".into();
    assert!(matches!(txn.get("a").await, Err(KvError::Invalid { .. })));
}

#[tokio::test]
async fn shutdown_begins_nothing_new_and_lets_open_ones_end() {
    let mut cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    let mut left = cluster.begin().await;
    txn.put("a", "1").await.unwrap();
    cluster.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let status = cluster.client().begin(BeginRequest::default()).await.unwrap_err();
    assert!(matches!(
        KvError::from_status(&status),
        Some(KvError::Unavailable { .. })
    ));
    txn.commit().await.unwrap();
    tokio::time::timeout(Duration::from_secs(2), &mut cluster.started.stopped)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(left.commit().await, Err(KvError::Aborted { .. })));
}
