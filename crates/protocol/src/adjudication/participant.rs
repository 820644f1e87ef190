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

use meridian_types::{Attempt, Interval, Key, KeyRange, Lsn, Timestamp};

use super::{Adjudication, Refusal};

/// The part of a transaction that touches this range.
#[derive(Clone, Copy, Debug)]
pub struct PrepareRequest<'a> {
    /// The attempt's whole name.
    pub attempt: Attempt,
    /// Its snapshot.
    pub start: Timestamp,
    /// The keys it writes in this range.
    pub written: &'a [Key],
    /// What it wants checked in this range.
    pub reads: &'a [KeyRange],
}

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
        /// The last committed lsn of the home's stream.
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
    pub fn prepare(&mut self, _request: &PrepareRequest<'_>, _now: Interval, _terms: &PrepareTerms) -> Vote {
        Vote::No(Refusal::Overloaded)
    }

    /// 5.4: an attempt ended. All in one step: its keys and holds, the floor, the dependency of closures, and R12.
    ///
    /// `false` when no such attempt is open here (the whole name counts): nothing changes.
    pub fn end_prepare(&mut self, _attempt: &Attempt, _end: AttemptEnd) -> bool {
        false
    }

    /// The attempts to ask about (5.5), in order of their names.
    pub fn open_prepares(&self) -> impl Iterator<Item = &OpenPrepare> {
        std::iter::empty()
    }

    /// What was voted on this attempt, if its outcome is not known.
    pub fn open_prepare(&self, _attempt: &Attempt) -> Option<&OpenPrepare> {
        None
    }

    /// R12: the smallest `lower` of an open prepare that writes here. [`Self::close`] stays below it.
    pub fn lowest_open(&self) -> Option<Timestamp> {
        None
    }
}
