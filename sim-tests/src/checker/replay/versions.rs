//! Every version of every key, from what clients wrote and when they were told that it committed.

use std::collections::BTreeMap;
use std::ops::Bound;

use meridian_client::Timestamp;

use super::super::Anomaly;
use crate::history::{Found, Op, Outcome, Part, Txn};

/// One version.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    /// `None`: deleted.
    pub value: Option<&'a str>,
    /// Who wrote it; `None` when nobody can have.
    pub writer: Option<usize>,
}

/// A row: key, value, when it was committed (zero: an own write).
pub type Row<'a> = (&'a str, &'a str, Timestamp);

/// The versions of all keys.
#[derive(Default)]
pub struct Versions<'a> {
    keys: BTreeMap<&'a str, BTreeMap<Timestamp, Version<'a>>>,
    /// When each transaction committed, if it wrote anything and that is known, by its place in the history.
    commits: Vec<Option<Timestamp>>,
}

impl<'a> Versions<'a> {
    /// From the whole history. Of a commit in doubt, or one whose client was not told when, the timestamp is taken from
    /// whoever read it first.
    pub fn new(txns: &'a [Txn], anomalies: &mut Vec<Anomaly>) -> Self {
        let mut versions = Self {
            keys: BTreeMap::new(),
            commits: txns.iter().map(Txn::commit).collect(),
        };
        for txn in txns {
            if let Some(commit) = txn.commit() {
                versions.add(txn, commit, anomalies);
            }
        }
        versions.resolve(txns, anomalies);
        versions.resolve_deletions(txns);
        versions
    }

    /// A deletion of a transaction of which nobody knows any more what became of it cannot be read, only missed: when something was, it
    /// counts from behind the last snapshot on that still had what it deleted. (Of a snapshot that the reader was not told only a lower
    /// bound is known.)
    fn resolve_deletions(&mut self, txns: &'a [Txn]) {
        let is_open = |txn: &&Txn| txn.outcome == Outcome::Unknown && self.commit(txn.id).is_none();
        let lowest = |txn: &Txn| txn.snapshot().unwrap_or(txn.snapshot_not_before());
        let mut found: Vec<(&str, Timestamp, usize)> = Vec::new();
        for txn in txns.iter().filter(is_open) {
            let start = lowest(txn);
            for (key, _) in txn.effects().into_iter().filter(|(_, value)| value.is_none()) {
                let Some((_, deleted)) = self.get(key, start) else {
                    continue;
                };
                let lacks = |reader: &Txn| {
                    let at = lowest(reader);
                    // A later version has nothing to do with it; a snapshot of before it had none to lack; and one of nobody knows when may
                    // be that of a later deletion.
                    let is_later = match reader.snapshot() {
                        Some(at) => start < at,
                        None => {
                            self.was_there_before(txns, key, deleted, reader)
                                && !self.is_deleted_after(key, at)
                        }
                    };
                    let sees = self.get(key, at.max(start)).map(|(_, version)| version);
                    is_later && sees == Some(deleted) && reader.misses(key)
                };
                if txns.iter().any(lacks) {
                    let has = |reader: &Txn| {
                        let mut others = reader.ops.iter().flat_map(others);
                        others.any(|(other, found)| other == key && found.timestamp == deleted)
                    };
                    let last = txns.iter().filter(|reader| has(reader)).map(lowest).max();
                    let behind = last.unwrap_or_default().max(start);
                    found.push((key, Timestamp(behind.0.saturating_add(1)), txn.id));
                }
            }
        }
        for (key, at, writer) in found {
            let version = Version {
                value: None,
                writer: Some(writer),
            };
            self.keys.entry(key).or_default().entry(at).or_insert(version);
        }
    }

    /// Whether a reader whose snapshot nobody knows began when that version had been acknowledged: one that reads the present cannot
    /// miss it for having come too early.
    fn was_there_before(&self, txns: &[Txn], key: &str, version: Timestamp, reader: &Txn) -> bool {
        let writer = self.at_exactly(key, version).and_then(|version| version.writer);
        let acknowledged = writer.and_then(|id| txns.get(id)?.ended);
        reader.mode.past.is_none() && acknowledged.is_some_and(|ended| ended <= reader.began)
    }

    /// Whether a deletion is known to have committed after that.
    fn is_deleted_after(&self, key: &str, at: Timestamp) -> bool {
        let later = (Bound::Excluded(at), Bound::Unbounded);
        let versions = self.keys.get(key).into_iter();
        let mut later = versions.flat_map(|versions| versions.range(later));
        later.any(|(_, version)| version.value.is_none())
    }

