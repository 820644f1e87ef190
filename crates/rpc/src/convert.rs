//! Conversions between the messages of `proto/` and the types of the project.

use bytes::Bytes;
use meridian_types::{
    Attempt, CommitToken, Epoch, Key, KeyRange, LogBase, Lsn, Position, StreamId, Timestamp, TxnId, Write,
};

use crate::error::KvError;
use crate::{internal, v1};

impl From<Position> for internal::Position {
    fn from(position: Position) -> Self {
        Self {
            epoch: position.epoch.0,
            lsn: position.lsn.0,
        }
    }
}

impl From<LogBase> for internal::LogBase {
    fn from(base: LogBase) -> Self {
        Self {
            position: Some(base.position.into()),
            last_commit: base.last_commit.0,
            lease_end: base.lease_end.0,
        }
    }
}

impl From<internal::LogBase> for LogBase {
    fn from(base: internal::LogBase) -> Self {
        Self {
            position: base.position.map(Position::from).unwrap_or_default(),
            last_commit: Timestamp(base.last_commit),
            lease_end: Timestamp(base.lease_end),
        }
    }
}

impl From<internal::Position> for Position {
    fn from(position: internal::Position) -> Self {
        Self {
            epoch: Epoch(position.epoch),
            lsn: Lsn(position.lsn),
        }
    }
}

impl From<CommitToken> for v1::CommitToken {
    fn from(token: CommitToken) -> Self {
        Self {
            txn_id: token.txn.to_bytes(),
            start: token.start.0,
            home: token.home.map_or(0, |stream| stream.0),
        }
    }
}

impl TryFrom<&v1::CommitToken> for CommitToken {
    type Error = KvError;

    fn try_from(token: &v1::CommitToken) -> Result<Self, KvError> {
        Ok(Self {
            txn: txn_id(&token.txn_id)?,
            start: Timestamp(token.start),
            home: (token.home != 0).then_some(StreamId(token.home)),
        })
    }
}

impl From<Attempt> for internal::AttemptName {
    fn from(attempt: Attempt) -> Self {
        Self {
            txn: attempt.txn.to_bytes(),
            number: attempt.number,
            home: attempt.home.0,
            home_epoch: attempt.home_epoch.0,
        }
    }
}

impl TryFrom<&internal::AttemptName> for Attempt {
    type Error = KvError;

    fn try_from(name: &internal::AttemptName) -> Result<Self, KvError> {
        Ok(Self {
            txn: txn_id(&name.txn)?,
            number: name.number,
            home: StreamId(name.home),
            home_epoch: Epoch(name.home_epoch),
        })
    }
}

impl From<KeyRange> for internal::ReadRange {
    fn from(range: KeyRange) -> Self {
        let (start, end) = range_to_bytes(range);
        Self { start, end }
    }
}

impl From<internal::ReadRange> for KeyRange {
    fn from(range: internal::ReadRange) -> Self {
        range_from_bytes(range.start, range.end)
    }
}

impl From<Write> for internal::WriteRecord {
    fn from(write: Write) -> Self {
        Self {
            key: write.key.0,
            value: write.value,
        }
    }
}

impl From<internal::WriteRecord> for Write {
    fn from(write: internal::WriteRecord) -> Self {
        Self {
            key: Key(write.key),
            value: write.value,
        }
    }
}

/// A transaction id as it travels.
pub fn txn_id(bytes: &[u8]) -> Result<TxnId, KvError> {
    TxnId::from_slice(bytes)
        .ok_or_else(|| KvError::invalid(format!("a transaction id has 16 bytes, not {}", bytes.len())))
}

/// A range as it travels: an empty end means "without end".
pub fn range_from_bytes(start: Bytes, end: Bytes) -> KeyRange {
    KeyRange {
        start: Key(start),
        end: (!end.is_empty()).then_some(Key(end)),
    }
}

/// The opposite of [`range_from_bytes`].
pub fn range_to_bytes(range: KeyRange) -> (Bytes, Bytes) {
    (range.start.0, range.end.map(|end| end.0).unwrap_or_default())
}
