//! A stream's owner in one epoch: its soft state, and the decisions (sections 4, 5, 8).
//!
//! ```text
//! Opening ──Opened committed──> Serving ──a replica refuses or lost its disk──> Refencing ─┐
//!                                 │  ^──────── Reopening <──fenced anew, log as we left it──┘
//!                              Releasing ──Released committed──> the end
//! ```
//! Everything here happens without awaiting. [`super::decide`] decides, [`super::replicate`] moves the records,
//! [`super::questions`] answers what is not a commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use meridian_clock::Interval;
use meridian_protocol::EpochRuns;
use meridian_protocol::adjudication::{Adjudication, HandedOver, Opening};
use meridian_protocol::events;
use meridian_protocol::lease::Lease;
use meridian_protocol::quiet::Quiet;
use meridian_protocol::replication::Replication;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{ChangeResponse, Closure, Committed, Entry};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{LogBase, Lsn, Position, RangeMap, RangeMapEntry, StreamId, Timestamp, TxnId, limits};
use tokio::time::Instant;

use super::cross::{BackgroundWork, Cross, other_streams};
use super::lead::LeadMeter;
use super::questions::CloseWaiter;
use super::tail::Tail;
use super::waiting::{Answer, Waiting};
use crate::context::Context;
use crate::records;
use crate::request::{Control, DecideWork, ReplyTo, wrong_epoch};
use crate::takeover::{Fence, Plan, RecoveredOutcome, Won};

/// Lease records that may be on their way: with more, the journal is what is missing.
pub(super) const MAX_LEASES_IN_FLIGHT: usize = 2;

/// What the owner is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its `Opened` record is not committed yet: it serves nothing.
    Opening,
    /// It decides.
    Serving,
    /// It is about to fence anew (as planned, once everything in flight is committed or some time has passed), or does:
    /// nothing new is decided.
    Refencing { plan: Option<Plan> },
    /// Fenced anew; the `Opened` record of the new epoch, after the log's end `adopted`, is not committed yet.
    Reopening { adopted: Position },
    /// It hands the range over.
    Releasing { released: Option<Lsn> },
}

/// What an owner begins an epoch with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// What the log tells (R18).
    Anew,
    /// What its predecessor has handed over.
    HandedOver,
    /// What it knew itself in the epoch before.
    Resumed,
}

impl Start {
    /// As it is counted: one of [`meridian_metrics::names::EPOCHS`].
    fn name(self) -> &'static str {
        match self {
            Self::Anew => "anew",
            Self::HandedOver => "handed_over",
            Self::Resumed => "resumed",
        }
    }
}

/// The owner of one stream.
pub(crate) struct Owner {
    pub(super) ctx: Arc<Context>,
    pub(super) stream: StreamId,
    pub(super) range: RangeMapEntry,
    pub(super) phase: Phase,
    /// Where the stream ended, by a `Sealed` record in its log: it orders nothing any more.
    pub(super) sealed: Option<(Timestamp, Lsn)>,
    /// Its last record is to be `Sealed`, not `Released`.
    pub(super) is_sealing: bool,
    /// Of the meta stream: the newest map in its log, committed or not.
    pub(super) map: Option<RangeMap>,
    pub(super) adjudication: Adjudication,
    pub(super) lease: Lease,
    pub(super) leases_in_flight: usize,
    pub(super) replication: Replication,
    /// The replica whose log was adopted, and the end of that log.
    pub(super) adopted: (usize, Position),
    /// What the journal's logs begin behind, as far as it is known: nobody can send a replica what comes before.
    pub(super) base: Option<LogBase>,
    /// The epochs of the entries before the base, as far as they were known: outcomes are told by their positions.
    pub(super) forgotten: EpochRuns,
    pub(super) tail: Tail,
    pub(super) in_flight_bytes: usize,
    pub(super) waiting: Waiting,
    /// A request that was read before it was known that the lease has run out.
    pub(super) held: Option<DecideWork>,
    /// Questions that wait until the lease was renewed.
    pub(super) lease_waiters: VecDeque<Control>,
    pub(super) lead: LeadMeter,
    /// For how long the range was not written.
    pub(super) quiet: Quiet,
    /// How far ahead the range was last closed.
    pub(super) lead_shown: Duration,
    /// The last lsn of a batch, when it was handed to the links, and how many bytes the log had then.
    pub(super) batches: VecDeque<(Lsn, Instant, usize)>,
    pub(super) batch_bytes: usize,
    /// About the longest time that a batch took lately until it was committed.
    pub(super) slowest_commit: Duration,
    /// The attempts across ranges that this owner has a part in.
    pub(super) cross: Cross,
    /// Calls to other adjudicators.
    pub(super) background: BackgroundWork,
    /// Reads that wait for a closure that an open prepare or another stream holds back, and until when.
    pub(super) close_waiters: Vec<CloseWaiter>,
    pub(super) last_closure: Option<Closure>,
    pub(super) next_closure: Instant,
    /// Which goes to every journal node, not only to those through whom the range is read.
    pub(super) next_closure_for_all: Instant,
    pub(super) last_use: Option<Instant>,
    /// When to see about fencing anew.
    pub(super) refence_at: Option<Instant>,
    pub(super) refence_pause: Duration,
    pub(super) next_forgetting: Instant,
    /// What was just done and not sent yet.
    pub(super) unsent: Vec<&'static str>,
    pub(super) deposed: bool,
}

