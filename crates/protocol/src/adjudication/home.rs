//! The home of transactions that touch several ranges: collects the votes and decides (section 5, 5.2, 5.3).
//!
//! ```text
//! begin_home ──> Waiting ──on_vote──> Waiting ──on_vote──> Commit{commit, lsn} ──> append, tell everybody
//!                   │                                └───> GaveUp(why): barred, tell everybody
//!                   └──settle_homes: a promise passed, the lease was renewed
//! ```
//! Invariant: an attempt is decided at most once, by the owner of the epoch that it names; one that was given up is
//! barred before anybody is told.

use meridian_types::{Attempt, Interval, Lsn, StreamId, Timestamp};

use super::{Adjudication, PrepareRequest, PrepareTerms, Refusal, Vote};

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
    pub fn begin_home(
        &mut self,
        _request: &HomeRequest<'_>,
        _now: Interval,
        _terms: &PrepareTerms,
    ) -> HomeStep {
        HomeStep::Refused(Refusal::Overloaded)
    }

    /// A participant's vote. One that arrives before the request is kept, within bounds. A vote whose stream is not among the
    /// participants counts nothing.
    pub fn on_vote(&mut self, _attempt: &Attempt, _from: StreamId, _vote: Vote, _now: Interval) -> HomeStep {
        HomeStep::Refused(Refusal::Overloaded)
    }

    /// Gives up an attempt that waits for votes, bars it and restores its own promises. `false`: it does not wait here.
    pub fn give_up_home(&mut self, _attempt: &Attempt) -> bool {
        false
    }

    /// What time, the floor or a renewed lease did to those that wait: gives up what cannot commit any more, commits what
    /// waited for the lease only. Call it at [`Self::next_home_deadline`], after the floor was raised for others, after
    /// [`Self::outcome`] barred a transaction, and after a lease became durable.
    pub fn settle_homes(&mut self, _now: Interval) -> Vec<(Attempt, HomeStep)> {
        Vec::new()
    }

    /// The smallest promise among those that wait: when `now.latest` has passed it, [`Self::settle_homes`] gives up.
    pub fn next_home_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Whether the attempt waits for votes here.
    pub fn is_waiting(&self, _attempt: &Attempt) -> bool {
        false
    }

    /// How many attempts wait for votes here.
    pub fn waiting_homes(&self) -> usize {
        0
    }
}
