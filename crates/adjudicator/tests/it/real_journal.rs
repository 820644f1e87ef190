//! The same adjudicators against the real journal nodes, on disks in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_adjudicator::Config;
use meridian_journal::files::MemoryFiles;
use meridian_journal::{DiskIdentity, Writer, disk};
use meridian_rpc::Started;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_types::{DiskId, NodeName};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use uuid::Uuid;

use super::cluster::{CLUSTER, Cluster, Txn};

struct RealNode {
    identity: DiskIdentity,
    files: MemoryFiles,
    running: Option<(Started, CancellationToken)>,
}

pub struct RealJournal {
    config: meridian_journal::Config,
    names: Vec<NodeName>,
    nodes: BTreeMap<NodeName, RealNode>,
}

impl RealJournal {
    pub async fn start(cluster: &Cluster, names: &[NodeName]) -> Self {
        let config = meridian_journal::Config {
            segment_bytes: 1 << 20,
            ..meridian_journal::Config::default()
        };
        Self::start_with(cluster, names, config).await
    }

    pub async fn start_with(cluster: &Cluster, names: &[NodeName], config: meridian_journal::Config) -> Self {
        let mut journal = Self {
            config,
            names: names.to_vec(),
            nodes: BTreeMap::new(),
        };
        for (number, name) in names.iter().enumerate() {
            let identity = DiskIdentity {
                cluster: CLUSTER,
                node: name.clone(),
                disk_id: DiskId(Uuid::from_u128(number as u128 + 1)),
                rejoining: false,
            };
            let files = MemoryFiles::new();
            disk::initialise_in(&files, &identity).unwrap();
            let running = None;
            journal.nodes.insert(
                name.clone(),
                RealNode {
                    identity,
                    files,
                    running,
                },
            );
            journal.run(cluster, &name.0).await;
        }
        journal
    }

    /// The node's disk is lost, and another one is in its place.
    pub fn replace_disk(&mut self, name: &str) {
        let node = self.nodes.get_mut(&NodeName::from(name)).unwrap();
        let number = node.identity.disk_id.0.as_u128() + 100;
        node.identity.disk_id = DiskId(Uuid::from_u128(number));
        node.identity.rejoining = true;
        node.files = MemoryFiles::new();
        disk::replace_in(&node.files, &node.identity).unwrap();
    }

    pub async fn run(&mut self, cluster: &Cluster, name: &str) {
        let config = meridian_journal::Config {
            writer: Writer::Task,
            ..self.config.clone()
        };
        let names = self.names.clone();
        let node = self.nodes.get_mut(&NodeName::from(name)).unwrap();
        let shutdown = CancellationToken::new();
        let (env, _) = cluster.env(name);
        let files = Arc::new(node.files.clone());
        let identity = node.identity.clone();
        let started = meridian_journal::start(config, env, identity, names, files, shutdown.clone())
            .await
            .unwrap();
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        cluster.local.register(name.into(), routes.routes());
        node.running = Some((started, shutdown));
    }

    pub async fn kill(&mut self, cluster: &Cluster, name: &str) {
        let node = self.nodes.get_mut(&NodeName::from(name)).unwrap();
        let (started, shutdown) = node.running.take().unwrap();
        node.files = node.files.after_process_death();
        cluster.local.remove(&name.into());
        shutdown.cancel();
        let _ = started.stopped.await;
    }

    fn committed(&self) -> Vec<(u64, u64)> {
        let running = self.nodes.values().filter_map(|node| node.running.as_ref());
        running
            .map(|(started, _)| {
                let stream = started.service.status().streams.remove(0);
                (stream.last_lsn, stream.committed_lsn)
            })
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn owners_and_journal_nodes_come_and_go_and_nothing_acknowledged_is_lost() {
    let names: Vec<NodeName> = ["j1", "j2", "j3"].map(NodeName::from).to_vec();
    let config = Config {
        tail_bytes: 2 << 10,
        ..Config::default()
    };
    let mut cluster = Cluster::bare(names.clone(), &["a1", "a2"], config);
    let mut journal = RealJournal::start(&cluster, &names).await;
    cluster.start_adjudicator("a1").await;
    cluster.start_adjudicator("a2").await;
    let mut acknowledged = Vec::new();
    let mut owner = "a1";
    for round in 0..6 {
        let down = names[round % 3].0.clone();
        let mut decider = cluster.decider(owner).await;
        sleep(Duration::from_millis(1_500)).await;
        for number in 0..30 {
            if number == 10 {
                journal.kill(&cluster, &down).await;
            }
            if number == 20 {
                journal.run(&cluster, &down).await;
            }
            let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
            let committed = decider.commit(&txn).await;
            acknowledged.push((txn, committed));
        }
        let barred = Txn::writing(cluster.new_txn(), cluster.now(), "k");
        assert_eq!(
            cluster.outcome(owner, barred.id, barred.start).await.outcome(),
            Outcome::Aborted
        );
        let next = if owner == "a1" { "a2" } else { "a1" };
        if round % 2 == 0 {
            cluster.kill(owner).await;
            // The journal notices that the connections ended.
            sleep(Duration::from_millis(5)).await;
        } else {
            cluster.stop(owner).await;
        }
        let mut decider = cluster.decider(next).await;
        assert_eq!(decider.refusal(&barred).await.0, Reason::Barred);
        for (txn, committed) in &acknowledged {
            let outcome = cluster.outcome(next, txn.id, txn.start).await;
            assert_eq!(
                (outcome.outcome(), outcome.commit),
                (Outcome::Committed, committed.commit)
            );
        }
        cluster.start_adjudicator(owner).await;
        owner = next;
    }
    sleep(Duration::from_secs(2)).await;
    let ends = journal.committed();
    assert_eq!(ends.len(), 3);
    assert!(
        ends.iter()
            .all(|(last, committed)| last == committed && *last == ends[0].0),
        "every node has everything, and knows it: {ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_owner_is_not_deposed_by_a_question() {
    let names: Vec<NodeName> = ["j1", "j2", "j3"].map(NodeName::from).to_vec();
    let mut cluster = Cluster::bare(names.clone(), &["a1", "a2"], Config::default());
    let _journal = RealJournal::start(&cluster, &names).await;
    cluster.start_adjudicator("a1").await;
    cluster.start_adjudicator("a2").await;
    assert_eq!(cluster.locate("a1").await, ("a1".to_owned(), 1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.locate("a2").await, ("a1".to_owned(), 1));
}
