//! Identifiers and log positions.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use uuid::Uuid;

use crate::Timestamp;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id!(
    /// A log in the journal. Each key range has one.
    StreamId, "s"
);
number_id!(
    /// A key range that one adjudicator owns at a time.
    RangeId, "r"
);
number_id!(
    /// The generation of a stream's owner. Only the owner of the highest epoch appends.
    Epoch, "e"
);
number_id!(
    /// Log sequence number: the place of an entry in its stream. The first entry has 1; 0 means "before all".
    Lsn, ""
);

impl StreamId {
    /// The stream that holds the range map, and no keys.
    pub const META: Self = Self(0);
}

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Lsn {
    /// The place after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A place in a stream and the epoch of the entry there. Ordered by epoch first: that is the
/// order in which a takeover compares logs (protocol section 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Epoch of the entry at `lsn`.
    pub epoch: Epoch,
    /// The place in the log.
    pub lsn: Lsn,
}

impl Position {
    /// Before the first entry of a stream.
    pub const START: Self = Self {
        epoch: Epoch(0),
        lsn: Lsn(0),
    };

    /// A position from its parts.
    pub fn new(epoch: u64, lsn: u64) -> Self {
        Self {
            epoch: Epoch(epoch),
            lsn: Lsn(lsn),
        }
    }
}

/// What a log that was trimmed begins behind, and what has to be known of all that is gone (R18).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBase {
    /// The last entry that is gone. It is committed.
    pub position: Position,
    /// The highest commit timestamp of the entries up to there.
    pub last_commit: Timestamp,
    /// The highest lease_end of the entries up to there.
    pub lease_end: Timestamp,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.lsn)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes as they travel.
            pub fn to_bytes(self) -> Bytes {
                Bytes::copy_from_slice(self.0.as_bytes())
            }

            /// From the bytes as they travel; `None` unless there are exactly 16.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(s).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A transaction, named by the client that began it (a version 7 UUID).
    TxnId
);
uuid_id!(
    /// A cluster. A node refuses peers of another one.
    ClusterId
);
uuid_id!(
    /// The identity of a journal node's disk. A lost disk never comes back under its old id.
    DiskId
);

/// The name of a node as the cluster's configuration gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(pub String);

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client needs to learn a transaction's outcome from any query processor (R1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitToken {
    /// The transaction.
    pub txn: TxnId,
    /// Its snapshot timestamp, or any lower bound of it. The same in every retry of the commit.
    pub start: Timestamp,
    /// The stream that holds the commit record, if there is one. The same in every retry. `None`
    /// while it is not fixed yet.
    pub home: Option<StreamId>,
}

/// The whole name of a commit attempt (protocol section 5). Matched by all of it, never by a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt {
    /// The transaction.
    pub txn: TxnId,
    /// Counts from 1. Attempt n + 1 begins only after a definite abort of n.
    pub number: u32,
    /// The stream that will hold the commit record.
    pub home: StreamId,
    /// The epoch of the home's owner that may decide it; no other may.
    pub home_epoch: Epoch,
}
