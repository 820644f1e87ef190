//! What services logged of the protocol ([`meridian_protocol::events`]), as it happened: the evidence for I1 to I9.
//!
//! The trace takes them in while the simulation runs: [`read`] turns fields into an [`Event`], and an event that
//! cannot be read fails the run.

mod fields;
mod read;
mod show;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use meridian_protocol::closing::Closure;
use meridian_types::{Epoch, Key, KeyRange, Lsn, Position, RangeMap, StreamId, Timestamp, TxnId};

pub use fields::Fields;
pub use read::read;
pub use show::{Seconds, Short};

/// Something happened. The order of a run's events is that of the list that holds them: it is the real order.
#[derive(Clone, Debug)]
pub struct Happened {
    /// Where.
    pub node: Arc<str>,
    /// Since the run began.
    pub at: Duration,
    /// True time, which no node knows.
    pub now: Timestamp,
    /// What.
    pub event: Event,
}

/// What became of a transaction, as somebody was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this timestamp; zero for one that wrote nothing.
    Committed(Timestamp),
    /// For certain.
    Aborted,
    /// Nobody knows yet.
    Unknown,
}

/// A transaction's record, handed to the appender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The stream.
    pub stream: StreamId,
    /// Where the record goes.
    pub at: Position,
    /// The transaction.
    pub txn: TxnId,
    /// The number of the attempt.
    pub attempt: u32,
    /// Its snapshot.
    pub start: Timestamp,
    /// Its commit timestamp.
    pub commit: Timestamp,
    /// What it writes.
    pub written: Vec<Key>,
    /// What it read in this stream's range and wanted checked.
    pub checked: Vec<KeyRange>,
    /// The other ranges that it touches, whose owners have voted.
    pub participants: Vec<StreamId>,
}

/// A vote: the transaction may commit as far as this range goes, and until it is known whether it did, R11 and R12 hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voted {
    /// The range's stream.
    pub stream: StreamId,
    /// Who voted.
    pub epoch: Epoch,
    /// The transaction.
    pub txn: TxnId,
    /// The number of the attempt.
    pub attempt: u32,
    /// Whose vote it is to decide.
    pub home: StreamId,
    /// The home's owner.
    pub home_epoch: Epoch,
    /// The transaction's snapshot.
    pub start: Timestamp,
    /// It commits no earlier.
    pub lower: Timestamp,
    /// It commits no later.
    pub promise: Timestamp,
    /// What it writes in this range.
    pub written: Vec<Key>,
    /// What it read there and wants checked.
    pub checked: Vec<KeyRange>,
}

