//! The records of a stream, as entries.

use bytes::Bytes;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::{Entry, LeaseRecord};
use meridian_types::{NodeName, Position, Timestamp, TxnId};
use prost::Message;

fn entry(at: Position, kind: Kind, timestamp: Timestamp) -> Entry {
    Entry {
        epoch: at.epoch.0,
        lsn: at.lsn.0,
        kind: kind.into(),
        timestamp: timestamp.0,
        txn: Bytes::new(),
        payload: Bytes::new(),
    }
}

/// A transaction with all its writes.
pub(crate) fn commit(at: Position, txn: TxnId, commit: Timestamp, writes: Bytes) -> Entry {
    Entry {
        txn: txn.to_bytes(),
        payload: writes,
        ..entry(at, Kind::Commit, commit)
    }
}

/// The transaction will never commit.
pub(crate) fn barred(at: Position, txn: TxnId) -> Entry {
    Entry {
        txn: txn.to_bytes(),
        ..entry(at, Kind::Barred, Timestamp::ZERO)
    }
}

/// The first record of an epoch.
pub(crate) fn opened(at: Position, owner: &NodeName, lease_end: Timestamp, map_version: u64) -> Entry {
    Entry {
        payload: lease_record(owner, lease_end, map_version),
        ..entry(at, Kind::Opened, lease_end)
    }
}

/// A renewed lease.
pub(crate) fn lease(at: Position, owner: &NodeName, lease_end: Timestamp, map_version: u64) -> Entry {
    Entry {
        payload: lease_record(owner, lease_end, map_version),
        ..entry(at, Kind::Lease, lease_end)
    }
}

/// The last record of an epoch that ended cleanly.
pub(crate) fn released(at: Position, floor: Timestamp) -> Entry {
    entry(at, Kind::Released, floor)
}

/// No transaction's record ever follows: other streams order the keys.
pub(crate) fn sealed(at: Position, floor: Timestamp) -> Entry {
    entry(at, Kind::Sealed, floor)
}

/// The encoded range map, from now on.
pub(crate) fn map(at: Position, payload: Bytes) -> Entry {
    Entry {
        payload,
        ..entry(at, Kind::Map, Timestamp::ZERO)
    }
}

fn lease_record(owner: &NodeName, lease_end: Timestamp, map_version: u64) -> Bytes {
    let record = LeaseRecord {
        owner: owner.0.clone(),
        lease_end: lease_end.0,
        map_version,
    };
    record.encode_to_vec().into()
}

/// About how many bytes an entry takes in a message.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    entry.payload.len() + 64
}

/// Where an entry is.
pub(crate) fn position(entry: &Entry) -> Position {
    Position::new(entry.epoch, entry.lsn)
}
