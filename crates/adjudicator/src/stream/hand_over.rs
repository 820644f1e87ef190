//! What the range map asks of a stream's owner (section 8): to hand over to another one, or to end the stream.
//!
//! ```text
//! map: another first candidate ──> in flight is committed ──> Released committed ──> standby; the successor is told to take over
//! map: split or merge pending  ──> in flight is committed ──> Sealed committed ──> the meta stream is told; standby
//! ```
//! A move that fails half-way costs a takeover like any other: whoever is asked for the stream next takes it. An owner of a stream
//! whose log holds `Sealed` answers for its transactions only, and tells the meta stream until the map says that the stream is retired.

mod tell;

use std::time::Duration;

use meridian_types::NodeName;
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};
use crate::request::KnownOwner;

/// How long the successor has the stream to itself after it was told to take over.
const SUCCESSOR_FIRST: Duration = Duration::from_secs(1);

/// What is wanted of the owner, or under way.
#[derive(Default)]
pub(super) struct HandOver {
    goal: Option<Goal>,
    /// Under way: given up then, if nothing was written.
    until: Option<Instant>,
    /// Whether the stream is to end has to be looked up in the map.
    look: bool,
    /// After a move: whoever asks for the stream is sent to the successor until then.
    successor_first: Option<Instant>,
}

/// Why the owner writes its last record.
#[derive(Clone, PartialEq, Eq)]
enum Goal {
    /// The map wants this node to be the owner.
    Move(NodeName),
    /// The stream's keys go to other streams.
    Seal,
}

impl HandOver {
    /// When something is due that no event announces.
    pub(super) fn due(&self) -> impl Iterator<Item = Instant> {
        self.until.into_iter()
    }

    /// The map may say that the stream is to end.
    pub(super) fn look(&mut self) {
        self.look = true;
    }
}

impl Task {
    /// The range map changed.
    pub(super) fn on_map(&mut self) {
        self.hand_over.look = true;
        let (range, _) = self.ctx.range(self.stream);
        let Some(range) = range else { return };
        let first = range.candidates.first();
        let is_first = first.is_some_and(|first| *first == self.ctx.env.node);
        let is_to_end = self.is_to_end();
        match &mut self.role {
            Role::Owner(owner) => {
                if first != owner.range.candidates.first() {
                    self.hand_over.goal = first.filter(|_| !is_first).cloned().map(Goal::Move);
                }
                owner.range.candidates = range.candidates;
            }
            // A stream that nobody owns has nobody who would end it.
            Role::Standby if is_first && is_to_end => self.begin_takeover(),
            Role::Standby | Role::Recovering => {}
        }
    }

    /// Whether the map waits for the stream's end.
    fn is_to_end(&self) -> bool {
        let map = self.ctx.map.borrow();
        let pending = map.pending_of(self.stream);
        pending.is_some_and(|pending| !pending.sealed.contains_key(&self.stream))
    }

    /// Begins and goes on with what is wanted.
    pub(super) fn continue_hand_over(&mut self, at: Instant) {
        self.see_about_end();
        let Role::Owner(owner) = &mut self.role else {
            self.hand_over.goal = None;
            self.hand_over.until = None;
            return;
        };
        let Some(goal) = self
            .hand_over
            .goal
            .clone()
            .filter(|_| self.release_until.is_none())
        else {
            return;
        };
        let Some(until) = self.hand_over.until else {
            if owner.phase == Phase::Serving {
                owner.is_sealing = goal == Goal::Seal;
                tracing::info!(stream = %self.stream, seals = owner.is_sealing, "handing over");
                owner.begin_release();
                self.hand_over.until = Some(at + self.ctx.config.release_timeout());
                self.continue_hand_over(at);
            }
            return;
        };
        if owner.continue_release() {
            self.handed_over(goal, at);
            return;
        }
        owner.pump(&mut self.peers);
        if at < until {
            return;
        }
        if owner.take_back_release() {
            tracing::warn!(stream = %self.stream, "not handed over: the journal does not answer");
            self.hand_over = HandOver {
                look: true,
                ..HandOver::default()
            };
        } else {
            // The last record is on its way: there is no way back.
            self.hand_over.until = Some(at + self.ctx.config.release_timeout());
        }
    }

    /// The last record is committed.
    fn handed_over(&mut self, goal: Goal, at: Instant) {
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        tracing::info!(stream = %self.stream, epoch = %owner.replication.epoch(), "handed over");
        let (sealed, epoch) = (owner.sealed, owner.replication.epoch());
        self.hand_over = HandOver::default();
        match goal {
            Goal::Move(to) => {
                // Its epoch is not known yet: this is the least that it can be.
                let successor = KnownOwner {
                    node: to.clone(),
                    epoch: epoch.next(),
                };
                for control in self.parked.drain(..) {
                    control.not_owner(self.stream.0, Some(&successor));
                }
                self.step_down(Some(successor));
                self.hand_over.successor_first = Some(at + SUCCESSOR_FIRST);
                tell::successor(&self.ctx, self.stream, to, SUCCESSOR_FIRST);
            }
            Goal::Seal => {
                self.step_down(None);
                if !self.parked.is_empty() {
                    self.begin_takeover();
                }
                if let Some((floor, last)) = sealed {
                    tell::sealed(&self.ctx, self.stream, floor, last);
                }
            }
        }
    }

    /// The stream is to end, or has ended and the map does not say so.
    fn see_about_end(&mut self) {
        let is_to_end = self.hand_over.look && self.is_to_end();
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        if !self.hand_over.look || owner.phase != Phase::Serving {
            return;
        }
        self.hand_over.look = false;
        match owner.sealed {
            _ if !is_to_end => {}
            Some((floor, last)) => tell::sealed(&self.ctx, self.stream, floor, last),
            None => self.hand_over.goal = Some(Goal::Seal),
        }
    }

    /// Whether the stream was handed over just now: its successor is to take it, not this node again.
    pub(super) fn waits_for_successor(&self) -> bool {
        let until = self.hand_over.successor_first;
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl Owner {
    /// Serves on, unless its last record is written already. Whether it does.
    fn take_back_release(&mut self) -> bool {
        let can = self.phase == Phase::Releasing { released: None };
        if can {
            self.phase = Phase::Serving;
            self.is_sealing = false;
        }
        can
    }
}
