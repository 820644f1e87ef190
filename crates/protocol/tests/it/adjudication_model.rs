//! The real `Adjudication` against a plainly written second version that forgets nothing: every record of the stream, in order.
//!
//! Owners are deposed, lose what was not committed, and go on deciding as zombies; commits are retried by several query processors
//! with old and new epochs; memory is small, so that forgetting happens. Checked at every step:
//!
//! I2.  Two committed transactions that wrote the same key do not overlap.
//! I2s. A committed transaction saw, in every key it had checked, the newest version before its commit.
//! I3.  Commit timestamps strictly increase with the lsn.
//! I9.  Nobody is told *aborted* of a transaction that commits, no transaction commits twice.
//! R13. No record after the positions of a closure commits at or below it, whoever owns the stream by then.
//! And where nothing was forgotten, a transaction without a conflict does commit.

mod stream;

use std::time::Duration;

use meridian_protocol::adjudication::{
    Adjudication, AdjudicationLimits, CommitRequest, Decision, Opening, OutcomeAnswer, Refusal,
};
use meridian_protocol::takeover::RecoveredLog;
use meridian_types::{
    Attempt, CommitToken, Epoch, Interval, Key, KeyRange, Lsn, Position, RangeId, StreamId, Timestamp, TxnId,
};
use uuid::Uuid;

use crate::rng::{Rng, for_each_seed};
use stream::{Record, Stream, Transaction};

const STREAM: StreamId = StreamId(1);
const LEASE: Duration = Duration::from_nanos(400);
const CLOCK_ERROR: Duration = Duration::from_nanos(50);

/// Somebody who decides, or still believes to.
struct Owner {
    real: Adjudication,
    /// Its own view of the log: what was adopted, and what it handed out since.
    log: Vec<Record>,
}

