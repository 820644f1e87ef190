//! What is dropped by time, and what is refused because of it.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_storage::Config;
use meridian_storage::store::{MemoryStore, VersionStore};
use meridian_types::Timestamp;

use crate::world::{BOUND, NOW, World, eventually};

#[tokio::test]
async fn old_versions_go_and_reads_that_would_need_them_are_refused_also_after_a_restart() {
    let world = World::new();
    let store = Arc::new(MemoryStore::new());
    let config = || Config {
        retention_ms: 1_000,
        ..world.config()
    };
    let node = world.start_on("st1", config(), store.clone());
    world.commit(NOW - 300, &[("gone", Some("x")), ("k", Some("1"))]);
    world.commit(NOW - 200, &[("gone", None), ("k", Some("2"))]);
    world.close(NOW - 100);
    eventually("closed", || node.closed() == NOW - 100).await;
    let mut reader = node.reader().await;
    world.clock.advance(Duration::from_nanos(2 * BOUND));
    assert_eq!(
        reader.get("k", NOW - 250).await.unwrap().as_deref(),
        Some("1"),
        "young enough"
    );
    world.clock.set(Timestamp(NOW - 150 + BOUND + 1_000_000_000));
    eventually("dropped", || node.figure("versions_dropped") == 3).await;
    let refused = reader.get("k", NOW - 151).await;
    assert_eq!(
        refused,
        Err(KvError::SnapshotTooOld {
            min_start: Timestamp(NOW - 150)
        })
    );
    assert_eq!(reader.get("k", NOW - 150).await.unwrap().as_deref(), Some("2"));
    assert_eq!(reader.get("gone", NOW - 150).await.unwrap(), None);
    node.stop().await;
    assert_eq!(store.horizon().unwrap(), Timestamp(NOW - 150));
    // The clock of the restarted node is behind: what was dropped stays refused.
    world.clock.set(Timestamp(NOW));
    let node = world.start_on("st1", config(), store);
    let mut reader = node.reader().await;
    assert!(matches!(
        reader.get("k", NOW - 151).await,
        Err(KvError::SnapshotTooOld { .. })
    ));
}

#[tokio::test]
async fn nothing_is_dropped_above_what_is_closed() {
    let world = World::new();
    let node = world.start(Config {
        retention_ms: 1,
        ..world.config()
    });
    world.commit(NOW - 300, &[("k", Some("1"))]);
    world.commit(NOW - 200, &[("k", None)]);
    world.clock.advance(Duration::from_secs(1));
    eventually("in force", || node.figure("horizon") > NOW).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        node.figure("versions_dropped"),
        0,
        "an older write may still come, from another stream"
    );
    world.close(NOW);
    eventually("dropped", || node.figure("versions_dropped") == 2).await;
}
