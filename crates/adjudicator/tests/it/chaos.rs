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

const NAMES: [&str; 2] = ["a1", "a2"];
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

struct Run {
    cluster: Cluster,
    rng: StdRng,
    deciders: BTreeMap<(String, u64), Decider>,
    tried: Vec<(Txn, Option<decision::Result>)>,
    down: Option<usize>,
}

impl Run {
    async fn fault(&mut self) {
        let journal = self.rng.random_range(0..3);
        let name = *NAMES.choose(&mut self.rng).unwrap();
        match self.rng.random_range(0..7) {
            0 => self.cluster.journals[journal].hold(name),
            1 | 2 => self.cluster.journals.iter().for_each(|journal| journal.let_go()),
            3 if self.down.is_none() => {
                self.cluster.journals[journal].kill();
                self.down = Some(journal);
            }
            4 => {
                if let Some(journal) = self.down.take() {
                    self.cluster.journals[journal].restart();
                }
            }
            5 => {
                self.cluster.kill(name).await;
                self.cluster.start_adjudicator(name).await;
                self.deciders.retain(|(of, _), _| of != name);
            }
            _ => sleep(Duration::from_millis(self.rng.random_range(0..1_500))).await,
        }
    }

    async fn commit(&mut self) {
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
        let key = *KEYS.choose(&mut self.rng).unwrap();
        let age = self.rng.random_range(0..200_000_000);
        let start = Timestamp(self.cluster.now().0 - age);
        let txn = Txn::writing(self.cluster.new_txn(), start, key);
        let at = (owner.owner.clone(), owner.epoch);
        if !self.deciders.contains_key(&at) {
            let decider = self.cluster.open(&owner.owner, owner.epoch).await;
            self.deciders.insert(at.clone(), decider);
        }
        let decider = self.deciders.get_mut(&at).unwrap();
        let patience = Duration::from_millis(self.rng.random_range(1..400));
        let answer = timeout(patience, decider.try_decide(&txn)).await.ok().flatten();
        self.tried.push((txn, answer));
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
        for (txn, answer) in &self.tried {
            let recorded = commits.get(&txn.id.to_bytes()[..]);
            match answer {
                Some(decision::Result::Committed(committed)) => {
                    acknowledged += 1;
                    assert_eq!(
                        recorded.map(|entry| entry.timestamp),
                        Some(committed.commit),
                        "acknowledged, lost"
                    );
                }
                Some(decision::Result::Refused(refused)) => {
                    assert!(recorded.is_none(), "refused ({refused:?}), yet committed");
                }
                Some(decision::Result::Unknown(_)) | None => {}
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
        for (txn, _) in &self.tried {
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
        let mut run = Run {
            cluster: Cluster::start(&NAMES).await,
            rng: StdRng::seed_from_u64(seed),
            deciders: BTreeMap::new(),
            tried: Vec::new(),
            down: None,
        };
        for _ in 0..120 {
            if run.rng.random_bool(0.25) {
                run.fault().await;
            } else {
                run.commit().await;
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
