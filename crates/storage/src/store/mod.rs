//! Where versions are kept, behind one trait.
//!
//! ```text
//! user key k:   k@50   k@30 (tombstone)   k@10        newest first
//!                │          └ visible at 30..49: hides k@10
//!                └ visible from 50 on
//! ```
//! Caveats: a walk is not a snapshot of the store. It need not be: what is added meanwhile is newer than any
//! timestamp that may be read (R5), and what retention drops is invisible at every timestamp that may still
//! be read (R6).

pub(crate) mod cached;
mod encoding;
pub(crate) mod engine;
mod fjall_store;
mod memory;
mod sled_store;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use meridian_protocol::visibility::{Version, versions_to_keep};
use meridian_types::{Key, KeyRange, Position, StreamId, Timestamp};

use crate::error::StoreError;

pub(crate) use encoding::{decode_key_range, key_range as encode_key_range};
pub use engine::Engine;
pub use fjall_store::FjallStore;
pub use memory::MemoryStore;
pub use sled_store::SledStore;

/// After so many versions of one key that are of no interest a walk looks for the next place of interest
/// instead.
const SEEK_AFTER: usize = 8;

/// One write of a committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionWrite {
    /// The key.
    pub key: Key,
    /// The transaction's commit timestamp.
    pub timestamp: Timestamp,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// How far a stream was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last entry applied.
    pub position: Position,
    /// The highest commit timestamp applied (I3: the next one is greater).
    pub last_commit: Timestamp,
}

/// What is applied at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedBatch {
    /// The writes, in the order of the log.
    pub versions: Vec<VersionWrite>,
    /// The streams that moved.
    pub progress: BTreeMap<StreamId, Progress>,
}

impl AppliedBatch {
    /// Whether there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty() && self.progress.is_empty()
    }
}

/// The way a walk goes through the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Rising keys.
    Forward,
    /// Falling keys.
    Reverse,
}

/// What one chunk of retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Versions dropped.
    pub dropped: u64,
    /// Versions that a later horizon will let go: as long as there are none, and nothing is applied, no sweep
    /// is needed.
    pub aging: u64,
}

/// Called by a walk for each key that has a version at the timestamp, tombstones included.
pub type Visit<'a> = dyn FnMut(Key, Version<Bytes>) -> ControlFlow<()> + 'a;

/// Called for each version.
pub type VisitVersion<'a> = dyn FnMut(VersionWrite) -> ControlFlow<()> + 'a;

/// The versions of all keys, how far each stream was applied, and the retention horizon.
///
/// All methods are synchronous and bounded; the callers yield between them.
pub trait VersionStore: Send + Sync + 'static {
    /// Applies writes and positions, all or nothing, also over a crash. Not necessarily durable afterwards: a
    /// crash may lose the last batches, never one before another.
    fn apply(&self, batch: &AppliedBatch) -> Result<(), StoreError>;

    /// R6: the newest version with `timestamp <= at`, tombstones included.
    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>, StoreError>;

    /// Visits, in order, each key of the range with the version that is visible at `at`, until the visitor
    /// breaks or about `max_steps` versions were looked at. `None` when the range is exhausted; otherwise
    /// where to go on: forwards the start of what remains, in reverse its end (not included).
    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>, StoreError>;

    /// Drops what nobody can read at or after `below`, from about `max_steps` versions. Notes `horizon` (`>=
    /// below`) in the same batch, so that after a restart no read below it is answered. Answers where to go
    /// on, like [`Self::walk`].
    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>), StoreError>;

    /// Visits all versions, by key and then the newest first, that follow the place `after`, until the visitor breaks or
    /// `max_steps` were visited. Whether the end was reached. Not a snapshot: versions that are added meanwhile may be visited or
    /// not; none is left out that was there before the first step.
    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool, StoreError>;

    /// The store is to be filled anew: forgets the positions and says from now on, also over a crash, that it is incomplete.
    fn begin_filling(&self) -> Result<(), StoreError>;

    /// Removes about `max_steps` versions, whatever they are. Whether none is left.
    fn clear(&self, max_steps: usize) -> Result<bool, StoreError>;

    /// The store was filled: it is complete up to these positions, for reads at or after the horizon.
    fn end_filling(
        &self,
        progress: &BTreeMap<StreamId, Progress>,
        horizon: Timestamp,
    ) -> Result<(), StoreError>;

    /// Whether filling was begun and not ended.
    fn is_incomplete(&self) -> Result<bool, StoreError>;

    /// How far each stream was applied.
    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>, StoreError>;

    /// The highest horizon that was noted.
    fn horizon(&self) -> Result<Timestamp, StoreError>;

    /// Writes out what was applied. Not trusted: see [`Self::apply`].
    fn flush(&self) -> Result<(), StoreError>;

    /// Bytes on disk, about.
    fn disk_bytes(&self) -> u64;
}

/// What remains of a range when a walk stopped after `key`; `None` when that is nothing.
fn rest_after(range: &KeyRange, key: &Key, direction: Direction) -> Option<Key> {
    match direction {
        Direction::Forward => {
            let next = key.successor();
            range.end.as_ref().is_none_or(|end| next < *end).then_some(next)
        }
        Direction::Reverse => (*key > range.start).then(|| key.clone()),
    }
}

/// For messages.
pub(crate) fn shown(keys: &KeyRange) -> String {
    match &keys.end {
        Some(end) => format!("from {:?} to {end:?}", keys.start),
        None => format!("from {:?} on", keys.start),
    }
}

/// Whether a version may go of which all newer ones of its key are younger than `below`.
fn newest_below_may_go(timestamp: Timestamp, is_tombstone: bool, below: Timestamp) -> bool {
    versions_to_keep([(timestamp, is_tombstone)], below) == 0
}
