//! A directory in memory that loses what was not synced, tears it into blocks, and fails on request.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{File, Files};

/// Blocks of this many bytes reach the disk as a whole or not at all.
const BLOCK_BYTES: usize = 512;

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// After this many further writes (of file data) each one fails with EIO.
    pub fail_write_after: Option<u64>,
    /// After this many further syncs (of files) each one fails with EIO, and makes nothing durable.
    pub fail_sync_after: Option<u64>,
    /// A sync that fails forgets what it should have written, as operating systems do: it can still be read, and a later
    /// sync succeeds without making it durable, unless it was written again.
    pub failed_sync_forgets: bool,
    /// This many further writes each fail with ENOSPC after having written three quarters (a file system that copies on write).
    pub full_writes: u64,
    /// This many further syncs of files each fail with ENOSPC, and make nothing durable.
    pub full_syncs: u64,
    /// The most bytes that all files together may hold; beyond that writing fails with ENOSPC, after having
    /// written what fits.
    pub capacity_bytes: Option<u64>,
}

/// A directory in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryFiles {
    disk: Arc<Mutex<Disk>>,
    locked: Arc<AtomicBool>,
}

#[derive(Clone, Default)]
struct Disk {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    contents: BTreeMap<u64, Content>,
    next_id: u64,
    fault: Fault,
    writes: u64,
    syncs: u64,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks that no sync makes durable before they are written again.
    forgotten: BTreeSet<usize>,
}

impl MemoryFiles {
    /// An empty directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes operations fail from now on; replaces what was set before.
    pub fn set_fault(&self, fault: Fault) {
        self.disk().fault = fault;
    }

    /// How many writes of file data were attempted so far.
    pub fn writes(&self) -> u64 {
        self.disk().writes
    }

    /// How many syncs of files were attempted so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    /// The bytes that all files hold.
    pub fn used_bytes(&self) -> u64 {
        self.disk().used_bytes()
    }

    /// What a power loss leaves: everything that was synced; of the rest each block for which `survives` says so, and
    /// names that were not synced only if it says so. The copy has no faults and is not locked; this directory is not changed.
    pub fn after_power_loss(&self, mut survives: impl FnMut() -> bool) -> Self {
        let mut disk = self.disk().clone();
        if !survives() {
            disk.names = disk.durable_names.clone();
        }
        disk.durable_names = disk.names.clone();
        let kept: Vec<u64> = disk.names.values().copied().collect();
        disk.contents.retain(|id, _| kept.contains(id));
        for content in disk.contents.values_mut() {
            content.crash(&mut survives);
        }
        disk.fault = Fault::default();
        Self {
            disk: Arc::new(Mutex::new(disk)),
            locked: Arc::default(),
        }
    }

    /// What the death of the process leaves: everything, but what was not synced can still be lost. The copy has no faults and
    /// is not locked.
    pub fn after_process_death(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.fault = Fault::default();
        Self {
            disk: Arc::new(Mutex::new(disk)),
            locked: Arc::default(),
        }
    }

    /// A file's bytes.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        let id = disk.names.get(name)?;
        Some(disk.contents.get(id)?.live.clone())
    }

    /// Replaces a file's bytes, durably: for tests that damage it.
    pub fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut disk = self.disk();
        let Some(id) = disk.names.get(name).copied() else {
            return;
        };
        disk.contents.insert(
            id,
            Content {
                live: bytes.clone(),
                durable: bytes,
                forgotten: BTreeSet::new(),
            },
        );
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: u64) -> Box<dyn File> {
        Box::new(MemoryFile {
            disk: self.disk.clone(),
            id,
        })
    }
}

impl Content {
    fn crash(&mut self, survives: &mut impl FnMut() -> bool) {
        // The length is metadata: the new one, or the old one.
        let len = if survives() {
            self.live.len()
        } else {
            self.durable.len()
        };
        let mut after = self.durable.clone();
        after.resize(len, 0);
        for (index, block) in after.chunks_mut(BLOCK_BYTES).enumerate() {
            let at = index * BLOCK_BYTES;
            let live = self.live.get(at..).unwrap_or_default();
            let live = live.get(..block.len()).unwrap_or(live);
            let is_written = !live.is_empty() && block.get(..live.len()) != Some(live);
            if is_written && !self.forgotten.contains(&index) && survives() {
                for (to, from) in block.iter_mut().zip(live) {
                    *to = *from;
                }
            }
        }
        self.live = after.clone();
        self.durable = after;
        self.forgotten.clear();
    }

