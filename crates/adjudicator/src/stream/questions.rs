//! What an owner is asked besides commits: where the range is closed, and what became of a transaction.

use std::time::Duration;

use meridian_clock::Interval;
use meridian_protocol::adjudication::{AttemptAnswer, OutcomeAnswer as Known};
use meridian_protocol::closing::Closure;
use meridian_protocol::events;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{self, CloseThroughResponse, LocateResponse, OutcomeAnswer, StreamLsn};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, CommitToken, Lsn, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lead::LeadMeter;
use super::owner::{Owner, Phase};
use super::peers::Peer;
use super::waiting::Answer;
use crate::request::{AttemptQuestion, Control};

/// Questions that may wait for the lease to be renewed.
const MAX_LEASE_WAITERS: usize = 1_024;

/// Reads that may wait for what holds a closure back.
const MAX_CLOSE_WAITERS: usize = 1_024;
/// How long they wait before they are told how far the range is closed.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);

/// A read that waits for a closure.
pub(super) struct CloseWaiter {
    at: Timestamp,
    pub(super) until: Instant,
    reply: oneshot::Sender<CloseThroughResponse>,
}

impl Owner {
    /// Any question, while the owner serves.
    pub(super) fn on_question(&mut self, control: Control) {
        match control {
            // An owner that cannot renew its lease must not be found for ever.
            Control::Locate(_) | Control::CloseThrough(..) if self.waits_for_lease(&control) => {
                self.note_use(self.ctx.now());
                if self.lease_waiters.len() < MAX_LEASE_WAITERS {
                    self.lease_waiters.push_back(control);
                } else {
                    control.not_owner(self.stream.0, None);
                }
            }
            Control::Locate(reply) => drop(reply.send(LocateResponse {
                stream: self.stream.0,
                owner: self.ctx.env.node.0.clone(),
                epoch: self.replication.epoch().0,
            })),
            Control::CloseThrough(at, journal, reply) => {
                if let Some(journal) = self.ctx.journals.iter().position(|name| *name == journal) {
                    self.lead.on_read(journal, self.ctx.now());
                }
                self.close_through(at, reply);
            }
            Control::Change(change, reply) => self.on_change(&change, reply),
            Control::RaiseFloor(floor, reply) => self.on_raise_floor(floor, reply),
            // An owner takes nothing from another one.
            Control::HandOver(..) => control.not_owner(self.stream.0, None),
            Control::Outcome(token, reply) => self.on_outcome(&token, reply),
            Control::AttemptOutcome(question, reply) => self.on_attempt_outcome(&question, reply),
        }
    }

    /// Whether it cannot be answered before the lease is renewed (R15: a read waits for the range to be closed).
    fn waits_for_lease(&self, control: &Control) -> bool {
        let is_closed =
            matches!(control, Control::CloseThrough(at, ..) if *at <= self.adjudication.lease_end());
        !is_closed && !self.adjudication.is_deciding(self.ctx.now())
    }

    /// The lease was renewed: those who waited for it are answered.
    pub(super) fn answer_lease_waiters(&mut self) {
        if self.lease_waiters.is_empty() || !self.adjudication.is_deciding(self.ctx.now()) {
            return;
        }
        for control in std::mem::take(&mut self.lease_waiters) {
            self.on_question(control);
        }
    }

    /// R15: a read waits for the range to be closed through `at`.
    fn close_through(&mut self, at: Timestamp, reply: oneshot::Sender<CloseThroughResponse>) {
        self.note_use(self.ctx.now());
        let closure = self.closure_on_demand();
        let closed = through(closure.as_ref());
        if closed < at && self.is_held_back(at) && self.close_waiters.len() < MAX_CLOSE_WAITERS {
            let until = Instant::now() + CLOSE_PATIENCE;
            self.close_waiters.push(CloseWaiter { at, until, reply });
        } else {
            self.tell_closed(reply, closure);
        }
    }

    /// Whether something other than the clock keeps the range from being closed through `at`: it is not long.
    fn is_held_back(&mut self, at: Timestamp) -> bool {
        let now = self.ctx.now();
        let lead = self.lead_now(now).close;
        self.adjudication.lowest_open().is_some_and(|lower| lower <= at)
            || !self.adjudication.wanted_raises(now, lead).is_empty()
    }

