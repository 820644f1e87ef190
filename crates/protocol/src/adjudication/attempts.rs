//! What became of a transaction, or of one attempt (section 5, attempts and forgetting).
//!
//! Invariant: an attempt is said to have ended only if it can never commit: it is barred here, in the epoch that it names,
//! or that epoch is over and the adopted log does not hold its transaction. Barring an attempt need not be durable: no other epoch ever
//! decides it.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, CommitToken, Interval, Lsn, Timestamp};

use super::Adjudication;
use crate::outcomes::Outcome;

/// What the owner says to "what became of this transaction?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeAnswer {
    /// It committed: say so once `lsn` is committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// It is barred now: append a `Barred` record at `lsn`; say *aborted* once that is committed.
    Bar {
        /// Where the record goes.
        lsn: Lsn,
    },
    /// It was barred before: say *aborted* once `lsn` is committed.
    Aborted {
        /// Where the `Barred` record is.
        lsn: Lsn,
    },
    /// It is too long ago to tell. Never to be taken for *aborted*.
    Forgotten,
    /// No memory for another bar, or not the owner any more: ask again.
    Unavailable,
}

/// What the owner says to "what became of this attempt?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptAnswer {
    /// The transaction committed: say so once `lsn` is committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// Its transaction was barred: say *aborted* once the `Barred` record at `lsn` is committed.
    Barred {
        /// Where that record is.
        lsn: Lsn,
    },
    /// It never commits. If it names this epoch, it is barred from now on.
    Aborted,
    /// It is too long ago to tell. Never to be taken for *aborted*. Its record, if there is one, is at `lsn` at the latest:
    /// say so once that is committed, and with it, so that the closures of a participant wait for it.
    Forgotten {
        /// The last lsn that was handed out.
        lsn: Lsn,
    },
    /// Not decided yet, or not for this owner to say: ask again.
    Pending,
}

impl Adjudication {
    /// What became of a transaction whose home is this stream (R1, section 5). It bars a transaction
    /// that it does not know: from this moment on no attempt of it commits.
    pub fn outcome(&mut self, token: &CommitToken, now: Interval) -> OutcomeAnswer {
        match self.outcomes.get(token.txn) {
            Some(Outcome::Committed { commit, lsn }) => return OutcomeAnswer::Committed { commit, lsn },
            Some(Outcome::Barred { lsn }) => return OutcomeAnswer::Aborted { lsn },
            None => {}
        }
        if token.start < self.outcomes.outcome_low() {
            return OutcomeAnswer::Forgotten;
        }
        if self.stopped || self.outcomes.is_full() {
            return OutcomeAnswer::Unavailable;
        }
        self.homes.bar(token.txn);
        let lsn = self.take_lsn();
        // A start may lie ahead of this node's clock (R20); when the bar is forgotten, `window_low` must pass it.
        let barred_at = now.latest.saturating_add(self.limits.max_clock_error);
        self.outcomes
            .insert(token.txn, Outcome::Barred { lsn }, barred_at);
        OutcomeAnswer::Bar { lsn }
    }

    /// Forgets outcomes, and attempts given up, that came to be before `cutoff`, which is to be
    /// [`meridian_types::limits::OUTCOME_RETENTION`] before `now.earliest`. Returns how many outcomes.
    pub fn forget_outcomes_before(&mut self, cutoff: Timestamp) -> usize {
        let forgotten = self.outcomes.forget_before(cutoff);
        if self.barred.forget_before(cutoff) || forgotten.any_barred {
            self.recent.raise_window_low(cutoff);
        }
        forgotten.count
    }

    /// Section 5: a query processor or a participant asks what became of one attempt. It never bars the transaction; it
    /// bars an attempt of this epoch that it has not heard of.
    pub fn attempt_outcome(&mut self, attempt: &Attempt, start: Timestamp, now: Interval) -> AttemptAnswer {
        match self.outcomes.get(attempt.txn) {
            Some(Outcome::Committed { commit, lsn }) => return AttemptAnswer::Committed { commit, lsn },
            Some(Outcome::Barred { lsn }) => return AttemptAnswer::Barred { lsn },
            None => {}
        }
        // An owner of a lower epoch does not answer.
        if attempt.home != self.stream() || attempt.home_epoch > self.epoch() || self.stopped {
            return AttemptAnswer::Pending;
        }
        // Whatever it is told now, it may still commit.
        if self.is_waiting(attempt) {
            return AttemptAnswer::Pending;
        }
        if start < self.outcomes.outcome_low() {
            // Not the last that is committed: the forgotten record may still be on its way.
            return AttemptAnswer::Forgotten { lsn: self.last_lsn };
        }
        if attempt.home_epoch < self.epoch() {
            return AttemptAnswer::Aborted;
        }
        if !is_broken(Rule::AttemptBar) {
            // It may still arrive, with a start that is later than the one asked with.
            let not_before = start.max(now.latest.saturating_add(self.limits.max_clock_error));
            self.bar_attempt(*attempt, not_before);
        }
        AttemptAnswer::Aborted
    }

    /// From now on the attempt is refused; it began at `start` at the latest.
    pub(super) fn bar_attempt(&mut self, attempt: Attempt, start: Timestamp) {
        self.homes.forget_votes(&attempt);
        if let Some(forgotten) = self.barred.bar(attempt, start, self.limits.barred_attempts) {
            self.recent
                .raise_window_low(forgotten.next().unwrap_or(forgotten));
        }
    }
}

/// The attempts that this epoch's owner will never commit.
///
/// Invariant: both hold the same attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct BarredAttempts {
    starts: BTreeMap<Attempt, Timestamp>,
    by_start: BTreeSet<(Timestamp, Attempt)>,
}

impl BarredAttempts {
    pub(super) fn contains(&self, attempt: &Attempt) -> bool {
        !self.starts.is_empty() && self.starts.contains_key(attempt)
    }

    /// Bars an attempt. When there is no memory left another one is forgotten: `window_low` must rise above the
    /// start that is returned.
    fn bar(&mut self, attempt: Attempt, start: Timestamp, limit: usize) -> Option<Timestamp> {
        if let Some(before) = self.starts.insert(attempt, start) {
            self.by_start.remove(&(before, attempt));
        }
        self.by_start.insert((start, attempt));
        if self.starts.len() <= limit {
            return None;
        }
        let (start, oldest) = self.by_start.pop_first()?;
        self.starts.remove(&oldest);
        Some(start)
    }

    /// Forgets those that began before `cutoff`, and says whether there were any: then `window_low` must rise to it.
    fn forget_before(&mut self, cutoff: Timestamp) -> bool {
        let before = self.starts.len();
        while let Some((start, attempt)) = self.by_start.first().copied()
            && start < cutoff
        {
            self.by_start.pop_first();
            self.starts.remove(&attempt);
        }
        self.starts.len() < before
    }
}