impl Owner {
    /// The owner after its fence was won. Its `Opened` record is on its way.
    pub(super) fn open(
        ctx: Arc<Context>,
        stream: StreamId,
        range: RangeMapEntry,
        won: Won,
        handed: Option<&HandedOver>,
    ) -> Self {
        let Won { fence, recovered } = won;
        let now = ctx.now();
        let mut floor = fence.floor.max(recovered.last_commit);
        if recovered.outcome_low > Timestamp::ZERO {
            // Bars from before what was read are forgotten: nobody that old may commit any more.
            let max_error = ctx.env.clock.max_error();
            floor = floor.max(recovered.outcome_low.saturating_add(max_error));
        }
        // One map for all of this: a stream that it names is among the others, or it is known how it ended.
        let known_map = ctx.map.borrow().clone();
        let reshaping = &known_map.reshaping;
        // Keys that other streams ordered before: nothing that their owners have told may be contradicted (section 8).
        let origin = reshaping.origins.get(&stream);
        if let Some(origin) = origin.filter(|_| !is_broken(Rule::OriginFloor)) {
            floor = floor.max(origin.floor);
        }
        let policy = ctx.config.lease();
        let lease_end = Lease::opening_end(policy, floor, now);
        let opened = fence.fenced.last.lsn.next();
        let opening = Opening {
            range: range.id,
            stream,
            epoch: fence.epoch,
            floor,
            lease_end,
            opened,
            outcome_low: recovered.outcome_low,
        };
        let limits = ctx.config.limits(ctx.env.clock.max_error());
        let others = other_streams(&known_map, stream);
        let taken =
            handed.and_then(|handed| Adjudication::take_over(opening, fence.fenced.last, limits, handed));
        let start = if taken.is_some() {
            Start::HandedOver
        } else {
            Start::Anew
        };
        let mut adjudication = match taken {
            Some(mut taken) => {
                taken.on_map_durable(others);
                taken
            }
            None => Adjudication::open(opening, limits).with_streams(others),
        };
        // Whoever was told that these never commit was told so of all streams, the successors of those included (section 5).
        for txn in origin.map(|origin| &origin.barred).into_iter().flatten() {
            adjudication.inherit_barred(*txn);
        }
        for outcome in &recovered.outcomes {
            if is_broken(Rule::OutcomesRecovered) {
                break;
            }
            match outcome {
                RecoveredOutcome::Committed(txn, commit, lsn) => {
                    adjudication.recover_commit(*txn, *commit, *lsn);
                }
                RecoveredOutcome::Barred(txn, lsn) => adjudication.recover_barred(*txn, *lsn),
            }
        }
        // Of those that ordered these keys, and of any that a predecessor may have voted for (R19): all their records are known.
        for (ended, retired) in reshaping.retired.iter().filter(|(ended, _)| **ended != stream) {
            if is_broken(Rule::SourceDependency) {
                break;
            }
            adjudication.note_dependency(*ended, retired.last);
        }
        if recovered.sealed.is_some() && !is_broken(Rule::SealedStream) {
            adjudication.end_stream();
        }
        let replication = Replication::new(fence.epoch, recovered.log, ctx.quorum(), &fence.lasts);
        let started = Instant::now();
        let configured = || ctx.map.borrow().as_ref().clone();
        let map = (stream == StreamId::META).then(|| recovered.map.unwrap_or_else(configured));
        let mut owner = Self {
            stream,
            map,
            sealed: recovered.sealed,
            is_sealing: false,
            range,
            phase: Phase::Opening,
            adjudication,
            lease: Lease::new(policy, lease_end, now),
            leases_in_flight: 0,
            replication,
            adopted: (fence.fenced.adopt, fence.fenced.last),
            base: recovered.base,
            forgotten: EpochRuns::default(),
            tail: Tail::new(opened, ctx.config.tail_bytes),
            in_flight_bytes: 0,
            waiting: Waiting::default(),
            held: None,
            lease_waiters: VecDeque::new(),
            lead: LeadMeter::new(ctx.config.lead_policy(), ctx.journals.len()),
            quiet: Quiet::new(now),
            lead_shown: Duration::ZERO,
            batches: VecDeque::new(),
            batch_bytes: 0,
            slowest_commit: Duration::ZERO,
            cross: Cross::new(known_map.version),
            background: BackgroundWork::new(),
            close_waiters: Vec::new(),
            last_closure: None,
            next_closure: started,
            next_closure_for_all: started,
            last_use: None,
            refence_at: None,
            refence_pause: super::REFENCE_PAUSE,
            next_forgetting: started,
            unsent: Vec::new(),
            deposed: false,
            ctx,
        };
        owner.resume_votes();
        owner.append_opened(&fence, lease_end, &known_map, start);
        owner
    }

