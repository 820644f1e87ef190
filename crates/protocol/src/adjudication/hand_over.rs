//! A planned move (section 8): what an owner that has released its stream hands to its successor, so that no open transaction fails.
//!
//! ```text
//! release() ──> `Released` at (epoch, lsn) ──committed──> hand_over() ──HandedOver──> take_over(): like the same owner with another epoch
//!                                                                 └──lost──> open(): above everything (R18)
//! ```
//! The successor goes on as if it had been the owner all the time: with the same floor, recent writes and `window_low`, the attempts
//! voted on and not ended yet (R11, R12), what its closures depend on, and what it lacks of R19. Not handed over are the outcomes,
//! for they are all in the log, and the attempts that waited for votes: they named an epoch that is over.
//!
//! Invariant: the state is used only by an owner whose adopted log ends with the very `Released` record that it was handed over
//! with: between that record and the successor's first nobody has decided, voted or closed anything.

use std::collections::BTreeMap;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Key, KeyRange, Lsn, Position, StreamId, Timestamp};

use super::floors::RaiseGate;
use super::prepares::Touched;
use super::{Adjudication, AdjudicationLimits, CommitRequest, OpenPrepare, Opening};
use crate::closing::Dependencies;
use crate::conflict::{CommittedWrite, RecentWrites};

/// The soft state of an owner that has released its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// The stream.
    pub stream: StreamId,
    /// The `Released` record: the last of the log for which this is the state.
    pub released: Position,
    /// Every later commit timestamp is above it. Below the floor that the record carries when attempts are open.
    pub floor: Timestamp,
    /// Snapshots older than this are refused.
    pub window_low: Timestamp,
    /// The highest commit timestamp whose outcome may have been forgotten.
    pub outcome_low: Timestamp,
    /// The committed writes of `window_low` and later, newest first.
    pub recent: Vec<CommittedWrite>,
    /// The attempts of other homes that were voted on and whose ends are not known.
    pub votes: Vec<HandedVote>,
    /// What closures have to wait for in other streams (5.4, R19).
    pub dependencies: Vec<(StreamId, Lsn)>,
    /// R19: the floor up to which other streams had to raise theirs, and how far they have.
    pub raise_floor: Timestamp,
    /// See [`Self::raise_floor`].
    pub raised: BTreeMap<StreamId, Timestamp>,
}

/// A yes whose outcome is not known, with what it touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedVote {
    /// The attempt, and what was promised.
    pub prepare: OpenPrepare,
    /// R11: the keys that it writes.
    pub written: Vec<Key>,
    /// R11: what it has read.
    pub reads: Vec<KeyRange>,
}

impl Adjudication {
    /// What the successor goes on with. To be called once after [`Self::release`], whose record is the last that was handed out.
    /// Of the recent writes, the newest of about `max_bytes` are taken; `window_low` is above the rest.
    pub fn hand_over(&self, max_bytes: usize) -> HandedOver {
        debug_assert!(self.stopped, "it may still change");
        let (recent, window_low) = self.recent.newest_commits(max_bytes);
        let votes = self.prepares.open.values().map(|(prepare, touched)| HandedVote {
            prepare: prepare.clone(),
            written: touched.written.clone(),
            reads: touched.reads.clone(),
        });
        let (raise_floor, raised) = self.gate.parts();
        HandedOver {
            stream: self.stream(),
            released: Position {
                epoch: self.epoch(),
                lsn: self.last_lsn,
            },
            floor: self.floor,
            window_low,
            outcome_low: self.outcomes.outcome_low(),
            recent,
            votes: votes.collect(),
            dependencies: self.dependencies.iter().collect(),
            raise_floor,
            raised: raised.clone(),
        }
    }

    /// [`Self::open`] for an owner that was handed its predecessor's state. `adopted` is the end of the log that it adopted, and
    /// `opening.floor` is not looked at. Call [`Self::on_map_durable`] afterwards, not [`Self::with_streams`].
    ///
    /// `None` unless the state is that of the log's end: then open like any other.
    #[must_use]
    pub fn take_over(
        opening: Opening,
        adopted: Position,
        limits: AdjudicationLimits,
        handed: &HandedOver,
    ) -> Option<Self> {
        let follows = opening.epoch > adopted.epoch && opening.opened == adopted.lsn.next();
        let is_of_the_end = handed.released == adopted || is_broken(Rule::HandOverPosition);
        if handed.stream != opening.stream || !is_of_the_end || !follows {
            return None;
        }
        let opening = Opening {
            floor: handed.floor,
            outcome_low: opening.outcome_low.max(handed.outcome_low),
            ..opening
        };
        let mut owner = Self::open(opening, limits);
        owner.recent = RecentWrites::new(limits.recent_writes_bytes, handed.window_low);
        if opening.outcome_low > Timestamp::ZERO {
            // Bars from before that are forgotten; they reach as far ahead as clocks may differ.
            let forgotten = opening.outcome_low.saturating_add(limits.max_clock_error);
            owner.recent.raise_window_low(forgotten);
        }
        if !is_broken(Rule::HandOverWindow) {
            for write in &handed.recent {
                owner.recent.commit([&write.key], write.txn, write.at);
            }
        }
        for vote in &handed.votes {
            owner.take_vote(vote);
        }
        owner.dependencies = Dependencies::default();
        for (stream, lsn) in &handed.dependencies {
            owner.dependencies.note(*stream, *lsn);
        }
        owner.gate = RaiseGate::resume(handed.raise_floor, handed.raised.clone());
        Some(owner)
    }

    fn take_vote(&mut self, vote: &HandedVote) {
        let OpenPrepare {
            attempt,
            start,
            promise,
            ..
        } = vote.prepare;
        let touched = Touched::of(&CommitRequest {
            attempt,
            start,
            written: &vote.written,
            reads: &vote.reads,
        });
        self.promise(&attempt, &touched, start, promise);
        self.prepares.insert(vote.prepare.clone(), touched);
    }
}
