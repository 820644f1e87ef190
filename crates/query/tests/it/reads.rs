//! Reads when storage nodes fail.

use std::time::{Duration, Instant};

use meridian_rpc::KvError;
use meridian_rpc::v1::{self, BeginRequest};
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
    let mut request = tonic::Request::new(v1::GetRequest {
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

/// It answers from what it has, says how old that is, and when that is too old it says by how much.
#[tokio::test]
async fn a_region_that_is_cut_off_reads_the_past() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    txn.put("a", "1").await.unwrap();
    txn.commit().await.unwrap();
    let closed = cluster.clock.now().earliest;
    cluster.world.core().cut_at = Some(closed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let past = |at, max_staleness_ms| BeginRequest {
        read_only: true,
        at,
        max_staleness_ms,
        ..BeginRequest::default()
    };
    for begin in [past(0, 10_000), past(closed.0, 0)] {
        let mut txn = cluster.begin_with(begin).await;
        let request = v1::GetRequest {
            transaction: txn.handle(),
            key: "a".into(),
            for_update: false,
        };
        let got = txn.client.get(request).await.unwrap().into_inner();
        assert_eq!(got.value.as_deref(), Some(&b"1"[..]));
        let snapshot = got.snapshot.unwrap();
        assert_eq!(snapshot.timestamp, closed.0);
        assert!((50..5_000).contains(&snapshot.age_ms), "{snapshot:?}");
        let scan = v1::ScanRequest {
            transaction: txn.handle(),
            ..v1::ScanRequest::default()
        };
        let mut pages = txn.client.scan(scan).await.unwrap().into_inner();
        let page = pages.message().await.unwrap().unwrap();
        assert_eq!(page.snapshot.map(|snapshot| snapshot.timestamp), Some(closed.0));
    }
    let mut txn = cluster.begin_with(past(0, 1)).await;
    let mut request = tonic::Request::new(v1::GetRequest {
        transaction: txn.handle(),
        key: "a".into(),
        for_update: false,
    });
    request.set_timeout(Duration::from_millis(300));
    let error = KvError::from_status(&txn.client.get(request).await.unwrap_err()).unwrap();
    assert!(
        error.to_string().contains("by itself is older than that by"),
        "{error}"
    );
}
