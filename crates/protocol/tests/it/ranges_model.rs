//! Several ranges, each with an owner, its deposed predecessors and its log, and transactions across them (section 5, R11, R12, R19).
//!
//! Messages are lost, repeated and reordered; owners are deposed, lose what was not committed and go on voting and deciding as zombies, hand
//! over or fence themselves anew; clocks differ; memory is small. What is checked is said in [`oracle`], over the logs
//! as they are in the end.

mod messages;
mod oracle;
mod owner;
mod queries;

use std::time::Duration;

use meridian_protocol::adjudication::{AdjudicationLimits, HandedOver, HomeStep, PrepareTerms};
use meridian_types::{Attempt, Epoch, Lsn, Position, StreamId, Timestamp};

use crate::rng::{Rng, for_each_seed};
use messages::Mail;
use oracle::{Oracle, Record};
use owner::{CLOCK_ERROR, LEASE, Owner, open};
use queries::Txn;

/// What a run came to see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Commits that touch one range.
    pub single: usize,
    /// Commits that touch several.
    pub across: usize,
    /// Attempts given up by their home.
    pub gave_up: usize,
    /// Prepares ended by an abort, and by a home that had forgotten.
    pub aborted: usize,
    pub forgotten: usize,
    /// Answers to `RaiseFloor` that arrived.
    pub raised: usize,
    /// Owners that began with their predecessor's state.
    pub handed_over: usize,
}

pub struct World {
    rng: Rng,
    now: u64,
    limits: AdjudicationLimits,
    prepare_timeout: u64,
    retention: u64,
    /// How many messages in ten are lost, and how many are repeated.
    loss: usize,
    current: Vec<Owner>,
    zombies: Vec<Vec<Owner>>,
    /// What the last owner that released its stream has handed over; it may arrive late.
    handed: Vec<Option<HandedOver>>,
    mail: Vec<Mail>,
    txns: Vec<Txn>,
    oracle: Oracle,
    seen: Seen,
}

/// Which owner of a stream.
#[derive(Clone, Copy)]
enum Who {
    Current(usize),
    Zombie(usize, usize),
}

impl Who {
    fn stream(self) -> usize {
        match self {
            Self::Current(stream) | Self::Zombie(stream, _) => stream,
        }
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let limits = AdjudicationLimits {
            recent_writes_bytes: 300 * [4, 20, 1_000][rng.below(3)],
            outcomes: [60, 10_000][rng.below(2)],
            checked_reads: 4,
            max_clock_error: Duration::from_nanos(2 * CLOCK_ERROR),
            recent_commits: [2, 100][rng.below(2)],
            open_attempts: [4, 100][rng.below(2)],
            open_bytes: 1 << 20,
            barred_attempts: [3, 1_000][rng.below(2)],
        };
        let streams = 2 + rng.below(3);
        let now = 10_000;
        let mut oracle = Oracle {
            committed: vec![Vec::new(); streams],
            ..Oracle::default()
        };
        let current: Vec<Owner> = (0..streams)
            .map(|stream| {
                let ahead = rng.below(2 * CLOCK_ERROR as usize) as u64;
                open(stream, streams, Epoch(1), Vec::new(), (now, ahead), limits, None)
            })
            .collect();
        for (stream, owner) in current.iter().enumerate() {
            oracle.commit(stream, owner.log[0].clone());
        }
        Self {
            now,
            limits,
            prepare_timeout: [60, 250, 800][rng.below(3)],
            retention: [600, 1_000_000][rng.below(2)],
            loss: rng.below(3),
            zombies: current.iter().map(|_| Vec::new()).collect(),
            handed: vec![None; streams],
            current,
            mail: Vec::new(),
            txns: Vec::new(),
            oracle,
            seen: Seen::default(),
            rng,
        }
    }

    pub fn run(&mut self, steps: usize) -> Seen {
        for _ in 0..steps {
            self.step();
        }
        self.heal();
        self.seen
    }

    fn step(&mut self) {
        self.now += self.rng.below(4) as u64;
        let stream = self.rng.below(self.current.len());
        match self.rng.below(200) {
            0..130 => self.deliver(),
            130..137 => self.begin(),
            137..142 => self.poke(),
            142..154 => self.replicate(stream),
            154..172 => self.close(stream),
            172..178 => self.ask_about_prepares(stream),
            178..182 => self.settle(Who::Current(stream)),
            182 => self.ask_outcome(),
            183..185 => {
                let cutoff = Timestamp(self.now.saturating_sub(self.retention));
                self.current[stream].real.forget_outcomes_before(cutoff);
            }
            185..194 => self.renew(stream),
            194 => self.depose(stream),
            195 => self.reopen(stream),
            196 => self.now += 60,
            _ => self.ask_raises(stream),
        }
    }

