//! What can go wrong before and around the services. Every error says what to do.

use std::path::PathBuf;

use meridian_rpc::ServiceFailure;

/// Why a node or a cluster could not be set up, started or kept running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("could not {what} ({path}): {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The configuration is not fit for use.
    #[error("{path}:\n{what}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Every problem, one per line.
        what: String,
    },
    /// The command does not fit the configuration or the state of the directories.
    #[error("{0}")]
    Usage(String),
    /// Another process uses the directory.
    #[error("{path} is in use by another process: stop that one first, or name another directory", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("could not listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A service could not start or go on.
    #[error(transparent)]
    Service(#[from] ServiceFailure),
    /// The cluster did not become ready in time.
    #[error("not ready after {waited_ms} ms: {what}")]
    NotReady {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
        /// Which services were not.
        what: String,
    },
}
