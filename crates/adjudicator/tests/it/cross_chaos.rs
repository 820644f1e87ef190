//! Random faults and transactions across two ranges: whatever happens, the logs of both streams together say what was said.

mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::Timestamp;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::*;
use meridian_types::{Attempt, Epoch, Key, KeyRange, StreamId, TxnId};
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, Decider};

const NAMES: [&str; 2] = ["a1", "a2"];
/// By range; the ranges divide at "m".
const KEYS: [[&str; 3]; 2] = [["a", "b", "c"], ["x", "y", "z"]];

/// A transaction, with its last attempt.
#[derive(Clone)]
struct Tried {
    id: TxnId,
    start: Timestamp,
    home: u64,
    number: u32,
    epoch: u64,
    /// By stream.
    writes: BTreeMap<u64, &'static str>,
    reads: BTreeMap<u64, &'static str>,
    /// When it committed; that its last attempt never will; or nothing.
    known: Option<Option<u64>>,
    /// What its home said to the question for the transaction.
    told: Option<Outcome>,
}

struct Run {
    cluster: Cluster,
    rng: StdRng,
    deciders: BTreeMap<String, Decider>,
    tried: Vec<Tried>,
    down: Option<usize>,
}

impl Tried {
    fn attempt(&self) -> AttemptName {
        let attempt = Attempt {
            txn: self.id,
            number: self.number,
            home: StreamId(self.home),
            home_epoch: Epoch(self.epoch),
        };
        attempt.into()
    }

    fn others(&self) -> Vec<u64> {
        let touched = self.writes.keys().chain(self.reads.keys()).copied();
        let mut others: Vec<u64> = touched.filter(|stream| *stream != self.home).collect();
        others.dedup();
        others
    }

    fn reads_of(&self, stream: u64) -> Vec<ReadRange> {
        let key = self.reads.get(&stream).copied();
        key.into_iter()
            .map(|key| KeyRange::point(Key::from(key)).into())
            .collect()
    }

    fn home_part(&self, owners: &BTreeMap<u64, String>) -> DecideBatch {
        let record = |key: &&'static str| WriteRecord {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::from_static(b"value")),
        };
        let writes = WriteSet {
            writes: self.writes.values().map(record).collect(),
        };
        let participant = |stream: u64| Participant {
            stream,
            node: owners[&stream].clone(),
        };
        let request = DecideRequest {
            attempt: Some(self.attempt()),
            start: self.start.0,
            write_set: writes.encode_to_vec().into(),
            reads: self.reads_of(self.home),
            participants: self.others().into_iter().map(participant).collect(),
            ..DecideRequest::default()
        };
        DecideBatch {
            requests: vec![request],
            ..DecideBatch::default()
        }
    }

    fn other_part(&self, stream: u64, owners: &BTreeMap<u64, String>) -> DecideBatch {
        let key = self.writes.get(&stream).copied();
        let request = PrepareRequest {
            attempt: Some(self.attempt()),
            start: self.start.0,
            stream,
            keys: key
                .into_iter()
                .map(|key| Bytes::from_static(key.as_bytes()))
                .collect(),
            reads: self.reads_of(stream),
            home_node: owners[&self.home].clone(),
            ..PrepareRequest::default()
        };
        DecideBatch {
            prepares: vec![request],
            ..DecideBatch::default()
        }
    }

    /// What an answer of the home means for the attempt.
    fn learn(&mut self, answer: Option<decision::Result>) {
        self.known = match answer {
            Some(decision::Result::Committed(committed)) => Some(Some(committed.commit)),
            Some(decision::Result::Refused(refused)) => {
                let is_definite = match refused.reason() {
                    Reason::Conflict | Reason::SnapshotTooOld | Reason::GaveUp => true,
                    Reason::WrongEpoch => refused.epoch > self.epoch,
                    _ => false,
                };
                is_definite.then_some(None)
            }
            _ => None,
        };
    }
}

impl Run {
    async fn fault(&mut self) {
        let journal = self.rng.random_range(0..3);
        let name = *NAMES.choose(&mut self.rng).unwrap();
        let fault = self.rng.random_range(0..9);
        if self.cluster.journal_fault(fault, journal, name, &mut self.down) {
            return;
        }
        match fault {
            5 => {
                self.cluster.kill(name).await;
                self.cluster.start_adjudicator(name).await;
                self.deciders.clear();
            }
            6 => {
                // A clean end, and the beginning of another process.
                let stopped = timeout(Duration::from_secs(10), self.cluster.stop(name)).await;
                assert!(stopped.is_ok(), "it does not end");
                self.cluster.start_adjudicator(name).await;
                self.deciders.clear();
            }
            _ => sleep(Duration::from_millis(self.rng.random_range(0..1_500))).await,
        }
    }

