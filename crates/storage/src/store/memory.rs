//! Versions in memory, for tests and simulations: forgets at a crash what was not flushed, as a disk would.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::{Key, KeyRange, StreamId, Timestamp};

use super::{
    AppliedBatch, Direction, Progress, Swept, VersionStore, VersionWrite, Visit, VisitVersion,
    newest_below_may_go, rest_after,
};
use crate::error::StoreError;

type Result<T> = std::result::Result<T, StoreError>;
type Place = (Key, Reverse<Timestamp>);

/// Versions in memory. All clones are the same store, which thus outlives the node that uses it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Content,
    /// What a crash leaves.
    flushed: Content,
    /// What happened since, in order.
    unflushed: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    versions: BTreeMap<Place, Option<Bytes>>,
    progress: BTreeMap<StreamId, Progress>,
    horizon: Timestamp,
    is_incomplete: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Applied(AppliedBatch),
    Dropped {
        places: Vec<Place>,
        horizon: Timestamp,
    },
    FillingBegan,
    FillingEnded {
        progress: BTreeMap<StreamId, Progress>,
        horizon: Timestamp,
    },
}

impl Content {
    fn change(&mut self, change: &Change) {
        match change {
            Change::Applied(batch) => {
                for write in &batch.versions {
                    let place = (write.key.clone(), Reverse(write.timestamp));
                    self.versions.insert(place, write.value.clone());
                }
                self.progress.extend(batch.progress.iter().map(|(s, p)| (*s, *p)));
            }
            Change::Dropped { places, horizon } => {
                self.horizon = self.horizon.max(*horizon);
                for place in places {
                    self.versions.remove(place);
                }
            }
            Change::FillingBegan => {
                self.progress.clear();
                self.is_incomplete = true;
            }
            Change::FillingEnded { progress, horizon } => {
                self.progress.clone_from(progress);
                self.horizon = self.horizon.max(*horizon);
                self.is_incomplete = false;
            }
        }
    }

    fn newest(&self, key: &Key, at: Timestamp) -> Option<Version<Bytes>> {
        let versions = (key.clone(), Reverse(at))..=(key.clone(), Reverse(Timestamp::ZERO));
        let ((_, Reverse(timestamp)), value) = self.versions.range(versions).next()?;
        Some(Version {
            timestamp: *timestamp,
            value: value.clone(),
        })
    }

    /// The first key of the range, in the walk's direction.
    fn next_key(&self, range: &KeyRange, direction: Direction) -> Option<Key> {
        if range.is_empty() {
            return None;
        }
        let start = Bound::Included((range.start.clone(), Reverse(Timestamp::MAX)));
        let end = match &range.end {
            None => Bound::Unbounded,
            Some(end) => Bound::Excluded((end.clone(), Reverse(Timestamp::MAX))),
        };
        let mut places = self.versions.range((start, end));
        let found = match direction {
            Direction::Forward => places.next(),
            Direction::Reverse => places.next_back(),
        };
        found.map(|((key, _), _)| key.clone())
    }
}

