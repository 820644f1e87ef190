//! Closing (R13, R15, R16).

use std::time::Duration;

use meridian_adjudicator::{Config, Lead};
use meridian_rpc::internal::entry::Kind;
use meridian_types::Timestamp;
use tokio::time::sleep;

use super::cluster::{Cluster, Txn};

/// R13 against everything that the journal nodes hold: whatever commits at or below a closure is at or before what the
/// closure names.
pub fn check_closures(cluster: &Cluster) -> usize {
    let log = cluster.journals[0].entries();
    let mut checked = 0;
    for journal in &cluster.journals {
        for closure in journal.closures() {
            let after = closure
                .after
                .iter()
                .find(|after| after.stream == 1)
                .map_or(0, |after| after.lsn);
            for entry in log.iter().filter(|entry| entry.kind() == Kind::Commit) {
                let is_below = entry.timestamp <= closure.closed;
                assert!(
                    !is_below || entry.lsn <= after,
                    "{closure:?} misses {} at {}",
                    entry.lsn,
                    entry.timestamp
                );
            }
            let leased = log
                .iter()
                .filter(|entry| matches!(entry.kind(), Kind::Lease | Kind::Opened));
            let lease_end = leased.map(|entry| entry.timestamp).max().unwrap();
            assert!(closure.closed <= lease_end, "never beyond the durable lease");
            checked += 1;
        }
    }
    checked
}

async fn commits_and_closures(lead: Lead) {
    let config = Config {
        lead,
        closed_interval_ms: 3,
        ..Config::default()
    };
    let mut cluster = Cluster::start_with(&["a1", "a2"], config).await;
    for journal in &cluster.journals {
        journal.set_delay(Duration::from_millis(4));
    }
    let mut decider = cluster.decider("a1").await;
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    for round in 0..60 {
        let mut open = Vec::new();
        for key in &keys[..round % keys.len() + 1] {
            open.push(
                decider
                    .send(&Txn::writing(cluster.new_txn(), cluster.now(), key))
                    .await,
            );
        }
        // While these are in flight.
        let now = cluster.now();
        let closed = cluster.close_through("a1", now).await;
        assert!(closed.closed >= now.0, "{closed:?}");
        sleep(Duration::from_millis(round as u64 % 5)).await;
        for id in open {
            decider.answer(id).await;
        }
    }
    sleep(Duration::from_millis(100)).await;
    assert!(check_closures(&cluster) > 300);
    let all = cluster.journals.iter().map(|journal| journal.closures().len());
    assert!(all.min().unwrap() > 60, "every journal node gets them");
    cluster.kill("a1").await;
    let mut decider = cluster.decider("a2").await;
    sleep(Duration::from_secs(2)).await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "a"))
        .await;
    check_closures(&cluster);
}

#[tokio::test(start_paused = true)]
async fn no_commit_appears_below_a_closure() {
    commits_and_closures(Lead::Fixed { ms: 0 }).await;
    commits_and_closures(Lead::Fixed { ms: 30 }).await;
    commits_and_closures(Config::default().lead).await;
}

