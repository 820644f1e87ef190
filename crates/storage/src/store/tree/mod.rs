//! Versions in an ordered tree of bytes: what all engines on disk share.
//!
//! ```text
//! VersionStore  <──  TreeStore<T>: encoding, walks, sweeps, marks      <──  T: Tree, an engine's own file
//! ```
//! Caveats: an engine's flush is not trusted; what is missing after a crash is read from the journal again. What
//! an engine cannot read any more is not repaired either: the directory is emptied and rebuilt.

mod marks;
mod sweep;
mod walk;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::{Key, KeyRange, StreamId, Timestamp};

use super::{
    AppliedBatch, Direction, Progress, Swept, VersionStore, VersionWrite, Visit, VisitVersion, encoding,
};
use crate::error::StoreError;

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// A key and a value, or why there is none.
type Item<T> = std::result::Result<(<T as Tree>::Slice, <T as Tree>::Slice), <T as Tree>::Error>;

/// An ordered map of bytes on disk: all that an engine has to bring.
pub trait Tree: Sized + Send + Sync + 'static {
    /// Bytes of a key or a value, shared with the engine where it can.
    type Slice: AsRef<[u8]> + From<Vec<u8>> + Send + 'static;
    /// Changes that happen at once.
    type Batch;
    /// What the engine says when something fails.
    type Error: Display;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> std::result::Result<Option<Self::Slice>, Self::Error>;

    /// The keys between two bounds, from both sides.
    fn range(
        &self,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Item<Self>> + 'static;

    /// No changes yet.
    fn batch(&self) -> Self::Batch;

    /// Adds the setting of a key.
    fn insert(&self, batch: &mut Self::Batch, key: Vec<u8>, value: Vec<u8>);

    /// Adds the removal of a key.
    fn remove(&self, batch: &mut Self::Batch, key: Self::Slice);

    /// All of the batch or nothing, also over a crash; a crash may lose the last batches, never one before another.
    fn commit(&self, batch: Self::Batch) -> std::result::Result<(), Self::Error>;

    /// Writes out what was committed.
    fn flush(&self) -> std::result::Result<(), Self::Error>;

    /// Bytes on disk, about.
    fn disk_bytes(&self) -> u64;

    /// Lets go of the directory, which can be opened again then.
    fn close(self, dir: &Path);
}

/// Versions in one tree of an engine.
pub struct TreeStore<T: Tree> {
    pub(super) dir: PathBuf,
    pub(super) tree: T,
    /// Where [`VersionStore::clear`] goes on, as long as nothing is applied: an engine may remember for a while
    /// what was removed, and would step over it each time.
    cleared: Mutex<Option<Vec<u8>>>,
}

impl<T: Tree> TreeStore<T> {
    /// The store on a tree that was just opened, if its format is known.
    pub(super) fn on(dir: &Path, tree: T) -> Result<Self> {
        let store = Self {
            dir: dir.to_owned(),
            tree,
            cleared: Mutex::new(None),
        };
        match store.check_format() {
            Ok(()) => Ok(store),
            Err(error) => {
                store.close();
                Err(error)
            }
        }
    }

    /// Closes the store and waits until its directory can be opened again. Blocks for a moment, and gives up in silence after some
    /// seconds: whoever opens the directory is told.
    pub fn close(self) {
        self.tree.close(&self.dir);
    }

    fn ok<R>(&self, result: std::result::Result<R, T::Error>) -> Result<R> {
        result.map_err(|error| unusable(&self.dir, &error))
    }

    fn corrupt<R>(&self, what: &str, decoded: Option<R>) -> Result<R> {
        decoded.ok_or_else(|| unusable(&self.dir, &format_args!("{what} cannot be read")))
    }

    fn get(&self, key: &[u8]) -> Result<Option<T::Slice>> {
        self.ok(self.tree.get(key))
    }

    fn note(&self, key: &[u8], value: Vec<u8>) -> Result<()> {
        let mut batch = self.tree.batch();
        self.tree.insert(&mut batch, key.to_vec(), value);
        self.ok(self.tree.commit(batch))
    }

    fn version(&self, timestamp: Timestamp, encoded: T::Slice) -> Result<Version<Bytes>> {
        let is_tombstone = self.corrupt("a value", encoding::is_tombstone(encoded.as_ref()))?;
        // The engine's own memory is shared, not copied.
        let value = (!is_tombstone).then(|| Bytes::from_owner(encoded).slice(1..));
        Ok(Version { timestamp, value })
    }

    fn split<'a>(&self, encoded: &'a [u8]) -> Result<(&'a [u8], Timestamp)> {
        self.corrupt("a version's key", encoding::split(encoded))
    }

    fn key(&self, prefix: &[u8]) -> Result<Key> {
        self.corrupt("a key", encoding::key(prefix))
    }

    fn put_progress(&self, batch: &mut T::Batch, progress: &BTreeMap<StreamId, Progress>) {
        for (stream, progress) in progress {
            let key = encoding::progress_key(*stream);
            self.tree.insert(batch, key, encoding::progress_value(progress));
        }
    }

    fn put_horizon(&self, batch: &mut T::Batch, horizon: Timestamp) {
        let key = encoding::HORIZON_KEY.to_vec();
        self.tree.insert(batch, key, horizon.0.to_be_bytes().to_vec());
    }

    fn cleared(&self, up_to: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut cleared, up_to)
    }
}

