//! The task of one stream: its events, its timers, and which part it plays.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use meridian_types::{RangeMap, StreamId};
use rand::rngs::StdRng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::cross::{Background, BackgroundWork};
use super::hand_over::HandOver;
use super::owner::{MAX_LEASES_IN_FLIGHT, Owner, Phase};
use super::peers::Peer;
use super::placement::Placement;
use crate::context::Context;
use crate::exchange::PeerMessage;
use crate::registry::{Connection, LinkEvent, StreamHandle};
use crate::request::{Control, DecideWork, KnownOwner, wrong_epoch};
use crate::takeover::Verdict;

/// Events of one kind that are taken before the links are served again.
const MAX_TAKEN: usize = 1_024;
/// Questions that wait for a takeover to end.
const MAX_PARKED: usize = 1_024;
/// A standby that is asked to decide looks for an owner at most this often.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Where the task's events come from.
pub(super) struct Inbox {
    pub(super) links: mpsc::Receiver<LinkEvent>,
    pub(super) control: mpsc::Receiver<Control>,
    pub(super) peers: mpsc::Receiver<PeerMessage>,
    pub(super) decides: mpsc::Receiver<DecideWork>,
}

/// The part that this process plays for the stream.
pub(super) enum Role {
    Standby,
    Recovering,
    Owner(Box<Owner>),
}

/// One stream's task.
pub(super) struct Task {
    pub(super) ctx: Arc<Context>,
    pub(super) stream: StreamId,
    pub(super) inbox: Inbox,
    pub(super) handle: StreamHandle,
    pub(super) peers: Vec<Peer>,
    pub(super) role: Role,
    /// A takeover or a renewed fence under way.
    pub(super) recovery: Option<BoxFuture<'static, Verdict>>,
    /// A failed takeover is tried again then.
    pub(super) retry_at: Option<Instant>,
    pub(super) looked_at: Option<Instant>,
    /// Questions that wait for an owner.
    pub(super) parked: VecDeque<Control>,
    pub(super) known_owner: Option<KnownOwner>,
    pub(super) map: watch::Receiver<Arc<RangeMap>>,
    pub(super) hand_over: HandOver,
    pub(super) placement: Placement,
    /// Shutdown: when handing over must have ended.
    pub(super) release_until: Option<Instant>,
    pub(super) rng: StdRng,
}

/// The soonest of the times at which something is due.
#[derive(Default)]
struct Soonest(Option<Instant>);

impl Soonest {
    fn add(&mut self, times: impl IntoIterator<Item = Option<Instant>>) {
        self.0 = self.0.into_iter().chain(times.into_iter().flatten()).min();
    }
}

/// What woke the task.
enum Event {
    Shutdown,
    Link(LinkEvent),
    Verdict(Verdict),
    Timer,
    Control(Control),
    Peer(PeerMessage),
    Background(Background),
    Decide(DecideWork),
    Map,
    /// What was handed over has arrived, or not.
    Sent(bool),
}

impl Task {
    pub(super) fn new(
        ctx: Arc<Context>,
        stream: StreamId,
        inbox: Inbox,
        handle: StreamHandle,
        connections: Vec<Option<Connection>>,
    ) -> Self {
        let mut peers: Vec<Peer> = ctx.journals.iter().map(|_| Peer::default()).collect();
        for (peer, connection) in peers.iter_mut().zip(connections) {
            if let Some(connection) = connection {
                peer.up(connection);
            }
        }
        let rng = ctx.env.rng();
        let map = ctx.map.clone();
        Self {
            ctx,
            stream,
            inbox,
            handle,
            peers,
            role: Role::Standby,
            recovery: None,
            retry_at: None,
            looked_at: None,
            parked: VecDeque::new(),
            known_owner: None,
            map,
            hand_over: HandOver::default(),
            placement: Placement::default(),
            release_until: None,
            rng,
        }
    }

    /// Runs until shutdown was asked for and the range is handed over.
    pub(super) async fn run(mut self) {
        self.show();
        loop {
            let event = self.next_event().await;
            let began = Instant::now();
            match event {
                Event::Shutdown => self.begin_shutdown(),
                Event::Link(event) => self.on_link(event),
                Event::Verdict(verdict) => self.on_verdict(verdict),
                Event::Timer => {}
                Event::Control(control) => self.on_control(control),
                Event::Peer(message) => self.on_peer(message),
                Event::Background(done) => self.on_background(done),
                Event::Decide(work) => self.on_decide(work),
                Event::Map => self.on_map(),
                Event::Sent(is_accepted) => self.on_sent(is_accepted),
            }
            self.take_queued();
            let ends = self.settle().await;
            self.ctx.figures.busy.record(began.elapsed());
            if ends {
                break;
            }
        }
        self.end();
    }