struct World {
    rng: Rng,
    now: u64,
    limits: AdjudicationLimits,
    owner: Owner,
    zombies: Vec<Owner>,
    stream: Stream,
    txns: Vec<Transaction>,
    commits: usize,
    refusals: usize,
    retention: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let entry_bytes = 300;
        let limits = AdjudicationLimits {
            recent_writes_bytes: entry_bytes * [4, 20, 1_000][rng.below(3)],
            outcomes: [30, 10_000][rng.below(2)],
            checked_reads: 4,
            max_clock_error: CLOCK_ERROR,
            recent_commits: [2, 100][rng.below(2)],
            ..AdjudicationLimits::default()
        };
        let retention = [1_000, 100_000][rng.below(2)];
        let now = 10_000;
        let owner = open(Epoch(1), Vec::new(), now, limits);
        let mut stream = Stream::default();
        owner.log.iter().for_each(|record| stream.commit(record.clone()));
        let (zombies, txns) = (Vec::new(), Vec::new());
        Self {
            rng,
            now,
            limits,
            owner,
            zombies,
            stream,
            txns,
            commits: 0,
            refusals: 0,
            retention,
        }
    }

    fn clock(&self) -> Interval {
        Interval {
            earliest: Timestamp(self.now - CLOCK_ERROR.as_nanos() as u64),
            latest: Timestamp(self.now),
        }
    }

    fn step(&mut self) {
        self.now += self.rng.below(20) as u64;
        match self.rng.below(100) {
            0..35 => self.begin(),
            35..60 => self.commit(false),
            60..64 => self.commit(true),
            64..72 => self.replicate(),
            72..82 => self.renew_lease(),
            82..90 => self.close(),
            90..94 => self.ask_outcome(),
            94..97 => {
                let cutoff = Timestamp(self.now.saturating_sub(self.retention));
                self.owner.real.forget_outcomes_before(cutoff);
            }
            97 => self.depose(),
            98 => self.reopen(),
            _ => self.now += 300,
        }
    }

    fn key(&mut self) -> Key {
        Key::from(format!("k{:02}", self.rng.below(25)).as_str())
    }

    fn begin(&mut self) {
        let written = (0..self.rng.below(3)).map(|_| self.key()).collect();
        let reads = (0..self.rng.below(3)).map(|_| self.key_range()).collect();
        // A snapshot from this node's clock, or from one that is off.
        let start = match self.rng.below(8) {
            0 => self.now + self.rng.below(70) as u64,
            _ => self.now - self.rng.below(150) as u64,
        };
        let id = TxnId(Uuid::from_u128(self.txns.len() as u128 + 1));
        self.txns.push(Transaction {
            id,
            start: Timestamp(start),
            written,
            reads,
            told_aborted: false,
        });
    }

    fn key_range(&mut self) -> KeyRange {
        let (a, b) = (self.key(), self.key());
        match self.rng.below(4) {
            0 => KeyRange { start: a, end: None },
            1 => KeyRange::new(a.clone().min(b.clone()), a.max(b)),
            _ => KeyRange::point(a),
        }
    }

    /// A commit attempt: usually of a recent transaction, sometimes a retry of any, at the owner or at a zombie.
    fn commit(&mut self, any: bool) {
        let count = self.txns.len();
        let recent = if any { count } else { count.min(6) };
        if recent == 0 {
            return;
        }
        let index = count - 1 - self.rng.below(recent);
        let to_zombie = !self.zombies.is_empty() && self.rng.one_in(4);
        let which = if to_zombie {
            Some(self.rng.below(self.zombies.len()))
        } else {
            None
        };
        let (now, lead) = (self.clock(), Duration::from_nanos(self.rng.below(40) as u64));
        let other_epoch = self.rng.one_in(10);
        let owner = which.map_or(&mut self.owner, |zombie| &mut self.zombies[zombie]);
        let home_epoch = if other_epoch { Epoch(1) } else { owner.real.epoch() };
        let txn = &mut self.txns[index];
        let attempt = Attempt {
            txn: txn.id,
            number: 1,
            home: STREAM,
            home_epoch,
        };
        let request = CommitRequest {
            attempt,
            start: txn.start,
            written: &txn.written,
            reads: &txn.reads,
        };
        let floor_before = owner.real.floor();
        let full = owner.real.outcomes().is_full();
        let decision = owner.real.decide(&request, now, lead);
        match decision {
            Decision::Commit { commit, lsn } => {
                assert!(commit > floor_before && commit > txn.start, "R2, I3");
                assert!(commit >= now.latest.saturating_add(lead), "R2");
                assert!(home_epoch == owner.real.epoch() && now.latest < owner.real.lease_end());
                // What a zombie decides is never committed by a quorum.
                assert!(
                    to_zombie || !txn.told_aborted,
                    "I9: {txn:?} was told aborted, and commits"
                );
                stream::check_commit(&owner.log, txn, commit);
                owner.hand_out(
                    lsn,
                    Record::Commit {
                        txn: txn.clone(),
                        commit,
                    },
                );
                self.commits += 1;
            }
            Decision::Known { commit, lsn } => owner.check_known(txn, commit, lsn),
            Decision::Refused(refusal) => {
                self.refusals += 1;
                owner.check_refusal(txn, &refusal, full);
                // WrongEpoch ends an attempt; the others end the transaction. Barred is told once it is durable.
                if refusal.is_definite_abort(home_epoch)
                    && !matches!(refusal, Refusal::WrongEpoch { .. } | Refusal::Barred { .. })
                {
                    self.stream.assert_not_committed(txn.id, "told aborted");
                    txn.told_aborted = true;
                }
            }
        }
    }

    /// The quorum persists some more of the owner's records.
    fn replicate(&mut self) {
        let pending = self.owner.log.len() - self.stream.committed.len();
        for _ in 0..self.rng.below(pending + 1) {
            let record = self.owner.log[self.stream.committed.len()].clone();
            match &record {
                Record::Lease { end } => self.owner.real.on_lease_durable(*end),
                Record::Barred { txn } => {
                    let index = (txn.0.as_u128() - 1) as usize;
                    self.txns[index].told_aborted = true;
                }
                _ => {}
            }
            self.stream.commit(record);
        }
    }

    fn renew_lease(&mut self) {
        let end = Timestamp(self.now).saturating_add(LEASE);
        let lsn = self.owner.real.take_lsn();
        self.owner.hand_out(lsn, Record::Lease { end });
        if self.rng.one_in(2) {
            self.replicate();
        }
    }

    fn close(&mut self) {
        let (now, lead) = (self.clock(), Duration::from_nanos(self.rng.below(60) as u64));
        let to_zombie = !self.zombies.is_empty() && self.rng.one_in(3);
        let which = if to_zombie {
            Some(self.rng.below(self.zombies.len()))
        } else {
            None
        };
        let owner = which.map_or(&mut self.owner, |zombie| &mut self.zombies[zombie]);
        let Some(closure) = owner.real.close(now, lead) else {
            return;
        };
        assert!(closure.x <= owner.real.lease_end().max(owner.real.floor()));
        let after = closure.after.first().map_or(Lsn(0), |(_, lsn)| *lsn);
        self.stream.closures.push((closure.x, after));
        // Closures are judged against what commits in the end, so by the log of the present owner.
        stream::check_closure(&self.owner.log, closure.x, after);
    }

    fn ask_outcome(&mut self) {
        if self.txns.is_empty() {
            return;
        }
        let index = self.rng.below(self.txns.len());
        let txn = &self.txns[index];
        let token = CommitToken {
            txn: txn.id,
            start: txn.start,
            home: Some(STREAM),
        };
        let id = txn.id;
        match self.owner.real.outcome(&token, self.clock()) {
            OutcomeAnswer::Committed { commit, lsn } => self.owner.check_known(txn, commit, lsn),
            OutcomeAnswer::Bar { lsn } => {
                assert!(!self.owner.holds_commit(id), "I9: bars a committed transaction");
                self.owner.hand_out(lsn, Record::Barred { txn: id });
            }
            OutcomeAnswer::Aborted { lsn } => {
                assert!(matches!(self.owner.log[lsn.0 as usize - 1], Record::Barred { txn } if txn == id));
            }
            OutcomeAnswer::Forgotten => assert!(txn.start < self.owner.real.outcome_low()),
            OutcomeAnswer::Unavailable => assert!(self.owner.real.outcomes().is_full()),
        }
    }

    /// Another owner opens with what is committed and perhaps some of the rest.
    fn depose(&mut self) {
        let committed = self.stream.committed.len();
        let mut released = false;
        if self.rng.one_in(3) {
            let (floor, lsn) = self.owner.real.release();
            self.owner.hand_out(lsn, Record::Released { floor });
            released = self.rng.one_in(2);
        }
        let last = self.owner.log.len();
        let adopted = if released {
            last
        } else {
            committed + self.rng.below(last - committed + 1)
        };
        let epoch = self.owner.real.epoch().next();
        let log = self.owner.log[..adopted].to_vec();
        let opened = open(epoch, log, self.now, self.limits);
        let zombie = std::mem::replace(&mut self.owner, opened);
        self.zombies.push(zombie);
        if self.zombies.len() > 2 {
            self.zombies.remove(0);
        }
        // It serves nothing before its `Opened` is committed, and all before it with that.
        while self.stream.committed.len() < self.owner.log.len() {
            let record = self.owner.log[self.stream.committed.len()].clone();
            self.stream.commit(record);
        }
    }

    /// The owner fences itself anew and keeps what it knows, if nothing was lost.
    fn reopen(&mut self) {
        let last = self.owner.log.len();
        let lost = self.rng.below(last - self.stream.committed.len() + 1);
        let epoch = self.owner.real.epoch();
        let adopted = Position {
            epoch,
            lsn: Lsn((last - lost) as u64),
        };
        let end = Timestamp(self.now).saturating_add(LEASE);
        let opened = adopted.lsn.next();
        let kept = self.owner.real.reopen(epoch.next(), adopted, opened, end);
        assert_eq!(kept, lost == 0, "it keeps its state only when nothing was lost");
        if kept {
            self.owner.log.push(Record::Opened { end });
            while self.stream.committed.len() < self.owner.log.len() {
                self.replicate();
            }
        }
    }
}

