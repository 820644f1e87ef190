//! A range that another stream's transaction touches: votes, and what an outcome changes (section 5, R11, R12).
//!
//! ```text
//! prepare ──> Yes{lower, promise} ──vote──> home ··· decides ···> end_prepare(Committed{commit, lsn} | Aborted | Forgotten)
//!    │            written keys are promised, read keys held (R11), closures stay below `lower` (R12)
//!    └─> No(why): nothing is kept
//! ```
//! The outcome may be applied only when it is one: *committed* once the home's record is known to be committed,
//! *aborted* when the home, or its successor, said so.
//!
//! Caveats: a refusal here says nothing definite about the attempt (an earlier answer may have been yes); what the home
//! says of it is definite.

use std::time::Duration;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Interval, Lsn, Timestamp};

use super::prepares::{Ended, Touched};
use super::{Adjudication, CommitRequest, Refusal};

/// The part of a transaction that touches this range, at an owner that is not its home.
pub type PrepareRequest<'a> = CommitRequest<'a>;

/// How long a vote has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareTerms {
    /// The range's lead (R2).
    pub lead: Duration,
    /// A round trip to the home and an append there: the outcome should be back before anybody reads at `lower`. Zero
    /// at the home.
    pub to_home: Duration,
    /// How long after `lower` a commit timestamp may lie.
    pub prepare_timeout: Duration,
}

/// What a participant says to an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// It may commit, at a timestamp from `lower` to `promise`.
    Yes {
        /// R12: the range is not closed at or above this before the outcome is known.
        lower: Timestamp,
        /// R11: nobody with a snapshot older than this may write what it writes or has checked.
        promise: Timestamp,
    },
    /// It may not.
    No(Refusal),
}

/// How an attempt ended, for a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its record is committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where the record is in the home's stream.
        lsn: Lsn,
    },
    /// It never commits.
    Aborted,
    /// The home does not remember: it may have committed at any timestamp up to the promise, with a record up to
    /// `home_last`.
    Forgotten {
        /// The lsn that the home said it with, which is committed.
        home_last: Lsn,
    },
}

/// A yes whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPrepare {
    /// The attempt.
    pub attempt: Attempt,
    /// Its snapshot.
    pub start: Timestamp,
    /// See [`Vote::Yes`].
    pub lower: Timestamp,
    /// See [`Vote::Yes`].
    pub promise: Timestamp,
}

impl Adjudication {
    /// 5.1: votes on an attempt whose home is another stream.
    ///
    /// Repeated, it gives the same answer; never a yes after an end of that attempt is known. A yes is told to the home at
    /// once, it waits for no record.
    pub fn prepare(&mut self, request: &PrepareRequest<'_>, now: Interval, terms: &PrepareTerms) -> Vote {
        match self.vote(request, now, terms) {
            Ok((lower, promise)) => Vote::Yes { lower, promise },
            Err(refusal) => Vote::No(refusal),
        }
    }

    fn vote(
        &mut self,
        request: &PrepareRequest<'_>,
        now: Interval,
        terms: &PrepareTerms,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        let attempt = request.attempt;
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if let Some(open) = self.open_prepare(&attempt) {
            return Ok((open.lower, open.promise));
        }
        match self.prepares.ended(&attempt) {
            Some(Ended::Aborted) => return Err(Refusal::GaveUp),
            Some(Ended::PerhapsCommitted) => return Err(Refusal::AskHome),
            None => {}
        }
        if !self.known_homes.contains(&attempt.home) && !is_broken(Rule::MapVersion) {
            return Err(Refusal::UnknownHome { home: attempt.home });
        }
        if now.latest >= self.lease_end {
            return Err(Refusal::LeaseExpired {
                lease_end: self.lease_end,
            });
        }
        let touched = Touched::of(request);
        let fits = self.prepares.bytes + touched.bytes <= self.limits.open_bytes;
        if self.prepares.open.len() >= self.limits.open_attempts || !fits {
            return Err(Refusal::Overloaded);
        }
        self.check(request, now)?;
        let (lower, promise) = self.bounds(request.start, now, terms)?;
        self.promise(&attempt, &touched, request.start, promise);
        let open = OpenPrepare {
            attempt,
            start: request.start,
            lower,
            promise,
        };
        self.prepares.insert(open, touched);
        Ok((lower, promise))
    }

