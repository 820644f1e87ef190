//! The home of transactions that touch several ranges: collects the votes and decides (section 5, 5.2, 5.3).
//!
//! ```text
//! begin_home ──> Waiting ──on_vote──> Waiting ──on_vote──> Commit{commit, lsn} ──> append, tell everybody
//!                   │                                └───> GaveUp(why): barred, tell everybody
//!                   └──settle_homes: a promise passed, the lease was renewed
//! ```
//! Invariant: an attempt is decided at most once, by the owner of the epoch that it names; one that was given up is
//! barred before anybody is told.

use std::collections::BTreeSet;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Interval, Lsn, StreamId, Timestamp};

use super::prepares::Touched;
use super::votes::{Homes, Waiting};
use super::{Adjudication, PrepareRequest, PrepareTerms, Refusal, Vote};
use crate::outcomes::Outcome;

/// A transaction that touches several ranges, at its home.
#[derive(Clone, Copy, Debug)]
pub struct HomeRequest<'a> {
    /// What it writes and has checked in the home's range.
    pub prepare: PrepareRequest<'a>,
    /// The streams of the other ranges.
    pub participants: &'a [StreamId],
}

/// What becomes of an attempt at its home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomeStep {
    /// Votes are missing (or the request itself, or a lease).
    Waiting,
    /// It commits: append its record, with the writes of all ranges, at `lsn`; answer *decided*; tell the participants.
    Commit {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record goes.
        lsn: Lsn,
    },
    /// It was decided before, with this record: tell whoever asked or voted.
    Known {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// It is given up, now or before: it never commits. Tell the query processor the reason, which is definite for the
    /// attempt ([`Refusal::is_definite_abort`]), and *aborted* to the participants.
    GaveUp(Refusal),
    /// Nothing was decided or kept, and nothing is to be told to participants.
    Refused(Refusal),
}

impl Adjudication {
    /// 5.1 and 5.2 at the home: checks and promises its own keys like a participant, counts the votes that arrived
    /// before, and decides if they are all there. Repeated while it waits, it says `Waiting` again.
    pub fn begin_home(&mut self, request: &HomeRequest<'_>, now: Interval, terms: &PrepareTerms) -> HomeStep {
        let (attempt, start) = (request.prepare.attempt, request.prepare.start);
        if let Some(known) = self.known(&attempt) {
            return known;
        }
        if self.is_waiting(&attempt) {
            return HomeStep::Waiting;
        }
        if let Err(refusal) = self.admit_as_home(&attempt, start, now) {
            return HomeStep::Refused(refusal);
        }
        let touched = Touched::of(&request.prepare);
        if !self.homes.has_room(touched.bytes, &self.limits) {
            return HomeStep::Refused(Refusal::Overloaded);
        }
        let checked = self
            .check(&request.prepare, now)
            .and_then(|()| self.bounds(start, now, terms));
        let (lower, promise) = match checked {
            Ok(bounds) => bounds,
            // It lacks nothing but a lease.
            Err(refusal @ Refusal::LeaseExpired { .. }) => return HomeStep::Refused(refusal),
            Err(refusal) => return self.gave_up(attempt, start, refusal),
        };
        self.promise(&attempt, &touched, start, promise);
        let own = self.stream();
        let participants: BTreeSet<StreamId> = request
            .participants
            .iter()
            .copied()
            .filter(|stream| *stream != own)
            .collect();
        self.homes.insert(
            attempt,
            Waiting {
                start,
                touched,
                lower,
                promise,
                missing: participants.clone(),
                participants,
            },
        );
        for (from, vote) in self.homes.forget_votes(&attempt) {
            if let Err(refusal) = self.homes.count(&attempt, from, vote) {
                return self.abandon(&attempt, refusal);
            }
        }
        self.try_decide(&attempt, now)
    }

    /// A participant's vote. One that arrives before the request is kept, within bounds. A vote whose stream is not among the
    /// participants counts nothing.
    pub fn on_vote(&mut self, attempt: &Attempt, from: StreamId, vote: Vote, now: Interval) -> HomeStep {
        if let Some(known) = self.known(attempt) {
            return known;
        }
        if let Err(refusal) = self.admit_name(attempt) {
            return HomeStep::Refused(refusal);
        }
        if !self.is_waiting(attempt) {
            self.homes.keep_early(*attempt, from, vote, &self.limits);
            return HomeStep::Waiting;
        }
        match self.homes.count(attempt, from, vote) {
            Ok(()) => self.try_decide(attempt, now),
            Err(refusal) => self.abandon(attempt, refusal),
        }
    }

    /// Gives up an attempt that waits for votes, bars it and restores its own promises. `false`: it does not wait here.
    pub fn give_up_home(&mut self, attempt: &Attempt) -> bool {
        let waits = self.is_waiting(attempt);
        if waits {
            self.abandon(attempt, Refusal::GaveUp);
        }
        waits
    }

