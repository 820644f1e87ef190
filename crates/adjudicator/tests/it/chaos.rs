//! Random faults: whatever happens, what was acknowledged is in the log, the first committer wins, closures hold, and
//! outcomes say what the log says.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{Entry, LocateRequest, WriteSet, decision};
use meridian_types::Timestamp;
use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

use super::closures::check_closures;
use super::cluster::{Cluster, Decider, STREAM, Txn};
use super::outcomes::attempt_outcome;

const NAMES: [&str; 2] = ["a1", "a2"];
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

struct Run {
    cluster: Cluster,
    rng: StdRng,
    deciders: BTreeMap<(String, u64), Decider>,
    tried: Vec<Tried>,
    down: Option<usize>,
}

/// A transaction, with its last attempt.
struct Tried {
    txn: Txn,
    epoch: u64,
    /// What its client would know: when it committed; that it has not and will not by what was sent so far; or nothing.
    known: Option<Option<u64>>,
    /// What the home said to the question for the transaction, finally.
    told: Option<Outcome>,
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
                self.deciders.retain(|(of, _), _| of != name);
            }
            6 => {
                // A candidate of which nobody else hears.
                let epoch = self.cluster.journals[journal].promised().next().0;
                if self.down != Some(journal) && !self.cluster.journals[journal].is_rejoining() {
                    self.cluster.journals[journal].promise(epoch, "ghost");
                }
            }
            _ => sleep(Duration::from_millis(self.rng.random_range(0..1_500))).await,
        }
    }

    /// An attempt whose end is not known is asked about; when it is aborted, it arrives late, and another one is sent.
    async fn resolve(&mut self) {
        let open: Vec<usize> = (0..self.tried.len())
            .filter(|index| self.tried[*index].known.is_none())
            .collect();
        let Some(index) = open.choose(&mut self.rng).copied() else {
            return;
        };
        let asked = *NAMES.choose(&mut self.rng).unwrap();
        let Tried { txn, epoch, .. } = &self.tried[index];
        let (txn, epoch) = (txn.clone(), *epoch);
        if self.rng.random_bool(0.2) {
            let question = self.cluster.outcome(asked, txn.id, txn.start);
            if let Ok(answer) = timeout(Duration::from_secs(1), question).await
                && answer.outcome() != Outcome::NotOwner
            {
                self.tried[index].told = Some(answer.outcome());
            }
            return;
        }
        let question = attempt_outcome(&self.cluster, asked, &txn, epoch);
        let Ok(answer) = timeout(Duration::from_secs(2), question).await else {
            return;
        };
        match answer.outcome() {
            Outcome::Committed => self.tried[index].known = Some(Some(answer.commit)),
            Outcome::Aborted => {
                self.tried[index].known = Some(None);
                let next = Txn {
                    number: txn.number + 1,
                    ..txn.clone()
                };
                self.send_late(&txn, epoch).await;
                self.attempt(Some(index), next).await;
            }
            _ => {}
        }
    }

    /// An attempt arrives that was given up: never is it committed now.
    async fn send_late(&mut self, txn: &Txn, epoch: u64) {
        for name in NAMES {
            if let Some(decider) = self.deciders.get_mut(&(name.to_owned(), epoch)) {
                let answer = timeout(Duration::from_millis(50), decider.try_decide(txn)).await;
                let committed = matches!(answer, Ok(Some(decision::Result::Committed(_))));
                assert!(!committed, "{txn_id} was aborted", txn_id = txn.id);
            }
        }
    }

    async fn commit(&mut self) {
        let key = *KEYS.choose(&mut self.rng).unwrap();
        let age = self.rng.random_range(0..200_000_000);
        let start = Timestamp(self.cluster.now().0 - age);
        let txn = Txn::writing(self.cluster.new_txn(), start, key);
        self.attempt(None, txn).await;
    }

    /// Sends an attempt to whoever owns the stream, if somebody does, and notes it.
    async fn attempt(&mut self, index: Option<usize>, txn: Txn) {
        let asked = *NAMES.choose(&mut self.rng).unwrap();
        let request = LocateRequest {
            stream: STREAM,
            passive: false,
        };
        let mut client = self.cluster.client(asked);
        let Ok(Ok(owner)) = timeout(Duration::from_secs(3), client.locate(request)).await else {
            return;
        };
        let owner = owner.into_inner();
        if owner.owner.is_empty() {
            return;
        }
        let at = (owner.owner.clone(), owner.epoch);
        if !self.deciders.contains_key(&at) {
            let decider = self.cluster.open(&owner.owner, owner.epoch).await;
            self.deciders.insert(at.clone(), decider);
        }
        let decider = self.deciders.get_mut(&at).unwrap();
        let patience = Duration::from_millis(self.rng.random_range(1..400));
        let is_lost = self.rng.random_bool(0.1);
        let answer = if is_lost {
            None
        } else {
            timeout(patience, decider.try_decide(&txn)).await.ok().flatten()
        };
        let tried = Tried {
            txn,
            epoch: owner.epoch,
            known: known(answer),
            told: None,
        };
        match index {
            None => self.tried.push(tried),
            Some(index) => {
                let told = self.tried[index].told;
                self.tried[index] = Tried { told, ..tried };
            }
        }
    }

    async fn heal_and_check(mut self) -> (usize, u64) {
        for journal in &self.cluster.journals {
            journal.let_go();
        }
        if let Some(journal) = self.down.take() {
            self.cluster.journals[journal].restart();
        }
        sleep(Duration::from_secs(5)).await;
        let (owner, epoch) = self.cluster.locate("a1").await;
        sleep(Duration::from_secs(2)).await;
        let fence = Txn::writing(self.cluster.new_txn(), self.cluster.now(), "end");
        self.cluster.open(&owner, epoch).await.commit(&fence).await;
        let log = self.cluster.journals[0].entries();
        let commits = check_log(&log);
        let mut acknowledged = 0;
        for tried in &self.tried {
            let txn = &tried.txn;
            let recorded = commits.get(&txn.id.to_bytes()[..]);
            if let Some(known) = tried.known {
                acknowledged += usize::from(known.is_some());
                assert_eq!(
                    recorded.map(|entry| entry.timestamp),
                    known,
                    "acknowledged and lost, or aborted and committed: {txn_id}",
                    txn_id = txn.id
                );
            }
            if let Some(told) = tried.told {
                let expected = recorded.map_or(Outcome::Aborted, |_| Outcome::Committed);
                assert_eq!(told, expected, "I9, asked meanwhile");
            }
            let told = self.cluster.outcome(&owner, txn.id, txn.start).await;
            let expected = recorded.map_or(Outcome::Aborted, |_| Outcome::Committed);
            assert_eq!(told.outcome(), expected, "I9");
        }
        self.check_first_committer_wins(&commits);
        check_closures(&self.cluster);
        (acknowledged, epoch)
    }

    /// I2: nobody else wrote the key between a transaction's start and its commit.
    fn check_first_committer_wins(&self, commits: &BTreeMap<Vec<u8>, Entry>) {
        for Tried { txn, .. } in &self.tried {
            let Some(entry) = commits.get(&txn.id.to_bytes()[..]) else {
                continue;
            };
            for other in commits.values().filter(|other| keys(other) == keys(entry)) {
                let overlaps = other.timestamp > txn.start.0 && other.timestamp < entry.timestamp;
                assert!(!overlaps, "I2: {txn_id} and {other:?}", txn_id = txn.id);
            }
        }
    }
}

