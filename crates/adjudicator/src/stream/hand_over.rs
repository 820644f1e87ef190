//! What the range map asks of a stream's owner (section 8): to hand over to another one, or to end the stream.
//!
//! ```text
//! move: the successor is ready ──> in flight is committed ──> Released committed ──state──> the successor takes over; standby
//!                                                                 └── not accepted ──> this node takes it again, with that state
//! split or merge: map pending  ──> in flight is committed ──> Sealed committed ──> the meta stream is told; standby
//! ```
//! A move that fails half-way costs a takeover like any other: whoever is asked for the stream next takes it. An owner of a stream
//! whose log holds `Sealed` answers for its transactions only, and tells the meta stream until the map says that the stream is retired.
//! An owner that ends hands on in the same way, to whichever of the other candidates takes it.

mod tell;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_protocol::adjudication::HandedOver;
use meridian_rpc::internal::HandOverAnswer;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{End, MAX_CARRIED_BARS, NodeName, StreamId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};
use crate::request::KnownOwner;
use crate::takeover;

/// How long the successor has the stream to itself after it was told to take over.
const SUCCESSOR_FIRST: Duration = Duration::from_secs(1);
/// How long a node tries to take over with the state that it was handed; later nobody waits for that any more.
const HANDED_FOR: Duration = Duration::from_secs(5);
/// How long one candidate may take to accept what a process hands on that ends.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How often it is looked at whether a stream that is to end does.
const END_PAUSE: Duration = Duration::from_secs(2);

/// What is wanted of the owner, or under way; and what was handed to this node.
#[derive(Default)]
pub(super) struct HandOver {
    goal: Option<Goal>,
    /// Under way: given up then, if nothing was written.
    until: Option<Instant>,
    /// Whether the stream is to end has to be looked up in the map.
    look: bool,
    /// The map waits for the stream's end: whether somebody sees to it is looked at then.
    look_again: Option<Instant>,
    /// After a move: whoever asks for the stream is sent to the successor until then.
    successor_first: Option<Instant>,
    /// The state is on its way to a successor.
    sending: Option<Sending>,
    /// One of those that may be under way at a time in this process.
    permit: Option<OwnedSemaphorePermit>,
    /// The state of the owner before, and until when to try to take over with it.
    handed: Option<(Arc<HandedOver>, Instant)>,
    /// Commits that name the next epoch wait for it until then.
    hold_until: Option<Instant>,
}

/// Why the owner writes its last record.
#[derive(Clone, PartialEq, Eq)]
enum Goal {
    /// This node is to be the owner.
    Move(NodeName),
    /// The stream's keys go to other streams.
    Seal,
}

struct Sending {
    /// Whether the successor has accepted.
    call: BoxFuture<'static, bool>,
    state: Arc<HandedOver>,
    /// Whom to try if it does not.
    others: VecDeque<NodeName>,
}

impl HandOver {
    /// When something is due that no event announces.
    pub(super) fn due(&self, at: Instant) -> impl Iterator<Item = Instant> + use<> {
        let hold_until = self.hold_until.filter(|until| at < *until);
        self.until.into_iter().chain(self.look_again).chain(hold_until)
    }

    /// Whether whoever comes was sent here by the owner before, and waits until this node serves.
    pub(super) fn holds(&self) -> bool {
        self.hold_until.is_some_and(|until| Instant::now() < until)
    }

    /// The map may say that the stream is to end.
    pub(super) fn look(&mut self) {
        self.look = true;
    }

    /// Whether the owner is to write its last record, or does.
    pub(super) fn is_under_way(&self) -> bool {
        self.goal.is_some()
    }

    /// The stream is to be moved.
    pub(super) fn begin_move(&mut self, to: NodeName, permit: OwnedSemaphorePermit) {
        self.goal = Some(Goal::Move(to));
        self.permit = Some(permit);
    }

    /// Until when the stream is the successor's alone.
    pub(super) fn successor_first(&self) -> Option<Instant> {
        self.successor_first
    }