    /// What time, the floor or a renewed lease did to those that wait: gives up what cannot commit any more, commits what
    /// waited for the lease only. Call it at [`Self::next_home_deadline`], after the floor was raised for others, after
    /// [`Self::outcome`] barred a transaction, and after a lease became durable.
    pub fn settle_homes(&mut self, now: Interval) -> Vec<(Attempt, HomeStep)> {
        let passed = match is_broken(Rule::HomePromise) {
            true => Timestamp::ZERO,
            false => self.floor,
        };
        let mut settled = Vec::new();
        for attempt in self.homes.due(now.latest, passed) {
            let step = match self.known(&attempt) {
                Some(_) => self.abandon(&attempt, Refusal::GaveUp),
                None => self.try_decide(&attempt, now),
            };
            // Complete, but too late, or without a lease until it was too late.
            let step = match step {
                HomeStep::Waiting if self.homes.is_late(&attempt, now.latest, passed) => {
                    self.abandon(&attempt, Refusal::GaveUp)
                }
                other => other,
            };
            if step != HomeStep::Waiting {
                settled.push((attempt, step));
            }
        }
        settled
    }

    /// The smallest promise among those that wait: when `now.latest` has passed it, [`Self::settle_homes`] gives up.
    pub fn next_home_deadline(&self) -> Option<Timestamp> {
        self.homes.first_promise()
    }

    /// Whether the attempt waits for votes here.
    pub fn is_waiting(&self, attempt: &Attempt) -> bool {
        self.homes.contains(attempt)
    }

    /// How many attempts wait for votes here.
    pub fn waiting_homes(&self) -> usize {
        self.homes.len()
    }

    /// What is known of an attempt that ended.
    fn known(&self, attempt: &Attempt) -> Option<HomeStep> {
        match self.outcomes.get(attempt.txn) {
            Some(Outcome::Committed { commit, lsn }) => Some(HomeStep::Known { commit, lsn }),
            Some(Outcome::Barred { lsn }) => Some(HomeStep::GaveUp(Refusal::Barred { lsn })),
            None if self.barred.contains(attempt) => Some(HomeStep::GaveUp(Refusal::GaveUp)),
            None => None,
        }
    }

    /// 5.2, 5.3: all votes are in.
    fn try_decide(&mut self, attempt: &Attempt, now: Interval) -> HomeStep {
        if !self.homes.is_complete(attempt) || !self.is_deciding(now) {
            return HomeStep::Waiting;
        }
        let (Some(waiting), Ok(after_floor)) = (self.homes.get(attempt), self.floor.next()) else {
            return self.abandon(attempt, Refusal::OutOfTime);
        };
        let commit = match is_broken(Rule::HomeFloor) {
            true => waiting.lower,
            false => waiting.lower.max(after_floor),
        };
        if commit > waiting.promise && !is_broken(Rule::HomePromise) {
            return self.abandon(attempt, Refusal::GaveUp);
        }
        if let Some(waiting) = self.homes.remove(attempt) {
            self.end_promise(attempt, &waiting.touched, Some(commit));
        }
        let lsn = self.record_commit(attempt.txn, commit);
        HomeStep::Commit { commit, lsn }
    }

    /// Ends the wait without a commit.
    fn abandon(&mut self, attempt: &Attempt, why: Refusal) -> HomeStep {
        let Some(waiting) = self.homes.remove(attempt) else {
            return HomeStep::GaveUp(Refusal::GaveUp);
        };
        self.end_promise(attempt, &waiting.touched, None);
        self.gave_up(*attempt, waiting.start, why)
    }

    /// Barred before anybody is told. A reason that another attempt would meet again is told as it is.
    fn gave_up(&mut self, attempt: Attempt, start: Timestamp, why: Refusal) -> HomeStep {
        self.bar_attempt(attempt, start);
        if let Some(known) = self
            .known(&attempt)
            .filter(|_| self.outcomes.get(attempt.txn).is_some())
        {
            return known;
        }
        HomeStep::GaveUp(match why {
            Refusal::Conflict { is_final: true, .. }
            | Refusal::SnapshotTooOld { .. }
            | Refusal::ReadsTooLarge { .. }
            | Refusal::StartTooFarAhead { .. }
            | Refusal::OutOfTime => why,
            _ => Refusal::GaveUp,
        })
    }

    /// Another epoch begins: what waits for votes is decided by nobody.
    pub(super) fn drop_homes(&mut self) {
        for (attempt, waiting) in std::mem::take(&mut self.homes).into_waiting() {
            self.end_promise(&attempt, &waiting.touched, None);
        }
        self.homes = Homes::default();
    }
}
