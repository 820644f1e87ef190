//! What a node keeps over a crash.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use meridian_journal::files::{File, Files, MemoryFiles};
use meridian_storage::store::MemoryStore;
use rand::Rng;
use rand::rngs::StdRng;

/// A node's disk.
pub struct Disk {
    /// The journal's directory.
    files: Mutex<MemoryFiles>,
    /// A storage node's versions.
    pub store: MemoryStore,
    /// A sync does nothing.
    lies: bool,
}

impl Disk {
    /// An empty one.
    pub fn new(lies: bool) -> Self {
        Self {
            files: Mutex::default(),
            store: MemoryStore::new(),
            lies,
        }
    }

    /// The journal's directory, as the node sees it.
    pub fn files(&self) -> Arc<dyn Files> {
        let files = self.lock().clone();
        match self.lies {
            true => Arc::new(LyingFiles(files)),
            false => Arc::new(files),
        }
    }

    /// The directory itself.
    pub fn honest_files(&self) -> MemoryFiles {
        self.lock().clone()
    }

    /// The process died: the journal keeps what it wrote, the store may lose what was not flushed.
    pub fn process_died(&self, rng: &mut StdRng) {
        let mut files = self.lock();
        *files = files.after_process_death();
        self.forget_versions(rng);
    }

    /// The power failed: of what was not synced each block survives as `survives` says.
    pub fn power_failed(&self, rng: &mut StdRng, survives: f64) {
        let mut files = self.lock();
        *files = files.after_power_loss(|| rng.random_bool(survives));
        drop(files);
        self.forget_versions(rng);
    }

    fn forget_versions(&self, rng: &mut StdRng) {
        let kept = rng.random_range(0..=self.store.unflushed());
        self.store.crash(kept);
    }

    fn lock(&self) -> MutexGuard<'_, MemoryFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A directory whose files say that they are synced, and are not.
struct LyingFiles(MemoryFiles);

impl Files for LyingFiles {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(LyingFile(self.0.create(name)?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(LyingFile(self.0.open(name)?)))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock()
    }

    fn describe(&self, name: &str) -> String {
        self.0.describe(name)
    }
}

struct LyingFile(Box<dyn File>);

impl File for LyingFile {
    fn write_all_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.0.write_all_at(offset, parts)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.0.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
