//! One process per directory.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::Error;

/// Name of the file that is locked. It stays behind and means nothing by itself.
const LOCK_FILE: &str = "LOCK";

/// Holds a directory until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks an existing directory. [`Error::InUse`] when another process has it.
    pub fn acquire(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(LOCK_FILE);
        let io_error = |source| Error::Io {
            what: "lock the data directory",
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse {
                path: directory.to_owned(),
            }),
            Err(error) => Err(io_error(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::acquire(dir.path()).unwrap();
        let second = DirectoryLock::acquire(dir.path());
        assert!(matches!(&second, Err(Error::InUse { .. })), "{second:?}");
        drop(first);
        DirectoryLock::acquire(dir.path()).unwrap();
    }
}
