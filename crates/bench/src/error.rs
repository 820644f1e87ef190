//! Why a measurement could not be made.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program or package that has to be there is not.
    #[error("{what} is missing: {advice}")]
    Missing {
        /// What.
        what: String,
        /// How to get it.
        advice: String,
    },
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
    /// A program that was run ended badly.
    #[error("{program} failed: {why}")]
    Command {
        /// Which.
        program: String,
        /// What it said last.
        why: String,
    },
    /// A system did not do what was asked of it.
    #[error("{system}: {what}")]
    System {
        /// Which.
        system: &'static str,
        /// What went wrong.
        what: String,
    },
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// For `map_err` on a file operation.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err` on something that a system was asked.
    pub fn system<E: std::fmt::Display>(system: &'static str, what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System {
            system,
            what: format!("{what}: {error}"),
        }
    }
}