    fn append_opened(&mut self, fence: &Fence, lease_end: Timestamp, map: &Arc<RangeMap>, start: Start) {
        if let Some((replica, disk)) = fence.fenced.rejoin {
            self.replication.allow_rejoin(replica, disk);
        }
        let at = self.replication.append();
        let (adopted, floor) = (fence.fenced.last, self.adjudication.floor());
        tracing::trace!(
            target: events::TARGET, event = "opening", stream = self.stream.0, epoch = at.epoch.0, lsn = at.lsn.0,
            adopted_epoch = adopted.epoch.0, adopted_lsn = adopted.lsn.0, floor = floor.0, lease_end = lease_end.0,
            map = map.version, resumed = start == Start::Resumed, handed = start == Start::HandedOver
        );
        self.ctx.figures.count_epoch(start.name());
        self.note_named(at.lsn, map);
        self.push(records::opened(at, &self.ctx.env.node, lease_end, map.version));
    }

    /// Fenced anew. It keeps what it knows, if the log that is adopted ends where it left it.
    #[must_use]
    pub(super) fn refenced(&mut self, fence: &Fence) -> bool {
        let left = self.replication.last();
        if fence.fenced.last != left || !matches!(self.phase, Phase::Refencing { .. }) {
            return false;
        }
        // What waits for votes names the epoch that ends.
        self.let_homes_go();
        let now = self.ctx.now();
        let lease_end = Lease::opening_end(self.ctx.config.lease(), self.adjudication.floor(), now)
            .max(self.lease.requested_end());
        let log = self.replication.log().clone();
        self.replication = Replication::new(fence.epoch, log, self.ctx.quorum(), &fence.lasts);
        self.lead.skip_all(left.lsn);
        self.adopted = (fence.fenced.adopt, fence.fenced.last);
        self.lease = Lease::new(self.ctx.config.lease(), lease_end, now);
        self.phase = Phase::Reopening { adopted: left };
        let known_map = self.ctx.map.borrow().clone();
        self.append_opened(fence, lease_end, &known_map, Start::Resumed);
        true
    }

    /// The end of the epoch's `Opened` record: what it carries may be relied upon now.
    fn on_opened(&mut self) {
        let opened = self.replication.epoch_start();
        let lease_end = self.lease.requested_end();
        if let Phase::Reopening { adopted } = self.phase {
            let epoch = self.replication.epoch();
            if !self.adjudication.reopen(epoch, adopted, opened, lease_end) {
                // Cannot be: `refenced` checked the same. Open like any other then.
                tracing::error!(stream = %self.stream, %epoch, "soft state does not fit the log");
                self.deposed = true;
                return;
            }
        }
        self.lease.on_durable(lease_end);
        self.phase = Phase::Serving;
        self.refence_at = None;
        // A node that refused the `Opened` record is sent nothing more: it says so only once.
        self.see_standing();
        let (stream, epoch, floor) = (self.stream, self.replication.epoch(), self.adjudication.floor());
        tracing::info!(%stream, %epoch, lsn = %opened, %floor, %lease_end, "opened");
        tracing::trace!(
            target: events::TARGET, event = "serving", stream = stream.0, epoch = epoch.0, floor = floor.0,
            window_low = self.adjudication.window_low().0, lease_end = self.adjudication.lease_end().0
        );
    }

