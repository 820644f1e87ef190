//! Reads when storage nodes fail.

use std::time::{Duration, Instant};

use meridian_rpc::KvError;
use meridian_types::Timestamp;

use crate::cluster::Cluster;
use crate::world::ReadScript;

#[tokio::test]
async fn a_read_goes_to_another_node_and_stays_there() {
    let cluster = Cluster::start().await;
    cluster.world.put("a", "1");
    for script in [
        ReadScript::Break,
        ReadScript::Unavailable,
        ReadScript::Slow(Duration::from_secs(20)),
    ] {
        for node in ["st-1", "st-2"] {
            cluster.world.core().reads.insert(node, [script].into());
            let mut txn = cluster.begin().await;
            let begun = Instant::now();
            assert_eq!(txn.get("a").await.unwrap().as_deref(), Some("1"), "{script:?}");
            assert!(begun.elapsed() < Duration::from_secs(2));
            assert_eq!(txn.get("a").await.unwrap().as_deref(), Some("1"));
        }
    }
}

#[tokio::test]
async fn the_snapshot_survives_the_change_of_nodes() {
    let cluster = Cluster::start().await;
    cluster.world.put("a", "1");
    let mut txn = cluster.begin().await;
    txn.get("a").await.unwrap();
    cluster.world.put("a", "2");
    for node in ["st-1", "st-2"] {
        cluster
            .world
            .core()
            .reads
            .insert(node, [ReadScript::Break].into());
    }
    assert_eq!(txn.get("a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn an_old_snapshot_is_named_as_such() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    for node in ["st-1", "st-2"] {
        cluster
            .world
            .core()
            .reads
            .insert(node, [ReadScript::TooOld].into());
    }
    let error = txn.get("a").await.unwrap_err();
    assert_eq!(
        error,
        KvError::SnapshotTooOld {
            min_start: Timestamp(9)
        }
    );
}

#[tokio::test]
async fn nobody_answering_is_unavailable_before_the_deadline() {
    let cluster = Cluster::start().await;
    for node in ["st-1", "st-2"] {
        cluster
            .world
            .core()
            .reads
            .insert(node, vec![ReadScript::Unavailable; 10_000].into());
    }
    let txn = cluster.begin().await;
    let mut request = tonic::Request::new(meridian_rpc::v1::GetRequest {
        transaction: txn.handle(),
        key: "a".into(),
        for_update: false,
    });
    request.set_timeout(Duration::from_millis(200));
    let begun = Instant::now();
    let mut client = cluster.client();
    let status = client.get(request).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(200));
    assert!(
        matches!(KvError::from_status(&status), Some(KvError::Unavailable { .. })),
        "{status:?}"
    );
}