    /// Whether the state is on its way to a successor.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Ends when the successor has accepted the state, or did not. Never if none is on its way.
    pub(super) async fn sent(&mut self) -> bool {
        match &mut self.sending {
            Some(sending) => (&mut sending.call).await,
            None => std::future::pending().await,
        }
    }

    /// Whether it is still worth trying to take over with what was handed to this node.
    pub(super) fn has_handed(&mut self, at: Instant) -> bool {
        let has = self.handed.as_ref().is_some_and(|(_, until)| at < *until);
        if !has {
            self.forget_handed();
        }
        has
    }

    /// Somebody else owns the stream.
    pub(super) fn forget_handed(&mut self) {
        if !is_broken(Rule::HandOverPosition) {
            self.handed = None;
        }
    }

    /// What was handed to this node: whether it is the state of the log that was adopted is to be seen.
    pub(super) fn take_handed(&mut self) -> Option<Arc<HandedOver>> {
        let handed = self.handed.as_ref().map(|(handed, _)| handed.clone());
        self.forget_handed();
        handed
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
        self.hand_over.look_again = is_to_end.then(|| Instant::now() + END_PAUSE);
        match &mut self.role {
            Role::Owner(owner) => {
                if first != owner.range.candidates.first() || self.ctx.is_drained() {
                    // Begun as soon as that node is ready.
                    self.placement.asked(Instant::now());
                }
                owner.range.candidates = range.candidates;
            }
            // A stream that nobody owns has nobody who would end it.
            Role::Standby if is_first && is_to_end => self.begin_takeover(),
            Role::Standby | Role::Recovering => {}
        }
    }

