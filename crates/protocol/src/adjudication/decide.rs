//! Deciding a transaction that touches one range, and the checks that all transactions pass (section 4, R2, R20).

use std::time::Duration;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Interval, Key, KeyRange, Lsn, Timestamp, TxnId};

use super::{Adjudication, ReadLimit, Refusal};
use crate::clock_rules::is_too_far_ahead;
use crate::conflict::{Collision, Recent};
use crate::outcomes::Outcome;

/// A transaction that wants to commit, as far as it touches this range.
#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    /// The attempt's whole name.
    pub attempt: Attempt,
    /// Its snapshot.
    pub start: Timestamp,
    /// The keys it writes here.
    pub written: &'a [Key],
    /// What it read here and wants checked: keys read for update, everything a serializable transaction read.
    pub reads: &'a [KeyRange],
}

/// What becomes of a [`CommitRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It commits: append its record, with all the writes, at `lsn`.
    Commit {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record goes.
        lsn: Lsn,
    },
    /// It was decided before, with this record; the answer is the same.
    Known {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// It does not commit by this request.
    Refused(Refusal),
}

impl Adjudication {
    /// Decides a transaction that writes in this range only, in one step (section 4).
    ///
    /// `lead` is how far ahead of the present it commits at least (R2).
    pub fn decide(&mut self, request: &CommitRequest<'_>, now: Interval, lead: Duration) -> Decision {
        let attempt = &request.attempt;
        match self.outcomes.get(attempt.txn) {
            Some(Outcome::Committed { commit, lsn }) => return Decision::Known { commit, lsn },
            Some(Outcome::Barred { lsn }) => return Decision::Refused(Refusal::Barred { lsn }),
            None => {}
        }
        if self.barred.contains(attempt) {
            return Decision::Refused(Refusal::GaveUp);
        }
        let decided = self
            .admit_as_home(attempt, request.start, now)
            .and_then(|()| self.check(request, now))
            .and_then(|()| self.commit_timestamp(request, now, lead));
        let commit = match decided {
            Ok(commit) => commit,
            Err(refusal) => return Decision::Refused(refusal),
        };
        debug_assert!(commit > request.start, "R2");
        self.recent.commit(request.written, attempt.txn, commit);
        let lsn = self.record_commit(attempt.txn, commit);
        Decision::Commit { commit, lsn }
    }

    /// A transaction is decided, and its record gets the next lsn.
    pub(super) fn record_commit(&mut self, txn: TxnId, commit: Timestamp) -> Lsn {
        debug_assert!(commit > self.floor, "I3");
        self.floor = commit;
        let lsn = self.take_lsn();
        self.own_commits.push(commit, lsn);
        self.outcomes
            .insert(txn, Outcome::Committed { commit, lsn }, commit);
        lsn
    }

    /// Whether this owner may decide the attempt at all, which is not among the outcomes. The order matters: *forgotten*
    /// comes before anything that could be taken for *aborted*, and what says something about the attempt (a wrong epoch)
    /// before what says something about this owner.
    pub(super) fn admit_as_home(
        &self,
        attempt: &Attempt,
        start: Timestamp,
        now: Interval,
    ) -> Result<(), Refusal> {
        if start < self.outcomes.outcome_low() {
            return Err(Refusal::Forgotten);
        }
        self.admit_name(attempt)?;
        // A start at or past `lease_end` is refused as well: every successor begins above it (R18), so
        // that what is refused for good here can commit nowhere else, not even by a retry.
        if now.latest >= self.lease_end || start >= self.lease_end {
            return Err(Refusal::LeaseExpired {
                lease_end: self.lease_end,
            });
        }
        if self.outcomes.len() + self.waiting_homes() >= self.limits.outcomes {
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    /// Section 5, attempts: only the owner of the named epoch votes as home, counts votes and decides.
    pub(super) fn admit_name(&self, attempt: &Attempt) -> Result<(), Refusal> {
        if attempt.home != self.stream() {
            return Err(Refusal::WrongStream {
                stream: self.stream(),
            });
        }
        if attempt.home_epoch != self.epoch() {
            return Err(Refusal::WrongEpoch {
                current: self.epoch(),
            });
        }
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        Ok(())
    }

    /// Section 4, step 2, for the part of a transaction that touches this range.
    pub(super) fn check(&self, request: &CommitRequest<'_>, now: Interval) -> Result<(), Refusal> {
        let start = request.start;
        if self.ended {
            let window_low = self.opening.floor;
            return Err(Refusal::SnapshotTooOld { window_low });
        }
        if is_too_far_ahead(start, now, self.limits.max_clock_error) {
            return Err(Refusal::StartTooFarAhead { latest: now.latest });
        }
        if start < self.recent.window_low() {
            return Err(Refusal::SnapshotTooOld {
                window_low: self.recent.window_low(),
            });
        }
        if request.reads.len() > self.limits.checked_reads {
            return Err(Refusal::ReadsTooLarge {
                limit: ReadLimit::Ranges(self.limits.checked_reads),
            });
        }
        let reads = if is_broken(Rule::ReadCheck) {
            &[]
        } else {
            request.reads
        };
        match self
            .recent
            .check(request.attempt.txn, start, request.written, reads)
            .filter(|_| !is_broken(Rule::ConflictCheck))
        {
            None => Ok(()),
            Some(Collision::SameTxn) => Err(Refusal::AskHome),
            Some(Collision::With { key, with }) => Err(Refusal::Conflict {
                key,
                with: with.timestamp(),
                is_final: matches!(with, Recent::Committed { .. }),
            }),
        }
    }

    /// R2: `max(floor + 1, start + 1, now.latest + lead)`.
    fn commit_timestamp(
        &self,
        request: &CommitRequest<'_>,
        now: Interval,
        lead: Duration,
    ) -> Result<Timestamp, Refusal> {
        let after_floor = self.floor.next().map_err(|_| Refusal::OutOfTime)?;
        let after_start = request.start.next().map_err(|_| Refusal::OutOfTime)?;
        let after_floor = after_floor.min(unless_broken(Rule::CommitOrder));
        let after_start = after_start.min(unless_broken(Rule::CommitAfterStart));
        Ok(after_floor.max(after_start).max(now.latest.saturating_add(lead)))
    }
}

/// The highest timestamp there is, or the lowest.
fn unless_broken(rule: Rule) -> Timestamp {
    match is_broken(rule) {
        true => Timestamp::ZERO,
        false => Timestamp::MAX,
    }
}