    async fn begin(&mut self) {
        let mut pick = |odds: f64| {
            let mut picked = BTreeMap::new();
            for (stream, keys) in (1..).zip(KEYS) {
                if self.rng.random_bool(odds) {
                    picked.insert(stream, *keys.choose(&mut self.rng).unwrap());
                }
            }
            picked
        };
        let (writes, reads) = (pick(0.8), pick(0.3));
        let streams: Vec<u64> = writes.keys().copied().collect();
        let Some(home) = streams.choose(&mut self.rng).copied() else {
            return;
        };
        let age = self.rng.random_range(0..200_000_000);
        self.tried.push(Tried {
            id: self.cluster.new_txn(),
            start: Timestamp(self.cluster.now().0 - age),
            home,
            number: 0,
            epoch: 0,
            writes,
            reads,
            known: Some(None),
            told: None,
        });
        self.attempt(self.tried.len() - 1).await;
    }

    async fn owner(&mut self, stream: u64) -> Option<(String, u64)> {
        let asked = *NAMES.choose(&mut self.rng).unwrap();
        let request = LocateRequest {
            stream,
            passive: false,
        };
        let mut client = self.cluster.client(asked);
        let answer = timeout(Duration::from_secs(3), client.locate(request)).await;
        let owner = answer.ok()?.ok()?.into_inner();
        (!owner.owner.is_empty()).then_some((owner.owner, owner.epoch))
    }

    /// The owners of all streams that it touches, and the epoch of its home.
    async fn owners(&mut self, tried: &Tried) -> Option<(BTreeMap<u64, String>, u64)> {
        let mut owners = BTreeMap::new();
        for stream in tried.others() {
            owners.insert(stream, self.owner(stream).await?.0);
        }
        let (home, epoch) = self.owner(tried.home).await?;
        owners.insert(tried.home, home);
        Some((owners, epoch))
    }

    /// The next attempt; the one before is known to be aborted.
    async fn attempt(&mut self, index: usize) {
        let tried = self.tried[index].clone();
        let Some((owners, epoch)) = self.owners(&tried).await else {
            return;
        };
        let tried = &mut self.tried[index];
        (tried.number, tried.epoch, tried.known) = (tried.number + 1, epoch, None);
        let tried = tried.clone();
        let answer = self.send(&tried, &owners).await;
        self.tried[index].learn(answer);
    }

    /// Sends the parts of an attempt, some of them twice or not at all, and waits a while for the home's answer.
    async fn send(&mut self, tried: &Tried, owners: &BTreeMap<u64, String>) -> Option<decision::Result> {
        let mut streams = tried.others();
        let place = self.rng.random_range(0..=streams.len());
        streams.insert(place, tried.home);
        let mut asked = None;
        for stream in streams {
            for _ in 0..[1, 1, 1, 1, 1, 1, 1, 1, 0, 2]
                .choose(&mut self.rng)
                .copied()
                .unwrap()
            {
                let part = match stream == tried.home {
                    true => tried.home_part(owners),
                    false => tried.other_part(stream, owners),
                };
                let id = self.send_to(&owners[&stream], part).await;
                if stream == tried.home {
                    asked = Some(id);
                }
            }
            if self.rng.random_bool(0.2) {
                sleep(Duration::from_millis(self.rng.random_range(0..80))).await;
            }
        }
        let patience = Duration::from_millis(self.rng.random_range(1..800));
        let decider = self.deciders.get_mut(&owners[&tried.home])?;
        let answer = timeout(patience, decider.try_answer(asked?)).await;
        answer.ok().flatten()
    }

    async fn send_to(&mut self, name: &str, part: DecideBatch) -> u64 {
        if !self.deciders.contains_key(name) {
            let decider = self.cluster.open(name, 0).await;
            self.deciders.insert(name.to_owned(), decider);
        }
        let decider = self.deciders.get_mut(name).unwrap();
        let numbered = |id| {
            let mut part = part;
            part.requests.iter_mut().for_each(|request| request.id = id);
            part.prepares.iter_mut().for_each(|request| request.id = id);
            part
        };
        decider.send_part(numbered).await
    }