    /// Whoever was to end the stream, or to tell that it has ended, may have died meanwhile, and nobody may use the stream.
    fn look_again(&mut self, at: Instant) {
        if self.hand_over.look_again.is_none_or(|due| at < due) {
            return;
        }
        self.hand_over.look_again = self.is_to_end().then(|| at + END_PAUSE);
        let map = self.ctx.map.borrow().clone();
        let first = map.candidates(self.stream).into_iter().next();
        let is_first = first.is_some_and(|first| first == self.ctx.env.node);
        let is_waited_for = self.hand_over.look_again.is_some() && self.release_until.is_none();
        if is_first && is_waited_for && matches!(self.role, Role::Standby) {
            self.begin_takeover();
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
        self.look_again(at);
        self.see_about_end();
        let Role::Owner(owner) = &mut self.role else {
            self.hand_over.goal = None;
            self.hand_over.until = None;
            if self.hand_over.sending.is_none() {
                self.hand_over.permit = None;
            }
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
            self.handed_over(goal);
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
        } else if !owner.replication.can_commit() {
            // Nor does it ever arrive, and nobody fences anew for a last record: whoever takes over finds out whether it is in the log.
            tracing::warn!(stream = %self.stream, "not handed over: no majority of the journal nodes accepts the last record");
            owner.deposed = true;
        } else {
            // The last record is on its way: there is no way back.
            self.hand_over.until = Some(at + self.ctx.config.release_timeout());
        }
    }

    /// The last record is committed.
    fn handed_over(&mut self, goal: Goal) {
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        tracing::info!(stream = %self.stream, epoch = %owner.replication.epoch(), "handed over");
        let end = owner.end();
        let permit = self.hand_over.permit.take();
        self.hand_over = HandOver::default();
        match goal {
            Goal::Move(to) => {
                self.hand_over.permit = permit;
                let state = self.state_to_hand_over();
                self.hand_to(state, [to].into(), self.ctx.config.release_timeout());
            }
            Goal::Seal => {
                self.hand_over.look_again = Some(Instant::now() + END_PAUSE);
                self.step_down(None);
                if !self.parked.is_empty() {
                    self.begin_takeover();
                }
                if let Some(end) = end {
                    tell::sealed(&self.ctx, self.stream, end);
                }
            }
        }
    }

    /// What a successor needs; the last record is committed.
    fn state_to_hand_over(&self) -> Option<Arc<HandedOver>> {
        let Role::Owner(owner) = &self.role else {
            return None;
        };
        let max_bytes = self.ctx.config.hand_over_bytes;
        Some(Arc::new(owner.adjudication.hand_over(max_bytes)))
    }

    /// Shutdown, and the last record is committed: whichever other candidate accepts goes on with the stream.
    pub(super) fn hand_on(&mut self) {
        let map = self.ctx.map.borrow().clone();
        let mut others: VecDeque<NodeName> = map.candidates(self.stream).into();
        if self.stream == StreamId::META {
            let (drained, used): (Vec<_>, Vec<_>) = map
                .adjudicators()
                .into_iter()
                .cloned()
                .partition(|node| map.is_drained(node));
            others = used.into_iter().chain(drained).collect();
        }
        others.retain(|node| *node != self.ctx.env.node);
        let state = self.state_to_hand_over();
        self.hand_to(state, others, LAST_CALL);
    }

    /// Steps down and sends the state to the first of these nodes.
    fn hand_to(&mut self, state: Option<Arc<HandedOver>>, mut to: VecDeque<NodeName>, timeout: Duration) {
        let (Some(state), Some(node)) = (state, to.pop_front()) else {
            return;
        };
        // Its epoch is not known yet: this is the least that it can be.
        let successor = KnownOwner {
            node: node.clone(),
            epoch: state.released.epoch.next(),
        };
        for control in self.parked.drain(..) {
            control.not_owner(self.stream.0, Some(&successor));
        }
        self.step_down(Some(successor));
        self.hand_over.successor_first = Some(Instant::now() + timeout);
        let call = tell::successor(&self.ctx, node, state.clone(), timeout);
        self.hand_over.sending = Some(Sending {
            call: call.boxed(),
            state,
            others: to,
        });
    }

    /// The successor has accepted the state, or has not.
    pub(super) fn on_sent(&mut self, is_accepted: bool) {
        let Some(sending) = self.hand_over.sending.take() else {
            return;
        };
        if is_accepted {
            self.hand_over.permit = None;
            self.hand_over.successor_first = Some(Instant::now() + SUCCESSOR_FIRST);
        } else if !sending.others.is_empty() {
            self.hand_to(Some(sending.state), sending.others, LAST_CALL);
        } else {
            tracing::info!(stream = %self.stream, "no successor has accepted the stream");
            self.known_owner = None;
            self.hand_over.successor_first = None;
            if self.release_until.is_none() && matches!(self.role, Role::Standby) {
                self.take_handed_over(sending.state);
            }
        }
    }

    /// Another node hands the stream to this one.
    pub(super) fn on_handed_over(&mut self, handed: Arc<HandedOver>, reply: oneshot::Sender<HandOverAnswer>) {
        let is_free = !matches!(self.role, Role::Owner(_)) && !self.hand_over.is_sending();
        let accepted = is_free && self.release_until.is_none() && self.ctx.range(self.stream).0.is_some();
        // Who does not wait any more tries somebody else.
        if reply.send(HandOverAnswer { accepted }).is_ok() && accepted {
            self.hand_over.successor_first = None;
            self.take_handed_over(handed);
        }
    }

    /// Takes over with the state of the owner before.
    fn take_handed_over(&mut self, handed: Arc<HandedOver>) {
        let at = Instant::now();
        let epoch = handed.released.epoch.next();
        self.hand_over.handed = Some((handed, at + HANDED_FOR));
        self.hand_over.hold_until = Some(at + SUCCESSOR_FIRST);
        self.known_owner = None;
        self.looked_at = Some(at);
        self.retry_at = None;
        self.role = Role::Recovering;
        let rng = self.ctx.env.rng();
        let takeover = takeover::take_handed_over(self.ctx.clone(), self.stream, epoch, rng);
        self.recovery = Some(takeover.boxed());
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
        match owner.end() {
            _ if !is_to_end => {}
            Some(end) => tell::sealed(&self.ctx, self.stream, end),
            // The map is to hold them all.
            None if owner.adjudication.outcomes().barred().len() > MAX_CARRIED_BARS => {
                self.hand_over.look = true
            }
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
    /// How its stream ended, if it has.
    fn end(&self) -> Option<End> {
        self.sealed.map(|(floor, last)| End {
            floor,
            last,
            barred: self.adjudication.outcomes().barred().collect(),
        })
    }

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
