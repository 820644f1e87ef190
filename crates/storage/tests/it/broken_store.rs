//! A store that fails stops its node, which says so; it never answers wrongly.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_rpc::KvError;
use meridian_storage::StoreError;
use meridian_storage::store::{
    AppliedBatch, Direction, MemoryStore, Progress, Swept, VersionStore, Visit, VisitVersion,
};
use meridian_types::{Key, KeyRange, StreamId, Timestamp};

use crate::world::{NOW, World, eventually};

/// Works until it is told to break.
#[derive(Default)]
struct Fragile {
    inner: MemoryStore,
    is_read_broken: AtomicBool,
    is_write_broken: AtomicBool,
    panics: AtomicBool,
}

fn check(broken: &AtomicBool) -> Result<(), StoreError> {
    if !broken.load(Ordering::SeqCst) {
        return Ok(());
    }
    Err(StoreError::Unusable {
        dir: PathBuf::from("/data/versions"),
        what: "a page is damaged".to_owned(),
    })
}

impl VersionStore for Fragile {
    fn apply(&self, batch: &AppliedBatch) -> Result<(), StoreError> {
        assert!(
            !self.panics.load(Ordering::SeqCst),
            "the store panics, as this test wants"
        );
        check(&self.is_write_broken)?;
        self.inner.apply(batch)
    }

    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>, StoreError> {
        check(&self.is_read_broken)?;
        self.inner.newest(key, at)
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>, StoreError> {
        self.inner.walk(range, at, direction, max_steps, visit)
    }

    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>), StoreError> {
        self.inner.sweep(range, below, horizon, max_steps)
    }

    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool, StoreError> {
        self.inner.versions(after, max_steps, visit)
    }

    fn begin_filling(&self) -> Result<(), StoreError> {
        self.inner.begin_filling()
    }

    fn clear(&self, max_steps: usize) -> Result<bool, StoreError> {
        self.inner.clear(max_steps)
    }

    fn end_filling(
        &self,
        progress: &BTreeMap<StreamId, Progress>,
        horizon: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.end_filling(progress, horizon)
    }

    fn is_incomplete(&self) -> Result<bool, StoreError> {
        self.inner.is_incomplete()
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>, StoreError> {
        self.inner.progress()
    }

    fn horizon(&self) -> Result<Timestamp, StoreError> {
        self.inner.horizon()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_damaged_page_stops_the_node_and_names_the_directory() {
    let world = World::new();
    let store = Arc::new(Fragile::default());
    let node = world.start_on("st1", world.config(), store.clone());
    world.close(NOW);
    eventually("closed", || node.closed() == NOW).await;
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", NOW).await.unwrap(), None);
    store.is_read_broken.store(true, Ordering::SeqCst);
    // Another key: what the first one has is in memory.
    let ids = reader.send(vec![crate::world::get("other", NOW)]).await;
    // The answer may or may not come before the stream ends, but it is no value.
    match reader.answers.message().await {
        Ok(Some(batch)) => {
            let reply = &batch.replies[0];
            assert_eq!(reply.id, ids[0]);
            assert!(format!("{:?}", reply.result).contains("UNAVAILABLE"), "{reply:?}");
        }
        Ok(None) => {}
        Err(status) => {
            assert!(
                matches!(KvError::from_status(&status), Some(KvError::Unavailable { .. })),
                "{status}"
            );
        }
    }
    let failure = node.started.stopped.await.unwrap().unwrap_err().to_string();
    assert!(
        failure.contains("/data/versions") && failure.contains("empty this directory"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_failed_write_closes_nothing() {
    let world = World::new();
    let store = Arc::new(Fragile::default());
    store.is_write_broken.store(true, Ordering::SeqCst);
    let node = world.start_on("st1", world.config(), store);
    world.commit(NOW, &[("k", Some("v"))]);
    world.close(NOW);
    assert!(node.started.stopped.await.unwrap().is_err());
    let status = node.started.service.status();
    assert_eq!((status.applied[0].applied_lsn, status.applied[0].closed), (0, 0));
    assert!(status.state.starts_with("failed"), "{}", status.state);
}

#[tokio::test]
async fn a_task_that_dies_ends_the_node() {
    let world = World::new();
    let store = Arc::new(Fragile::default());
    store.panics.store(true, Ordering::SeqCst);
    let node = world.start_on("st1", world.config(), store);
    world.commit(NOW, &[("k", Some("v"))]);
    let failure = node.started.stopped.await.unwrap().unwrap_err().to_string();
    assert!(failure.contains("died"), "{failure}");
}
