//! Versions in fjall, a log-structured tree: a log, tables in memory, and sorted files that its threads merge.
//!
//! Everything is in one partition, positions beside versions: a table in memory is written out as a whole, and only after
//! the log of all that is in it was synced. So no position and no horizon is ever apart from its versions.
//!
//! Caveats: fjall 2 locks nothing, so we do. Each batch goes to the operating system when it is applied, so the end of the process
//! loses nothing; a power loss takes what was not written out yet, which is read from the journal again.

use std::fs::{self, File};
use std::ops::Bound;
use std::path::Path;

use fjall::{Keyspace, PartitionCreateOptions, PartitionHandle, PersistMode, Slice};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::tree::{Result, Tree, TreeStore, unusable, without_panic};
use crate::error::StoreError;

/// fjall's directory, beside the checkpoint's.
pub(super) const DIRECTORY: &str = "fjall";
const LOCK_FILE: &str = "lock";
const PARTITION: &str = "versions";

/// Versions in one partition of fjall.
pub type FjallStore = TreeStore<FjallTree>;

/// fjall's one partition. Dropping it waits for fjall's threads, up to a quarter of a second, and lets go of the lock last.
pub struct FjallTree {
    keyspace: Keyspace,
    partition: PartitionHandle,
    _lock: Lock,
}

impl FjallStore {
    /// Opens or creates the store in `dir`. `cache_bytes` of blocks stay in memory, beside tables of some 16 MiB that are yet to be
    /// written out.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        let own = dir.join(DIRECTORY);
        let lock = lock(dir, &own)?;
        let opened = without_panic(dir, || {
            let keyspace = fjall::Config::new(&own).cache_size(cache_bytes).open()?;
            let partition = keyspace.open_partition(PARTITION, PartitionCreateOptions::default())?;
            Ok((keyspace, partition))
        })?;
        let (keyspace, partition) = opened.map_err(|error: fjall::Error| unusable(dir, &error))?;
        let tree = FjallTree {
            keyspace,
            partition,
            _lock: lock,
        };
        Self::on(dir, tree)
    }
}

/// The directory is ours as long as it lives.
struct Lock(File);

impl Drop for Lock {
    /// Closing the file is not enough: while another thread starts a process, that has the file as well for a moment.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(dir: &Path, own: &Path) -> Result<Lock> {
    let made = fs::create_dir_all(own).and_then(|()| {
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        options.open(own.join(LOCK_FILE))
    });
    let file = made.map_err(|error| unusable(dir, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock(file)),
        Err(Errno::WOULDBLOCK) => Err(StoreError::Locked { dir: dir.to_owned() }),
        Err(error) => Err(unusable(dir, &error)),
    }
}

impl Tree for FjallTree {
    type Slice = Slice;
    type Batch = fjall::Batch;
    type Error = fjall::Error;

    fn get(&self, key: &[u8]) -> fjall::Result<Option<Slice>> {
        self.partition.get(key)
    }

    fn range(
        &self,
        start: Bound<Vec<u8>>,
        end: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = fjall::Result<(Slice, Slice)>> + 'static {
        self.partition.range::<Vec<u8>, _>((start, end))
    }

    fn batch(&self) -> fjall::Batch {
        self.keyspace.batch()
    }

    fn insert(&self, batch: &mut fjall::Batch, key: Vec<u8>, value: Vec<u8>) {
        batch.insert(&self.partition, key, value);
    }

    fn remove(&self, batch: &mut fjall::Batch, key: Slice) {
        batch.remove(&self.partition, key);
    }

    fn commit(&self, batch: fjall::Batch) -> fjall::Result<()> {
        batch.commit()
    }

    fn flush(&self) -> fjall::Result<()> {
        self.keyspace.persist(PersistMode::SyncAll)
    }

    fn disk_bytes(&self) -> u64 {
        self.keyspace.disk_space()
    }

    fn close(self, _dir: &Path) {
        drop(self);
    }
}