    async fn next_event(&mut self) -> Event {
        let wake = self.next_wake();
        let takes_decides = self.takes_decides();
        let Self {
            ctx,
            inbox,
            recovery,
            release_until,
            map,
            role,
            hand_over,
            ..
        } = self;
        let background = match role {
            Role::Owner(owner) => Some(&mut owner.background),
            Role::Standby | Role::Recovering => None,
        };
        tokio::select! {
            biased;
            () = ctx.shutdown.cancelled(), if release_until.is_none() => Event::Shutdown,
            Some(event) = inbox.links.recv() => Event::Link(event),
            verdict = finished(recovery) => Event::Verdict(verdict),
            is_accepted = hand_over.sent() => Event::Sent(is_accepted),
            Ok(()) = map.changed() => Event::Map,
            () = sleep_until(wake) => Event::Timer,
            Some(control) = inbox.control.recv() => Event::Control(control),
            Some(message) = inbox.peers.recv() => Event::Peer(message),
            done = next_done(background) => Event::Background(done),
            Some(work) = inbox.decides.recv(), if takes_decides => Event::Decide(work),
        }
    }

    /// Takes what has queued up meanwhile, so that it is decided, sent and synced together.
    fn take_queued(&mut self) {
        for _ in 0..MAX_TAKEN {
            let Ok(event) = self.inbox.links.try_recv() else {
                break;
            };
            self.on_link(event);
        }
        for _ in 0..MAX_TAKEN {
            let Ok(control) = self.inbox.control.try_recv() else {
                break;
            };
            self.on_control(control);
        }
        for _ in 0..MAX_TAKEN {
            let Ok(message) = self.inbox.peers.try_recv() else {
                break;
            };
            self.on_peer(message);
        }
        for _ in 0..MAX_TAKEN {
            let Role::Owner(owner) = &mut self.role else {
                break;
            };
            let Some(Some(done)) = owner.background.next().now_or_never() else {
                break;
            };
            self.on_background(done);
        }
        for _ in 0..MAX_TAKEN {
            if !self.takes_decides() {
                break;
            }
            let Ok(work) = self.inbox.decides.try_recv() else {
                break;
            };
            self.on_decide(work);
        }
    }

    fn takes_decides(&self) -> bool {
        match &self.role {
            Role::Recovering => !self.hand_over.holds(),
            // Whatever comes of a takeover, what arrives before it ended names another epoch.
            Role::Standby => true,
            Role::Owner(owner) if owner.phase == Phase::Opening => !self.hand_over.holds(),
            Role::Owner(owner) => owner.takes_requests(),
        }
    }

    /// When something is due that no event announces; `None` while the range is idle.
    fn next_wake(&self) -> Option<Instant> {
        let at = Instant::now();
        let mut due = Soonest::default();
        due.add([self.retry_at, self.release_until]);
        due.add([self.placement_due(at)]);
        due.add(self.hand_over.due(at).map(Some));
        if let Role::Owner(owner) = &self.role {
            let refences =
                matches!(owner.phase, Phase::Serving | Phase::Refencing { .. }) && self.recovery.is_none();
            due.add([owner.refence_at.filter(|_| refences)]);
            if owner.closes_periodically(at) {
                due.add([Some(owner.next_closure)]);
            }
            // Rounded up to the timer's granularity: otherwise it would come too early, again and again.
            let stalls_at = owner.stalls_at().map(|due| due + super::TIMER_GRANULARITY);
            if owner.phase == Phase::Serving && owner.has_waiting() {
                due.add([stalls_at]);
            } else if matches!(owner.phase, Phase::Reopening { .. }) {
                // From then on requests are read, to be refused.
                due.add([stalls_at.filter(|due| *due > at)]);
            }
            if owner.phase == Phase::Serving
                && owner.leases_in_flight < MAX_LEASES_IN_FLIGHT
                && let Some(timestamp) = owner.lease.due_at()
            {
                let wait = timestamp.since(self.ctx.now().latest);
                due.add([Some(at + wait + super::TIMER_GRANULARITY)]);
            }
            due.add([owner.next_due_of_open_attempts(at)]);
            due.add(self.peers.iter().map(|peer| peer.paused_until));
        }
        due.0
    }