    pub(super) fn answer_committed(&mut self, reply: ReplyTo, commit: Timestamp, lsn: Lsn) {
        let epoch = self.epoch_of(lsn);
        let committed = Committed {
            commit: commit.0,
            lsn: lsn.0,
            epoch,
            trace: None,
        };
        self.answer_at(lsn, Answer::Committed(reply, committed));
    }

    /// The epoch of a record; this owner's where the log does not tell (a record that old was recovered).
    pub(super) fn epoch_of(&self, lsn: Lsn) -> u64 {
        let known = self.replication.log().epoch_at(lsn);
        let known = known.or_else(|| self.forgotten.epoch_at(lsn));
        known.unwrap_or(self.replication.epoch()).0
    }

    /// Answers once the record at `lsn` is committed.
    pub(super) fn answer_at(&mut self, lsn: Lsn, answer: Answer) {
        if lsn <= self.replication.committed() {
            self.tell(answer);
        } else {
            self.waiting.push(lsn, answer);
        }
    }

    fn tell(&mut self, answer: Answer) {
        match answer {
            Answer::Committed(mut reply, mut committed) => {
                self.log_answered(committed.epoch, committed.lsn, committed.commit);
                if let Some(measured) = reply.measured.take() {
                    let journals = self.journals_that_have(Lsn(committed.lsn));
                    let env = &self.ctx.env;
                    committed.trace = Some(measured.home(&env.node, &env.region, journals));
                }
                reply.committed(committed);
            }
            Answer::Refused(reply, refused) => reply.refused(refused),
            Answer::Outcome(reply, answer) => {
                if answer.outcome() == Outcome::Committed {
                    self.log_answered(answer.epoch, answer.lsn, answer.commit);
                }
                drop(reply.send(answer));
            }
            Answer::Changed(reply, version) => drop(reply.send(ChangeResponse {
                version,
                ..ChangeResponse::default()
            })),
            Answer::Raised(reply, answer) => drop(reply.send(answer)),
            Answer::Lease(lease_end) => {
                tracing::trace!(
                    target: events::TARGET, event = "leased", stream = self.stream.0,
                    epoch = self.replication.epoch().0, lease_end = lease_end.0
                );
                self.leases_in_flight -= 1;
                self.lease.on_durable(lease_end);
                self.adjudication.on_lease_durable(lease_end);
                self.cross.are_homes_due = true;
            }
        }
    }

    /// The journal nodes that are known to have the record.
    fn journals_that_have(&self, lsn: Lsn) -> Vec<String> {
        let acked = self.ctx.journals.iter().zip(self.replication.acked());
        let have = acked.filter(|(_, acked)| *acked >= lsn);
        have.map(|(node, _)| node.0.clone()).collect()
    }

    fn log_answered(&self, epoch: u64, lsn: u64, commit: u64) {
        tracing::trace!(
            target: events::TARGET, event = "answered", stream = self.stream.0, epoch, lsn, commit
        );
    }

    /// More of the log is committed.
    pub(super) fn on_committed(&mut self, committed: Lsn) {
        let epoch = self.epoch_of(committed);
        tracing::trace!(
            target: events::TARGET, event = "counted", stream = self.stream.0,
            owner_epoch = self.replication.epoch().0, epoch, lsn = committed.0
        );
        // Ranges of the same process need not wait for a journal node to tell them.
        self.ctx
            .committed
            .learn(self.stream, Position::new(epoch, committed.0));
        if matches!(self.phase, Phase::Opening | Phase::Reopening { .. })
            && committed >= self.replication.epoch_start()
        {
            self.on_opened();
        }
        self.use_named(committed);
        self.measure(committed);
        while let Some(answer) = self.waiting.pop(committed) {
            self.tell(answer);
        }
    }

    /// Appends the record that the adjudication asked for at `lsn`.
    pub(super) fn append(&mut self, lsn: Lsn, record: impl FnOnce(Position) -> Entry) {
        let at = self.replication.append();
        // Answers wait for `lsn`: counted otherwise, they would leave before their own record is durable.
        assert_eq!(at.lsn, lsn, "the adjudication and the log count alike");
        self.push(record(at));
    }

    fn push(&mut self, entry: Entry) {
        let bytes = records::entry_bytes(&entry);
        self.in_flight_bytes += bytes;
        self.batch_bytes += bytes;
        self.tail.push(entry);
    }

