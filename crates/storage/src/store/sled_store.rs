//! Versions in sled.
//!
//! Caveats: sled's flush does not survive a power loss, so nothing relies on it; what is missing afterwards
//! is read from the journal again. What sled cannot read any more is not repaired either: the directory is
//! emptied and rebuilt.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::{ClusterId, Key, KeyRange, StreamId, Timestamp};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sled::IVec;

use super::{
    AppliedBatch, Direction, Progress, SEEK_AFTER, Swept, VersionStore, VersionWrite, Visit, VisitVersion,
    encoding, newest_below_may_go, rest_after, shown,
};
use crate::error::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// The file that sled locks while a directory is open.
const LOCK_FILE: &str = "db";
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
const CLOSE_PAUSE: Duration = Duration::from_millis(1);

fn is_locked(lock_file: &Path) -> bool {
    let Ok(file) = File::open(lock_file) else {
        return false;
    };
    // Let go again with the file.
    flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// Versions in one sled tree.
pub struct SledStore {
    pub(super) dir: PathBuf,
    pub(super) db: sled::Db,
}

impl SledStore {
    /// Opens or creates the store in `dir`. `cache_bytes` of pages stay in memory; what was applied is
    /// written out every `flush_interval_ms`.
    pub fn open(dir: &Path, cache_bytes: u64, flush_interval_ms: u64) -> Result<Self> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(flush_interval_ms));
        // sled panics on some kinds of damage; that must not look like a bug of ours to whoever reads the
        // message.
        let opened =
            catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|panic| StoreError::Unusable {
                dir: dir.to_owned(),
                what: format!("the store panicked while opening: {}", panic_text(&*panic)),
            })?;
        let db = opened.map_err(|error| match error {
            sled::Error::Io(io) if io.kind() == io::ErrorKind::WouldBlock || is_lock_error(&io) => {
                StoreError::Locked { dir: dir.to_owned() }
            }
            other => unusable(dir, &other),
        })?;
        let store = Self {
            dir: dir.to_owned(),
            db,
        };
        match store.check_format() {
            Ok(()) => Ok(store),
            Err(error) => {
                store.close();
                Err(error)
            }
        }
    }

    /// Closes the store and waits until its directory can be opened again: sled's threads keep it locked for a moment after the last
    /// handle is gone. Blocks for at most `CLOSE_PATIENCE`, and gives up in silence: whoever opens the directory is told.
    pub fn close(self) {
        let lock_file = self.dir.join(LOCK_FILE);
        drop(self);
        let began = Instant::now();
        while began.elapsed() < CLOSE_PATIENCE && is_locked(&lock_file) {
            std::thread::sleep(CLOSE_PAUSE);
        }
    }

    /// A store that this version does not understand is refused; an empty one is marked with this version's
    /// format.
    fn check_format(&self) -> Result<()> {
        let ours = encoding::FORMAT;
        let found = match self.sled(self.db.get(encoding::FORMAT_KEY))? {
            Some(format) if format.as_ref() == ours.to_be_bytes() => return Ok(()),
            Some(format) => match <[u8; 4]>::try_from(format.as_ref()) {
                Ok(number) => u32::from_be_bytes(number).to_string(),
                Err(_) => "unreadable".to_owned(),
            },
            None if self.db.is_empty() => {
                self.sled(self.db.insert(encoding::FORMAT_KEY, &ours.to_be_bytes()))?;
                return Ok(());
            }
            None => "missing".to_owned(),
        };
        Err(StoreError::UnknownFormat {
            dir: self.dir.clone(),
            found,
            ours,
        })
    }

    /// Marks an unmarked store as this cluster's; an error when it is another one's.
    pub fn claim(&self, cluster: ClusterId) -> Result<()> {
        let ours = cluster.0.as_bytes().as_slice();
        match self.sled(self.db.get(encoding::CLUSTER_KEY))? {
            Some(found) if found.as_ref() == ours => Ok(()),
            Some(found) => Err(StoreError::OtherCluster {
                dir: self.dir.clone(),
                found: ClusterId::from_slice(&found)
                    .map_or("unreadable".to_owned(), |found| found.to_string()),
                ours: cluster,
            }),
            None => {
                self.sled(self.db.insert(encoding::CLUSTER_KEY, ours))?;
                Ok(())
            }
        }
    }

    /// Notes which keys the store is filled with from now on; an error when it lacks some that were applied before. Those that it
    /// holds no more are left where they are: nobody reads them.
    pub fn claim_keys(&self, keys: &KeyRange) -> Result<()> {
        let encoded = encoding::key_range(keys);
        let held = match self.sled(self.db.get(encoding::KEYS_KEY))? {
            Some(found) if found.as_ref() == encoded => return Ok(()),
            Some(found) => self.corrupt("the range of keys", encoding::decode_key_range(&found))?,
            // Filled by a version that held all keys, or not filled yet.
            None => KeyRange::all(),
        };
        let is_filled = !self.progress()?.is_empty();
        if is_filled && held.intersection(keys).as_ref() != Some(keys) {
            return Err(StoreError::MissingKeys {
                dir: self.dir.clone(),
                found: shown(&held),
                wanted: shown(keys),
            });
        }
        self.sled(self.db.insert(encoding::KEYS_KEY, encoded))?;
        Ok(())
    }

    fn sled<T>(&self, result: sled::Result<T>) -> Result<T> {
        result.map_err(|error| unusable(&self.dir, &error))
    }

    fn corrupt<T>(&self, what: &str, decoded: Option<T>) -> Result<T> {
        decoded.ok_or_else(|| StoreError::Unusable {
            dir: self.dir.clone(),
            what: format!("{what} cannot be read"),
        })
    }

    fn version(&self, timestamp: Timestamp, encoded: IVec) -> Result<Version<Bytes>> {
        let is_tombstone = self.corrupt("a value", encoding::is_tombstone(&encoded))?;
        // The page's own memory is shared, not copied.
        let value = (!is_tombstone).then(|| Bytes::from_owner(encoded).slice(1..));
        Ok(Version { timestamp, value })
    }

    fn split<'a>(&self, encoded: &'a [u8]) -> Result<(&'a [u8], Timestamp)> {
        self.corrupt("a version's key", encoding::split(encoded))
    }

    fn key(&self, prefix: &[u8]) -> Result<Key> {
        self.corrupt("a key", encoding::key(prefix))
    }

    fn newest_of(&self, prefix: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>> {
        let versions = encoding::at(prefix, at)..=encoding::at(prefix, Timestamp::ZERO);
        match self.sled(self.db.range(versions).next().transpose())? {
            None => Ok(None),
            Some((encoded, value)) => {
                let (_, timestamp) = self.split(&encoded)?;
                self.version(timestamp, value).map(Some)
            }
        }
    }

    fn walk_forward(
        &self,
        range: &KeyRange,
        at: Timestamp,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        let (start, end) = tree_bounds(range);
        let mut iter = self
            .db
            .range::<Vec<u8>, _>((Bound::Included(start), Bound::Excluded(end.clone())));
        let mut steps = 0;
        let mut current = Group::default();
        while let Some((encoded, value)) = self.sled(iter.next().transpose())? {
            steps += 1;
            let (prefix, timestamp) = self.split(&encoded)?;
            if prefix != current.prefix {
                if steps > max_steps && !current.prefix.is_empty() {
                    return self.key(prefix).map(Some);
                }
                current = Group::new(prefix);
            }
            if current.done || timestamp > at {
                current.skipped += 1;
                if current.skipped > SEEK_AFTER {
                    current.skipped = 0;
                    let from = match current.done {
                        true => Bound::Excluded(encoding::at(prefix, Timestamp::ZERO)),
                        false => Bound::Included(encoding::at(prefix, at)),
                    };
                    iter = self.db.range::<Vec<u8>, _>((from, Bound::Excluded(end.clone())));
                }
                continue;
            }
            current.done = true;
            let key = self.key(prefix)?;
            if visit(key.clone(), self.version(timestamp, value)?).is_break() {
                return Ok(rest_after(range, &key, Direction::Forward));
            }
        }
        Ok(None)
    }

    fn walk_reverse(
        &self,
        range: &KeyRange,
        at: Timestamp,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        let (start, end) = tree_bounds(range);
        let mut iter = self.db.range(start.clone()..end);
        let mut steps = 0;
        let mut current = Group::default();
        while let Some((encoded, _)) = self.sled(iter.next_back().transpose())? {
            steps += 1;
            let (prefix, _) = self.split(&encoded)?;
            if prefix == current.prefix {
                current.skipped += 1;
                if current.skipped > SEEK_AFTER {
                    current.skipped = 0;
                    iter = self.db.range(start.clone()..prefix.to_vec());
                }
                continue;
            }
            if steps > max_steps && !current.prefix.is_empty() {
                let last = self.key(&current.prefix)?;
                return Ok(rest_after(range, &last, Direction::Reverse));
            }
            current = Group::new(prefix);
            // In reverse the oldest version comes first, and retention may drop a tombstone together with all
            // that it hides while we are among them. So the visible version is looked up in one step.
            let Some(version) = self.newest_of(prefix, at)? else {
                continue;
            };
            let key = self.key(prefix)?;
            if visit(key.clone(), version).is_break() {
                return Ok(rest_after(range, &key, Direction::Reverse));
            }
        }
        Ok(None)
    }

    /// Deletes versions and notes the horizon that allows it, in one batch.
    fn drop_versions(&self, versions: Vec<IVec>, horizon: Timestamp) -> Result<()> {
        if versions.is_empty() {
            return Ok(());
        }
        let horizon = horizon.max(self.horizon()?);
        let mut batch = sled::Batch::default();
        batch.insert(encoding::HORIZON_KEY, &horizon.0.to_be_bytes());
        for version in versions {
            batch.remove(version);
        }
        self.sled(self.db.apply_batch(batch))
    }
}

