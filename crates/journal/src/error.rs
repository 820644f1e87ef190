//! What can go wrong at a journal node.

use std::io;

use meridian_rpc::ServiceFailure;
use meridian_types::DiskId;

use crate::wal::format::Owner;

/// Why a journal node does not start. Each message names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory was never registered.
    #[error(
        "{dir} holds no disk identity: run `meridian init` for a new cluster; if this directory replaces a \
         lost disk, say so (replace_lost_disk = true)"
    )]
    NotRegistered {
        /// The directory.
        dir: String,
    },
    /// The directory was registered already.
    #[error("{file} exists: this directory is registered already, its content would be lost")]
    AlreadyRegistered {
        /// The identity file.
        file: String,
    },
    /// The directory belongs to another node, cluster or disk.
    #[error("{file} belongs to {found}, but this is {expected}: is the right directory mounted?")]
    WrongDisk {
        /// The file that says so.
        file: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A file was written in a format that this program does not understand.
    #[error(
        "{file} has format version {found}, this program understands {understood}: run the program that wrote it"
    )]
    UnsupportedFormat {
        /// The file.
        file: String,
        /// The version found.
        found: u32,
        /// The version understood.
        understood: u32,
    },
    /// A record that this program does not know.
    #[error("{file} holds a record of unknown kind {kind} at offset {offset}: run the program that wrote it")]
    UnknownRecord {
        /// The file.
        file: String,
        /// The offset in bytes.
        offset: u64,
        /// The kind found.
        kind: u8,
    },
    /// Something that was durable is not there any more, or damaged.
    #[error(
        "{file} is damaged at offset {offset}: {what}. Durable records are lost on disk {disk:?}. To rebuild this node \
         from the other replicas, start it with replace_lost_disk = true (it gets a new disk id)"
    )]
    Lost {
        /// The file.
        file: String,
        /// The offset in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
        /// The disk, where it is known.
        disk: Option<DiskId>,
    },
    /// Another process uses the directory.
    #[error("{dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {file}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// What it said.
        error: io::Error,
    },
    /// The configuration makes no sense.
    #[error("configuration: {what}")]
    Config {
        /// What is wrong with it.
        what: String,
    },
}

impl StartError {
    pub(crate) fn io(action: &'static str, file: &str, error: io::Error) -> Self {
        Self::Io {
            action,
            file: file.to_owned(),
            error,
        }
    }

    pub(crate) fn lost(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Lost {
            file: file.to_owned(),
            offset,
            what: what.into(),
            disk: None,
        }
    }

    pub(crate) fn wrong_disk(file: String, found: &Owner, expected: &Owner) -> Self {
        let describe = |owner: &Owner| {
            format!(
                "disk {} of node {} in cluster {}",
                owner.disk, owner.node, owner.cluster
            )
        };
        Self::WrongDisk {
            file,
            found: describe(found),
            expected: describe(expected),
        }
    }

    pub(crate) fn version(file: &str, found: u32, understood: u32) -> Self {
        Self::UnsupportedFormat {
            file: file.to_owned(),
            found,
            understood,
        }
    }

    /// Whether the disk lost something that was durable (and not: is another's, or cannot be read at all).
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

impl From<StartError> for ServiceFailure {
    fn from(error: StartError) -> Self {
        Self {
            role: crate::ROLE,
            what: error.to_string(),
        }
    }
}

/// Why a group of records was not made durable.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No room. Nothing was kept; it may succeed later.
    #[error("disk full: {0}")]
    Full(String),
    /// The disk failed. What it holds is not known: the node must not go on.
    #[error("{0}")]
    Failed(String),
}
