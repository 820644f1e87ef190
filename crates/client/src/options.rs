//! How a transaction or a scan is to run.

use std::time::Duration;

use bytes::Bytes;
use meridian_rpc::v1;
use meridian_types::Timestamp;

/// What a transaction is kept apart from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Strong snapshot isolation: everything committed before it began is seen, and of two that overlap
    /// and write the same key only one commits.
    #[default]
    Snapshot,
    /// Everything read is checked at commit as well.
    Serializable,
}

/// How a transaction is to run. The default: read and write, snapshot isolation, at the present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxnOptions {
    /// What it is kept apart from.
    pub isolation: Isolation,
    /// Writes are refused; it never aborts.
    pub read_only: bool,
    /// Read-only transactions: read at this timestamp in the past.
    pub at: Option<Timestamp>,
    /// Read-only transactions: a snapshot at most this much older than now is good enough.
    pub max_staleness: Option<Duration>,
    /// The snapshot is not taken before this.
    pub min_start: Option<Timestamp>,
    /// Rolled back by the server when unused for this long. `None`: the server's default.
    pub idle_timeout: Option<Duration>,
    /// How long a `transact` with all its retries, or each single call of a transaction that was begun by
    /// hand, may take. `None`: the client's deadline.
    pub deadline: Option<Duration>,
    /// Measure what each step waits for: [`Txn::trace`](crate::Txn::trace) tells after the commit. Costs some bytes in every message of
    /// the transaction, and may make its commit wait for measurements that are not there yet.
    pub trace: bool,
}

impl TxnOptions {
    /// A transaction that only reads.
    pub fn read_only() -> Self {
        Self {
            read_only: true,
            ..Self::default()
        }
    }

    /// A transaction that reads at a timestamp in the past.
    pub fn at(timestamp: Timestamp) -> Self {
        Self {
            read_only: true,
            at: Some(timestamp),
            ..Self::default()
        }
    }

    /// A transaction that reads what can be read at once, at most this old: in a region that is cut off too.
    pub fn stale(at_most: Duration) -> Self {
        Self {
            read_only: true,
            max_staleness: Some(at_most),
            ..Self::default()
        }
    }

    /// A serializable transaction.
    pub fn serializable() -> Self {
        Self {
            isolation: Isolation::Serializable,
            ..Self::default()
        }
    }

    /// The same, measured: see [`Txn::trace`](crate::Txn::trace).
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.trace = true;
        self
    }

    pub(crate) fn to_begin(self, txn_id: Bytes) -> v1::BeginRequest {
        v1::BeginRequest {
            txn_id,
            isolation: self.isolation.to_proto().into(),
            read_only: self.read_only,
            min_start: self.min_start.unwrap_or_default().0,
            at: self.at.unwrap_or_default().0,
            // A staleness below a millisecond must not turn into "not used".
            max_staleness_ms: self.max_staleness.map_or(0, |limit| millis(limit).max(1)),
            idle_timeout_ms: self.idle_timeout.map_or(0, |limit| millis(limit).max(1)),
            trace: self.trace,
        }
    }
}

impl Isolation {
    pub(crate) fn to_proto(self) -> v1::Isolation {
        match self {
            Self::Snapshot => v1::Isolation::Snapshot,
            Self::Serializable => v1::Isolation::Serializable,
        }
    }
}

/// Whole milliseconds, rounded down.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A test of a row's value, evaluated where the data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// The value begins with this.
    Prefix(Bytes),
    /// The value contains this.
    Contains(Bytes),
    /// The value is this.
    Equal(Bytes),
    /// The value is not this.
    NotEqual(Bytes),
    /// Bytewise less.
    Less(Bytes),
    /// Bytewise less or equal.
    LessOrEqual(Bytes),
    /// Bytewise greater.
    Greater(Bytes),
    /// Bytewise greater or equal.
    GreaterOrEqual(Bytes),
}

impl Predicate {
    fn to_proto(&self) -> v1::Predicate {
        use v1::predicate::Op;
        let (op, operand) = match self {
            Self::Prefix(operand) => (Op::Prefix, operand),
            Self::Contains(operand) => (Op::Contains, operand),
            Self::Equal(operand) => (Op::Equal, operand),
            Self::NotEqual(operand) => (Op::NotEqual, operand),
            Self::Less(operand) => (Op::Less, operand),
            Self::LessOrEqual(operand) => (Op::LessOrEqual, operand),
            Self::Greater(operand) => (Op::Greater, operand),
            Self::GreaterOrEqual(operand) => (Op::GreaterOrEqual, operand),
        };
        v1::Predicate {
            op: op.into(),
            operand: operand.clone(),
        }
    }
}

/// How a scan is to run. The default: every row of the range, in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// At most this many rows.
    pub limit: Option<u64>,
    /// From the end of the range to its start.
    pub reverse: bool,
    /// Leave the values out.
    pub keys_only: bool,
    /// Rows for which one of these does not hold are left out.
    pub predicates: Vec<Predicate>,
    /// Checked at commit: nobody else may have written in the range since the snapshot.
    pub for_update: bool,
}

impl ScanOptions {
    /// The same, with at most so many rows.
    #[must_use]
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// The same, from the end to the start.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// The same, without values.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// The same, with one more test of the value.
    #[must_use]
    pub fn filter(mut self, predicate: Predicate) -> Self {
        self.predicates.push(predicate);
        self
    }

    pub(crate) fn to_request(&self, start: Bytes, end: Bytes) -> v1::ScanRequest {
        v1::ScanRequest {
            transaction: Bytes::new(),
            start,
            end,
            limit: self.limit.unwrap_or_default(),
            reverse: self.reverse,
            keys_only: self.keys_only,
            count_only: false,
            predicates: self.predicates.iter().map(Predicate::to_proto).collect(),
            for_update: self.for_update,
        }
    }
}
