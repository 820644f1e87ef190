//! Journal nodes that are down, slow, behind, or lost their disk (section 7).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use meridian_adjudicator::Config;
use meridian_rpc::committed::CommittedWatch;
use meridian_rpc::internal::LocateRequest;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::{Dialer, Identity, LocalNodes, Network};
use meridian_types::{NodeName, RangeMap};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::cluster::{CLUSTER, Cluster, Decider, STREAM, Txn};
use super::fake_journal::FakeJournal;

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

async fn commit_some(cluster: &mut Cluster, decider: &mut Decider, count: usize, value_bytes: usize) {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    for chunk in 0..count.div_ceil(KEYS.len()) {
        let left = count - chunk * KEYS.len();
        let mut open = Vec::new();
        for key in KEYS.into_iter().take(left) {
            let mut txn = Txn::writing(cluster.new_txn(), cluster.now(), key);
            txn.writes[0].1 = value.clone();
            open.push(decider.send(&txn).await);
        }
        for id in open {
            let answer = decider.answer(id).await;
            assert!(
                matches!(answer, meridian_rpc::internal::decision::Result::Committed(_)),
                "{answer:?}"
            );
        }
        sleep(Duration::from_millis(3)).await;
    }
}

fn all_equal(cluster: &Cluster) -> bool {
    let logs: Vec<_> = cluster.journals.iter().map(|journal| journal.entries()).collect();
    logs[0] == logs[1] && logs[1] == logs[2]
}

async fn until_all_know_the_end(cluster: &Cluster) {
    cluster
        .until("every journal node knows the last entry committed", |cluster| {
            let last = cluster.journals[0].last().lsn;
            all_equal(cluster) && cluster.journals.iter().all(|journal| journal.committed() == last)
        })
        .await;
}

