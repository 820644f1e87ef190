//! What a call of this library can fail with.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_types::CommitToken;

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The cluster said so, or this library on its behalf.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// This library refused it, always with an `Overloaded`: so much is under way that its turn to be sent did not come in time
    /// ([`Builder::patience`](crate::Builder::patience)). Nothing was applied, and it is not tried again by itself: to come back is
    /// for whoever can wait, do less, or refuse somebody in turn.
    #[error(transparent)]
    Refused(KvError),
    /// The connection failed and nothing is known of the call: it may or may not have been carried out.
    /// Transactions never end with this: their outcome is asked for.
    #[error("the call to {endpoint} was cut off: {what}")]
    Transport {
        /// Who was called.
        endpoint: String,
        /// What the transport said.
        what: String,
    },
}

impl Error {
    /// Whether running the whole transaction again from the start is safe and may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kv(error) | Self::Refused(error) => error.is_retryable(),
            Self::Transport { .. } => false,
        }
    }

    /// Whether this says for certain that nothing was applied.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Kv(error) | Self::Refused(error) => error.is_definite(),
            Self::Transport { .. } => false,
        }
    }

    /// The cluster's error, or this library's on its behalf, unless the transport failed.
    pub fn kv(&self) -> Option<&KvError> {
        match self {
            Self::Kv(error) | Self::Refused(error) => Some(error),
            Self::Transport { .. } => None,
        }
    }

    /// What to ask with later, when the outcome of a commit is not known.
    pub fn token(&self) -> Option<CommitToken> {
        match self {
            Self::Kv(KvError::OutcomeUnknown { token }) => Some(*token),
            _ => None,
        }
    }

    /// How long to wait before trying again, where the cluster said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.kv().and_then(KvError::retry_after)
    }
}
