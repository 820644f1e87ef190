//! What a transaction did, operation by operation.

use meridian_client::Timestamp;

/// A value as a read found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value; empty where only keys were read.
    pub value: String,
    /// When it was committed; zero for the transaction's own write.
    pub timestamp: Timestamp,
}

impl Found {
    /// Whether the transaction found what it had written itself.
    pub fn is_own(&self) -> bool {
        self.timestamp == Timestamp::ZERO
    }
}

/// One operation, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of one key.
    Read {
        /// The key.
        key: String,
        /// `None`: the key has no value.
        found: Option<Found>,
        /// Whether it is checked at commit, whatever the transaction's isolation.
        for_update: bool,
    },
    /// A write of one key.
    Write {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// The key has no value any more.
    Delete {
        /// The key.
        key: String,
    },
    /// A read of all keys with a prefix.
    Scan {
        /// The prefix.
        prefix: String,
        /// All of them, in order.
        rows: Vec<(String, Found)>,
        /// Whether the range is checked at commit, whatever the transaction's isolation.
        for_update: bool,
    },
    /// A read of a part of what a scan would show.
    Part {
        /// The prefix.
        prefix: String,
        /// Which part.
        part: Part,
        /// What was found, in the order in which it came; nothing when only counted.
        rows: Vec<(String, Found)>,
        /// How many there are.
        count: u64,
    },
    /// A place to which writes can be rolled back.
    Savepoint {
        /// Its name.
        name: String,
    },
    /// Every write since the newest savepoint of that name is taken back.
    RollbackTo {
        /// The name.
        name: String,
    },
}

/// What of a range is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// From the end to the start.
    pub reverse: bool,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// Without the values.
    pub keys_only: bool,
    /// Only how many there are.
    pub count_only: bool,
    /// Only rows whose value contains this.
    pub contains: Option<String>,
}

/// How a transaction was asked to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Everything that it reads is checked at commit.
    pub serializable: bool,
    /// It only reads.
    pub read_only: bool,
    /// It reads the past on purpose.
    pub past: Option<Past>,
}

/// Which past a transaction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The one at this timestamp.
    At(Timestamp),
    /// One that is at most so many milliseconds old.
    NotOlderThan(u64),
}

impl Mode {
    /// It reads only, at the present.
    pub fn read_only() -> Self {
        Self {
            read_only: true,
            ..Self::default()
        }
    }

    /// Serializable.
    pub fn serializable() -> Self {
        Self {
            serializable: true,
            ..Self::default()
        }
    }

    /// It reads what was there at that time.
    pub fn at(timestamp: Timestamp) -> Self {
        Self {
            past: Some(Past::At(timestamp)),
            ..Self::read_only()
        }
    }

    /// It reads something that is at most so old.
    pub fn not_older_than(ms: u64) -> Self {
        Self {
            past: Some(Past::NotOlderThan(ms)),
            ..Self::read_only()
        }
    }
}