/// The versions of one key, as a walk meets them.
#[derive(Default)]
struct Group {
    prefix: Vec<u8>,
    done: bool,
    skipped: usize,
}

impl Group {
    fn new(prefix: &[u8]) -> Self {
        Self {
            prefix: prefix.to_vec(),
            ..Self::default()
        }
    }
}

impl VersionStore for SledStore {
    fn apply(&self, applied: &AppliedBatch) -> Result<()> {
        let mut batch = sled::Batch::default();
        for write in &applied.versions {
            batch.insert(
                encoding::version(write.key.as_ref(), write.timestamp),
                encoding::value(write.value.as_ref()),
            );
        }
        for (stream, progress) in &applied.progress {
            batch.insert(
                encoding::progress_key(*stream),
                encoding::progress_value(progress),
            );
        }
        self.sled(self.db.apply_batch(batch))
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
        let (start, end) = tree_bounds(range);
        let mut iter = self
            .db
            .range::<Vec<u8>, _>((Bound::Included(start), Bound::Excluded(end.clone())));
        let mut sweep = SweepState::default();
        let mut steps = 0;
        let mut resume = None;
        while let Some((encoded, value)) = self.sled(iter.next().transpose())? {
            steps += 1;
            let (prefix, timestamp) = self.split(&encoded)?;
            if prefix != sweep.group.prefix {
                sweep.finish_key();
                if steps > max_steps {
                    resume = Some(self.key(prefix)?);
                    break;
                }
                sweep.group = Group::new(prefix);
            } else if steps > 2 * max_steps.max(SEEK_AFTER) {
                // Within one key: what is older goes now; the tombstone that hides it stays until the rest is
                // gone.
                sweep.hiding = None;
                resume = Some(self.key(prefix)?);
                break;
            }
            let is_tombstone = self.corrupt("a value", encoding::is_tombstone(&value))?;
            if timestamp > below {
                sweep.swept.aging += u64::from(is_tombstone || sweep.group.skipped > 0);
                sweep.group.skipped += 1;
                if sweep.group.skipped.is_multiple_of(SEEK_AFTER) {
                    let from = Bound::Included(encoding::at(prefix, below));
                    iter = self.db.range::<Vec<u8>, _>((from, Bound::Excluded(end.clone())));
                }
            } else if sweep.group.done {
                sweep.drops.push(encoded);
            } else {
                sweep.group.done = true;
                if newest_below_may_go(timestamp, is_tombstone, below) {
                    sweep.hiding = Some(encoded);
                } else {
                    // Kept for now; a newer version lets it go once that is old enough.
                    sweep.swept.aging += u64::from(sweep.group.skipped > 0);
                }
            }
        }
        if resume.is_none() {
            sweep.finish_key();
        }
        sweep.swept.dropped = sweep.drops.len() as u64;
        self.drop_versions(sweep.drops, horizon)?;
        Ok((sweep.swept, resume))
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
        let mut iter = self.db.range::<Vec<u8>, _>((start, end));
        for _ in 0..max_steps.max(1) {
            let Some((encoded, value)) = self.sled(iter.next().transpose())? else {
                return Ok(true);
            };
            let (prefix, timestamp) = self.split(&encoded)?;
            let write = VersionWrite {
                key: self.key(prefix)?,
                timestamp,
                value: self.version(timestamp, value)?.value,
            };
            if visit(write).is_break() {
                break;
            }
        }
        Ok(self.sled(iter.next().transpose())?.is_none())
    }

