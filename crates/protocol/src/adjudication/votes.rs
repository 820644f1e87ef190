//! The attempts that wait for votes at their home, and votes that arrived before their attempt.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Attempt, StreamId, Timestamp, TxnId};

use super::prepares::Touched;
use super::{AdjudicationLimits, Refusal, Vote};

/// An attempt that waits for votes.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) start: Timestamp,
    pub(super) touched: Touched,
    /// The largest `lower` so far.
    pub(super) lower: Timestamp,
    /// The smallest promise so far.
    pub(super) promise: Timestamp,
    pub(super) participants: BTreeSet<StreamId>,
    pub(super) missing: BTreeSet<StreamId>,
}

/// Votes that arrived before their attempt.
#[derive(Clone, Debug, Default)]
struct Early {
    number: u64,
    votes: BTreeMap<StreamId, Vote>,
}

/// What one home waits for.
///
/// Invariants: `by_promise` holds the attempts of `waiting`; `due` holds some of them; `bytes` is what they cost; `early_order` and
/// `early` hold the same attempts, and `early_votes` is how many votes those have.
#[derive(Clone, Debug, Default)]
pub(super) struct Homes {
    waiting: BTreeMap<Attempt, Waiting>,
    by_promise: BTreeSet<(Timestamp, Attempt)>,
    /// To be looked at whatever the time.
    due: BTreeSet<Attempt>,
    bytes: usize,
    early: BTreeMap<Attempt, Early>,
    early_order: BTreeMap<u64, Attempt>,
    early_votes: usize,
    next_early: u64,
}

impl Homes {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn contains(&self, attempt: &Attempt) -> bool {
        self.waiting.contains_key(attempt)
    }

    pub(super) fn get(&self, attempt: &Attempt) -> Option<&Waiting> {
        self.waiting.get(attempt)
    }

    pub(super) fn has_room(&self, bytes: usize, limits: &AdjudicationLimits) -> bool {
        self.waiting.len() < limits.open_attempts && self.bytes + bytes <= limits.open_bytes
    }

    pub(super) fn insert(&mut self, attempt: Attempt, waiting: Waiting) {
        self.bytes += waiting.touched.bytes;
        self.by_promise.insert((waiting.promise, attempt));
        if waiting.missing.is_empty() {
            self.due.insert(attempt);
        }
        self.waiting.insert(attempt, waiting);
    }

    pub(super) fn remove(&mut self, attempt: &Attempt) -> Option<Waiting> {
        let waiting = self.waiting.remove(attempt)?;
        self.bytes -= waiting.touched.bytes;
        self.by_promise.remove(&(waiting.promise, *attempt));
        self.due.remove(attempt);
        Some(waiting)
    }

    pub(super) fn into_waiting(self) -> BTreeMap<Attempt, Waiting> {
        self.waiting
    }

    /// Counts a vote on an attempt that waits. An error is a no.
    ///
    /// Two different yes of one stream can only be of different owners: both are honoured.
    pub(super) fn count(&mut self, attempt: &Attempt, from: StreamId, vote: Vote) -> Result<(), Refusal> {
        let Some(waiting) = self.waiting.get_mut(attempt) else {
            return Ok(());
        };
        if !waiting.participants.contains(&from) {
            return Ok(());
        }
        let (lower, promise) = match vote {
            Vote::Yes { lower, promise } => (lower, promise),
            Vote::No(refusal) => return Err(refusal),
        };
        waiting.lower = waiting.lower.max(lower);
        self.by_promise.remove(&(waiting.promise, *attempt));
        waiting.promise = waiting.promise.min(promise);
        self.by_promise.insert((waiting.promise, *attempt));
        waiting.missing.remove(&from);
        if waiting.missing.is_empty() {
            self.due.insert(*attempt);
        }
        Ok(())
    }

    pub(super) fn is_complete(&self, attempt: &Attempt) -> bool {
        self.get(attempt)
            .is_some_and(|waiting| waiting.missing.is_empty())
    }

    /// Whether it cannot commit any more: a promise has passed, or every commit timestamp from now on is above it.
    pub(super) fn is_late(&self, attempt: &Attempt, present: Timestamp, floor: Timestamp) -> bool {
        self.get(attempt)
            .is_some_and(|waiting| waiting.promise < present || waiting.promise <= floor)
    }

    pub(super) fn first_promise(&self) -> Option<Timestamp> {
        self.by_promise.first().map(|(promise, _)| *promise)
    }

    /// Those that are late, complete, or of a transaction that was barred.
    pub(super) fn due(&self, present: Timestamp, floor: Timestamp) -> Vec<Attempt> {
        let late = self
            .by_promise
            .iter()
            .take_while(|(promise, _)| *promise < present || *promise <= floor)
            .map(|(_, attempt)| *attempt);
        let mut all: BTreeSet<Attempt> = late.collect();
        all.extend(&self.due);
        all.into_iter().collect()
    }

    /// The transaction was barred: its attempts are to be given up.
    pub(super) fn bar(&mut self, txn: TxnId) {
        let of_txn = self.waiting.keys().filter(|attempt| attempt.txn == txn);
        let of_txn: Vec<Attempt> = of_txn.copied().collect();
        self.due.extend(of_txn);
    }

    /// Keeps a vote for an attempt that is not known yet. Too many: the oldest attempt's are forgotten, and it is given
    /// up when its time has passed.
    pub(super) fn keep_early(
        &mut self,
        attempt: Attempt,
        from: StreamId,
        vote: Vote,
        limits: &AdjudicationLimits,
    ) {
        let early = self.early.entry(attempt).or_insert_with(|| {
            self.next_early += 1;
            self.early_order.insert(self.next_early, attempt);
            Early {
                number: self.next_early,
                votes: BTreeMap::new(),
            }
        });
        let is_new = match early.votes.get_mut(&from) {
            // A no stays one.
            Some(Vote::No(_)) => false,
            Some(before) => {
                *before = both(before, vote);
                false
            }
            None => early.votes.insert(from, vote).is_none(),
        };
        self.early_votes += usize::from(is_new);
        while self.early_votes > limits.open_attempts
            && let Some(oldest) = self.early_order.values().next().copied()
        {
            self.forget_votes(&oldest);
        }
    }

    /// The votes that arrived before their attempt; they are not kept any longer.
    pub(super) fn forget_votes(&mut self, attempt: &Attempt) -> BTreeMap<StreamId, Vote> {
        let Some(early) = self.early.remove(attempt) else {
            return BTreeMap::new();
        };
        self.early_order.remove(&early.number);
        self.early_votes -= early.votes.len();
        early.votes
    }
}

/// What holds if both votes of one stream do.
fn both(before: &Vote, vote: Vote) -> Vote {
    match (before, vote) {
        (Vote::Yes { lower: a, promise: b }, Vote::Yes { lower: c, promise: d }) => Vote::Yes {
            lower: (*a).max(c),
            promise: (*b).min(d),
        },
        (no @ Vote::No(_), _) => no.clone(),
        (_, no) => no,
    }
}
