//! The journal: a write-ahead log, replicated streams, fencing and the merged feed (protocol section 7).
//!
//! ```text
//! owner ── Append ──> journal::append: ReplicaLog decides ──> queue ──> writer: one write, one fdatasync
//!       <── reply ── journal::complete <──────────────────────────────────┘
//!                        └── committed ──> service::feed: entries, then the closures that depend on them ──> storage
//! ```
//! | module | what |
//! |---|---|
//! | [`disk`] | which disk a directory is: registered once, never silently empty |
//! | [`files`] | the few file operations needed, behind a trait |
//! | [`wal`] | segments, records, the sync mark, recovery |
//! | `stream` | one stream: the pure `ReplicaLog` with where its entries are |
//! | `journal` | all streams of the node, what is queued, what a sync makes true |
//! | `writer` | drives the log, on a thread or in a task |
//! | `trim`, `trimmer` | what of the log nobody needs any more, and taking it away |
//! | `service` | the RPCs |
//!
//! Invariant: the journal never looks into a payload, and knows nothing of what a transaction is beyond its id.
//!
//! Limitations: the index in memory takes 32 bytes per entry that was not trimmed; the newest committed lsn is not persisted: a restarted
//! node learns it from its owner's next append, or from a storage node's checkpoint.
#![forbid(unsafe_code)]

mod config;
pub mod disk;
mod error;
mod journal;
mod service;
mod start;
mod stream;
mod trim;
mod trimmer;
pub mod wal;
mod writer;

pub use config::{Config, Writer};
pub use disk::DiskIdentity;
pub use error::{StartError, WriteError};
pub use meridian_files as files;
pub use meridian_files::{Files, RealFiles};
pub use start::{run, start};

/// The service's name in status and errors.
pub const ROLE: &str = "journal";
