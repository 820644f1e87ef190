//! Commits across ranges, as one owner takes part in them (section 5): what is open, when something has to be done about it, and
//! the calls to other adjudicators that are under way.
//!
//! [`super::home`] decides, [`super::participant`] votes and applies outcomes, [`super::floors`] keeps R19.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use meridian_protocol::events;
use meridian_rpc::internal::{ExchangeMessage, OutcomeAnswer, ReadyResponse};
use meridian_types::{Attempt, Lsn, NodeName, Position, RangeMap, StreamId, Timestamp};
use tokio::time::Instant;

use super::home::HomeWork;
use super::owner::{Owner, Phase};
use super::participant::OpenVote;
use super::task::{Role, Task};
use super::way::WayHome;
use crate::exchange::{PeerContent, PeerMessage};

/// Calls to other adjudicators that a stream's owner makes; they end with it.
pub(super) type BackgroundWork = FuturesUnordered<BoxFuture<'static, Background>>;

/// A call that ended.
pub(super) enum Background {
    /// Whether the record that decides an attempt is committed was looked up in this region's journal node.
    Watched {
        attempt: Attempt,
        commit: Timestamp,
        at: Position,
        is_committed: bool,
    },
    /// The home of an attempt was asked what became of it; `None` if nobody answered.
    Asked {
        attempt: Attempt,
        answer: Option<OutcomeAnswer>,
    },
    /// R19: another stream's floor was raised, to this and with this last lsn; `None` if nobody answered.
    Raised { stream: StreamId, answer: Option<Raise> },
    /// The preferred owner was asked whether it would serve; `None` if it did not answer.
    Ready {
        node: NodeName,
        answer: Option<ReadyResponse>,
    },
}

/// An answer to `RaiseFloor`.
pub(super) struct Raise {
    pub(super) floor: Timestamp,
    pub(super) lsn: Lsn,
    /// How long it took.
    pub(super) took: Duration,
}

/// The attempts across ranges that this owner has a part in.
pub(super) struct Cross {
    /// Those whose home this is and that wait for votes.
    pub(super) homes: BTreeMap<Attempt, HomeWork>,
    /// What their write sets take: at most as much as may be on its way to the journal.
    pub(super) home_bytes: usize,
    /// When to give them up.
    pub(super) give_ups: Timers,
    /// Those that this owner has voted yes on.
    pub(super) votes: BTreeMap<Attempt, OpenVote>,
    /// When to ask what became of them.
    pub(super) questions: Timers,
    /// Questions under way.
    pub(super) asking: usize,
    /// How long it takes from a vote to its outcome, by home.
    pub(super) to_home: BTreeMap<StreamId, WayHome>,
    /// Streams whose owners are being asked to raise their floors, and when those that were asked may be asked again.
    pub(super) raising: BTreeMap<StreamId, Option<Instant>>,
    /// The floor, the lease or a bar has changed since the waiting attempts were looked at.
    pub(super) are_homes_due: bool,
    /// What may have held back a closure is gone.
    pub(super) may_close: bool,
    /// Votes, and ends of attempts, that leave with the end of this step.
    outbox: Vec<(NodeName, ExchangeMessage)>,
    /// The version of the map that the last `Opened` or `Lease` record names.
    named_version: u64,
    /// The maps that such records name for the first time, by lsn, while the records are on their way.
    named: BTreeMap<Lsn, Arc<RangeMap>>,
}

impl Cross {
    /// Nothing is open; the owner's `Opened` record names this version of the map.
    pub(super) fn new(named_version: u64) -> Self {
        Self {
            named_version,
            homes: BTreeMap::new(),
            home_bytes: 0,
            give_ups: Timers::default(),
            votes: BTreeMap::new(),
            questions: Timers::default(),
            asking: 0,
            to_home: BTreeMap::new(),
            raising: BTreeMap::new(),
            are_homes_due: false,
            may_close: false,
            outbox: Vec::new(),
            named: BTreeMap::new(),
        }
    }

    /// When the next thing is due that no message announces.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let raises = self.raising.values().copied().flatten().min();
        let due = [self.give_ups.next(), self.questions.next(), raises];
        due.into_iter().flatten().min()
    }
}

/// A time for each of some attempts.
#[derive(Default)]
pub(super) struct Timers(BTreeSet<(Instant, Attempt)>);

impl Timers {
    pub(super) fn add(&mut self, at: Instant, attempt: Attempt) {
        self.0.insert((at, attempt));
    }

    pub(super) fn remove(&mut self, at: Instant, attempt: Attempt) {
        self.0.remove(&(at, attempt));
    }

    fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out one that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Attempt> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, attempt)| attempt)
    }
}

