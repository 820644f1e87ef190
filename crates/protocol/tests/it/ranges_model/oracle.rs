//! What is true in the end: the logs as they were committed, and the invariants said plainly over them.

use std::collections::{BTreeMap, BTreeSet};

use meridian_protocol::closing::Closure;
use meridian_types::{Attempt, Epoch, Key, KeyRange, Lsn, Timestamp, TxnId};

/// A transaction, as its client means it.
#[derive(Clone, Debug, PartialEq)]
pub struct Meaning {
    pub id: TxnId,
    pub start: Timestamp,
    /// By range.
    pub written: BTreeMap<usize, Vec<Key>>,
    pub reads: BTreeMap<usize, Vec<KeyRange>>,
    pub home: usize,
}

impl Meaning {
    /// The ranges that it touches besides its home.
    pub fn others(&self) -> BTreeSet<usize> {
        let all = self.written.keys().chain(self.reads.keys()).copied();
        all.filter(|range| *range != self.home).collect()
    }

    fn writes(&self) -> impl Iterator<Item = &Key> {
        self.written.values().flatten()
    }

    fn has_read(&self, key: &Key) -> bool {
        let mut reads = self.reads.values().flatten();
        reads.any(|range| range.contains(key.as_ref()))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Opened { end: Timestamp },
    Lease { end: Timestamp },
    Commit { txn: Meaning, commit: Timestamp },
    Barred { txn: TxnId },
    Released { floor: Timestamp },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub epoch: Epoch,
    pub record: Record,
}

/// A yes, when it was given.
#[derive(Clone, Copy, Debug)]
pub struct Yes {
    pub lower: Timestamp,
    pub promise: Timestamp,
    pub lease_end: Timestamp,
}

/// A closure: the range, how far, and after what.
type Closed = (usize, Timestamp, Vec<(u64, Lsn)>);

/// Everything that anybody ever claimed, and what quorums hold.
#[derive(Default)]
pub struct Oracle {
    /// Per stream.
    pub committed: Vec<Vec<Entry>>,
    pub closures: BTreeSet<Closed>,
    pub votes: BTreeMap<(Attempt, usize), Vec<Yes>>,
    pub told_committed: BTreeSet<TxnId>,
    pub told_aborted: BTreeSet<TxnId>,
}

impl Oracle {
    pub fn commit(&mut self, stream: usize, entry: Entry) {
        self.committed[stream].push(entry);
    }

    /// Whether the entry there is of this epoch; `None`: nothing is committed there yet.
    pub fn is_committed(&self, stream: usize, epoch: Epoch, lsn: Lsn) -> Option<bool> {
        let entry = self.committed[stream].get(lsn.0 as usize - 1)?;
        Some(entry.epoch == epoch)
    }

    pub fn note_closure(&mut self, range: usize, closure: &Closure) {
        let after = closure.after.iter().map(|(stream, lsn)| (stream.0, *lsn));
        self.closures.insert((range, closure.x, after.collect()));
    }

    /// I5, when a home decides.
    pub fn check_votes(&self, attempt: &Attempt, participants: &BTreeSet<usize>, commit: Timestamp) {
        for range in participants {
            let votes = self.votes.get(&(*attempt, *range));
            let votes = votes.unwrap_or_else(|| panic!("I5: {attempt:?} commits without a vote of {range}"));
            let covers =
                |yes: &Yes| yes.lower <= commit && commit <= yes.promise && yes.promise <= yes.lease_end;
            assert!(
                votes.iter().any(covers),
                "I5: {attempt:?} commits at {commit}, {range} voted {votes:?}"
            );
        }
    }

    /// All invariants over everything that is committed now.
    pub fn check(&self) {
        let commits = self.commits();
        self.check_times(&commits);
        self.check_told(&commits);
        self.check_snapshots(&commits);
        self.check_closures();
    }

    fn commits(&self) -> Vec<(&Meaning, Timestamp)> {
        let entries = self.committed.iter().flatten();
        let commits = entries.filter_map(|entry| match &entry.record {
            Record::Commit { txn, commit } => Some((txn, *commit)),
            _ => None,
        });
        commits.collect()
    }

    /// I3, and R2's `start + 1`.
    fn check_times(&self, commits: &[(&Meaning, Timestamp)]) {
        for log in &self.committed {
            let mut last = Timestamp::ZERO;
            for entry in log {
                if let Record::Commit { commit, txn } = &entry.record {
                    assert!(*commit > last, "I3: {commit} after {last}: {txn:?}");
                    last = *commit;
                }
            }
        }
        for (txn, commit) in commits {
            assert!(*commit > txn.start, "R2: {txn:?} at {commit}");
        }
    }

    /// I9.
    fn check_told(&self, commits: &[(&Meaning, Timestamp)]) {
        let mut applied = BTreeSet::new();
        for (txn, _) in commits {
            assert!(applied.insert(txn.id), "I9: {txn:?} is applied twice");
            assert!(
                !self.told_aborted.contains(&txn.id),
                "I9: {txn:?} was told aborted, and committed"
            );
        }
        for told in &self.told_committed {
            assert!(
                applied.contains(told),
                "I9: {told} was told committed, and is not"
            );
        }
    }

    /// I2 and I2s.
    fn check_snapshots(&self, commits: &[(&Meaning, Timestamp)]) {
        for (txn, commit) in commits {
            for (other, at) in commits {
                if txn.id == other.id || *at <= txn.start || at > commit {
                    continue;
                }
                let wrote_same = other
                    .writes()
                    .any(|key| txn.writes().any(|written| written == key));
                assert!(!wrote_same, "I2: {txn:?} at {commit} overlaps {other:?} at {at}");
                let missed = at < commit && other.writes().any(|key| txn.has_read(key));
                assert!(!missed, "I2s: {txn:?} at {commit} missed {other:?} at {at}");
            }
        }
    }

    /// R13, and with it I4 and I6: what is committed at or below a closure lies at or before what it names.
    fn check_closures(&self) {
        for (range, x, after) in &self.closures {
            for (stream, log) in self.committed.iter().enumerate() {
                let named = after.iter().find(|(named, _)| *named == stream as u64 + 1);
                let named = named.map_or(0, |(_, lsn)| lsn.0 as usize);
                for (index, entry) in log.iter().enumerate().skip(named) {
                    let Record::Commit { txn, commit } = &entry.record else {
                        continue;
                    };
                    assert!(
                        *commit > *x || !txn.written.contains_key(range),
                        "R13: {range} closed {x} after {after:?}, but {txn:?} commits at {commit}, {stream}:{}",
                        index + 1
                    );
                }
            }
        }
    }
}