/// R18: opens with what the log tells.
fn open(epoch: Epoch, mut log: Vec<Record>, now: u64, limits: AdjudicationLimits) -> Owner {
    let mut recovered = RecoveredLog::default();
    for (index, record) in log.iter().enumerate() {
        let lsn = Lsn(index as u64 + 1);
        match record {
            Record::Commit { commit, .. } => recovered.on_commit(lsn, *commit),
            Record::Lease { end } | Record::Opened { end } => recovered.on_lease(lsn, *end),
            Record::Released { floor } => recovered.on_released(lsn, *floor),
            Record::Barred { .. } => recovered.on_other(lsn),
        }
    }
    let floor = recovered.floor();
    let end = Timestamp(now).saturating_add(LEASE).max(floor);
    log.push(Record::Opened { end });
    let opened = Lsn(log.len() as u64);
    let opening = Opening {
        range: RangeId(1),
        stream: STREAM,
        epoch,
        floor,
        lease_end: end,
        opened,
        outcome_low: Timestamp::ZERO,
    };
    let mut real = Adjudication::open(opening, limits);
    for (index, record) in log.iter().enumerate() {
        let lsn = Lsn(index as u64 + 1);
        match record {
            Record::Commit { txn, commit } => real.recover_commit(txn.id, *commit, lsn),
            Record::Barred { txn } => real.recover_barred(*txn, lsn),
            _ => {}
        }
    }
    Owner { real, log }
}

#[test]
fn decisions_agree_with_a_version_that_forgets_nothing() {
    for_each_seed(100, |seed| {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step();
        }
        world.stream.check_all();
    });
}

#[test]
fn the_model_does_commit_and_refuse() {
    let (mut commits, mut refusals) = (0, 0);
    for seed in 0..10 {
        let mut world = World::new(seed);
        (0..1_500).for_each(|_| world.step());
        commits += world.commits;
        refusals += world.refusals;
    }
    assert!(
        commits > 400 && refusals > 400,
        "{commits} commits, {refusals} refusals: the model is idle"
    );
}