impl Task {
    /// A message of another adjudicator. What this node cannot use now gets lost; it is asked for or given up.
    pub(super) fn on_peer(&mut self, message: PeerMessage) {
        let Role::Owner(owner) = &mut self.role else {
            self.forward(message);
            return;
        };
        // While it waits to hand over, outcomes are applied: what is known need not be handed over as open.
        let is_end = !matches!(message.content, PeerContent::Vote { .. });
        let is_releasing = owner.phase == Phase::Releasing { released: None };
        if owner.phase != Phase::Serving && !(is_end && is_releasing) {
            return;
        }
        let PeerMessage {
            attempt,
            start,
            content,
        } = message;
        match content {
            PeerContent::Vote {
                from,
                node,
                vote,
                took_us,
            } => {
                owner.on_vote(attempt, start, (from, node), vote, took_us);
                owner.note_unsent("adjudicator: decided");
            }
            PeerContent::Decided { commit, at } => owner.on_decided(attempt, commit, at),
            PeerContent::Aborted => owner.on_aborted(&attempt),
        }
    }

    /// The end of an attempt that was voted on here is for the successor.
    fn forward(&self, message: PeerMessage) {
        let is_end = !matches!(message.content, PeerContent::Vote { .. });
        if let Some(successor) = self.known_owner.as_ref().filter(|_| self.waits_for_successor())
            && is_end
        {
            let message = message.into_wire(self.stream);
            self.ctx.exchange.send(&successor.node, message);
        }
    }

    /// A call to another adjudicator ended.
    pub(super) fn on_background(&mut self, done: Background) {
        match (done, &mut self.role) {
            (Background::Ready { node, answer }, _) => self.on_ready(&node, answer),
            (done, Role::Owner(owner)) => owner.on_background(done),
            _ => {}
        }
    }
}

impl Owner {
    /// Tells another adjudicator, when this step ends.
    pub(super) fn post(&mut self, node: &NodeName, message: ExchangeMessage) {
        self.cross.outbox.push((node.clone(), message));
    }

    /// What was posted leaves.
    pub(super) fn send_outbox(&mut self) {
        for (node, message) in std::mem::take(&mut self.cross.outbox) {
            self.ctx.exchange.send(&node, message);
        }
    }

    fn on_background(&mut self, done: Background) {
        if matches!(self.phase, Phase::Releasing { released: Some(_) }) {
            // What is handed over is as it was when the record was written.
            return;
        }
        match done {
            Background::Watched {
                attempt,
                commit,
                at,
                is_committed,
            } => self.on_watched(attempt, commit, at, is_committed),
            Background::Asked { attempt, answer } => self.on_asked(&attempt, answer),
            Background::Raised { stream, answer } => self.on_raised(stream, answer),
            Background::Ready { .. } => {}
        }
    }

    /// Gives up what has waited for too long, and asks about what was heard nothing of.
    pub(super) fn see_about_open_attempts(&mut self, at: Instant) {
        if self.phase != Phase::Serving {
            return;
        }
        self.settle_homes();
        self.give_up_overdue(at);
        self.ask_about_votes(at);
        if self.closes_periodically(at) {
            self.ask_for_raises(at);
        } else {
            self.cross.raising.retain(|_, again| again.is_none());
        }
    }

    /// When the next of these is due.
    pub(super) fn next_due_of_open_attempts(&self, at: Instant) -> Option<Instant> {
        if self.phase != Phase::Serving {
            return None;
        }
        let passed = self.adjudication.next_home_deadline().map(|promise| {
            let left = promise.since(self.ctx.now().latest);
            at + left + super::TIMER_GRANULARITY
        });
        let waits = self.close_waiters.iter().map(|waiter| waiter.until).min();
        [passed, waits, self.cross.next_due()].into_iter().flatten().min()
    }

    /// An `Opened` or `Lease` record that names this map was appended at `lsn`.
    pub(super) fn note_named(&mut self, lsn: Lsn, map: &Arc<RangeMap>) {
        if map.version > self.cross.named_version {
            self.cross.named_version = map.version;
            self.cross.named.insert(lsn, map.clone());
        }
    }

    /// The log is committed up to here: votes are given for the homes that its last such record names (5.1).
    pub(super) fn use_named(&mut self, committed: Lsn) {
        while let Some(first) = self.cross.named.first_entry()
            && *first.key() <= committed
        {
            let map = first.remove();
            tracing::trace!(
                target: events::TARGET, event = "named", stream = self.stream.0,
                epoch = self.replication.epoch().0, map = map.version
            );
            self.adjudication.on_map_durable(other_streams(&map, self.stream));
        }
    }
}

/// The streams that hold keys, but for `own`. The meta stream has no part in any of this.
pub(super) fn other_streams(map: &RangeMap, own: StreamId) -> Vec<StreamId> {
    if own == StreamId::META {
        return Vec::new();
    }
    let streams = map.entries.iter().map(|range| range.stream);
    streams.filter(|stream| *stream != own).collect()
}