/// What an answer means for the attempt.
fn known(answer: Option<decision::Result>) -> Option<Option<u64>> {
    match answer? {
        decision::Result::Committed(committed) => Some(Some(committed.commit)),
        decision::Result::Refused(_) => Some(None),
        // The last two are not sent to what was asked.
        decision::Result::Unknown(_) | decision::Result::Decided(_) | decision::Result::Voted(_) => None,
    }
}

fn keys(entry: &Entry) -> Vec<bytes::Bytes> {
    let writes = WriteSet::decode(entry.payload.clone()).unwrap().writes;
    writes.into_iter().map(|write| write.key).collect()
}

/// I3, and no transaction twice.
fn check_log(log: &[Entry]) -> BTreeMap<Vec<u8>, Entry> {
    let mut commits = BTreeMap::new();
    let mut newest = 0;
    for entry in log.iter().filter(|entry| entry.kind() == Kind::Commit) {
        assert!(entry.timestamp > newest, "I3");
        newest = entry.timestamp;
        assert!(
            commits.insert(entry.txn.to_vec(), entry.clone()).is_none(),
            "applied twice"
        );
    }
    commits
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_log_says_what_was_said() {
    let (mut acknowledged, mut epochs) = (0, 0);
    let seeds = std::env::var("MERIDIAN_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(10);
    for seed in 0..seeds {
        // Shown when the test fails.
        println!("seed {seed}");
        let mut run = Run {
            cluster: Cluster::start(&NAMES).await,
            rng: StdRng::seed_from_u64(seed),
            deciders: BTreeMap::new(),
            tried: Vec::new(),
            down: None,
        };
        for _ in 0..120 {
            match run.rng.random_range(0..8) {
                0 | 1 => run.fault().await,
                2 | 3 => run.resolve().await,
                _ => run.commit().await,
            }
        }
        let (of_this, epoch) = run.heal_and_check().await;
        acknowledged += of_this as u64;
        epochs += epoch;
    }
    assert!(
        acknowledged > 5 * seeds && epochs > 2 * seeds,
        "the runs are too tame: {acknowledged} commits, {epochs} epochs"
    );
}
