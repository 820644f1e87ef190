//! Closing, and R19: before an owner closes at or below its opening floor, the other streams promise not to commit there any more.
//!
//! ```text
//! owner of s1, just opened                              owner of s2
//!   close() ── x stays below what s2 answered
//!   wanted_raises() ──> RaiseFloor(y) ───────────────> answer_raise_floor(y): floor, lease, lsn
//!   on_raised(s2, y, lsn) <────── once lsn is committed ──┘
//! ```
//! A predecessor may have voted for attempts whose records are in other streams, and this owner knows nothing of them. All of them
//! commit at or below the opening floor.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Interval, Lsn, StreamId, Timestamp};

use super::Adjudication;
use crate::closing::Closure;

/// What to do before `RaiseFloor` is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaiseAnswer {
    /// The floor that is promised: answer it. Below the one asked for when that lies too far ahead.
    pub floor: Timestamp,
    /// Append a `Lease` with a `lease_end` of at least this first, unless one is on its way; then its lsn is the one to
    /// wait for and to answer (if it is higher than `lsn`).
    pub lease: Option<Timestamp>,
    /// The last lsn that was handed out: answer it when it is committed.
    pub lsn: Lsn,
}

impl Adjudication {
    /// R13: closes the range as far as it may be closed now, and raises the floor so that it stays
    /// closed. It stays below every open prepare (R12) and within what other streams' owners answered (R19).
    ///
    /// `None` when it cannot be closed at all: the owner was stopped, or its stream has ended. When the result's `x` is below what a read
    /// wants, try again after the lease was renewed or the clock has moved.
    pub fn close(&mut self, now: Interval, lead: Duration) -> Option<Closure> {
        if self.stopped || self.ended {
            return None;
        }
        if is_broken(Rule::PrepareOutcome) {
            self.end_silent(now);
        }
        let mut x = now.latest.saturating_add(lead);
        if !is_broken(Rule::ClosureLease) {
            x = x.min(self.lease_end);
        }
        if let Some(limit) = self.gate.limit().filter(|_| !is_broken(Rule::RaiseFloor)) {
            x = x.min(limit);
        }
        if let Some(lower) = self.lowest_open().filter(|_| !is_broken(Rule::PrepareClosure)) {
            x = x.min(Timestamp(lower.0.saturating_sub(1)));
        }
        // A closure once given stays true; repeating it costs nothing and may reach who missed it.
        let x = x.max(self.closed);
        self.closed = x;
        if !is_broken(Rule::ClosureFloor) {
            self.raise_floor(x);
        }
        let own = self.own_commits.last_at_or_below(x);
        let after = self.dependencies.after(self.stream(), own);
        Some(Closure {
            range: self.range(),
            epoch: self.epoch(),
            x,
            after,
        })
    }

    /// To be called once after [`Self::open`], with the other streams that hold keys in the map version that this owner's
    /// `Opened` record names (which is not older than any that the adopted log names): those that R19 asks, and whose
    /// attempts are voted on. Without it: none.
    #[must_use]
    pub fn with_streams(mut self, others: impl IntoIterator<Item = StreamId>) -> Self {
        self.on_map_durable(others);
        self.gate = RaiseGate::new(self.opening.floor, self.known_homes.iter().copied());
        self
    }

    /// A `Lease` or `Opened` record that names a newer map version is committed: votes are given for the homes in that
    /// version from now on, and for no other (section 5, 5.1).
    pub fn on_map_durable(&mut self, others: impl IntoIterator<Item = StreamId>) {
        let own = self.stream();
        self.known_homes = others.into_iter().filter(|stream| *stream != own).collect();
    }

    /// What to ask of whom before the range can be closed through `now.latest + lead`: each stream that has not answered
    /// enough, and the `y` for it. Empty when no more is needed. Says the same again until [`Self::on_raised`].
    pub fn wanted_raises(&self, now: Interval, lead: Duration) -> Vec<(StreamId, Timestamp)> {
        if self.stopped {
            return Vec::new();
        }
        self.gate.wanted(now.latest.saturating_add(lead))
    }

    /// A stream's owner answered: nothing commits there at or below `y` but up to `lsn`. For a stream that ended (merged):
    /// [`Timestamp::MAX`] and the lsn of its last record.
    pub fn on_raised(&mut self, stream: StreamId, y: Timestamp, lsn: Lsn) {
        if self.gate.on_raised(stream, y) {
            self.dependencies.note(stream, lsn);
        }
    }

    /// Another owner asks to raise the floor of this stream to `y`. At most `allowance` ahead of the present, which is to
    /// be the longest lead and `max_clock_error` together. Call [`Self::settle_homes`] afterwards.
    ///
    /// `None`: stopped, not the owner any more. It is answered without waiting for this owner's own R19.
    pub fn answer_raise_floor(
        &mut self,
        y: Timestamp,
        now: Interval,
        allowance: Duration,
    ) -> Option<RaiseAnswer> {
        if self.stopped {
            return None;
        }
        let floor = y.min(now.latest.saturating_add(allowance));
        self.raise_floor(floor);
        Some(RaiseAnswer {
            floor,
            lease: (self.lease_end < floor).then_some(floor),
            lsn: self.last_lsn,
        })
    }
}

/// What the other streams have answered.
#[derive(Clone, Debug, Default)]
pub(super) struct RaiseGate {
    /// Whatever a predecessor voted for commits at or below it.
    opening_floor: Timestamp,
    answered: BTreeMap<StreamId, Timestamp>,
}

impl RaiseGate {
    fn new(opening_floor: Timestamp, streams: impl Iterator<Item = StreamId>) -> Self {
        Self {
            opening_floor,
            answered: streams.map(|stream| (stream, Timestamp::ZERO)).collect(),
        }
    }

    /// Goes on where another owner has left it.
    pub(super) fn resume(opening_floor: Timestamp, answered: BTreeMap<StreamId, Timestamp>) -> Self {
        Self {
            opening_floor,
            answered,
        }
    }

    /// Up to where and by whom it was answered.
    pub(super) fn parts(&self) -> (Timestamp, &BTreeMap<StreamId, Timestamp>) {
        (self.opening_floor, &self.answered)
    }

    /// How far may be closed, as far as the others go; `None` once no more is needed.
    fn limit(&self) -> Option<Timestamp> {
        let lowest = self.answered.values().min().copied()?;
        (lowest < self.opening_floor).then_some(lowest)
    }

    fn wanted(&self, x: Timestamp) -> Vec<(StreamId, Timestamp)> {
        let y = x.min(self.opening_floor);
        let lacking = self.answered.iter().filter(|(_, answered)| **answered < y);
        lacking.map(|(stream, _)| (*stream, y)).collect()
    }

    /// Whether the answer says more than the one before.
    fn on_raised(&mut self, stream: StreamId, y: Timestamp) -> bool {
        match self.answered.get_mut(&stream) {
            Some(answered) if *answered < y => {
                *answered = y;
                true
            }
            _ => false,
        }
    }
}