    /// Something that held a closure back is gone, or somebody has waited for one for long enough.
    pub(super) fn answer_close_waiters(&mut self, at: Instant) {
        let may_close = std::mem::take(&mut self.cross.may_close);
        if self.close_waiters.is_empty() || self.phase != Phase::Serving {
            return;
        }
        if may_close || self.close_waiters.iter().any(|waiter| waiter.until <= at) {
            let closure = self.closure_on_demand();
            let closed = through(closure.as_ref());
            let waiters = std::mem::take(&mut self.close_waiters);
            let (done, waiting) = waiters
                .into_iter()
                .partition(|waiter| waiter.at <= closed || waiter.until <= at);
            self.close_waiters = waiting;
            let done: Vec<CloseWaiter> = done;
            for waiter in done {
                self.tell_closed(waiter.reply, closure.clone());
            }
        }
    }

    /// R15: closes periodically while the range is in use. Journal nodes through which nobody reads it are told less often.
    pub(super) fn close_periodically(&mut self, at: Instant, peers: &mut [Peer]) {
        if !self.closes_periodically(at) || at < self.next_closure {
            return;
        }
        if at >= self.next_closure_for_all {
            self.close(peers);
        } else {
            let now = self.ctx.now();
            self.close_for(peers, |lead, journal| lead.is_read(journal, now));
        }
    }

    pub(super) fn closes_periodically(&self, at: Instant) -> bool {
        self.phase == Phase::Serving
            && self.sealed.is_none()
            && self.is_in_use(at)
            && self.adjudication.is_deciding(self.ctx.now())
    }

    /// Closes as far as it may be closed now, and has it sent to every journal node.
    fn close(&mut self, peers: &mut [Peer]) {
        self.next_closure_for_all = self.ctx.next_tick(self.ctx.config.closed_interval());
        self.close_for(peers, |_, _| true);
    }

    /// Closes as far as it may be closed now.
    fn closure(&mut self, now: Interval, lead: Duration) -> Option<Closure> {
        let closure = self.adjudication.close(now, lead)?;
        tracing::trace!(
            target: events::TARGET, event = "closed", stream = self.stream.0, range = closure.range.0,
            epoch = closure.epoch.0, x = closure.x.0, after = ?closure.after
        );
        Some(closure)
    }

    /// The same, for who has asked, and further ahead while nobody writes; the journal nodes learn of it with the next periodic one.
    fn closure_on_demand(&mut self) -> Option<Closure> {
        let now = self.ctx.now();
        let lead = self.lead_now(now).close;
        let ahead = self.quiet.on_asked(now);
        self.closure(now, lead.max(ahead))
    }

    /// Closes as far as it may be closed now, and has it sent to these journal nodes.
    fn close_for(&mut self, peers: &mut [Peer], is_told: impl Fn(&LeadMeter, usize) -> bool) {
        let now = self.ctx.now();
        let lead = self.lead_now(now);
        let Some(closure) = self.closure(now, lead.close) else {
            return;
        };
        let closure = to_wire(closure);
        for (journal, peer) in peers.iter_mut().enumerate() {
            if is_told(&self.lead, journal) {
                peer.closure = Some(closure.clone());
            }
        }
        self.last_closure = Some(closure);
        self.next_closure = self.ctx.next_tick(lead.interval);
    }

    fn tell_closed(&self, reply: oneshot::Sender<CloseThroughResponse>, closure: Option<Closure>) {
        let _ = reply.send(CloseThroughResponse {
            closed: through(closure.as_ref()).0,
            closure: closure.map(to_wire),
            owner: self.ctx.env.node.0.clone(),
            epoch: self.replication.epoch().0,
            not_owner: false,
        });
    }

    /// A client asks what became of its transaction (section 5). What is not known is barred for good, durably,
    /// before it is said to be aborted.
    pub(super) fn on_outcome(&mut self, token: &CommitToken, reply: oneshot::Sender<OutcomeAnswer>) {
        let now = self.ctx.now();
        self.note_use(now);
        if !self.has_room() {
            return drop(reply.send(self.outcome(Outcome::Pending)));
        }
        let Some(map_version) = self.version_to_ask(token) else {
            return drop(reply.send(self.outcome(Outcome::Pending)));
        };
        let txn = token.txn;
        match self.adjudication.outcome(token, now) {
            Known::Committed { commit, lsn } => self.tell_committed(reply, commit, lsn),
            Known::Aborted { lsn } => self.tell_aborted(reply, lsn, map_version),
            Known::Bar { lsn } => {
                tracing::info!(%txn, stream = %self.stream, %lsn, "barring a transaction whose outcome was asked for");
                self.append_barred(lsn, txn);
                self.cross.are_homes_due = true;
                if is_broken(Rule::DurableBar) {
                    return drop(reply.send(self.outcome(Outcome::Aborted)));
                }
                self.tell_aborted(reply, lsn, map_version);
            }
            Known::Forgotten => drop(reply.send(self.outcome(Outcome::Forgotten))),
            Known::Unavailable => drop(reply.send(self.outcome(Outcome::Pending))),
        }
    }

