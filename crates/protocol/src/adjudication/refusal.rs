//! Why a commit is refused, and what that means for the transaction.

use std::fmt;

use meridian_types::{Epoch, Key, Lsn, StreamId, Timestamp};

/// Which limit a checked read set exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLimit {
    /// Most key ranges that one transaction may have checked.
    Ranges(usize),
}

impl fmt::Display for ReadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ranges(limit) => write!(f, "{limit} key ranges"),
        }
    }
}

/// Why a commit attempt is not committed by this request. [`Self::is_definite_abort`] tells which of them mean
/// that the attempt will never commit; after the others it may have, or may still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The transaction began so long ago that its outcome may have been forgotten. Never to be taken for
    /// *aborted*.
    #[error("the transaction is too old for its outcome to be known")]
    Forgotten,
    /// The attempt names another home.
    #[error("this is the owner of stream {stream}")]
    WrongStream {
        /// The stream of this owner.
        stream: StreamId,
    },
    /// The attempt names another epoch of the home. When `current` is the higher one the attempt is
    /// aborted for good: its epoch is over, and the adopted log does not hold it. When it is
    /// the lower one this owner knows nothing.
    #[error("this is the owner of epoch {current}")]
    WrongEpoch {
        /// The epoch of this owner.
        current: Epoch,
    },
    /// The owner has learnt of a higher epoch or has released the range. Look the owner up again.
    #[error("this owner has stopped")]
    Stopped,
    /// The owner's durable lease does not reach far enough: it will be renewed, or another owner opens.
    #[error("the lease ended at {lease_end}")]
    LeaseExpired {
        /// The highest durable lease end.
        lease_end: Timestamp,
    },
    /// R20: the start lies further ahead of this node's clock than clocks may differ.
    #[error("the snapshot lies too far ahead of this node's clock ({latest})")]
    StartTooFarAhead {
        /// This node's `now.latest`.
        latest: Timestamp,
    },
    /// The owner does not remember enough to check the snapshot. Begin again.
    #[error("the snapshot is older than {window_low}, the oldest that can be checked")]
    SnapshotTooOld {
        /// The oldest start that can be checked.
        window_low: Timestamp,
    },
    /// The transaction asked to have too much checked.
    #[error("more reads to check than the limit of {limit}")]
    ReadsTooLarge {
        /// The limit.
        limit: ReadLimit,
    },
    /// The memory for outcomes is full. Nothing was decided; try again later.
    #[error("too many recent transactions; try again later")]
    Overloaded,
    /// Another transaction wrote a key after this one's snapshot, or may.
    #[error("key {key} was written at {with}")]
    Conflict {
        /// The key.
        key: Key,
        /// A retry of the whole transaction can succeed when it begins at or after this.
        with: Timestamp,
        /// Whether it was committed; otherwise a prepare is open, and the same attempt may be tried again.
        is_final: bool,
    },
    /// A prepare of the same transaction is open here: its home knows what becomes of it.
    #[error("an attempt of the same transaction is open; its home knows the outcome")]
    AskHome,
    /// The attempt was given up: its outcome was asked for, a vote was missing, came too late or was a no that may be
    /// different the next time. It never commits; another attempt may.
    #[error("the attempt was given up")]
    GaveUp,
    /// The attempt's home is not in the map version that this owner last made durable (5.1). Try again.
    #[error("the home {home} is not known here yet")]
    UnknownHome {
        /// The home.
        home: StreamId,
    },
    /// The transaction was barred: tell *aborted* once the `Barred` record at `lsn` is committed.
    #[error("the transaction was barred")]
    Barred {
        /// Where the `Barred` record is.
        lsn: Lsn,
    },
    /// The range of timestamps is used up. Only a corrupt or hostile input can cause it.
    #[error("timestamps have run out")]
    OutOfTime,
}

impl Refusal {
    /// Whether the attempt, which named `epoch` of its home, can never commit after this answer (for
    /// [`Self::Barred`]: once its record is committed). After a definite abort the client may run the
    /// transaction again.
    pub fn is_definite_abort(&self, epoch: Epoch) -> bool {
        match self {
            Self::SnapshotTooOld { .. } | Self::Barred { .. } | Self::GaveUp => true,
            Self::Conflict { is_final, .. } => *is_final,
            Self::WrongEpoch { current } => *current > epoch,
            Self::Forgotten
            | Self::WrongStream { .. }
            | Self::Stopped
            | Self::LeaseExpired { .. }
            | Self::StartTooFarAhead { .. }
            | Self::ReadsTooLarge { .. }
            | Self::Overloaded
            | Self::AskHome
            | Self::UnknownHome { .. }
            | Self::OutOfTime => false,
        }
    }
}
