//! The owner's side: which positions a closure depends on.

use std::collections::{BTreeMap, VecDeque};

use meridian_types::{Lsn, StreamId, Timestamp};

/// The lsns of a stream's own newest commits, to find the last one with `commit <= x`.
///
/// Invariant: commits and lsns strictly increase from front to back (I3), and all lie above `before`.
#[derive(Clone, Debug)]
pub struct OwnCommits {
    newest: VecDeque<(Timestamp, Lsn)>,
    /// The last commit that is not in `newest`, or what a new owner recovered.
    before: (Timestamp, Lsn),
    limit: usize,
}

impl OwnCommits {
    /// An owner that recovered a log up to `last`, with no commit above `floor` in it, remembers
    /// up to `limit` commits (at least one).
    pub fn new(floor: Timestamp, last: Lsn, limit: usize) -> Self {
        Self {
            newest: VecDeque::new(),
            before: (floor, last),
            limit: limit.max(1),
        }
    }

    /// A transaction's record was handed to the appender.
    pub fn push(&mut self, commit: Timestamp, lsn: Lsn) {
        debug_assert!(self.newest.back().is_none_or(|(c, l)| *c < commit && *l < lsn));
        if self.newest.len() == self.limit
            && let Some(oldest) = self.newest.pop_front()
        {
            self.before = oldest;
        }
        self.newest.push_back((commit, lsn));
    }

    /// The last lsn with `commit <= x`. For an `x` below what is remembered it names a later one: waiting for
    /// more than needed is safe.
    pub fn last_at_or_below(&self, x: Timestamp) -> Lsn {
        let after = self.newest.partition_point(|(commit, _)| *commit <= x);
        match after.checked_sub(1).and_then(|index| self.newest.get(index)) {
            Some((_, lsn)) => *lsn,
            None => self.before.1,
        }
    }
}

/// The records of other streams that may touch this range: those of home streams that were learnt (5.4), and the
/// answers to `RaiseFloor` (R19).
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    highest: BTreeMap<StreamId, Lsn>,
}

impl Dependencies {
    /// Closures must wait for this entry of another stream, and so for everything before it.
    pub fn note(&mut self, stream: StreamId, lsn: Lsn) {
        let highest = self.highest.entry(stream).or_default();
        *highest = (*highest).max(lsn);
    }

    /// All of them, ordered by stream.
    pub fn iter(&self) -> impl Iterator<Item = (StreamId, Lsn)> {
        self.highest.iter().map(|(stream, lsn)| (*stream, *lsn))
    }

    /// `after` of a closure of a range in stream `own`: its own last lsn, and the others'. Ordered by stream.
    pub fn after(&self, own: StreamId, last: Lsn) -> Vec<(StreamId, Lsn)> {
        let mut all = self.highest.clone();
        let own = all.entry(own).or_default();
        *own = (*own).max(last);
        all.into_iter().filter(|(_, lsn)| *lsn > Lsn(0)).collect()
    }
}