    /// Bars a transaction durably.
    pub(super) fn append_barred(&mut self, lsn: Lsn, txn: TxnId) {
        tracing::trace!(
            target: events::TARGET, event = "barred", stream = self.stream.0, epoch = self.replication.epoch().0,
            lsn = lsn.0, txn = txn.0.as_u128()
        );
        self.append(lsn, |at| records::barred(at, txn));
    }

    /// Something was done that others are told of with the end of this step, not before: a process may be struck there.
    pub(super) fn note_unsent(&mut self, what: &'static str) {
        if !self.unsent.contains(&what) {
            self.unsent.push(what);
        }
    }

    /// The range was used: its lease is kept and closures are sent.
    pub(super) fn note_use(&mut self, now: Interval) {
        self.lease.on_use(now);
        self.last_use = Some(Instant::now());
    }

    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        self.last_use
            .is_some_and(|at| now.duration_since(at) <= self.ctx.config.idle_after())
    }

    /// Renews the lease when it is time to (section 8). Whether it was.
    pub(super) fn renew_lease(&mut self) -> bool {
        if self.phase != Phase::Serving || self.leases_in_flight >= MAX_LEASES_IN_FLIGHT {
            return false;
        }
        let now = self.ctx.now();
        let Some(lease_end) = self.lease.renew(now) else {
            return false;
        };
        self.append_lease(lease_end);
        true
    }

    /// Appends a `Lease` record; where it is.
    pub(super) fn append_lease(&mut self, lease_end: Timestamp) -> Lsn {
        let map = self.ctx.map.borrow().clone();
        let lsn = self.adjudication.take_lsn();
        let ctx = self.ctx.clone();
        self.append(lsn, |at| {
            records::lease(at, &ctx.env.node, lease_end, map.version)
        });
        self.note_named(lsn, &map);
        self.ctx.figures.leases.increment(1);
        self.leases_in_flight += 1;
        self.answer_at(lsn, Answer::Lease(lease_end));
        lsn
    }

    /// Forgets outcomes that are older than they have to be answerable (section 5).
    pub(super) fn forget_old(&mut self, at: Instant) {
        if at < self.next_forgetting || self.phase != Phase::Serving {
            return;
        }
        self.next_forgetting = at + Duration::from_secs(10);
        let cutoff = self.ctx.now().earliest.saturating_sub(limits::OUTCOME_RETENTION);
        self.adjudication.forget_outcomes_before(cutoff);
    }

    /// Clean shutdown: decides nothing more; the rest is done by [`Self::continue_release`].
    pub(super) fn begin_release(&mut self) {
        self.let_homes_go();
        self.send_outbox();
        self.phase = Phase::Releasing { released: None };
    }

    /// Appends `Released` once everything before it is committed. `true` when it is committed itself.
    pub(super) fn continue_release(&mut self) -> bool {
        let Phase::Releasing { released } = self.phase else {
            return false;
        };
        let committed = self.replication.committed();
        match released {
            Some(lsn) => committed >= lsn,
            None if committed == self.replication.last().lsn => {
                let (floor, lsn) = self.adjudication.release();
                self.log_stopped();
                tracing::trace!(
                    target: events::TARGET, event = "released", stream = self.stream.0,
                    epoch = self.replication.epoch().0, lsn = lsn.0, floor = floor.0, sealed = self.is_sealing,
                    window_low = self.adjudication.window_low().0
                );
                if self.is_sealing {
                    self.sealed = Some((floor, lsn));
                    self.append(lsn, |at| records::sealed(at, floor));
                } else {
                    self.append(lsn, |at| records::released(at, floor));
                }
                self.phase = Phase::Releasing { released: Some(lsn) };
                false
            }
            None => false,
        }
    }

    /// The owner is not the owner any more: what is in flight is unknown, what was not decided is not decided.
    pub(super) fn give_up(&mut self) {
        self.adjudication.stop();
        self.log_stopped();
        self.waiting.let_go();
        self.let_homes_go();
        self.send_outbox();
        self.close_waiters.clear();
        if let Some(work) = self.held.take() {
            work.reply.refused(wrong_epoch(None));
        }
        for waiter in self.lease_waiters.drain(..) {
            waiter.not_owner(self.stream.0, None);
        }
    }

    fn log_stopped(&self) {
        tracing::trace!(
            target: events::TARGET, event = "stopped", stream = self.stream.0, epoch = self.replication.epoch().0
        );
    }
}