    /// The owner in office, or one that was deposed.
    fn who(&mut self, stream: usize) -> Who {
        let zombies = self.zombies[stream].len();
        if zombies > 0 && self.rng.one_in(12) {
            Who::Zombie(stream, self.rng.below(zombies))
        } else {
            Who::Current(stream)
        }
    }

    fn owner(&mut self, who: Who) -> &mut Owner {
        match who {
            Who::Current(stream) => &mut self.current[stream],
            Who::Zombie(stream, zombie) => &mut self.zombies[stream][zombie],
        }
    }

    fn terms(&mut self) -> PrepareTerms {
        PrepareTerms {
            lead: Duration::from_nanos(self.rng.below(40) as u64),
            to_home: Duration::from_nanos(self.rng.below(60) as u64),
            prepare_timeout: Duration::from_nanos(self.prepare_timeout),
        }
    }

    /// The quorum persists some more of the owner's records.
    fn replicate(&mut self, stream: usize) {
        let committed = self.oracle.committed[stream].len();
        let pending = self.current[stream].log.len() - committed;
        let more = self.rng.below(pending + 1);
        self.replicate_to(stream, committed + more);
    }

    fn replicate_to(&mut self, stream: usize, end: usize) {
        let owner = &mut self.current[stream];
        for entry in &owner.log[self.oracle.committed[stream].len()..end] {
            match &entry.record {
                Record::Lease { end } => owner.real.on_lease_durable(*end),
                Record::Barred { txn } => {
                    self.oracle.told_aborted.insert(*txn);
                }
                _ => {}
            }
            self.oracle.commit(stream, entry.clone());
        }
        owner.known = owner.known.max(end);
        self.answer_raises(stream);
        self.settle(Who::Current(stream));
    }

    fn renew(&mut self, stream: usize) {
        let now = self.now;
        self.current[stream].renew(now);
        self.replicate(stream);
    }

    fn close(&mut self, stream: usize) {
        let who = self.who(stream);
        let lead = Duration::from_nanos(self.rng.below(60) as u64);
        let now = self.now;
        let owner = self.owner(who);
        let clock = owner.clock(now);
        if let Some(closure) = owner.real.close(clock, lead) {
            assert!(closure.x <= owner.real.lease_end().max(owner.real.floor()));
            self.oracle.note_closure(stream, &closure);
        }
        self.settle(who);
    }

    /// What time did to the attempts that wait.
    fn settle(&mut self, who: Who) {
        let now = self.now;
        let owner = self.owner(who);
        let clock = owner.clock(now);
        for (attempt, step) in owner.real.settle_homes(clock) {
            self.on_home_step(who, attempt, step);
        }
    }

    /// Another owner opens with what is committed and perhaps some of the rest.
    fn depose(&mut self, stream: usize) {
        if self.rng.one_in(2) {
            return;
        }
        let committed = self.oracle.committed[stream].len();
        let mut released = false;
        if self.rng.one_in(2) {
            let (floor, lsn) = self.current[stream].real.release();
            self.current[stream].hand_out(lsn, Record::Released { floor });
            released = !self.rng.one_in(4);
            let max_bytes = [200, 1_000_000][self.rng.below(2)];
            self.handed[stream] = Some(self.current[stream].real.hand_over(max_bytes));
        }
        let owner = &self.current[stream];
        let last = owner.log.len();
        let adopted = match released {
            true => last,
            false => committed + self.rng.below(last - committed + 1),
        };
        let log = owner.log[..adopted].to_vec();
        let epoch = owner.real.epoch().next();
        let ahead = self.rng.below(2 * CLOCK_ERROR as usize) as u64;
        let streams = self.current.len();
        // Whatever was handed over last, if it has arrived: it may be that of another end of the log.
        let handed = self.handed[stream].as_ref().filter(|_| !self.rng.one_in(4));
        let opened = open(
            stream,
            streams,
            epoch,
            log,
            (self.now, ahead),
            self.limits,
            handed,
        );
        self.seen.handed_over += usize::from(opened.was_handed);
        let zombie = std::mem::replace(&mut self.current[stream], opened);
        self.zombies[stream].push(zombie);
        if self.zombies[stream].len() > 2 {
            self.zombies[stream].remove(0);
        }
        // It serves nothing before its `Opened` is committed, and all before it with that.
        let end = self.current[stream].log.len();
        self.replicate_to(stream, end);
    }

