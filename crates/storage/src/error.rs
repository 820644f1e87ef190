//! What can go wrong at a storage node.

use std::io;
use std::path::PathBuf;

use meridian_types::{ClusterId, Position, StreamId};

use crate::store::Engine;

/// The version store failed. None of these loses data: the journal has everything.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Corrupt, or its disk is failing or full.
    #[error(
        "the versions in {} cannot be read or written: {what}. Every version is in the journal: if the disk is \
         healthy and has room, empty this directory and start again, it is rebuilt",
        .dir.display()
    )]
    Unusable {
        /// The store's directory.
        dir: PathBuf,
        /// What the store said.
        what: String,
    },
    /// Written by a version of Meridian that this one does not understand.
    #[error(
        "the versions in {} have format {found}, this node understands {ours}. Start the version of Meridian that \
         wrote them, or empty the directory: it is rebuilt from the journal",
        .dir.display()
    )]
    UnknownFormat {
        /// The store's directory.
        dir: PathBuf,
        /// What was found there.
        found: String,
        /// What this node writes and reads.
        ours: u32,
    },
    /// Kept by another engine than the configuration asks for.
    #[error(
        "the versions in {} are kept by {found}, the configuration asks for {wanted}. Nothing was changed: set `engine = \"{found}\"` in \
         [node.settings.storage] to go on with them, or empty the directory (`checkpoint/` in it may stay), it is rebuilt by {wanted}",
        .dir.display()
    )]
    OtherEngine {
        /// The store's directory.
        dir: PathBuf,
        /// Whose files were found there.
        found: Engine,
        /// What the node is to keep its versions in.
        wanted: Engine,
    },
    /// Of another cluster.
    #[error(
        "the versions in {} belong to cluster {found}, not to {ours}: if the right directory is mounted, empty it, \
         it is rebuilt from the journal",
        .dir.display()
    )]
    OtherCluster {
        /// The store's directory.
        dir: PathBuf,
        /// What was found there.
        found: String,
        /// The cluster of this node.
        ours: ClusterId,
    },
    /// Some of the keys that the node is to hold were left out when it was filled.
    #[error(
        "{} was filled with keys {found} only, the node is to hold {wanted} now: empty the directory, it is rebuilt from the journal",
        .dir.display()
    )]
    MissingKeys {
        /// The store's directory.
        dir: PathBuf,
        /// The keys that it holds.
        found: String,
        /// The keys that it should hold.
        wanted: String,
    },
    /// Another process has it open.
    #[error("the versions in {} are in use by another process", .dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
}

/// Why what a journal node fed could not be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedFault {
    /// The feed is not what it must be: a gap, an entry out of order, an entry that cannot be read. Nothing
    /// of it was applied; another node, or the same one later, may do better.
    #[error("feed broken: {0}")]
    Broken(String),
    /// I6: a committed write lies at or below a timestamp at which its range was closed. Reads may have been
    /// answered without it, so this node must not answer any more.
    #[error("I6 violated: {0}")]
    Violation(String),
    /// The entries after the last one of this node are not in the journal any more.
    #[error("stream {stream} was trimmed up to {base}")]
    Trimmed {
        /// The stream.
        stream: StreamId,
        /// The last entry that is gone.
        base: Position,
    },
}

/// Why a checkpoint cannot be used. Its node does without it, and writes another one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointFault {
    /// Not what was written.
    #[error("corrupt at byte {at}: {what}")]
    Corrupt {
        /// Where this was noticed.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Written by a version of Meridian that this one does not understand.
    #[error("of format {found}, this node understands {}", crate::checkpoint::FORMAT)]
    UnknownFormat {
        /// What was found.
        found: u32,
    },
    /// Of another cluster.
    #[error("of cluster {found}, this node is of {ours}")]
    OtherCluster {
        /// What was found.
        found: ClusterId,
        /// The cluster of this node.
        ours: ClusterId,
    },
    /// Some of the keys that the node is to hold are not in it.
    #[error("of keys {found} only, the node is to hold {wanted}")]
    MissingKeys {
        /// The keys that it holds.
        found: String,
        /// The keys that it should hold.
        wanted: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}
