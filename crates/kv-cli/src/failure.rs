//! Why a command failed, in words for people and as an exit code for scripts.

use std::fmt;
use std::io;

use meridian_client::{Error, KvError};

use crate::text::{escape, token_text};

/// What the process exits with. Stable: scripts rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Refused or failed.
    Failed = 1,
    /// The command makes no sense.
    Usage = 2,
    /// The transaction was aborted, by a conflict for example; nothing was applied; run it again.
    Conflict = 3,
    /// Nobody could do it now.
    Unavailable = 4,
    /// Whether a commit succeeded is not known.
    Unknown = 5,
    /// Whoever read our output has gone. Not an error.
    Quiet = 0,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// What happened, in one line.
    pub what: String,
    /// What it means and what to do, one line each.
    pub advice: Vec<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            advice: Vec::new(),
        }
    }

    /// A command that makes no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    /// The same, with one more line of advice.
    #[must_use]
    pub fn advise(mut self, line: impl Into<String>) -> Self {
        self.advice.push(line.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        self.advice.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Kv(error) | Error::Refused(error) => Self::from(error),
            Error::Transport { .. } => Self::new(Code::Unavailable, error.to_string()),
        }
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        let plain = |code| Self::new(code, error.to_string());
        match &error {
            KvError::Conflict { key, with } => Self::new(
                Code::Conflict,
                format!(
                    "conflict on key {}: another transaction wrote it at {with}, after this one's snapshot",
                    escape(key.as_ref())
                ),
            )
            .advise("nothing was applied; run the whole transaction again: it will see the other's write"),
            KvError::SnapshotTooOld { .. } | KvError::Aborted { .. } => {
                plain(Code::Conflict).advise("nothing was applied; run it again")
            }
            KvError::OutcomeUnknown { token } => {
                Self::new(Code::Unknown, "it is not known whether the transaction committed")
                    .advise(format!("ask later with: outcome {}", token_text(token)))
            }
            KvError::Unavailable { .. } | KvError::Overloaded { .. } => {
                plain(Code::Unavailable).advise("nothing was applied; try again")
            }
            KvError::DeadlineExceeded { .. } => plain(Code::Unavailable),
            KvError::Invalid { .. }
            | KvError::LimitExceeded { .. }
            | KvError::TransactionNotFound { .. }
            | KvError::PreconditionFailed { .. }
            | KvError::ReadOnly
            | KvError::WrongCluster { .. }
            | KvError::UnsupportedFormat { .. }
            | KvError::Internal { .. } => plain(Code::Failed),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::BrokenPipe => Code::Quiet,
            _ => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}
