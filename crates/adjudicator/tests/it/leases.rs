//! Leases (section 8).

use std::time::Duration;

use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{LocateRequest, decision};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, STREAM, Txn};

#[tokio::test(start_paused = true)]
async fn an_idle_range_lets_its_lease_lapse_and_costs_nothing_until_it_is_used() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
    sleep(Duration::from_secs(1)).await;
    assert!(
        cluster.journals[0].count(Kind::Lease) >= 2,
        "renewed while in use"
    );
    sleep(Duration::from_secs(5)).await;
    let (appends, leases) = (
        cluster.journals[0].appends(),
        cluster.journals[0].count(Kind::Lease),
    );
    let closures = cluster.journals[0].closures().len();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(cluster.journals[0].appends(), appends, "no appends, no syncs");
    assert_eq!(cluster.journals[0].closures().len(), closures);
    assert!(cluster.status("a1").lease_end < cluster.now().0);

    let asked = Instant::now();
    let committed = decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
    assert!(
        asked.elapsed() < Duration::from_millis(100),
        "{:?}",
        asked.elapsed()
    );
    let entries = cluster.journals[0].entries();
    let lease = entries
        .iter()
        .rposition(|entry| entry.kind() == Kind::Lease)
        .unwrap();
    let commit = entries
        .iter()
        .position(|entry| entry.lsn == committed.lsn)
        .unwrap();
    assert_eq!(
        entries.iter().filter(|entry| entry.kind() == Kind::Lease).count(),
        leases + 1
    );
    assert!(
        lease < commit,
        "the lease is durable before anything is decided under it"
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_durable_lease_nothing_is_decided_and_deadlines_are_kept() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
    sleep(Duration::from_secs(10)).await;
    for journal in &cluster.journals[1..] {
        journal.hold("a1");
    }
    let before = cluster.journals[0].count(Kind::Commit);
    let hurried = Txn {
        timeout_ms: 500,
        ..Txn::writing(cluster.new_txn(), cluster.now(), "a")
    };
    let patient = Txn::writing(cluster.new_txn(), cluster.now(), "b");
    let (hurried, patient) = (decider.send(&hurried).await, decider.send(&patient).await);
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(cluster.journals[0].count(Kind::Commit), before, "nothing decided");
    for journal in &cluster.journals {
        journal.let_go();
    }
    assert!(matches!(
        decider.answer(patient).await,
        decision::Result::Committed(_)
    ));
    match decider.answer(hurried).await {
        decision::Result::Refused(refused) => assert_eq!(refused.reason(), Reason::NotReady),
        other => panic!("decided after its deadline: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_lost_the_journal_lets_those_who_wait_go_and_is_not_found_any_more() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
    for journal in &cluster.journals {
        journal.hold("a1");
    }
    let decided = Txn::writing(cluster.new_txn(), cluster.now(), "a");
    let decided = (decider.send(&decided).await, decided);
    sleep(Duration::from_millis(1_200)).await;
    let late = Txn::writing(cluster.new_txn(), cluster.now(), "b");
    let late = decider.send(&late).await;
    let answer = tokio::time::timeout(Duration::from_secs(2), decider.answer(decided.0))
        .await
        .unwrap();
    assert!(matches!(answer, decision::Result::Unknown(_)), "{answer:?}");
    match decider.answer(late).await {
        decision::Result::Refused(refused) => assert_eq!(refused.reason(), Reason::NotReady),
        other => panic!("decided without a lease: {other:?}"),
    }
    let request = LocateRequest {
        stream: STREAM,
        passive: false,
    };
    assert_eq!(
        cluster
            .client("a1")
            .locate(request)
            .await
            .unwrap()
            .into_inner()
            .owner,
        ""
    );
    for journal in &cluster.journals {
        journal.let_go();
    }
    assert_eq!(cluster.locate("a1").await, ("a1".to_owned(), 1));
    let outcome = cluster.outcome("a1", decided.1.id, decided.1.start).await;
    assert_eq!(outcome.outcome(), Outcome::Committed, "unknown is not aborted");
}