impl Inner {
    fn change(&mut self, change: Change) {
        self.now.change(&change);
        self.unflushed.push(change);
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A crash: of what was not flushed only the first `kept` changes (batches) survive.
    pub fn crash(&self, kept: usize) {
        let mut inner = self.lock();
        let tail = std::mem::take(&mut inner.unflushed);
        for change in tail.iter().take(kept) {
            inner.flushed.change(change);
        }
        inner.now = inner.flushed.clone();
    }

    /// How many changes a crash could lose now.
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest of a range after a key.
fn rest(range: &KeyRange, key: &Key, direction: Direction) -> Option<KeyRange> {
    let bound = rest_after(range, key, direction)?;
    let mut rest = range.clone();
    match direction {
        Direction::Forward => rest.start = bound,
        Direction::Reverse => rest.end = Some(bound),
    }
    Some(rest)
}

impl VersionStore for MemoryStore {
    fn apply(&self, batch: &AppliedBatch) -> Result<()> {
        self.lock().change(Change::Applied(batch.clone()));
        Ok(())
    }

    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>> {
        Ok(self.lock().now.newest(&key.into(), at))
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        let inner = self.lock();
        let mut remaining = Some(range.clone());
        for _ in 0..max_steps.max(1) {
            let Some(range) = remaining else { return Ok(None) };
            let Some(key) = inner.now.next_key(&range, direction) else {
                return Ok(None);
            };
            remaining = rest(&range, &key, direction);
            if let Some(version) = inner.now.newest(&key, at)
                && visit(key.clone(), version) == ControlFlow::Break(())
            {
                return Ok(rest_after(&range, &key, direction));
            }
        }
        Ok(remaining.and_then(|range| match direction {
            Direction::Forward => Some(range.start),
            Direction::Reverse => range.end,
        }))
    }

    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>)> {
        let mut inner = self.lock();
        let mut remaining = Some(range.clone());
        let mut swept = Swept::default();
        let mut places = Vec::new();
        for _ in 0..max_steps.max(1) {
            let Some(range) = remaining.take() else { break };
            let Some(key) = inner.now.next_key(&range, Direction::Forward) else {
                break;
            };
            let all = (key.clone(), Reverse(Timestamp::MAX))..=(key.clone(), Reverse(Timestamp::ZERO));
            let (mut newer, mut done) = (0_u64, false);
            for (place, value) in inner.now.versions.range(all) {
                let Reverse(timestamp) = place.1;
                if timestamp > below {
                    swept.aging += u64::from(value.is_none() || newer > 0);
                    newer += 1;
                } else if done || newest_below_may_go(timestamp, value.is_none(), below) {
                    done = true;
                    places.push(place.clone());
                } else {
                    done = true;
                    swept.aging += u64::from(newer > 0);
                }
            }
            remaining = rest(&range, &key, Direction::Forward);
        }
        swept.dropped = places.len() as u64;
        if !places.is_empty() {
            inner.change(Change::Dropped { places, horizon });
        }
        Ok((swept, remaining.map(|range| range.start)))
    }

    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool> {
        let inner = self.lock();
        let start = after.map_or(Bound::Unbounded, |(key, timestamp)| {
            Bound::Excluded((key.clone(), Reverse(*timestamp)))
        });
        let mut versions = inner.now.versions.range((start, Bound::Unbounded));
        for ((key, Reverse(timestamp)), value) in versions.by_ref().take(max_steps.max(1)) {
            let write = VersionWrite {
                key: key.clone(),
                timestamp: *timestamp,
                value: value.clone(),
            };
            if visit(write).is_break() {
                break;
            }
        }
        Ok(versions.next().is_none())
    }

    fn begin_filling(&self) -> Result<()> {
        self.lock().change(Change::FillingBegan);
        Ok(())
    }

    fn clear(&self, max_steps: usize) -> Result<bool> {
        let mut inner = self.lock();
        let first = inner.now.versions.keys().take(max_steps.max(1));
        let places: Vec<Place> = first.cloned().collect();
        let horizon = inner.now.horizon;
        inner.change(Change::Dropped { places, horizon });
        Ok(inner.now.versions.is_empty())
    }

    fn end_filling(&self, progress: &BTreeMap<StreamId, Progress>, horizon: Timestamp) -> Result<()> {
        let progress = progress.clone();
        self.lock().change(Change::FillingEnded { progress, horizon });
        Ok(())
    }

    fn is_incomplete(&self) -> Result<bool> {
        Ok(self.lock().now.is_incomplete)
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>> {
        Ok(self.lock().now.progress.clone())
    }

    fn horizon(&self) -> Result<Timestamp> {
        Ok(self.lock().now.horizon)
    }

    fn flush(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.flushed = inner.now.clone();
        inner.unflushed.clear();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        let inner = self.lock();
        let bytes = inner.now.versions.iter().map(|((key, _), value)| {
            key.0.len() + size_of::<Timestamp>() + value.as_ref().map_or(0, Bytes::len)
        });
        bytes.sum::<usize>() as u64
    }
}