    fn begin_filling(&self) -> Result<()> {
        let mut batch = sled::Batch::default();
        batch.insert(encoding::INCOMPLETE_KEY, &[]);
        for stream in self.progress()?.keys() {
            batch.remove(encoding::progress_key(*stream));
        }
        self.sled(self.db.apply_batch(batch))
    }

    fn clear(&self, max_steps: usize) -> Result<bool> {
        let versions = encoding::FIRST_VERSION..encoding::AFTER_VERSIONS;
        let mut iter = self.db.range(versions);
        let mut batch = sled::Batch::default();
        for item in iter.by_ref().take(max_steps.max(1)) {
            let (encoded, _) = self.sled(item)?;
            batch.remove(encoded);
        }
        self.sled(self.db.apply_batch(batch))?;
        Ok(self.sled(iter.next().transpose())?.is_none())
    }

    fn end_filling(&self, progress: &BTreeMap<StreamId, Progress>, horizon: Timestamp) -> Result<()> {
        let horizon = horizon.max(self.horizon()?);
        let mut batch = sled::Batch::default();
        batch.insert(encoding::HORIZON_KEY, &horizon.0.to_be_bytes());
        for (stream, progress) in progress {
            batch.insert(
                encoding::progress_key(*stream),
                encoding::progress_value(progress),
            );
        }
        batch.remove(encoding::INCOMPLETE_KEY);
        self.sled(self.db.apply_batch(batch))
    }

