//! The newest versions of keys that are read, in memory, in front of an engine.
//!
//! ```text
//! newest(k, at) ── known, not newer than at ──> the answer
//!               ── known, but newer ──────────> the engine's answer at `at`, not kept
//!               ── not known ── the engine's newest of all ── kept, if nothing changed meanwhile
//! apply(batch)  ── the engine applies ── then what is known of its keys becomes newer
//! ```
//! Invariant: what is known of a key is the newest of all its versions that were applied and of which `apply` has returned; or a
//! tombstone where the engine has dropped that and all that it hid, which reads the same.
//!
//! Caveats: while `apply` runs, a reader may be told what was the newest before. It may: a timestamp is read only when nothing at or
//! below it is applied any more (R5). Who must see the batch comes after `apply` has returned.

mod shard;

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Key, KeyRange, StreamId, Timestamp};

use super::{AppliedBatch, Direction, Progress, Swept, VersionStore, Visit, VisitVersion};
use crate::error::StoreError;
use shard::{Found, Hashing, Shard};

type Result<T> = std::result::Result<T, StoreError>;

/// A cache is divided, so that readers seldom wait for one another, ...
const SHARDS: u64 = 16;
/// ... unless it is smaller than this, in bytes: then its parts would hold next to nothing.
const LEAST_DIVIDED: u64 = 1 << 20;

/// How keys were looked up.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    /// Answered from memory.
    pub hits: AtomicU64,
    /// The engine was asked.
    pub misses: AtomicU64,
}

/// An engine, and the newest versions of some of its keys.
pub(crate) struct Cached {
    engine: Arc<dyn VersionStore>,
    shards: Box<[Mutex<Shard>]>,
    lookups: Arc<Lookups>,
}

/// The engine with about `capacity` bytes of newest versions in front of it; with 0 the engine itself.
pub(crate) fn over(
    engine: Arc<dyn VersionStore>,
    capacity: u64,
    lookups: Arc<Lookups>,
) -> Arc<dyn VersionStore> {
    match capacity {
        0 => engine,
        _ => Arc::new(Cached::new(engine, capacity, lookups)),
    }
}

impl Cached {
    pub fn new(engine: Arc<dyn VersionStore>, capacity: u64, lookups: Arc<Lookups>) -> Self {
        let count = if capacity < LEAST_DIVIDED { 1 } else { SHARDS };
        let shards = (0..count).map(|_| Mutex::new(Shard::new(capacity / count)));
        Self {
            engine,
            shards: shards.collect(),
            lookups,
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        // Other bits than those by which a shard's own table is ordered.
        let hash = Hashing::default().hash_one(key) >> 32;
        let index = usize::try_from(hash).unwrap_or_default() % self.shards.len();
        lock(&self.shards[index])
    }

    /// The engine has changed, or has failed while it did: then nobody knows what it holds, nothing is believed and nothing kept any
    /// more.
    fn after<R>(&self, changed: Result<R>, tell: impl FnOnce(&Self)) -> Result<R> {
        match &changed {
            Ok(_) => tell(self),
            Err(_) => self.shards.iter().for_each(|shard| lock(shard).turn_off()),
        }
        changed
    }

    #[cfg(test)]
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// Bytes in use, about.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| lock(shard).weight()).sum()
    }

    fn forget(&self) {
        self.shards.iter().for_each(|shard| lock(shard).forget());
    }
}

impl VersionStore for Cached {
    fn apply(&self, batch: &AppliedBatch) -> Result<()> {
        self.after(self.engine.apply(batch), |cached| {
            for write in &batch.versions {
                cached.shard(write.key.as_ref()).applied(write);
            }
        })
    }

    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>> {
        let found = self.shard(key).look_up(key, at);
        let count = match found {
            Found::Answer(_) => &self.lookups.hits,
            _ => &self.lookups.misses,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let changes = match found {
            Found::Answer(newest) => return Ok(newest),
            Found::NoUse => return self.engine.newest(key, at),
            Found::Nothing { changes } => changes,
        };
        // Not at `at`: what is the newest then need not be the newest of all, and that alone may be kept.
        let newest_of = if is_broken(Rule::CacheNewest) {
            at
        } else {
            Timestamp::MAX
        };
        let newest = self.engine.newest(key, newest_of)?;
        self.shard(key).keep(key, newest.as_ref(), changes);
        match newest {
            Some(version) if version.timestamp > at => self.engine.newest(key, at),
            newest => Ok(newest),
        }
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        self.engine.walk(range, at, direction, max_steps, visit)
    }

    /// Of what is known it can only drop a tombstone, with all that it hides.
    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>)> {
        self.engine.sweep(range, below, horizon, max_steps)
    }

    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool> {
        self.engine.versions(after, max_steps, visit)
    }

    fn begin_filling(&self) -> Result<()> {
        self.after(self.engine.begin_filling(), Self::forget)
    }

    fn clear(&self, max_steps: usize) -> Result<bool> {
        self.after(self.engine.clear(max_steps), Self::forget)
    }

    fn end_filling(&self, progress: &BTreeMap<StreamId, Progress>, horizon: Timestamp) -> Result<()> {
        self.engine.end_filling(progress, horizon)
    }

    fn is_incomplete(&self) -> Result<bool> {
        self.engine.is_incomplete()
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>> {
        self.engine.progress()
    }

    fn horizon(&self) -> Result<Timestamp> {
        self.engine.horizon()
    }

    fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    fn disk_bytes(&self) -> u64 {
        self.engine.disk_bytes()
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