/// See the table at [`meridian_protocol::events`], which says when each of them is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table says it")]
pub enum Event {
    Booted,
    Started {
        txn: TxnId,
        start: Timestamp,
        present: bool,
    },
    Ended {
        txn: TxnId,
        start: Timestamp,
        outcome: Outcome,
    },
    Told {
        txn: TxnId,
        outcome: Outcome,
    },
    Opening {
        stream: StreamId,
        at: Position,
        adopted: Position,
        floor: Timestamp,
        lease_end: Timestamp,
        map: u64,
        resumed: bool,
        handed: bool,
    },
    Serving {
        stream: StreamId,
        epoch: Epoch,
        floor: Timestamp,
        window_low: Timestamp,
        lease_end: Timestamp,
    },
    Leased {
        stream: StreamId,
        epoch: Epoch,
        lease_end: Timestamp,
    },
    Decided(Decided),
    Voted(Voted),
    PrepareEnded {
        stream: StreamId,
        epoch: Epoch,
        txn: TxnId,
        attempt: u32,
        home: StreamId,
        home_epoch: Epoch,
        outcome: Outcome,
    },
    Raised {
        stream: StreamId,
        epoch: Epoch,
        floor: Timestamp,
        lsn: Lsn,
    },
    Barred {
        stream: StreamId,
        at: Position,
        txn: TxnId,
    },
    GivenUp {
        stream: StreamId,
        epoch: Epoch,
        txn: TxnId,
        attempt: u32,
        home_epoch: Epoch,
    },
    Named {
        stream: StreamId,
        epoch: Epoch,
        map: u64,
    },
    Released {
        stream: StreamId,
        at: Position,
        floor: Timestamp,
        sealed: bool,
        window_low: Timestamp,
    },
    Mapped {
        stream: StreamId,
        at: Position,
        map: Box<RangeMap>,
    },
    Answered {
        stream: StreamId,
        at: Position,
        commit: Timestamp,
    },
    Closed {
        stream: StreamId,
        closure: Closure,
    },
    Stopped {
        stream: StreamId,
        epoch: Epoch,
    },
    Counted {
        stream: StreamId,
        owner: Epoch,
        at: Position,
    },
    Mounted {
        disk: u128,
    },
    Recovered {
        stream: StreamId,
        promised: Epoch,
        last: Position,
    },
    Promised {
        stream: StreamId,
        epoch: Epoch,
    },
    Accepted {
        stream: StreamId,
        owner: Epoch,
        matched: Position,
    },
    Persisted {
        stream: StreamId,
        at: Position,
        timestamp: Timestamp,
    },
    Trimmed {
        stream: StreamId,
        at: Position,
    },
    Begun {
        stream: StreamId,
        at: Position,
    },
    Restored {
        stream: StreamId,
        at: Position,
    },
    Checkpointed {
        stream: StreamId,
        at: Position,
    },
    Followed {
        stream: StreamId,
        lsn: Lsn,
    },
    Applied {
        stream: StreamId,
        at: Position,
        commit: Timestamp,
        written: Vec<Key>,
    },
    Complete(Closure),
    LookedUp {
        at: Timestamp,
        key: Key,
        newest: Timestamp,
    },
    Scanned {
        at: Timestamp,
        keys: KeyRange,
        newest: Timestamp,
    },
    Shown {
        at: Timestamp,
        newest: Timestamp,
    },
}

impl Event {
    /// The name under which it is logged.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Started { .. } => "started",
            Self::Ended { .. } => "ended",
            Self::Told { .. } => "told",
            Self::Opening { .. } => "opening",
            Self::Serving { .. } => "serving",
            Self::Leased { .. } => "leased",
            Self::Decided(_) => "decided",
            Self::Voted(_) => "voted",
            Self::PrepareEnded { .. } => "prepare_ended",
            Self::Raised { .. } => "raised",
            Self::Barred { .. } => "barred",
            Self::GivenUp { .. } => "given_up",
            Self::Named { .. } => "named",
            Self::Released { .. } => "released",
            Self::Mapped { .. } => "mapped",
            Self::Answered { .. } => "answered",
            Self::Closed { .. } => "closed",
            Self::Stopped { .. } => "stopped",
            Self::Counted { .. } => "counted",
            Self::Mounted { .. } => "mounted",
            Self::Recovered { .. } => "recovered",
            Self::Promised { .. } => "promised",
            Self::Accepted { .. } => "accepted",
            Self::Persisted { .. } => "persisted",
            Self::Trimmed { .. } => "trimmed",
            Self::Begun { .. } => "begun",
            Self::Restored { .. } => "restored",
            Self::Checkpointed { .. } => "checkpointed",
            Self::Followed { .. } => "followed",
            Self::Applied { .. } => "applied",
            Self::Complete(_) => "complete",
            Self::LookedUp { .. } => "looked_up",
            Self::Scanned { .. } => "scanned",
            Self::Shown { .. } => "shown",
        }
    }

    /// The lease that is durable from here on: whose it is, and its end.
    pub fn durable_lease(&self) -> Option<(StreamId, Epoch, Timestamp)> {
        match self {
            Self::Serving {
                stream,
                epoch,
                lease_end,
                ..
            }
            | Self::Leased {
                stream,
                epoch,
                lease_end,
            } => Some((*stream, *epoch, *lease_end)),
            _ => None,
        }
    }

    /// The transaction that it is about.
    pub fn txn(&self) -> Option<TxnId> {
        match self {
            Self::Started { txn, .. }
            | Self::Ended { txn, .. }
            | Self::Told { txn, .. }
            | Self::Voted(Voted { txn, .. })
            | Self::PrepareEnded { txn, .. }
            | Self::Barred { txn, .. }
            | Self::GivenUp { txn, .. }
            | Self::Decided(Decided { txn, .. }) => Some(*txn),
            _ => None,
        }
    }
}