    fn is_incomplete(&self) -> Result<bool> {
        self.sled(self.db.contains_key(encoding::INCOMPLETE_KEY))
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>> {
        self.db
            .scan_prefix(encoding::PROGRESS_PREFIX)
            .map(|item| {
                let (key, value) = self.sled(item)?;
                let stream = self.corrupt("a stream's name", encoding::progress_stream(&key))?;
                let progress = self.corrupt("a stream's position", encoding::progress(&value))?;
                Ok((stream, progress))
            })
            .collect()
    }

    fn horizon(&self) -> Result<Timestamp> {
        match self.sled(self.db.get(encoding::HORIZON_KEY))? {
            None => Ok(Timestamp::ZERO),
            Some(value) => {
                let horizon = self.corrupt("the horizon", encoding::number(&value))?;
                Ok(Timestamp(horizon))
            }
        }
    }

    fn flush(&self) -> Result<()> {
        self.sled(self.db.flush()).map(|_| ())
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or_default()
    }
}

/// A sweep in the middle of one key.
#[derive(Default)]
struct SweepState {
    group: Group,
    /// The key's newest version that is old enough, when it is a tombstone: goes only together with all that
    /// it hides.
    hiding: Option<IVec>,
    drops: Vec<IVec>,
    swept: Swept,
}

impl SweepState {
    fn finish_key(&mut self) {
        self.drops.extend(self.hiding.take());
    }
}

fn tree_bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let start = match range.start.as_ref() {
        [] => encoding::FIRST_VERSION.to_vec(),
        key => encoding::prefix(key),
    };
    let end = match &range.end {
        None => encoding::AFTER_VERSIONS.to_vec(),
        Some(key) => encoding::prefix(key.as_ref()),
    };
    (start, end)
}

fn unusable(dir: &Path, error: &sled::Error) -> StoreError {
    StoreError::Unusable {
        dir: dir.to_owned(),
        what: error.to_string(),
    }
}

/// sled wraps the lock's error into one of kind `Other` that says so.
fn is_lock_error(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("lock")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}
