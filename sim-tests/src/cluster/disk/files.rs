//! A directory whose disk is watched, and fails as it is told to.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meridian_journal::files::{File, Files, MemoryFiles};

/// What goes wrong with a disk.
pub(super) struct State {
    /// A sync does nothing, and says that it did.
    lies: bool,
    /// What a group of records takes.
    pub delay: Duration,
    /// What all files together may hold.
    pub capacity: Option<u64>,
    /// There is no room for anything but zeros, not even where a file is set aside: on a file system that copies on write.
    pub refuses_writes: bool,
    /// Reading fails.
    pub fails_reads: bool,
    /// After this many further syncs the power fails, before the sync makes anything durable.
    pub power_fails_in: Option<u64>,
    /// The power has failed: nothing reaches the disk any more.
    pub is_dead: bool,
    /// Something will fail before the process is gone.
    pub is_armed: bool,
    /// The process was told of something that it need not survive.
    pub is_excused: bool,
    /// A write or a sync failed with EIO: what the disk holds is not known to the process any more.
    has_failed: bool,
    /// The process relied on the disk after that.
    pub misuse: Option<String>,
}

impl State {
    pub(super) fn new(lies: bool) -> Self {
        Self {
            lies,
            delay: Duration::ZERO,
            capacity: None,
            refuses_writes: false,
            fails_reads: false,
            power_fails_in: None,
            is_dead: false,
            is_armed: false,
            is_excused: false,
            has_failed: false,
            misuse: None,
        }
    }

    pub(super) fn process_starts(&mut self) {
        self.is_excused = self.is_dead || self.is_armed || self.capacity.is_some();
    }

    pub(super) fn process_died(&mut self) {
        self.is_dead = false;
        self.is_armed = false;
        self.has_failed = false;
        self.fails_reads = false;
        self.power_fails_in = None;
    }

    fn check_power(&self) -> io::Result<()> {
        match self.is_dead {
            true => Err(io::Error::other("the power has failed")),
            false => Ok(()),
        }
    }

    /// A sync begins: whether the power holds.
    fn on_sync(&mut self) -> io::Result<()> {
        self.check_power()?;
        match &mut self.power_fails_in {
            Some(0) => {
                self.power_fails_in = None;
                self.is_dead = true;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.check_power()
    }

    /// Notes what came of a write or a sync.
    fn on_result(&mut self, what: &str, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => self.has_failed = true,
            Err(_) => {}
            Ok(()) if self.has_failed => {
                self.misuse = Some(format!("{what} after a write or sync that failed with EIO"));
            }
            Ok(()) => {}
        }
        result
    }
}

/// A directory on a disk with this state.
pub(super) struct Watched {
    files: MemoryFiles,
    state: Arc<Mutex<State>>,
}

impl Watched {
    pub(super) fn new(files: MemoryFiles, state: Arc<Mutex<State>>) -> Self {
        Self { files, state }
    }

    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        let state = self.state.clone();
        Box::new(WatchedFile { file, state })
    }

    fn with_power(&self) -> io::Result<&MemoryFiles> {
        lock(&self.state).check_power()?;
        Ok(&self.files)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files for Watched {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(self.file(self.with_power()?.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(self.file(self.with_power()?.open(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.with_power()?.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with_power()?.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.with_power()?.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        let synced = state.on_sync().and_then(|()| self.files.sync_dir());
        state.on_result("the directory was synced", synced)
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.with_power()?.lock()
    }

    fn describe(&self, name: &str) -> String {
        self.files.describe(name)
    }

    fn delay(&self) -> Duration {
        lock(&self.state).delay
    }
}

struct WatchedFile {
    file: Box<dyn File>,
    state: Arc<Mutex<State>>,
}

impl File for WatchedFile {
    fn write_all_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.check_power()?;
        let mut written = self.file.write_all_at(offset, parts);
        if state.refuses_writes && parts.iter().flatten().any(|byte| *byte != 0) {
            written = written.and(Err(io::ErrorKind::StorageFull.into()));
        }
        state.on_result("something was written", written)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = lock(&self.state);
        state.check_power()?;
        if state.fails_reads {
            return Err(io::Error::other("injected EIO"));
        }
        self.file.read_at(offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        lock(&self.state).check_power()?;
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.state).check_power()?;
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        lock(&self.state).check_power()?;
        self.file.preallocate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.lies {
            return Ok(());
        }
        let synced = state.on_sync().and_then(|()| self.file.sync_data());
        state.on_result("something was synced", synced)
    }
}