    fn add(&mut self, txn: &'a Txn, commit: Timestamp, anomalies: &mut Vec<Anomaly>) {
        for (key, value) in txn.effects() {
            let version = Version {
                value,
                writer: Some(txn.id),
            };
            let other = self.keys.entry(key).or_default().insert(commit, version);
            if let Some(writer) = other.and_then(|other| other.writer) {
                anomalies.push(Anomaly {
                    name: "one timestamp, two values",
                    what: format!("T{writer} and T{} both committed {key} at {}", txn.id, commit.0),
                    txns: vec![writer, txn.id],
                });
            }
        }
    }

    fn resolve(&mut self, txns: &'a [Txn], anomalies: &mut Vec<Anomaly>) {
        let mut open: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        let is_open =
            |txn: &&Txn| txn.outcome == Outcome::Unknown || (txn.is_committed() && txn.commit().is_none());
        for txn in txns.iter().filter(is_open) {
            for (key, value) in txn.effects() {
                if let Some(value) = value {
                    open.entry((key, value)).or_default().push(txn.id);
                }
            }
        }
        for txn in txns {
            for (key, found) in txn.ops.iter().flat_map(others) {
                let known = self.at_exactly(key, found.timestamp);
                if known.is_none() {
                    let candidates = open.get(&(key, found.value.as_str())).into_iter().flatten();
                    let mut candidates = candidates.filter(|id| self.commit(**id).is_none());
                    let writer = candidates.next().and_then(|id| txns.get(*id));
                    self.found(txn, (key, found), writer, anomalies);
                }
            }
        }
    }

    /// A version that nobody was told of.
    fn found(
        &mut self,
        reader: &Txn,
        (key, found): (&'a str, &'a Found),
        writer: Option<&'a Txn>,
        anomalies: &mut Vec<Anomaly>,
    ) {
        if let Some(writer) = writer {
            if let Some(commit) = self.commits.get_mut(writer.id) {
                *commit = Some(found.timestamp);
            }
            self.add(writer, found.timestamp, anomalies);
            return;
        }
        let version = Version {
            value: Some(&found.value),
            writer: None,
        };
        self.keys.entry(key).or_default().insert(found.timestamp, version);
        anomalies.push(Anomaly {
            name: "garbage",
            what: format!(
                "T{} read {key} = {found}, and nobody can have written that",
                reader.id
            ),
            txns: vec![reader.id],
        });
    }

    /// When that transaction committed, if it wrote anything and that is known.
    pub fn commit(&self, id: usize) -> Option<Timestamp> {
        self.commits.get(id).copied().flatten()
    }

    /// The version that was committed just then.
    pub fn at_exactly(&self, key: &str, at: Timestamp) -> Option<Version<'a>> {
        self.keys.get(key)?.get(&at).copied()
    }

    /// What a snapshot shows of a key.
    pub fn get(&self, key: &str, at: Timestamp) -> Option<(&'a str, Timestamp)> {
        let (timestamp, version) = self.keys.get(key)?.range(..=at).next_back()?;
        Some((version.value?, *timestamp))
    }

    /// What a snapshot shows of all keys with a prefix.
    pub fn scan(&self, prefix: &str, at: Timestamp) -> BTreeMap<&'a str, (&'a str, Timestamp)> {
        let keys = self.range(prefix);
        keys.filter_map(|(key, _)| Some((key, self.get(key, at)?)))
            .collect()
    }

    /// The first version of a key after one moment and before another.
    pub fn between(
        &self,
        key: &str,
        after: Timestamp,
        before: Timestamp,
    ) -> Option<(Timestamp, Version<'a>)> {
        let first = Timestamp(after.0.saturating_add(1));
        let mut range = self.keys.get(key)?.range(first..before.max(first));
        range.next().map(|(timestamp, version)| (*timestamp, *version))
    }

    /// When keys with a prefix were deleted after that.
    pub fn deletions(&self, prefix: &str, after: Timestamp) -> Vec<Timestamp> {
        let deleted = self.range(prefix).flat_map(|(_, versions)| {
            let deleted = versions
                .range(after..)
                .filter(|(_, version)| version.value.is_none());
            deleted.map(|(timestamp, _)| *timestamp)
        });
        deleted.collect()
    }

    fn range<'b>(
        &'b self,
        prefix: &'b str,
    ) -> impl Iterator<Item = (&'a str, &'b BTreeMap<Timestamp, Version<'a>>)> {
        let from = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(key, versions)| (*key, versions))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// The versions of others that an operation found, with their values.
fn others(op: &Op) -> Vec<(&str, &Found)> {
    let rows = match op {
        Op::Read { key, found, .. } => {
            let found = found.iter().map(|found| (key.as_str(), found));
            return found.filter(|(_, found)| !found.is_own()).collect();
        }
        Op::Scan { rows, .. } => rows,
        Op::Part {
            part: Part { keys_only: false, .. },
            rows,
            ..
        } => rows,
        _ => return Vec::new(),
    };
    let rows = rows.iter().map(|(key, found)| (key.as_str(), found));
    rows.filter(|(_, found)| !found.is_own()).collect()
}
