//! Deciding commit requests, and how much may be on its way (section 4).

use std::time::Duration;

use meridian_clock::Interval;
use meridian_protocol::adjudication::{CommitRequest, Decision, Refusal};
use meridian_protocol::events;
use meridian_protocol::lead::Lead;
use meridian_rpc::internal::Decided;
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::waiting::Answer;
use crate::config;
use crate::records;
use crate::request::{DecideWork, HomePart, Part, ReplyTo, not_ready, to_wire, wrong_epoch};

/// Entries that may be on their way; bytes are bounded by the configuration.
const MAX_ENTRIES_IN_FLIGHT: u64 = 65_536;
/// Answers that may wait for records.
const MAX_WAITING: usize = 131_072;

impl Owner {
    /// Whether commit requests may be read from the queue now.
    pub(super) fn takes_requests(&self) -> bool {
        match self.phase {
            // Nobody can know its epoch yet: they are refused.
            Phase::Opening => true,
            Phase::Serving if self.held.is_none() && self.has_room() => true,
            _ => self.lets_go(),
        }
    }

    /// Whether it keeps nobody waiting for the journal any more.
    fn lets_go(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Reopening { .. }) && self.is_stalled()
    }

    /// Whether more records may be put on their way.
    pub(super) fn has_room(&self) -> bool {
        let in_flight = self
            .replication
            .last()
            .lsn
            .0
            .saturating_sub(self.replication.committed().0);
        self.in_flight_bytes < self.ctx.config.max_in_flight_bytes
            && in_flight < MAX_ENTRIES_IN_FLIGHT
            && self.waiting.len() < MAX_WAITING
    }

    /// The lease ran out and records have not become durable for long: perhaps the journal answers somebody else. Those who
    /// wait must not wait here for ever; what is in flight may commit all the same.
    fn is_stalled(&self) -> bool {
        self.stalls_at().is_some_and(|at| at <= Instant::now())
            && !self.adjudication.is_deciding(self.ctx.now())
    }

    /// When the oldest record in flight will have been on its way for too long, and the lease will have run out.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        let (_, oldest, _) = self.batches.front()?;
        let too_long = *oldest + self.ctx.config.lease().length + self.ctx.config.suspect_after();
        let leased = self.adjudication.lease_end().since(self.ctx.now().latest);
        Some(too_long.max(Instant::now() + leased))
    }

    /// Whether anybody waits for the journal.
    pub(super) fn has_waiting(&self) -> bool {
        self.held.is_some() || !self.lease_waiters.is_empty() || self.waiting.len() > self.leases_in_flight
    }

    /// Lets everybody go who waits for a journal that does not answer.
    pub(super) fn release_the_waiting(&mut self) {
        if !self.lets_go() {
            return;
        }
        self.waiting.let_go();
        if let Some(work) = self.held.take() {
            work.reply.refused(not_ready("the journal does not answer"));
        }
        for waiter in self.lease_waiters.drain(..) {
            waiter.not_owner(self.stream.0, None);
        }
    }

    /// A commit request. Answered later unless it is refused now.
    pub(super) fn on_request(&mut self, work: DecideWork) {
        if self.phase == Phase::Opening {
            work.reply.refused(wrong_epoch(None));
            return;
        }
        let now = self.ctx.now();
        self.note_use(now);
        if self.lets_go() {
            work.reply.refused(not_ready("the journal does not answer"));
        } else if self.adjudication.is_deciding(now) {
            self.decide(work, now);
        } else {
            // The renewal begins with the next step; requests behind this one wait in the queue.
            self.held = Some(work);
        }
    }

    /// The lease was renewed: the request that was held can be decided.
    pub(super) fn decide_held(&mut self) {
        if self.phase != Phase::Serving || self.held.is_none() {
            return;
        }
        let now = self.ctx.now();
        if self.adjudication.is_deciding(now)
            && let Some(work) = self.held.take()
        {
            self.decide(work, now);
        }
    }

    fn decide(&mut self, mut work: DecideWork, now: Interval) {
        if let Some(measured) = &mut work.reply.measured {
            measured.on_looked_at();
        }
        if work.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            work.reply
                .refused(not_ready("the deadline passed before it was decided"));
            return;
        }
        match &work.part {
            Part::Participant(_) => self.prepare(work, now),
            Part::Home(part) if part.participants.is_empty() => self.decide_alone(work, now),
            Part::Home(_) => self.begin_home(work, now),
        }
    }

    /// Decides a transaction that touches this range only (section 4).
    fn decide_alone(&mut self, work: DecideWork, now: Interval) {
        let DecideWork {
            attempt,
            start,
            written,
            reads,
            part: Part::Home(HomePart { payload, .. }),
            mut reply,
            ..
        } = work
        else {
            return;
        };
        let request = CommitRequest {
            attempt,
            start,
            written: &written,
            reads: &reads,
        };
        let lead = self.lead_now(now).commit;
        let txn = attempt.txn;
        match self.adjudication.decide(&request, now, lead) {
            Decision::Commit { commit, lsn } => {
                self.quiet.on_write(now);
                tracing::trace!(
                    target: events::TARGET, event = "decided", stream = self.stream.0,
                    epoch = self.replication.epoch().0, lsn = lsn.0, txn = txn.0.as_u128(), attempt = attempt.number,
                    start = start.0, commit = commit.0, ?written, checked = ?reads
                );
                self.append(lsn, |at| records::commit(at, txn, commit, payload));
                if let Some(measured) = &mut reply.measured {
                    measured.on_appended();
                }
                reply.decided(Decided {
                    commit: commit.0,
                    lsn: lsn.0,
                    epoch: self.replication.epoch().0,
                });
                self.answer_committed(reply, commit, lsn);
            }
            Decision::Known { commit, lsn } => self.answer_committed(reply, commit, lsn),
            Decision::Refused(refused) => {
                tracing::trace!(%txn, stream = %self.stream, %refused, "refused");
                self.refuse(reply, &refused);
            }
        }
    }

    /// Tells why it does not commit; of a bar, once that is durable.
    pub(super) fn refuse(&mut self, reply: ReplyTo, refused: &Refusal) {
        let wire = to_wire(refused, &self.ctx.env.node);
        match refused {
            Refusal::Barred { lsn } => self.answer_at(*lsn, Answer::Refused(reply, wire)),
            _ => reply.refused(wire),
        }
    }

    /// How far ahead of the present to commit and to close (R2, R13, R16).
    pub(super) fn lead_now(&mut self, now: Interval) -> Lead {
        let lead = match self.ctx.config.lead {
            config::Lead::Fixed { ms } => self.ctx.config.lead_policy().fixed(Duration::from_millis(ms)),
            config::Lead::Auto { .. } => self.lead.lead(now),
        };
        self.lead_shown = lead.close;
        lead
    }
}