    /// 5.1: from when to when a transaction may commit, for all that is known here.
    pub(super) fn bounds(
        &self,
        start: Timestamp,
        now: Interval,
        terms: &PrepareTerms,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        let after_floor = self.floor.next().map_err(|_| Refusal::OutOfTime)?;
        let after_start = start.next().map_err(|_| Refusal::OutOfTime)?;
        let present = now.latest.saturating_add(terms.lead.max(terms.to_home));
        let lower = after_floor.max(after_start).max(present);
        let promise = lower.saturating_add(terms.prepare_timeout).min(self.lease_end);
        if promise < lower {
            return Err(Refusal::LeaseExpired {
                lease_end: self.lease_end,
            });
        }
        Ok((lower, promise))
    }

    /// R11.
    pub(super) fn promise(
        &mut self,
        attempt: &Attempt,
        touched: &Touched,
        start: Timestamp,
        promise: Timestamp,
    ) {
        let against = |rule| if is_broken(rule) { start } else { promise };
        let (writers, readers) = (against(Rule::PromisedWrites), against(Rule::HeldReads));
        self.recent.promise(&touched.written, *attempt, writers);
        self.recent.hold(&touched.reads, *attempt, readers);
    }

    /// The attempt ended: what it wrote counts from `commit` on, or never did. Its reads are held no more.
    pub(super) fn end_promise(&mut self, attempt: &Attempt, touched: &Touched, commit: Option<Timestamp>) {
        self.recent.end(&touched.written, attempt, commit);
        self.recent.release(&touched.reads, attempt);
    }

    /// 5.4: an attempt ended. All in one step: its keys and holds, the floor, the dependency of closures, and R12.
    ///
    /// `false` when no such attempt is open here (the whole name counts): nothing changes.
    pub fn end_prepare(&mut self, attempt: &Attempt, end: AttemptEnd) -> bool {
        let attempt = &self.prepares.named(attempt);
        let Some((open, touched)) = self.prepares.remove(attempt) else {
            return false;
        };
        let remembered = 2 * self.limits.open_attempts;
        // Until when its writes may be, and up to which entry of the home their record.
        let (until, lsn) = match end {
            AttemptEnd::Aborted => {
                self.prepares.note_end(*attempt, Ended::Aborted, remembered);
                self.end_promise(attempt, &touched, None);
                return true;
            }
            AttemptEnd::Committed { commit, lsn } if commit >= open.lower && commit <= open.promise => {
                (commit, lsn)
            }
            // The home knows the transaction by another attempt's record: this one's says nothing of when.
            AttemptEnd::Committed { commit, lsn } => (open.promise.max(commit), lsn),
            AttemptEnd::Forgotten { home_last } => (open.promise, home_last),
        };
        self.prepares
            .note_end(*attempt, Ended::PerhapsCommitted, remembered);
        self.end_promise(attempt, &touched, Some(until));
        // Whoever writes now what it read commits after it.
        if !is_broken(Rule::OutcomeFloor) {
            self.raise_floor(until);
        }
        if !is_broken(Rule::OutcomeDependency) {
            self.dependencies.note(attempt.home, lsn);
        }
        true
    }

    /// The attempts to ask about (5.5), in order of their names.
    pub fn open_prepares(&self) -> impl Iterator<Item = &OpenPrepare> {
        self.prepares.open.values().map(|(open, _)| open)
    }

    /// What was voted on this attempt, if its outcome is not known.
    pub fn open_prepare(&self, attempt: &Attempt) -> Option<&OpenPrepare> {
        self.prepares.open.get(attempt).map(|(open, _)| open)
    }

    /// R12: the smallest `lower` of an open prepare that writes here. [`Self::close`] stays below it.
    pub fn lowest_open(&self) -> Option<Timestamp> {
        self.prepares.by_lower.first().map(|(lower, _)| *lower)
    }

    /// The broken rule of [`Rule::PrepareOutcome`]: silence is taken for an abort.
    pub(super) fn end_silent(&mut self, now: Interval) {
        let silent = self.open_prepares().filter(|open| open.promise < now.latest);
        for attempt in silent.map(|open| open.attempt).collect::<Vec<_>>() {
            self.end_prepare(&attempt, AttemptEnd::Aborted);
        }
    }
}