    /// A query processor or another range's owner asks what became of one attempt (section 5): never bars the transaction.
    pub(super) fn on_attempt_outcome(
        &mut self,
        question: &AttemptQuestion,
        reply: oneshot::Sender<OutcomeAnswer>,
    ) {
        let AttemptQuestion {
            attempt,
            start,
            give_up,
        } = *question;
        if !self.has_room() {
            return drop(reply.send(self.outcome(Outcome::Pending)));
        }
        if give_up {
            self.give_up_attempt(attempt);
        }
        let now = self.ctx.now();
        let outcome = match self.adjudication.attempt_outcome(&attempt, start, now) {
            AttemptAnswer::Committed { commit, lsn } => return self.tell_committed(reply, commit, lsn),
            AttemptAnswer::Barred { lsn } => return self.tell_aborted(reply, lsn, 0),
            AttemptAnswer::Aborted => {
                tracing::debug!(txn = %attempt.txn, stream = %self.stream, "attempt given up");
                self.log_given_up(attempt);
                Outcome::Aborted
            }
            AttemptAnswer::Forgotten { lsn } => return self.tell_forgotten(reply, lsn),
            AttemptAnswer::Pending => Outcome::Pending,
        };
        let _ = reply.send(self.outcome(outcome));
    }

    /// The forgotten record, if there is one, is at `lsn` at the latest: a participant's closures have to wait for that
    /// (section 5, forgetting).
    fn tell_forgotten(&mut self, reply: oneshot::Sender<OutcomeAnswer>, lsn: Lsn) {
        let answer = OutcomeAnswer {
            lsn: lsn.0,
            ..self.outcome(Outcome::Forgotten)
        };
        self.answer_at(lsn, Answer::Outcome(reply, answer));
    }

    pub(super) fn log_given_up(&self, attempt: Attempt) {
        tracing::trace!(
            target: events::TARGET, event = "given_up", stream = self.stream.0, epoch = self.replication.epoch().0,
            txn = attempt.txn.0.as_u128(), attempt = attempt.number, home_epoch = attempt.home_epoch.0
        );
    }

    fn tell_committed(&mut self, reply: oneshot::Sender<OutcomeAnswer>, commit: Timestamp, lsn: Lsn) {
        let answer = OutcomeAnswer {
            commit: commit.0,
            lsn: lsn.0,
            epoch: self.epoch_of(lsn),
            ..self.outcome(Outcome::Committed)
        };
        self.answer_at(lsn, Answer::Outcome(reply, answer));
    }

    /// Which version of the range map names the streams that have to be asked as well; 0 if none have. Who does not know the home asks
    /// every stream: one that has ended does not speak for its successors. `None`: they are not known here yet.
    fn version_to_ask(&self, token: &CommitToken) -> Option<u64> {
        if token.home.is_some() || self.sealed.is_none() {
            return Some(0);
        }
        let map = self.ctx.map.borrow();
        let is_retired = map.reshaping.retired.contains_key(&self.stream);
        is_retired.then_some(map.version)
    }

    fn tell_aborted(&mut self, reply: oneshot::Sender<OutcomeAnswer>, lsn: Lsn, map_version: u64) {
        let answer = OutcomeAnswer {
            lsn: lsn.0,
            map_version,
            ..self.outcome(Outcome::Aborted)
        };
        self.answer_at(lsn, Answer::Outcome(reply, answer));
    }

    fn outcome(&self, outcome: Outcome) -> OutcomeAnswer {
        OutcomeAnswer {
            outcome: outcome.into(),
            owner: self.ctx.env.node.0.clone(),
            epoch: self.replication.epoch().0,
            ..OutcomeAnswer::default()
        }
    }
}

/// How far it closes: none not at all.
fn through(closure: Option<&Closure>) -> Timestamp {
    closure.map_or(Timestamp::ZERO, |closure| closure.x)
}

fn to_wire(closure: Closure) -> internal::Closure {
    let position = |(stream, lsn): (meridian_types::StreamId, Lsn)| StreamLsn {
        stream: stream.0,
        lsn: lsn.0,
    };
    internal::Closure {
        range: closure.range.0,
        epoch: closure.epoch.0,
        closed: closure.x.0,
        after: closure.after.into_iter().map(position).collect(),
    }
}
