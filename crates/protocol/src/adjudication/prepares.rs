//! The attempts of other homes that were voted on, and what attempts touch here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Key, KeyRange, Timestamp};

use super::{CommitRequest, OpenPrepare};

/// What an open attempt touches here. Copies: the request's buffer is not kept alive.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    pub(super) written: Vec<Key>,
    pub(super) reads: Vec<KeyRange>,
    /// What it costs, about.
    pub(super) bytes: usize,
}

/// What a key or a bound costs beside its bytes, in all places where it is kept.
const TOUCHED_OVERHEAD_BYTES: usize = 192;

impl Touched {
    pub(super) fn of(request: &CommitRequest<'_>) -> Self {
        let own = |key: &Key| Key::from(key.as_ref());
        let written: Vec<Key> = request.written.iter().map(own).collect();
        let copy = |range: &KeyRange| KeyRange {
            start: own(&range.start),
            end: range.end.as_ref().map(own),
        };
        let reads: Vec<KeyRange> = request.reads.iter().map(copy).collect();
        let bounds = reads
            .iter()
            .flat_map(|range| [Some(&range.start), range.end.as_ref()]);
        let keys = written.iter().chain(bounds.flatten());
        let bytes = keys.map(|key| key.0.len() + TOUCHED_OVERHEAD_BYTES).sum();
        Self {
            written,
            reads,
            bytes,
        }
    }
}

/// How an attempt ended that was open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Aborted,
    PerhapsCommitted,
}

/// The attempts of other homes that were voted on.
///
/// Invariant: `by_lower` holds the open ones that write here; `bytes` is what all open ones cost; both of the ended hold the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepares {
    pub(super) open: BTreeMap<Attempt, (OpenPrepare, Touched)>,
    pub(super) by_lower: BTreeSet<(Timestamp, Attempt)>,
    pub(super) bytes: usize,
    ended: BTreeMap<Attempt, Ended>,
    ended_order: VecDeque<Attempt>,
}

impl Prepares {
    pub(super) fn insert(&mut self, open: OpenPrepare, touched: Touched) {
        if !touched.written.is_empty() {
            self.by_lower.insert((open.lower, open.attempt));
        }
        self.bytes += touched.bytes;
        self.open.insert(open.attempt, (open, touched));
    }

    pub(super) fn remove(&mut self, attempt: &Attempt) -> Option<(OpenPrepare, Touched)> {
        let (open, touched) = self.open.remove(attempt)?;
        self.by_lower.remove(&(open.lower, *attempt));
        self.bytes -= touched.bytes;
        Some((open, touched))
    }

    pub(super) fn ended(&self, attempt: &Attempt) -> Option<Ended> {
        self.ended.get(attempt).copied()
    }

    /// Remembers how an attempt ended; `limit` of them at most. A late repetition of one that was forgotten may be voted on once
    /// more: that is safe, its home knows how it ended, but it holds up closures until the home was asked.
    pub(super) fn note_end(&mut self, attempt: Attempt, end: Ended, limit: usize) {
        if self.ended.insert(attempt, end).is_none() {
            self.ended_order.push_back(attempt);
        }
        if self.ended_order.len() > limit
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    /// The highest promise of all that are open.
    pub(super) fn highest_promise(&self) -> Timestamp {
        let promises = self.open.values().map(|(open, _)| open.promise);
        promises.max().unwrap_or_default()
    }

    /// The attempt that is meant: the one of exactly this name.
    pub(super) fn named(&self, attempt: &Attempt) -> Attempt {
        if !is_broken(Rule::AttemptName) {
            return *attempt;
        }
        let mut open = self.open.keys();
        let same_txn = open.find(|other| other.txn == attempt.txn);
        same_txn.copied().unwrap_or(*attempt)
    }
}