impl<T: Tree> VersionStore for TreeStore<T> {
    fn apply(&self, applied: &AppliedBatch) -> Result<()> {
        let mut batch = self.tree.batch();
        for write in &applied.versions {
            self.tree.insert(
                &mut batch,
                encoding::version(write.key.as_ref(), write.timestamp),
                encoding::value(write.value.as_ref()),
            );
        }
        self.put_progress(&mut batch, &applied.progress);
        self.cleared(None);
        self.ok(self.tree.commit(batch))
    }

    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>> {
        self.newest_of(&encoding::prefix(key), at)
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        if range.is_empty() {
            return Ok(None);
        }
        match direction {
            Direction::Forward => self.walk_forward(range, at, max_steps, visit),
            Direction::Reverse => self.walk_reverse(range, at, max_steps, visit),
        }
    }

    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>)> {
        if range.is_empty() {
            return Ok((Swept::default(), None));
        }
        self.sweep_chunk(range, below, horizon, max_steps)
    }

    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool> {
        let start = match after {
            None => Bound::Included(encoding::FIRST_VERSION.to_vec()),
            Some((key, timestamp)) => Bound::Excluded(encoding::version(key.as_ref(), *timestamp)),
        };
        let end = Bound::Excluded(encoding::AFTER_VERSIONS.to_vec());
        let mut iter = self.tree.range(start, end);
        for _ in 0..max_steps.max(1) {
            let Some((encoded, value)) = self.ok(iter.next().transpose())? else {
                return Ok(true);
            };
            let (prefix, timestamp) = self.split(encoded.as_ref())?;
            let write = VersionWrite {
                key: self.key(prefix)?,
                timestamp,
                value: self.version(timestamp, value)?.value,
            };
            if visit(write).is_break() {
                break;
            }
        }
        Ok(self.ok(iter.next().transpose())?.is_none())
    }

    fn begin_filling(&self) -> Result<()> {
        let mut batch = self.tree.batch();
        self.tree
            .insert(&mut batch, encoding::INCOMPLETE_KEY.to_vec(), Vec::new());
        for stream in self.progress()?.keys() {
            self.tree
                .remove(&mut batch, encoding::progress_key(*stream).into());
        }
        self.ok(self.tree.commit(batch))
    }

    fn clear(&self, max_steps: usize) -> Result<bool> {
        let resumed = self.cleared(None);
        let first = || Bound::Included(encoding::FIRST_VERSION.to_vec());
        let end = || Bound::Excluded(encoding::AFTER_VERSIONS.to_vec());
        let start = resumed.clone().map_or_else(first, Bound::Included);
        let mut iter = self.tree.range(start, end());
        let mut batch = self.tree.batch();
        let mut last = None;
        for item in iter.by_ref().take(max_steps.max(1)) {
            let (encoded, _) = self.ok(item)?;
            last = Some(encoded.as_ref().to_vec());
            self.tree.remove(&mut batch, encoded);
        }
        let rest = self.ok(iter.next().transpose())?;
        self.ok(self.tree.commit(batch))?;
        if rest.is_some() {
            self.cleared(last);
            return Ok(false);
        }
        // Whatever came meanwhile before the place from which it was resumed.
        let left = resumed.and_then(|_| self.tree.range(first(), end()).next());
        Ok(self.ok(left.transpose())?.is_none())
    }

    fn end_filling(&self, progress: &BTreeMap<StreamId, Progress>, horizon: Timestamp) -> Result<()> {
        let horizon = horizon.max(self.horizon()?);
        let mut batch = self.tree.batch();
        self.put_horizon(&mut batch, horizon);
        self.put_progress(&mut batch, progress);
        self.tree
            .remove(&mut batch, encoding::INCOMPLETE_KEY.to_vec().into());
        self.ok(self.tree.commit(batch))
    }

    fn is_incomplete(&self) -> Result<bool> {
        Ok(self.get(encoding::INCOMPLETE_KEY)?.is_some())
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>> {
        let (start, end) = encoding::progress_bounds();
        let items = self.tree.range(Bound::Included(start), Bound::Excluded(end));
        items
            .map(|item| {
                let (key, value) = self.ok(item)?;
                let stream = encoding::progress_stream(key.as_ref());
                let stream = self.corrupt("a stream's name", stream)?;
                let progress = encoding::progress(value.as_ref());
                Ok((stream, self.corrupt("a stream's position", progress)?))
            })
            .collect()
    }

    fn horizon(&self) -> Result<Timestamp> {
        match self.get(encoding::HORIZON_KEY)? {
            None => Ok(Timestamp::ZERO),
            Some(value) => {
                let horizon = self.corrupt("the horizon", encoding::number(value.as_ref()))?;
                Ok(Timestamp(horizon))
            }
        }
    }

    fn flush(&self) -> Result<()> {
        self.ok(self.tree.flush())
    }

    fn disk_bytes(&self) -> u64 {
        self.tree.disk_bytes()
    }
}

pub(super) fn unusable(dir: &Path, what: &dyn Display) -> StoreError {
    StoreError::Unusable {
        dir: dir.to_owned(),
        what: what.to_string(),
    }
}

/// What an engine does while it opens a directory. Engines panic on some kinds of damage; that must not look like
/// a bug of ours to whoever reads the message.
pub(super) fn without_panic<R>(dir: &Path, open: impl FnOnce() -> R) -> Result<R> {
    catch_unwind(AssertUnwindSafe(open)).map_err(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let said = said.unwrap_or_default();
        unusable(dir, &format_args!("the store panicked while opening: {said}"))
    })
}
