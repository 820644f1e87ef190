//! The few file operations that the journal and the checkpoints of storage nodes need, behind a trait: a real directory,
//! memory with faults (tests), or a simulated disk.
//!
//! Names are plain file names inside one directory. Nothing is durable before [`File::sync_data`]; a file that
//! was created, renamed or removed is durably so only after [`Files::sync_dir`].
#![forbid(unsafe_code)]

mod memory;
mod real;

use std::io;
use std::time::Duration;

use bytes::Bytes;

pub use memory::{Fault, MemoryFiles};
pub use real::RealFiles;

/// One directory.
pub trait Files: Send + Sync + 'static {
    /// Creates a file; an error (`AlreadyExists`) when there is one of this name.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Opens a file for reading and writing; an error (`NotFound`) when there is none.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Locks the directory against other processes, until the guard is dropped. An error (`WouldBlock`) when
    /// another one holds it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// The file's full name, for messages.
    fn describe(&self, name: &str) -> String;
    /// How long a group of records takes, where that is to be waited for without blocking the thread: on simulated disks. A
    /// real disk takes its time within the calls.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// One file. All positions and lengths in bytes.
pub trait File: Send + Sync {
    /// Writes all parts, one after another, from `offset` on. After an error any part of it may be written.
    fn write_all_at(&self, offset: u64, parts: &[Bytes]) -> io::Result<()>;
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Extends the file to `len` with zeros and, where the file system can, sets the space aside, so that
    /// writing there later does not fail for want of it.
    fn preallocate(&self, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable, the length included.
    fn sync_data(&self) -> io::Result<()>;
}

/// Reads exactly `len` bytes; `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &dyn File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(
            offset + filled as u64,
            buffer.get_mut(filled..).unwrap_or_default(),
        )? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(buffer.into())
}

/// Whether an error means that there is no room, so that trying again later may succeed.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