    /// An attempt whose end is not known is asked about. When it is aborted, it arrives once more, and another one is sent.
    async fn resolve(&mut self) {
        let open: Vec<usize> = (0..self.tried.len())
            .filter(|index| !matches!(self.tried[*index].known, Some(Some(_))))
            .collect();
        let Some(index) = open.choose(&mut self.rng).copied() else {
            return;
        };
        let tried = self.tried[index].clone();
        if self.rng.random_bool(0.1) {
            let answer = self.outcome(&tried, Duration::from_secs(1)).await;
            self.tried[index].told = answer.or(tried.told);
            return;
        }
        if tried.known.is_none() {
            let asked = *NAMES.choose(&mut self.rng).unwrap();
            let query = AttemptQuery {
                attempt: Some(tried.attempt()),
                start: tried.start.0,
                give_up: self.rng.random_bool(0.3),
            };
            let mut client = self.cluster.client(asked);
            let answer = timeout(Duration::from_secs(2), client.attempt_outcome(query)).await;
            let Ok(Ok(answer)) = answer.map(|answer| answer.map(tonic::Response::into_inner)) else {
                return;
            };
            match answer.outcome() {
                Outcome::Committed => self.tried[index].known = Some(Some(answer.commit)),
                Outcome::Aborted => self.tried[index].known = Some(None),
                _ => {}
            }
        }
        if self.tried[index].known != Some(None) {
            return;
        }
        // It was aborted for good: what arrives late of it changes nothing.
        if self.rng.random_bool(0.5)
            && let Some((owners, _)) = self.owners(&tried).await
        {
            let late = self.send(&tried, &owners).await;
            let committed = matches!(late, Some(decision::Result::Committed(_)));
            assert!(!committed, "I9: {} was aborted", tried.id);
        }
        if self.tried[index].number < 8 {
            self.attempt(index).await;
        }
    }

    async fn outcome(&self, tried: &Tried, patience: Duration) -> Option<Outcome> {
        let query = OutcomeQuery {
            txn: tried.id.to_bytes(),
            start: tried.start.0,
            stream: tried.home,
            home_unknown: false,
        };
        let ask = async {
            loop {
                for name in NAMES {
                    let Ok(answer) = self.cluster.client(name).outcome(query.clone()).await else {
                        continue;
                    };
                    let outcome = answer.into_inner().outcome();
                    if !matches!(outcome, Outcome::Pending | Outcome::NotOwner) {
                        return outcome;
                    }
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(patience, ask).await.ok()
    }

    /// Everything works again: every key can be written, and everything that was said is so.
    async fn heal_and_check(mut self) -> check::Counts {
        for journal in &self.cluster.journals {
            journal.let_go();
        }
        if let Some(journal) = self.down.take() {
            self.cluster.journals[journal].restart();
        }
        sleep(Duration::from_secs(5)).await;
        self.deciders.clear();
        for (stream, keys) in (1..).zip(KEYS) {
            for key in keys {
                self.write_at_last(stream, key).await;
            }
        }
        sleep(Duration::from_secs(2)).await;
        let mut asked = Vec::new();
        for tried in &self.tried {
            let told = self.outcome(tried, Duration::from_secs(20)).await;
            asked.push(told.expect("somebody knows"));
        }
        check::all(&self.cluster, &self.tried, &asked)
    }

    async fn write_at_last(&mut self, stream: u64, key: &'static str) {
        let index = self.tried.len();
        self.tried.push(Tried {
            id: self.cluster.new_txn(),
            start: Timestamp::ZERO,
            home: stream,
            number: 0,
            epoch: 0,
            writes: BTreeMap::from([(stream, key)]),
            reads: BTreeMap::new(),
            known: Some(None),
            told: None,
        });
        for _ in 0..200 {
            if !matches!(self.tried[index].known, Some(Some(_))) {
                let tried = &mut self.tried[index];
                (tried.id, tried.start) = (self.cluster.new_txn(), self.cluster.now());
                self.attempt(index).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let known = self.tried[index].known;
        assert!(matches!(known, Some(Some(_))), "{key} cannot be written any more");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_both_logs_say_what_was_said() {
    let mut all = check::Counts::default();
    let seeds = std::env::var("MERIDIAN_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(8);
    let first = std::env::var("MERIDIAN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(0);
    for seed in first..first + seeds {
        // Shown when the test fails.
        println!("seed {seed}");
        let mut run = Run {
            cluster: Cluster::start_two_ranges(NAMES, Default::default()).await,
            rng: StdRng::seed_from_u64(seed),
            deciders: BTreeMap::new(),
            tried: Vec::new(),
            down: None,
        };
        for _ in 0..120 {
            match run.rng.random_range(0..10) {
                0 | 1 => run.fault().await,
                2 | 3 => run.resolve().await,
                _ => run.begin().await,
            }
        }
        let counts = run.heal_and_check().await;
        println!("{counts:?}");
        all.across += counts.across;
        all.single += counts.single;
        all.closures += counts.closures;
    }
    assert!(
        all.across > 3 * seeds as usize && all.single > 3 * seeds as usize && all.closures > 100,
        "the runs are too tame: {all:?}"
    );
}