/// One node is down, and the owner's memory holds only the end of what it has missed.
async fn cluster_with_a_node_far_behind() -> (Cluster, Decider) {
    let config = Config {
        tail_bytes: 4 << 10,
        append_batch_bytes: 8 << 10,
        ..Config::default()
    };
    let mut cluster = Cluster::start_with(&["a1"], config).await;
    let mut decider = cluster.decider("a1").await;
    commit_some(&mut cluster, &mut decider, 8, 10).await;
    until_all_know_the_end(&cluster).await;
    cluster.journals[2].kill();
    commit_some(&mut cluster, &mut decider, 200, 1_000).await;
    (cluster, decider)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_down_is_caught_up_from_the_others() {
    let (mut cluster, mut decider) = cluster_with_a_node_far_behind().await;
    assert!(cluster.journals[2].last().lsn < cluster.journals[0].last().lsn);
    cluster.journals[2].restart();
    commit_some(&mut cluster, &mut decider, 16, 1_000).await;
    until_all_know_the_end(&cluster).await;
    assert_eq!(cluster.status("a1").epoch, 1, "nobody was deposed for it");
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_does_not_slow_commits() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    for journal in &cluster.journals {
        journal.set_delay(Duration::from_millis(2));
    }
    cluster.journals[1].set_delay(Duration::from_millis(800));
    let begun = Instant::now();
    for _ in 0..50 {
        decider
            .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
            .await;
        sleep(Duration::from_millis(1)).await;
    }
    // The quorum, the closing interval and the clock's bound.
    assert!(
        begun.elapsed() < Duration::from_millis(50 * 35),
        "{:?} for 50 commits",
        begun.elapsed()
    );
    cluster.journals[1].set_delay(Duration::ZERO);
    until_all_know_the_end(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn commits_wait_for_a_quorum_and_go_on_when_it_is_back() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    commit_some(&mut cluster, &mut decider, 8, 10).await;
    cluster.journals[0].kill();
    cluster.journals[1].kill();
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let sent = decider.send(&txn).await;
    let answer = tokio::time::timeout(Duration::from_secs(1), decider.answer(sent)).await;
    assert!(answer.is_err(), "acknowledged by a minority: {answer:?}");
    cluster.journals[0].restart();
    decider.answer(sent).await;
    cluster.journals[1].restart();
    commit_some(&mut cluster, &mut decider, 8, 10).await;
    until_all_know_the_end(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_disk_is_rebuilt_by_an_owner_that_fenced_anew() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    commit_some(&mut cluster, &mut decider, 40, 100).await;
    let first = Txn::writing(cluster.new_txn(), cluster.now(), "first");
    cluster.journals[0].kill();
    cluster.journals[0].restart_with_new_disk();
    decider.commit(&first).await;
    cluster
        .until("the node counts again", |cluster| {
            !cluster.journals[0].is_rejoining()
        })
        .await;
    until_all_know_the_end(&cluster).await;
    assert_eq!(cluster.status("a1").epoch, 2);
    assert_eq!(cluster.journals[0].count(Kind::Opened), 2);
    // It kept what it knew: a conflict is named, not a snapshot that is too old.
    let mut decider = cluster.decider("a1").await;
    let second = Txn::writing(cluster.new_txn(), first.start, "first");
    assert_eq!(decider.refusal(&second).await.0, Reason::Conflict);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_one_node_refuses_goes_on_and_fences_anew() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    commit_some(&mut cluster, &mut decider, 8, 10).await;
    // A candidate that reached nobody else.
    cluster.journals[2].promise(5, "a9");
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&txn).await;
    cluster
        .until("it owns epoch 6", |cluster| cluster.status("a1").epoch == 6)
        .await;
    let mut decider = cluster.decider("a1").await;
    let second = Txn::writing(cluster.new_txn(), txn.start, "k");
    assert_eq!(
        decider.refusal(&second).await.0,
        Reason::Conflict,
        "soft state kept"
    );
    commit_some(&mut cluster, &mut decider, 8, 10).await;
    until_all_know_the_end(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_before_what_the_owner_read_is_caught_up_too() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    cluster.journals[2].kill();
    let mut decider = cluster.decider("a1").await;
    commit_some(&mut cluster, &mut decider, 9_000, 1).await;
    // All of it is older than outcomes are kept: the next owner reads only the end of the log.
    sleep(Duration::from_secs(11 * 60)).await;
    cluster.kill("a1").await;
    let mut decider = cluster.decider("a2").await;
    cluster.journals[2].restart();
    commit_some(&mut cluster, &mut decider, 8, 1).await;
    until_all_know_the_end(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_refused_the_opening_is_won_back() {
    let mut cluster = Cluster::start(&["a1"]).await;
    for journal in &cluster.journals {
        journal.set_delay(Duration::from_millis(300));
    }
    cluster.journals[2].set_delay(Duration::from_millis(50));
    let client = cluster.client("a1");
    let asking = tokio::spawn(async move {
        let request = LocateRequest {
            stream: STREAM,
            passive: false,
        };
        let mut client = client;
        client.locate(request).await
    });
    // Fenced by a1; before the Opened record arrives, a candidate that nobody else hears of fences the third node.
    cluster
        .until("all promised", |cluster| {
            cluster.journals.iter().all(|journal| journal.promised().0 == 1)
        })
        .await;
    cluster.journals[2].promise(2, "x");
    asking.await.unwrap().unwrap();
    for journal in &cluster.journals {
        journal.set_delay(Duration::ZERO);
    }
    cluster
        .until("the third node accepts the owner again", |cluster| {
            cluster.journals[2].last() == cluster.journals[0].last()
        })
        .await;
    assert_eq!(cluster.status("a1").epoch, 3);
    let mut decider = cluster.decider("a1").await;
    sleep(Duration::from_secs(2)).await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
}

/// Panics when it is first used, which a link does before any stream asks around.
#[derive(Default)]
struct PanickingDialer {
    has_panicked: AtomicBool,
}

impl Dialer for PanickingDialer {
    fn dial(&self, node: &NodeName) -> Option<Channel> {
        let is_first = !self.has_panicked.swap(true, Ordering::Relaxed);
        assert!(!is_first, "a bug met while dialling {node}");
        None
    }
}

/// With one link less it would go on as if a journal node were down, until the next one fails.
#[tokio::test(start_paused = true)]
async fn a_link_that_dies_is_not_passed_over() {
    let cluster = Cluster::bare(vec!["j1".into()], &["a1"], Config::default());
    let (mut env, _) = cluster.env("a1");
    let identity = Identity {
        cluster: CLUSTER,
        node: "a1".into(),
    };
    env.network = Network::new(
        &identity,
        LocalNodes::default(),
        Arc::new(PanickingDialer::default()),
    );
    let (_map, map) = watch::channel(Arc::new(RangeMap::single(vec!["a1".into()])));
    let shutdown = CancellationToken::new();
    let journals = vec!["j1".into()];
    let committed = CommittedWatch::default();
    let started = meridian_adjudicator::start(Config::default(), env, map, journals, committed, shutdown)
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), started.stopped).await;
    let failure = ended.expect("it ends").unwrap().unwrap_err();
    assert!(failure.what.contains("journal"), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_for_a_node_that_refuses() {
    let (cluster, _decider) = cluster_with_a_node_far_behind().await;
    // It comes back far behind, and has heard of a candidate meanwhile.
    cluster.journals[2].promise(9, "ghost");
    cluster.journals[2].restart();
    sleep(Duration::from_secs(5)).await;
    let reads: u64 = cluster.journals.iter().map(FakeJournal::reads).sum();
    assert!(reads < 200, "{reads} reads");
    until_all_know_the_end(&cluster).await;
}