    fn sync(&mut self) {
        let mut durable = self.durable.clone();
        durable.resize(self.live.len(), 0);
        let blocks = durable.chunks_mut(BLOCK_BYTES).zip(self.live.chunks(BLOCK_BYTES));
        for (index, (to, from)) in blocks.enumerate() {
            if !self.forgotten.contains(&index) {
                to.copy_from_slice(from);
            }
        }
        self.durable = durable;
    }

    fn forget(&mut self) {
        let blocks = self.live.chunks(BLOCK_BYTES).enumerate();
        let lost = blocks.filter(|(index, block)| {
            let at = index * BLOCK_BYTES;
            self.durable.get(at..at + block.len()) != Some(*block)
        });
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        self.forgotten.extend(lost);
    }
}

impl Disk {
    fn used_bytes(&self) -> u64 {
        let contents = self.names.values().filter_map(|id| self.contents.get(id));
        contents.map(|content| content.live.len() as u64).sum()
    }

    fn content(&mut self, id: u64) -> io::Result<&mut Content> {
        self.contents
            .get_mut(&id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// How long the file may become, up to `len`.
    fn room_for(&mut self, id: u64, len: usize) -> io::Result<usize> {
        let used = self.used_bytes();
        let capacity = self.fault.capacity_bytes;
        let now = self.content(id)?.live.len();
        let Some(capacity) = capacity else { return Ok(len) };
        let free = usize::try_from(capacity.saturating_sub(used)).unwrap_or(usize::MAX);
        Ok(len.min(now.saturating_add(free)))
    }
}

/// Counts down; an error once it has reached zero.
fn count_down(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        Some(0) => Err(io::Error::other("injected EIO")),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Files for MemoryFiles {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = disk.next_id;
        disk.next_id += 1;
        disk.names.insert(name.to_owned(), id);
        disk.contents.insert(id, Content::default());
        Ok(self.file(id))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let id = self.disk().names.get(name).copied();
        Ok(self.file(id.ok_or(io::ErrorKind::NotFound)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk().names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        // The content stays: a crash before the directory is synced brings the file back.
        disk.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk();
        count_down(&mut disk.fault.fail_sync_after)?;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock(self.locked.clone())))
    }

    fn describe(&self, name: &str) -> String {
        format!("memory:{name}")
    }
}

struct MemoryLock(Arc<AtomicBool>);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

struct MemoryFile {
    disk: Arc<Mutex<Disk>>,
    id: u64,
}

impl MemoryFile {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File for MemoryFile {
    fn write_all_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        let mut disk = self.disk();
        disk.writes += 1;
        count_down(&mut disk.fault.fail_write_after)?;
        let mut data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let is_full = disk.fault.full_writes > 0;
        if is_full {
            disk.fault.full_writes -= 1;
            data.truncate(data.len() / 4 * 3);
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let wanted = start.saturating_add(data.len());
        let end = disk.room_for(self.id, wanted)?;
        let content = disk.content(self.id)?;
        if content.live.len() < end {
            content.live.resize(end, 0);
        }
        let target = content.live.get_mut(start..).unwrap_or_default();
        for (to, from) in target.iter_mut().zip(&data) {
            *to = *from;
        }
        let written = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        content.forgotten.retain(|block| !written.contains(block));
        if end < wanted || is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk();
        let content = disk.content(self.id)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let source = content.live.get(start..).unwrap_or_default();
        let read = source.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(source) {
            *to = *from;
        }
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().content(self.id)?.live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let mut disk = self.disk();
        if disk.room_for(self.id, len)? < len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.content(self.id)?.live.resize(len, 0);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? {
            self.set_len(len)
        } else {
            Ok(())
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.syncs += 1;
        if disk.fault.full_syncs > 0 {
            disk.fault.full_syncs -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let counted = count_down(&mut disk.fault.fail_sync_after);
        let forgets = disk.fault.failed_sync_forgets;
        let content = disk.content(self.id)?;
        match &counted {
            Ok(()) => content.sync(),
            Err(_) if forgets => content.forget(),
            Err(_) => {}
        }
        counted
    }
}
