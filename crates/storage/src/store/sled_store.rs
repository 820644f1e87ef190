//! Versions in sled.
//!
//! Caveats: sled's flush does not survive a power loss, so nothing relies on it; what is missing afterwards
//! is read from the journal again.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sled::IVec;

use super::tree::{Result, Tree, TreeStore, unusable, without_panic};
use crate::error::StoreError;

/// The file that sled locks while a directory is open.
const LOCK_FILE: &str = "db";
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
const CLOSE_PAUSE: Duration = Duration::from_millis(1);

/// Versions in one sled tree.
pub type SledStore = TreeStore<SledTree>;

/// sled's one tree.
pub struct SledTree {
    db: sled::Db,
}

impl SledStore {
    /// Opens or creates the store in `dir`. `cache_bytes` of pages stay in memory; what was applied is
    /// written out every `flush_interval_ms`.
    pub fn open(dir: &Path, cache_bytes: u64, flush_interval_ms: u64) -> Result<Self> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(flush_interval_ms));
        let opened = without_panic(dir, || config.open())?;
        let db = opened.map_err(|error| match error {
            sled::Error::Io(io) if io.kind() == io::ErrorKind::WouldBlock || is_lock_error(&io) => {
                StoreError::Locked { dir: dir.to_owned() }
            }
            other => unusable(dir, &other),
        })?;
        Self::on(dir, SledTree { db })
    }
}

fn is_locked(lock_file: &Path) -> bool {
    let Ok(file) = File::open(lock_file) else {
        return false;
    };
    // Let go again with the file.
    flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// sled wraps the lock's error into one of kind `Other` that says so.
fn is_lock_error(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Other && error.to_string().contains("lock")
}

impl Tree for SledTree {
    type Slice = IVec;
    type Batch = sled::Batch;
    type Error = sled::Error;

    fn get(&self, key: &[u8]) -> sled::Result<Option<IVec>> {
        self.db.get(key)
    }

    fn range(
        &self,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = sled::Result<(IVec, IVec)>> + 'static {
        self.db.range::<Vec<u8>, _>((start, end))
    }

    fn batch(&self) -> sled::Batch {
        sled::Batch::default()
    }

    fn insert(&self, batch: &mut sled::Batch, key: Vec<u8>, value: Vec<u8>) {
        batch.insert(key, value);
    }

    fn remove(&self, batch: &mut sled::Batch, key: IVec) {
        batch.remove(key);
    }

    fn commit(&self, batch: sled::Batch) -> sled::Result<()> {
        self.db.apply_batch(batch)
    }

    fn flush(&self) -> sled::Result<()> {
        self.db.flush().map(|_| ())
    }

    fn disk_bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or_default()
    }

    /// sled's threads keep the directory locked for a moment after the last handle is gone.
    fn close(self, dir: &Path) {
        let lock_file = dir.join(LOCK_FILE);
        drop(self);
        let began = Instant::now();
        while began.elapsed() < CLOSE_PATIENCE && is_locked(&lock_file) {
            std::thread::sleep(CLOSE_PAUSE);
        }
    }
}
