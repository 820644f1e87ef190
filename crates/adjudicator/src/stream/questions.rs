//! What an owner is asked besides commits: where the range is closed, and what became of a transaction.

use meridian_protocol::adjudication::{AttemptAnswer, OutcomeAnswer as Known};
use meridian_protocol::closing::Closure;
use meridian_protocol::events;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{self, CloseThroughResponse, LocateResponse, OutcomeAnswer, StreamLsn};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, CommitToken, Lsn, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::peers::Peer;
use super::waiting::Answer;
use crate::request::Control;

/// Questions that may wait for the lease to be renewed.
const MAX_LEASE_WAITERS: usize = 1_024;

impl Owner {
    /// Any question, while the owner serves.
    pub(super) fn on_question(&mut self, control: Control, peers: &mut [Peer]) {
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
            Control::CloseThrough(_, journal, reply) => {
                let now = self.ctx.now();
                self.note_use(now);
                if let Some(journal) = self.ctx.journals.iter().position(|name| *name == journal) {
                    self.lead.on_read(journal, now);
                }
                let closed = self.close(peers);
                self.tell_closed(reply, closed);
            }
            Control::Change(change, reply) => self.on_change(&change, reply),
            Control::Outcome(token, reply) => self.on_outcome(&token, reply),
            Control::AttemptOutcome(attempt, start, reply) => self.on_attempt_outcome(attempt, start, reply),
        }
    }

    /// Whether it cannot be answered before the lease is renewed (R15: a read waits for the range to be closed).
    fn waits_for_lease(&self, control: &Control) -> bool {
        let is_closed =
            matches!(control, Control::CloseThrough(at, ..) if *at <= self.adjudication.lease_end());
        !is_closed && !self.adjudication.is_deciding(self.ctx.now())
    }

    /// The lease was renewed: those who waited for it are answered.
    pub(super) fn answer_lease_waiters(&mut self, peers: &mut [Peer]) {
        if self.lease_waiters.is_empty() || !self.adjudication.is_deciding(self.ctx.now()) {
            return;
        }
        for control in std::mem::take(&mut self.lease_waiters) {
            self.on_question(control, peers);
        }
    }

    /// R15: closes periodically while the range is in use.
    pub(super) fn close_periodically(&mut self, at: Instant, peers: &mut [Peer]) {
        if self.closes_periodically(at) && at >= self.next_closure {
            self.close(peers);
        }
    }

    pub(super) fn closes_periodically(&self, at: Instant) -> bool {
        self.phase == Phase::Serving && self.is_in_use(at) && self.adjudication.is_deciding(self.ctx.now())
    }

    /// Closes as far as it may be closed now, and has it sent to every journal node. Returns how far.
    fn close(&mut self, peers: &mut [Peer]) -> Timestamp {
        let now = self.ctx.now();
        let lead = self.lead_now(now);
        let Some(closure) = self.adjudication.close(now, lead) else {
            return Timestamp::ZERO;
        };
        let closed = closure.x;
        tracing::trace!(
            target: events::TARGET, event = "closed", stream = self.stream.0, range = closure.range.0,
            epoch = closure.epoch.0, x = closed.0, after = ?closure.after
        );
        let closure = to_wire(closure);
        for peer in peers {
            peer.closure = Some(closure.clone());
        }
        self.last_closure = Some(closure);
        self.next_closure = Instant::now() + self.ctx.config.closed_interval();
        closed
    }

    fn tell_closed(&self, reply: oneshot::Sender<CloseThroughResponse>, closed: Timestamp) {
        let _ = reply.send(CloseThroughResponse {
            closed: closed.0,
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
        let txn = token.txn;
        match self.adjudication.outcome(token, now) {
            Known::Committed { commit, lsn } => self.tell_committed(reply, commit, lsn),
            Known::Aborted { lsn } => self.tell_aborted(reply, lsn),
            Known::Bar { lsn } => {
                tracing::info!(%txn, stream = %self.stream, %lsn, "barring a transaction whose outcome was asked for");
                self.append_barred(lsn, txn);
                if is_broken(Rule::DurableBar) {
                    return drop(reply.send(self.outcome(Outcome::Aborted)));
                }
                self.tell_aborted(reply, lsn);
            }
            Known::Forgotten => drop(reply.send(self.outcome(Outcome::Forgotten))),
            Known::Unavailable => drop(reply.send(self.outcome(Outcome::Pending))),
        }
    }

    /// A query processor asks what became of one attempt (section 5): never bars the transaction.
    pub(super) fn on_attempt_outcome(
        &mut self,
        attempt: Attempt,
        start: Timestamp,
        reply: oneshot::Sender<OutcomeAnswer>,
    ) {
        if !self.has_room() {
            return drop(reply.send(self.outcome(Outcome::Pending)));
        }
        let now = self.ctx.now();
        let outcome = match self.adjudication.attempt_outcome(&attempt, start, now) {
            AttemptAnswer::Committed { commit, lsn } => return self.tell_committed(reply, commit, lsn),
            AttemptAnswer::Barred { lsn } => return self.tell_aborted(reply, lsn),
            AttemptAnswer::Aborted => {
                tracing::debug!(txn = %attempt.txn, stream = %self.stream, "attempt given up");
                self.log_given_up(attempt);
                Outcome::Aborted
            }
            AttemptAnswer::Forgotten => Outcome::Forgotten,
            AttemptAnswer::Pending => Outcome::Pending,
        };
        let _ = reply.send(self.outcome(outcome));
    }

    fn log_given_up(&self, attempt: Attempt) {
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

    fn tell_aborted(&mut self, reply: oneshot::Sender<OutcomeAnswer>, lsn: Lsn) {
        let answer = OutcomeAnswer {
            lsn: lsn.0,
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