    fn on_link(&mut self, event: LinkEvent) {
        let replica = match &event {
            LinkEvent::Up { replica, .. }
            | LinkEvent::Down { replica, .. }
            | LinkEvent::Replies { replica, .. }
            | LinkEvent::Fetched { replica, .. }
            | LinkEvent::FetchedOlder { replica, .. } => *replica,
        };
        let Some(peer) = self.peers.get_mut(replica) else {
            return;
        };
        let mut owner = match &mut self.role {
            Role::Owner(owner) => Some(owner),
            Role::Standby | Role::Recovering => None,
        };
        match event {
            LinkEvent::Up { connection, .. } => {
                if peer.up(connection)
                    && let Some(owner) = owner
                {
                    owner.on_connection(replica, peer);
                }
            }
            LinkEvent::Down { id, .. } => {
                if peer.down(id)
                    && let Some(owner) = owner
                {
                    owner.on_disconnected(replica);
                }
            }
            LinkEvent::Replies { id, replies, .. } => {
                if peer.id() != Some(id) {
                    return;
                }
                match owner {
                    Some(owner) => owner.on_replies(replica, peer, replies),
                    None => peer.skip(replies.len()),
                }
            }
            LinkEvent::Fetched {
                epoch,
                entries,
                trimmed,
                ..
            } => {
                peer.is_fetching = false;
                if let Some(owner) = owner.take_if(|owner| owner.replication.epoch() == epoch) {
                    owner.send_fetched(replica, peer, entries, trimmed);
                }
            }
            LinkEvent::FetchedOlder {
                epoch,
                positions,
                trimmed,
                ..
            } => {
                peer.is_fetching = false;
                if let Some(owner) = owner.take_if(|owner| owner.replication.epoch() == epoch) {
                    owner.on_fetched_older(&positions, trimmed);
                }
            }
        }
    }

    fn on_control(&mut self, control: Control) {
        let control = match control {
            Control::HandOver(handed, reply) => return self.on_handed_over(handed, reply),
            control => control,
        };
        if self.release_until.is_some() {
            control.not_owner(self.stream.0, self.known_owner.as_ref());
            return;
        }
        let waits_for_successor = self.waits_for_successor();
        match &mut self.role {
            Role::Standby if waits_for_successor => {
                control.not_owner(self.stream.0, self.known_owner.as_ref());
            }
            Role::Owner(owner) if owner.phase == Phase::Serving => {
                owner.on_question(control);
            }
            _ if self.parked.len() >= MAX_PARKED => control.not_owner(self.stream.0, None),
            _ => {
                self.parked.push_back(control);
                if matches!(self.role, Role::Standby) {
                    self.begin_takeover();
                }
            }
        }
    }

    fn on_decide(&mut self, work: DecideWork) {
        self.handle.budget.give_back(work.bytes);
        if let Role::Owner(owner) = &mut self.role {
            owner.on_request(work);
            owner.note_unsent("adjudicator: decided");
            return;
        }
        work.reply.refused(wrong_epoch(self.known_owner.as_ref()));
        let now = Instant::now();
        let looked_lately = self
            .looked_at
            .is_some_and(|at| now.duration_since(at) < LOOK_PAUSE);
        let waits = looked_lately || self.release_until.is_some() || self.waits_for_successor();
        if matches!(self.role, Role::Standby) && !waits {
            self.begin_takeover();
        }
    }

    /// After a batch of events: everything that follows from the new state. `true` when the task is to end.
    async fn settle(&mut self) -> bool {
        let at = Instant::now();
        self.retry(at);
        if let Role::Owner(owner) = &mut self.role {
            if owner.renew_lease() {
                owner.note_unsent("adjudicator: lease renewed");
            }
            owner.decide_held();
            owner.release_the_waiting();
            owner.see_about_open_attempts(at);
            owner.answer_lease_waiters();
            owner.close_periodically(at, &mut self.peers);
            owner.answer_close_waiters(at);
            owner.forget_old(at);
            for peer in &mut self.peers {
                peer.paused_until = peer.paused_until.filter(|until| at < *until);
            }
            for what in std::mem::take(&mut owner.unsent) {
                self.ctx.env.reached(what).await;
            }
            owner.send_outbox();
            owner.pump(&mut self.peers);
            if owner.phase == Phase::Opening {
                self.ctx.env.reached("adjudicator: opened").await;
            }
            owner.catch_up(&mut self.peers, &self.handle.links);
            self.see_about_refencing(at);
        }
        self.answer_parked();
        self.step_down_if_deposed();
        self.see_about_placement(at);
        self.continue_hand_over(at);
        let ends = self.continue_shutdown(at);
        self.show();
        ends
    }

    /// The last thing the task does: nobody who waits is left without an answer.
    fn end(mut self) {
        if let Role::Owner(owner) = &mut self.role {
            owner.give_up();
        }
        self.role = Role::Standby;
        self.show();
        self.inbox.decides.close();
        while let Ok(work) = self.inbox.decides.try_recv() {
            work.reply.refused(wrong_epoch(None));
        }
        self.inbox.control.close();
        while let Ok(control) = self.inbox.control.try_recv() {
            control.not_owner(self.stream.0, None);
        }
    }
}

async fn next_done(background: Option<&mut BackgroundWork>) -> Background {
    match background {
        Some(background) if !background.is_empty() => match background.next().await {
            Some(done) => done,
            None => std::future::pending().await,
        },
        _ => std::future::pending().await,
    }
}

async fn finished(recovery: &mut Option<BoxFuture<'static, Verdict>>) -> Verdict {
    match recovery {
        Some(recovery) => recovery.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
