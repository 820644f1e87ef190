//! Journals that were trimmed (decision 28), at the real journal nodes: new owners, replicas that lag behind, replaced disks.

use std::time::Duration;

use meridian_adjudicator::Config;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{CheckpointedRequest, CommittedPosition, LogBase, StateRequest, StreamState};
use meridian_types::NodeName;
use tokio::time::sleep;

use super::cluster::{Cluster, Decider, Txn};
use super::real_journal::RealJournal;

const STREAM: u64 = 1;
const MIN_AGE: Duration = Duration::from_millis(500);

fn names() -> Vec<NodeName> {
    ["j1", "j2", "j3"].map(NodeName::from).to_vec()
}

fn journal_config() -> meridian_journal::Config {
    meridian_journal::Config {
        segment_bytes: 4 << 10,
        trim_min_age_ms: 500,
        storage_nodes: vec!["s1".into()],
        ..meridian_journal::Config::default()
    }
}

async fn started() -> (Cluster, RealJournal) {
    let config = Config {
        tail_bytes: 2 << 10,
        ..Config::default()
    };
    let mut cluster = Cluster::bare(names(), &["a1", "a2"], config);
    let journal = RealJournal::start_with(&cluster, &names(), journal_config()).await;
    cluster.start_adjudicator("a1").await;
    cluster.start_adjudicator("a2").await;
    (cluster, journal)
}

fn client(cluster: &Cluster, node: &str) -> JournalClient<meridian_rpc::Transport> {
    JournalClient::new(cluster.env("s1").0.network.transport(&node.into()))
}

async fn state(cluster: &Cluster, node: &str) -> StreamState {
    let request = StateRequest {
        streams: vec![STREAM],
    };
    let answer = client(cluster, node).state(request).await.unwrap();
    answer.into_inner().streams.remove(0)
}

/// The owner, once the leases before it are past: snapshots are above its window then.
async fn decider(cluster: &Cluster, name: &str) -> Decider {
    let decider = cluster.decider(name).await;
    sleep(Duration::from_millis(2_500)).await;
    decider
}

async fn commit_many(cluster: &mut Cluster, decider: &mut Decider, count: usize) -> Vec<(Txn, u64)> {
    let mut committed = Vec::new();
    for _ in 0..count {
        let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
        let commit = decider.commit(&txn).await.commit;
        committed.push((txn, commit));
        sleep(Duration::from_millis(5)).await;
    }
    committed
}

/// The only storage node has a checkpoint of everything; returns where the logs begin then.
async fn trim(cluster: &Cluster, nodes: &[&str]) -> LogBase {
    sleep(MIN_AGE * 2).await;
    for node in nodes {
        let last = state(cluster, node).await.last;
        let request = CheckpointedRequest {
            node: "s1".to_owned(),
            positions: vec![CommittedPosition {
                stream: STREAM,
                position: last,
            }],
        };
        client(cluster, node).checkpointed(request).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    let mut bases = Vec::new();
    for node in nodes {
        bases.push(state(cluster, node).await.base.expect("trimmed"));
    }
    bases.sort_by_key(|base| base.position.unwrap().lsn);
    bases.pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_goes_on_with_a_trimmed_log_and_forgets_what_is_gone() {
    let (mut cluster, _journal) = started().await;
    let mut owner = decider(&cluster, "a1").await;
    let barred = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let answer = cluster.outcome("a1", barred.id, barred.start).await;
    assert_eq!(answer.outcome(), Outcome::Aborted);
    let old = commit_many(&mut cluster, &mut owner, 150).await;
    sleep(MIN_AGE * 2).await;
    let young = commit_many(&mut cluster, &mut owner, 50).await;
    let base = trim(&cluster, &["j1", "j2", "j3"]).await;
    assert!(base.last_commit >= old[50].1, "a good part is gone");
    for is_killed in [true, false] {
        let (before, after) = if is_killed { ("a1", "a2") } else { ("a2", "a1") };
        if is_killed {
            cluster.kill(before).await;
            sleep(Duration::from_millis(5)).await;
        } else {
            cluster.stop(before).await;
        }
        let mut owner = decider(&cluster, after).await;
        let next = Txn::writing(cluster.new_txn(), cluster.now(), "k");
        let committed = owner.commit(&next).await;
        assert!(committed.commit > young.last().unwrap().1.max(base.last_commit).max(base.lease_end));
        for (txn, commit) in &old {
            let answer = cluster.outcome(after, txn.id, txn.start).await;
            let outcome = answer.outcome();
            assert!(
                outcome == Outcome::Forgotten || (outcome == Outcome::Committed && answer.commit == *commit),
                "{outcome:?}: never told to be aborted"
            );
            if *commit <= base.last_commit {
                assert_eq!(outcome, Outcome::Forgotten);
            }
        }
        let (last, commit) = young.last().unwrap();
        let answer = cluster.outcome(after, last.id, last.start).await;
        assert_eq!((answer.outcome(), answer.commit), (Outcome::Committed, *commit));
        let reason = owner.refusal(&barred).await.0;
        assert!(matches!(reason, Reason::Forgotten | Reason::Barred), "{reason:?}");
        cluster.start_adjudicator(before).await;
    }
}

/// It holds the end of the log, and not its beginning.
async fn has_begun_at_a_base(cluster: &Cluster, node: &str, gone: u64) {
    sleep(Duration::from_secs(20)).await;
    let (lagging, other) = (state(cluster, node).await, state(cluster, "j1").await);
    assert_eq!((lagging.last, lagging.rejoining), (other.last, false));
    assert_eq!(lagging.committed_lsn, other.committed_lsn);
    let base = lagging.base.unwrap();
    assert!(base.position.unwrap().lsn > gone, "{base:?}");
    assert_eq!(lagging.last_commit, other.last_commit);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_for_longer_than_the_others_kept_begins_at_their_base() {
    for has_new_owner in [false, true] {
        let (mut cluster, mut journal) = started().await;
        let mut owner = decider(&cluster, "a1").await;
        commit_many(&mut cluster, &mut owner, 20).await;
        let held = state(&cluster, "j3").await.last.unwrap().lsn;
        journal.kill(&cluster, "j3").await;
        commit_many(&mut cluster, &mut owner, 200).await;
        let base = trim(&cluster, &["j1", "j2"]).await;
        assert!(base.position.unwrap().lsn > held + 10, "{base:?}");
        if has_new_owner {
            cluster.kill("a1").await;
            sleep(Duration::from_millis(5)).await;
            owner = decider(&cluster, "a2").await;
        }
        journal.run(&cluster, "j3").await;
        commit_many(&mut cluster, &mut owner, 3).await;
        has_begun_at_a_base(&cluster, "j3", held).await;
        // It counts: a majority is there without another one.
        journal.kill(&cluster, "j2").await;
        commit_many(&mut cluster, &mut owner, 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_disk_is_rebuilt_from_the_base_on() {
    let (mut cluster, mut journal) = started().await;
    let mut owner = decider(&cluster, "a1").await;
    commit_many(&mut cluster, &mut owner, 200).await;
    trim(&cluster, &["j1", "j2", "j3"]).await;
    journal.kill(&cluster, "j3").await;
    journal.replace_disk("j3");
    journal.run(&cluster, "j3").await;
    sleep(Duration::from_secs(10)).await;
    let mut owner = decider(&cluster, "a1").await;
    commit_many(&mut cluster, &mut owner, 3).await;
    has_begun_at_a_base(&cluster, "j3", 10).await;
    journal.kill(&cluster, "j2").await;
    commit_many(&mut cluster, &mut owner, 3).await;
}