#[tokio::test(start_paused = true)]
async fn closing_on_demand_renews_the_lease_of_an_idle_range_first() {
    let cluster = Cluster::start(&["a1"]).await;
    cluster.locate("a1").await;
    sleep(Duration::from_secs(60)).await;
    let now = cluster.now();
    let leases = cluster.journals[0].count(Kind::Lease);
    let answer = cluster.close_through("a1", now).await;
    assert!(!answer.not_owner && answer.closed >= now.0, "{answer:?}");
    assert_eq!(cluster.journals[0].count(Kind::Lease), leases + 1);
    sleep(Duration::from_millis(10)).await;
    for journal in &cluster.journals {
        let newest = journal.closures().last().map(|closure| closure.closed);
        assert!(newest >= Some(now.0), "sent to every journal node");
    }
    let past = cluster.close_through("a1", Timestamp(now.0 - 1_000)).await;
    assert!(past.closed >= now.0 - 1_000);
    let future = cluster
        .close_through("a1", Timestamp(now.0 + 60_000_000_000))
        .await;
    assert!(future.closed < now.0 + 60_000_000_000, "not allowed yet");
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_told_of_what_comes_while_nobody_writes_and_no_longer() {
    let config = Config {
        lead: Lead::Fixed { ms: 0 },
        ..Config::default()
    };
    let mut cluster = Cluster::start_with(&["a1"], config).await;
    let mut decider = cluster.decider("a1").await;
    let ahead = async |cluster: &Cluster, times: usize| {
        let mut closed = 0;
        for _ in 0..times {
            closed = cluster.close_through("a1", Timestamp(0)).await.closed;
        }
        Duration::from_nanos(closed.saturating_sub(cluster.now().0))
    };
    let commit = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&commit).await;
    assert!(
        ahead(&cluster, 200).await < Duration::from_millis(1),
        "just written"
    );
    sleep(Duration::from_secs(1)).await;
    let commit = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&commit).await;
    sleep(Duration::from_secs(1)).await;
    assert!(
        ahead(&cluster, 1).await < Duration::from_millis(1),
        "asked for once"
    );
    let many = ahead(&cluster, 200).await;
    assert!(
        (Duration::from_millis(8)..=Duration::from_millis(11)).contains(&many),
        "{many:?}"
    );
    // Who writes then commits after that.
    let closed = cluster.close_through("a1", Timestamp(0)).await.closed;
    let commit = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    assert!(decider.commit(&commit).await.commit > closed);
    check_closures(&cluster);
}

#[tokio::test(start_paused = true)]
async fn the_automatic_lead_follows_the_quorum_within_its_bounds() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let lead_after = async |cluster: &mut Cluster, decider: &mut super::cluster::Decider, delay_ms| {
        for journal in &cluster.journals {
            journal.set_delay(Duration::from_millis(delay_ms));
        }
        cluster.close_through("a1", Timestamp(0)).await;
        for _ in 0..5 {
            decider
                .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
                .await;
            sleep(Duration::from_millis(50)).await;
        }
        Duration::from_nanos(cluster.status("a1").lead_ns)
    };
    let fast = lead_after(&mut cluster, &mut decider, 1).await;
    let slow = lead_after(&mut cluster, &mut decider, 60).await;
    let slowest = lead_after(&mut cluster, &mut decider, 900).await;
    assert!(fast < Duration::from_millis(40), "{fast:?}");
    assert!(
        slow > Duration::from_millis(60) && slow <= Duration::from_millis(250),
        "{slow:?}"
    );
    assert_eq!(slowest, Duration::from_millis(250));
}

/// R16: a node that nobody reads from (a witness, a region where the range is not read) does not make commits wait.
#[tokio::test(start_paused = true)]
async fn the_lead_covers_the_journal_nodes_that_are_read_from() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    for (journal, delay_ms) in cluster.journals.iter().zip([1, 1, 100]) {
        journal.set_delay(Duration::from_millis(delay_ms));
    }
    let lead_with_readers =
        async |cluster: &mut Cluster, decider: &mut super::cluster::Decider, readers: &[&str]| {
            for _ in 0..20 {
                for reader in readers {
                    cluster.close_for_reader("a1", Timestamp(0), reader).await;
                }
                decider
                    .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
                    .await;
                sleep(Duration::from_millis(700)).await;
            }
            Duration::from_nanos(cluster.status("a1").lead_ns)
        };
    let nobody = lead_with_readers(&mut cluster, &mut decider, &[]).await;
    let near = lead_with_readers(&mut cluster, &mut decider, &["j1"]).await;
    let both = lead_with_readers(&mut cluster, &mut decider, &["j1", "j3"]).await;
    let near_again = lead_with_readers(&mut cluster, &mut decider, &["j1"]).await;
    assert_eq!(nobody, Duration::ZERO);
    assert!(
        near > Duration::ZERO && near < Duration::from_millis(40),
        "{near:?}"
    );
    assert!(
        both > Duration::from_millis(70) && both < Duration::from_millis(250),
        "{both:?}"
    );
    assert!(near_again < Duration::from_millis(40), "{near_again:?}");
}
