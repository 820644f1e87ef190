//! What must be so in the end.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{Entry, WriteSet};
use prost::Message;

use super::{Cluster, Tried};

/// How much there was to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub across: usize,
    pub single: usize,
    pub closures: usize,
}

/// A transaction's record.
struct Commit {
    stream: u64,
    entry: Entry,
    keys: Vec<Bytes>,
}

/// `asked`: what was told of each in the end.
pub fn all(cluster: &Cluster, tried: &[Tried], asked: &[Outcome]) -> Counts {
    let commits = commits(cluster);
    check_told(&commits, tried, asked);
    check_snapshots(&commits, tried);
    let across = commits.values().filter(|commit| commit.keys.len() > 1).count();
    Counts {
        across,
        single: commits.len() - across,
        closures: check_closures(cluster, &commits),
    }
}

/// I3, and no transaction twice, in all streams.
fn commits(cluster: &Cluster) -> BTreeMap<Bytes, Commit> {
    let mut commits = BTreeMap::new();
    for stream in [1, 2] {
        let mut newest = 0;
        for entry in cluster.journals[0].entries_of(stream) {
            if entry.kind() != Kind::Commit {
                continue;
            }
            assert!(entry.timestamp > newest, "I3");
            newest = entry.timestamp;
            let writes = WriteSet::decode(entry.payload.clone()).unwrap().writes;
            let keys = writes.into_iter().map(|write| write.key).collect();
            let commit = Commit { stream, entry, keys };
            let before = commits.insert(commit.entry.txn.clone(), commit);
            assert!(before.is_none(), "I9: applied twice");
        }
    }
    commits
}

/// I9.
fn check_told(commits: &BTreeMap<Bytes, Commit>, tried: &[Tried], asked: &[Outcome]) {
    for (tried, asked) in tried.iter().zip(asked) {
        let recorded = commits.get(&tried.id.to_bytes());
        if let Some(known) = tried.known {
            let at = recorded.map(|commit| commit.entry.timestamp);
            assert_eq!(at, known, "told and not so: {}", tried.id);
        }
        if let Some(commit) = recorded {
            assert_eq!(commit.stream, tried.home, "the record is in another stream");
            let wrote = tried
                .writes
                .values()
                .map(|key| Bytes::from_static(key.as_bytes()));
            assert_eq!(
                commit.keys,
                wrote.collect::<Vec<_>>(),
                "I4: a part is not in the record"
            );
        }
        let expected = recorded.map_or(Outcome::Aborted, |_| Outcome::Committed);
        assert_eq!(*asked, expected, "I9: {}", tried.id);
        if let Some(told) = tried.told {
            assert_eq!(told, expected, "I9, asked meanwhile: {}", tried.id);
        }
    }
}

/// I2 and I2s.
fn check_snapshots(commits: &BTreeMap<Bytes, Commit>, tried: &[Tried]) {
    for tried in tried {
        let Some(commit) = commits.get(&tried.id.to_bytes()) else {
            continue;
        };
        let (start, end) = (tried.start.0, commit.entry.timestamp);
        assert!(end > start, "R2");
        for (id, other) in commits {
            let at = other.entry.timestamp;
            if *id == commit.entry.txn || at <= start || at > end {
                continue;
            }
            let wrote_same = other.keys.iter().any(|key| commit.keys.contains(key));
            assert!(!wrote_same, "I2: {} at {end} and another at {at}", tried.id);
            let has_read = |key: &Bytes| tried.reads.values().any(|read| read.as_bytes() == key);
            let missed = at < end && other.keys.iter().any(has_read);
            assert!(
                !missed,
                "I2s: {} at {end} missed another's write at {at}",
                tried.id
            );
        }
    }
}

/// R13 in every range, whichever stream holds the record.
fn check_closures(cluster: &Cluster, commits: &BTreeMap<Bytes, Commit>) -> usize {
    let mut checked = 0;
    for closure in cluster.journals.iter().flat_map(|journal| journal.closures()) {
        checked += 1;
        let is_of_range = |key: &Bytes| (key.as_ref() < b"m".as_slice()) == (closure.range == 1);
        for commit in commits.values() {
            let is_below = commit.entry.timestamp <= closure.closed;
            if !is_below || !commit.keys.iter().any(is_of_range) {
                continue;
            }
            let after = closure.after.iter().find(|after| after.stream == commit.stream);
            assert!(
                after.is_some_and(|after| commit.entry.lsn <= after.lsn),
                "R13: {closure:?} misses {} of stream {} at {}",
                commit.entry.lsn,
                commit.stream,
                commit.entry.timestamp
            );
        }
    }
    checked
}
