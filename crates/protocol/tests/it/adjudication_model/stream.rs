//! The second version: all records, and the rules said plainly.

use std::collections::BTreeSet;

use meridian_protocol::adjudication::Refusal;
use meridian_types::{Key, KeyRange, Lsn, Timestamp, TxnId};

use super::Owner;

#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub id: TxnId,
    pub start: Timestamp,
    pub written: Vec<Key>,
    pub reads: Vec<KeyRange>,
    /// Its client was told that it aborted.
    pub told_aborted: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Opened { end: Timestamp },
    Lease { end: Timestamp },
    Commit { txn: Transaction, commit: Timestamp },
    Barred { txn: TxnId },
    Released { floor: Timestamp },
}

/// What a quorum holds, and every closure that anybody ever gave.
#[derive(Default)]
pub struct Stream {
    pub committed: Vec<Record>,
    pub closures: Vec<(Timestamp, Lsn)>,
    decided: BTreeSet<TxnId>,
}

impl Stream {
    pub fn commit(&mut self, record: Record) {
        if let Record::Commit { txn, .. } = &record {
            assert!(self.decided.insert(txn.id), "I9: {txn:?} is applied twice");
        }
        self.committed.push(record);
    }

    pub fn assert_not_committed(&self, txn: TxnId, why: &str) {
        assert!(!self.decided.contains(&txn), "I9: {why}, but it committed: {txn}");
    }

    /// Everything once more, over the whole stream as it was committed.
    pub fn check_all(&self) {
        for (index, record) in self.committed.iter().enumerate() {
            if let Record::Commit { txn, commit } = record {
                check_commit(&self.committed[..index], txn, *commit);
            }
        }
        for (x, after) in &self.closures {
            check_closure(&self.committed, *x, *after);
        }
    }
}

/// I2, I2s, I3 for a transaction that commits after all of `log`.
pub fn check_commit(log: &[Record], txn: &Transaction, commit: Timestamp) {
    for record in log {
        let Record::Commit {
            txn: other,
            commit: at,
        } = record
        else {
            continue;
        };
        assert!(*at < commit, "I3: {at} before {commit}");
        assert_ne!(other.id, txn.id, "I9: {txn:?} commits twice");
        let both_wrote = other.written.iter().any(|key| txn.written.contains(key));
        assert!(
            !both_wrote || *at <= txn.start,
            "I2: {txn:?} at {commit} and {other:?} at {at}"
        );
        let missed = other
            .written
            .iter()
            .any(|key| txn.reads.iter().any(|range| range.contains(key.as_ref())));
        assert!(
            !missed || *at <= txn.start,
            "I2s: {txn:?} at {commit} missed {other:?} at {at}"
        );
    }
}

/// R13: every commit at or below `x` is at or before `after`.
pub fn check_closure(log: &[Record], x: Timestamp, after: Lsn) {
    for (index, record) in log.iter().enumerate() {
        let Record::Commit { commit, .. } = record else {
            continue;
        };
        assert!(
            *commit > x || index < after.0 as usize,
            "R13: closed {x} after {after}, but {commit} at {}",
            index + 1
        );
    }
}

/// The newest commit after `start` in a key that was written or is to be checked.
fn conflict(log: &[Record], txn: &Transaction) -> Option<Timestamp> {
    let collides =
        |key: &Key| txn.written.contains(key) || txn.reads.iter().any(|range| range.contains(key.as_ref()));
    let newer = log.iter().filter_map(|record| match record {
        Record::Commit { txn: other, commit } if other.written.iter().any(collides) => Some(*commit),
        _ => None,
    });
    newer.max().filter(|commit| *commit > txn.start)
}

impl Owner {
    pub fn hand_out(&mut self, lsn: Lsn, record: Record) {
        self.log.push(record);
        assert_eq!(lsn.0 as usize, self.log.len(), "lsns are handed out without gaps");
    }

    pub fn holds_commit(&self, id: TxnId) -> bool {
        self.log
            .iter()
            .any(|record| matches!(record, Record::Commit { txn, .. } if txn.id == id))
    }

    pub fn check_known(&self, txn: &Transaction, commit: Timestamp, lsn: Lsn) {
        match &self.log[lsn.0 as usize - 1] {
            Record::Commit {
                txn: other,
                commit: at,
            } => {
                assert!(
                    other.id == txn.id && *at == commit,
                    "I9: {txn:?} is told another's outcome"
                );
            }
            other => panic!("I9: {txn:?} is told that {other:?} is its commit"),
        }
    }

    /// A refusal is for a reason that the version without forgetting sees as well.
    pub fn check_refusal(&self, txn: &Transaction, refusal: &Refusal, full: bool) {
        match refusal {
            Refusal::Conflict { key, with, is_final } => {
                let newest = conflict(&self.log, txn);
                assert!(
                    newest.is_some_and(|at| at >= *with),
                    "{key} at {with}: there is no such conflict"
                );
                assert!(*is_final && *with > txn.start);
            }
            Refusal::SnapshotTooOld { window_low } => {
                assert!(txn.start < *window_low && *window_low == self.real.window_low());
                assert!(
                    txn.start >= self.real.outcome_low(),
                    "I9: this could be taken for aborted"
                );
            }
            Refusal::Forgotten => assert!(txn.start < self.real.outcome_low()),
            Refusal::Overloaded => assert!(full),
            Refusal::Barred { lsn } => {
                let record = &self.log[lsn.0 as usize - 1];
                assert!(matches!(record, Record::Barred { txn: other } if *other == txn.id));
            }
            Refusal::WrongEpoch { .. }
            | Refusal::LeaseExpired { .. }
            | Refusal::StartTooFarAhead { .. }
            | Refusal::Stopped => {}
            other => panic!("nothing here is refused for {other}"),
        }
        if refusal.is_definite_abort(self.real.epoch()) {
            assert!(
                !self.holds_commit(txn.id),
                "I9: {txn:?} is told {refusal}, but it committed"
            );
        }
    }
}