    /// The owner fences itself anew and keeps what it knows, if nothing was lost.
    fn reopen(&mut self, stream: usize) {
        let owner = &mut self.current[stream];
        let (last, epoch) = (owner.log.len(), owner.real.epoch());
        let adopted = Position {
            epoch,
            lsn: Lsn(last as u64),
        };
        let end = Timestamp(self.now + owner.ahead)
            .saturating_add(LEASE)
            .max(owner.lease_asked);
        let opened = adopted.lsn.next();
        // Its log may end in another epoch's entry, until it has handed out one of its own.
        if !owner.real.reopen(epoch.next(), adopted, opened, end) {
            return;
        }
        owner.lease_asked = end;
        let record = Record::Opened { end };
        owner.log.push(oracle::Entry {
            epoch: epoch.next(),
            record,
        });
        let end = owner.log.len();
        self.replicate_to(stream, end);
    }

    /// Every message arrives, everybody asks, everything is replicated: nothing stays open, and all invariants hold.
    fn heal(&mut self) {
        self.loss = 0;
        for round in 0..8 {
            self.now += 1_000;
            if round == 4 {
                // No query processor begins another attempt.
                self.txns.iter_mut().for_each(|txn| txn.done = true);
            }
            for stream in 0..self.current.len() {
                self.renew(stream);
                self.replicate_to(stream, self.current[stream].log.len());
                while let Some(mail) = self.mail.pop() {
                    self.take(mail);
                }
                self.ask_about_all(stream);
            }
        }
        for owner in &self.current {
            let open: Vec<_> = owner.real.open_prepares().collect();
            assert!(open.is_empty(), "open for ever: {open:?}");
            assert_eq!(owner.real.waiting_homes(), 0, "it waits for ever");
            assert_eq!(owner.real.lowest_open(), None);
        }
        self.oracle.check();
    }

    fn on_home_step(&mut self, who: Who, attempt: Attempt, step: HomeStep) {
        let stream = who.stream();
        let (index, txn) = self.txn_of(&attempt);
        let owner = self.owner(who);
        match step {
            HomeStep::Waiting => {}
            HomeStep::Commit { commit, lsn } => {
                assert!(commit > txn.start, "R2");
                let epoch = owner.real.epoch();
                let record = Record::Commit {
                    txn: txn.clone(),
                    commit,
                };
                owner.hand_out(lsn, record);
                self.oracle.check_votes(&attempt, &txn.others(), commit);
                self.seen.across += usize::from(matches!(who, Who::Current(_)));
                self.tell_decided(index, attempt, epoch, lsn, commit);
            }
            HomeStep::Known { commit, lsn } => {
                let epoch = owner.epoch_of(lsn);
                self.tell_decided(index, attempt, epoch, lsn, commit);
            }
            HomeStep::GaveUp(refusal) => {
                self.seen.gave_up += 1;
                // A barred transaction is told to be aborted once that is durable: by `replicate_to`.
                self.tell_gave_up(index, attempt, refusal);
            }
            HomeStep::Refused(refusal) => self.send(Mail::Refused {
                txn: index,
                attempt,
                refusal,
            }),
        }
        assert_eq!(attempt.home, StreamId(stream as u64 + 1));
    }
}

#[test]
fn transactions_across_ranges_are_atomic_isolated_and_told_the_truth() {
    #[cfg(feature = "mutation")]
    crate::broken_rules::arm();
    for_each_seed(150, |seed| {
        World::new(seed).run(3_000);
    });
}

#[test]
fn the_model_of_ranges_sees_everything_happen() {
    let mut all = Seen::default();
    for seed in 0..20 {
        let seen = World::new(seed).run(3_000);
        all.single += seen.single;
        all.across += seen.across;
        all.gave_up += seen.gave_up;
        all.aborted += seen.aborted;
        all.forgotten += seen.forgotten;
        all.raised += seen.raised;
        all.handed_over += seen.handed_over;
    }
    let enough = all.single > 150 && all.across > 120 && all.gave_up > 200;
    let enough = enough && all.aborted > 100 && all.forgotten > 3 && all.raised > 50 && all.handed_over > 20;
    assert!(enough, "the model is idle: {all:?}");
}
