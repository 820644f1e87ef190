//! What became of a transaction (section 5).

use std::time::Duration;

use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{AttemptQuery, OutcomeAnswer, decision};
use tokio::time::sleep;

use super::cluster::{Cluster, Txn};

pub async fn attempt_outcome(cluster: &Cluster, name: &str, txn: &Txn, epoch: u64) -> OutcomeAnswer {
    let query = AttemptQuery {
        attempt: Some(txn.attempt(epoch).into()),
        start: txn.start.0,
        give_up: true,
    };
    cluster
        .client(name)
        .attempt_outcome(query)
        .await
        .unwrap()
        .into_inner()
}

#[tokio::test(start_paused = true)]
async fn asking_bars_durably_across_takeovers() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let lost = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let outcome = cluster.outcome("a1", lost.id, lost.start).await;
    assert_eq!(outcome.outcome(), Outcome::Aborted);
    let holding = cluster
        .journals
        .iter()
        .filter(|journal| journal.count(Kind::Barred) == 1);
    assert!(holding.count() >= 2, "durable before it is told");
    assert_eq!(decider.refusal(&lost).await.0, Reason::Barred);

    cluster.kill("a1").await;
    let mut decider = cluster.decider("a2").await;
    let second = Txn {
        number: 2,
        ..lost.clone()
    };
    assert_eq!(decider.refusal(&second).await.0, Reason::Barred);
    assert_eq!(
        cluster.outcome("a2", lost.id, lost.start).await.outcome(),
        Outcome::Aborted
    );
    assert_eq!(cluster.journals[0].count(Kind::Barred), 1, "once is enough");
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_reported_only_when_it_is_durable() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    for journal in &cluster.journals[1..] {
        journal.hold("a1");
    }
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let sent = decider.send(&txn).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.journals[0].count(Kind::Commit), 1, "decided, on one node");
    let asking = cluster.outcome("a1", txn.id, txn.start);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), asking)
            .await
            .is_err()
    );
    cluster.journals[1].let_go();
    assert_eq!(
        cluster.outcome("a1", txn.id, txn.start).await.outcome(),
        Outcome::Committed
    );
    assert!(matches!(
        decider.answer(sent).await,
        decision::Result::Committed(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_given_up_is_refused_when_it_arrives() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let early = attempt_outcome(&cluster, "a1", &txn, decider.epoch + 1).await;
    assert_eq!(
        early.outcome(),
        Outcome::Pending,
        "an owner of a lower epoch does not answer"
    );
    let given_up = attempt_outcome(&cluster, "a1", &txn, decider.epoch).await;
    assert_eq!(given_up.outcome(), Outcome::Aborted);
    let (reason, _) = decider.refusal(&txn).await;
    assert_eq!(reason, Reason::GaveUp, "another attempt may succeed here");
    assert_eq!(
        cluster.journals[0].count(Kind::Barred),
        0,
        "the transaction is not barred"
    );

    let again = Txn {
        number: 2,
        ..txn.clone()
    };
    let committed = decider.commit(&again).await;
    let known = attempt_outcome(&cluster, "a1", &txn, decider.epoch).await;
    assert_eq!(
        (known.outcome(), known.commit),
        (Outcome::Committed, committed.commit)
    );

    cluster.kill("a1").await;
    cluster.locate("a2").await;
    let known = attempt_outcome(&cluster, "a2", &txn, 1).await;
    assert_eq!(known.outcome(), Outcome::Committed);
    let never_sent = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let over = attempt_outcome(&cluster, "a2", &never_sent, 1).await;
    assert_eq!(over.outcome(), Outcome::Aborted, "its epoch is over");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_forgotten_never_aborted() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let old = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&old).await;
    sleep(Duration::from_secs(11 * 60)).await;
    let newer = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&newer).await;
    sleep(Duration::from_secs(1)).await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "l"))
        .await;
    assert_eq!(
        cluster.outcome("a1", old.id, old.start).await.outcome(),
        Outcome::Forgotten
    );
    assert_eq!(decider.refusal(&old).await.0, Reason::Forgotten);
    assert_eq!(
        cluster.outcome("a1", newer.id, newer.start).await.outcome(),
        Outcome::Committed
    );
}
