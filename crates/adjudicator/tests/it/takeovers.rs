//! Two adjudicators, one stream (sections 7 and 8).

use std::time::Duration;

use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{LocateRequest, decision};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, STREAM, Txn};

#[tokio::test(start_paused = true)]
async fn a_live_owner_is_named_and_stays_also_when_its_range_is_idle() {
    let cluster = Cluster::start(&["a1", "a2"]).await;
    assert_eq!(cluster.locate("a1").await, ("a1".to_owned(), 1));
    assert_eq!(cluster.locate("a2").await, ("a1".to_owned(), 1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        cluster.locate("a2").await,
        ("a1".to_owned(), 1),
        "an idle owner is alive"
    );
    assert_eq!(cluster.journals[0].promised().0, 1);
}

#[tokio::test(start_paused = true)]
async fn after_the_owner_was_killed_the_other_knows_what_it_acknowledged() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let mut acknowledged = Vec::new();
    for key in ["a", "b", "c"] {
        let txn = Txn::writing(cluster.new_txn(), cluster.now(), key);
        acknowledged.push((txn.clone(), decider.commit(&txn).await));
    }
    let lease_end = cluster.status("a1").lease_end;
    cluster.kill("a1").await;
    let killed_at = Instant::now();
    let mut decider = cluster.decider("a2").await;
    assert!(
        killed_at.elapsed() < Duration::from_secs(1),
        "a broken connection is evidence enough"
    );
    assert_eq!(decider.epoch, 2);
    for (txn, committed) in acknowledged {
        let outcome = cluster.outcome("a2", txn.id, txn.start).await;
        assert_eq!(
            (outcome.outcome(), outcome.commit),
            (Outcome::Committed, committed.commit)
        );
    }
    assert!(cluster.status("a2").window_low >= lease_end, "R18");
    let early = Txn::writing(cluster.new_txn(), cluster.now(), "a");
    assert_eq!(decider.refusal(&early).await.0, Reason::SnapshotTooOld);
    sleep(Duration::from_secs(2)).await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "a");
    assert!(decider.commit(&txn).await.commit > lease_end);
}

#[tokio::test(start_paused = true)]
async fn a_paused_owner_that_wakes_up_commits_nothing() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut old = cluster.decider("a1").await;
    let before = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    old.commit(&before).await;
    // Nothing of it arrives any more, and its clock stands still: to itself, its lease is valid for ever.
    cluster.adjudicators["a1"].clock.freeze();
    for journal in &cluster.journals {
        journal.hold("a1");
    }
    let zombie = Txn::writing(cluster.new_txn(), cluster.now(), "zombie");
    let waiting = old.send(&zombie).await;
    cluster.local.remove(&"a1".into());
    sleep(Duration::from_secs(2)).await;
    let mut new = cluster.decider("a2").await;
    sleep(Duration::from_secs(2)).await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "zombie");
    new.commit(&txn).await;

    for journal in &cluster.journals {
        journal.let_go();
    }
    assert!(matches!(old.answer(waiting).await, decision::Result::Unknown(_)));
    let late = Txn::writing(cluster.new_txn(), zombie.start, "late");
    assert_eq!(old.refusal(&late).await.0, Reason::WrongEpoch);
    let commits: Vec<_> = cluster.journals[0].entries();
    let of_zombies = commits.iter().filter(|entry| {
        entry.kind() == Kind::Commit && (entry.txn == zombie.id.to_bytes() || entry.txn == late.id.to_bytes())
    });
    assert_eq!(of_zombies.count(), 0);
    let outcome = cluster.outcome("a2", zombie.id, zombie.start).await;
    assert_eq!(outcome.outcome(), Outcome::Aborted);
    assert_eq!(cluster.status("a2").role, "owner");
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_hands_over_without_a_pause() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let before = cluster.now();
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let committed = decider.commit(&txn).await;
    cluster.stop("a1").await;
    let entries = cluster.journals[0].entries();
    let released = entries.iter().rfind(|entry| entry.kind() == Kind::Released);
    let released = released.unwrap();
    assert!(released.timestamp >= committed.commit);
    let mut decider = cluster.decider("a2").await;
    // Who began before the end commits, or meets what it would have met.
    let free = Txn::writing(cluster.new_txn(), before, "free");
    decider.commit(&free).await;
    let beaten = Txn::writing(cluster.new_txn(), before, "k");
    let (reason, refused) = decider.refusal(&beaten).await;
    assert_eq!((reason, refused.with), (Reason::Conflict, committed.commit));
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&txn).await;
}

#[tokio::test(start_paused = true)]
async fn a_range_that_is_used_goes_back_to_its_preferred_owner() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    cluster.decider("a1").await;
    cluster.kill("a1").await;
    cluster.decider("a2").await;
    cluster.start_adjudicator("a1").await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.status("a2").role, "owner", "nobody used it");
    let before = cluster.now();
    for _ in 0..100 {
        if cluster.status("a1").role == "owner" {
            break;
        }
        cluster.close_through("a2", cluster.now()).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.status("a1").role, "owner");
    let mut decider = cluster.decider("a1").await;
    let open = Txn::writing(cluster.new_txn(), before, "k");
    decider.commit(&open).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_owner_opens_again_and_knows_its_log() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let committed = decider.commit(&txn).await;
    cluster.kill("a1").await;
    cluster.start_adjudicator("a1").await;
    let mut decider = cluster.decider("a1").await;
    assert_eq!(decider.epoch, 2);
    // The attempt is of the old epoch, the transaction is known.
    decider.epoch = 1;
    assert_eq!(decider.commit(&txn).await.commit, committed.commit);
}

#[tokio::test(start_paused = true)]
async fn many_candidates_and_questions_at_once_end_with_one_owner() {
    let cluster = Cluster::start(&["a1", "a2", "a3"]).await;
    let ask = |name: &'static str| {
        let mut client = cluster.client(name);
        async move {
            loop {
                let request = LocateRequest {
                    stream: STREAM,
                    passive: false,
                };
                let answer = client.locate(request).await.unwrap().into_inner();
                if !answer.owner.is_empty() {
                    return (answer.owner, answer.epoch);
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let all = futures::future::join_all(["a1", "a2", "a3"].into_iter().cycle().take(30).map(ask)).await;
    sleep(Duration::from_millis(100)).await;
    let settled = cluster.locate("a1").await;
    assert_eq!(cluster.locate("a2").await, settled);
    assert_eq!(cluster.locate("a3").await, settled);
    assert!(all.contains(&settled));
    assert!(settled.1 <= 4, "no endless duel: epoch {}", settled.1);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_nobody_opens() {
    let cluster = Cluster::start(&["a1"]).await;
    for journal in &cluster.journals[..2] {
        journal.kill();
    }
    let request = LocateRequest {
        stream: STREAM,
        passive: false,
    };
    let answer = cluster.client("a1").locate(request).await.unwrap().into_inner();
    assert_eq!(answer.owner, "");
    cluster.journals[0].restart();
    assert_eq!(cluster.locate("a1").await.0, "a1");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_in_time_without_the_journal() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    decider
        .commit(&Txn::writing(cluster.new_txn(), cluster.now(), "k"))
        .await;
    for journal in &cluster.journals {
        journal.hold("a1");
    }
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let waiting = decider.send(&txn).await;
    sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    cluster.stop("a1").await;
    assert!(
        begun.elapsed() <= Duration::from_millis(3_100),
        "{:?}",
        begun.elapsed()
    );
    assert!(matches!(
        decider.answer(waiting).await,
        decision::Result::Unknown(_)
    ));

    let decider = cluster.decider("a2").await;
    assert_eq!(decider.epoch, 2);
    for journal in &cluster.journals {
        journal.kill();
    }
    sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    cluster.stop("a2").await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
}

/// What a query processor that still takes `a1` for the owner is told, at once.
async fn told_by_a1(cluster: &mut Cluster) -> Reason {
    let mut decider = cluster.open("a1", 1).await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let answer = tokio::time::timeout(Duration::from_millis(100), decider.refusal(&txn));
    answer.await.expect("nobody is kept waiting").0
}

#[tokio::test(start_paused = true)]
async fn a_candidate_without_a_majority_keeps_no_request_waiting() {
    let mut cluster = Cluster::start(&["a1"]).await;
    for journal in &cluster.journals[..2] {
        journal.kill();
    }
    let mut client = cluster.client("a1");
    let asking = tokio::spawn(async move {
        loop {
            let request = LocateRequest {
                stream: STREAM,
                passive: false,
            };
            let _ = client.locate(request).await;
        }
    });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.status("a1").role, "recovering");
    assert_eq!(told_by_a1(&mut cluster).await, Reason::WrongEpoch);
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_gets_nowhere_keeps_no_request_waiting() {
    let mut cluster = Cluster::start(&["a1"]).await;
    for journal in &cluster.journals {
        journal.set_delay(Duration::from_millis(100));
    }
    let mut client = cluster.client("a1");
    let asking = tokio::spawn(async move {
        let request = LocateRequest {
            stream: STREAM,
            passive: false,
        };
        client.locate(request).await
    });
    cluster
        .until("all promised", |cluster| {
            cluster.journals.iter().all(|journal| journal.promised().0 == 1)
        })
        .await;
    for journal in &cluster.journals[..2] {
        journal.kill();
    }
    assert_eq!(told_by_a1(&mut cluster).await, Reason::WrongEpoch);
    asking.abort();
    for journal in &cluster.journals {
        journal.restart();
    }
    assert_eq!(
        cluster.locate("a1").await,
        ("a1".to_owned(), 1),
        "it opens all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reopening_that_gets_nowhere_keeps_no_request_waiting() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    for journal in &cluster.journals[..2] {
        journal.set_delay(Duration::from_millis(300));
    }
    cluster.journals[2].promise(2, "x");
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&txn).await;
    cluster
        .until("it fenced anew", |cluster| {
            cluster.journals.iter().all(|journal| journal.promised().0 == 3)
        })
        .await;
    for journal in &cluster.journals[..2] {
        journal.kill();
    }
    let other = Txn::writing(cluster.new_txn(), cluster.now(), "l");
    let answer = tokio::time::timeout(Duration::from_secs(9), decider.refusal(&other));
    assert_eq!(
        answer.await.expect("an answer before the deadline").0,
        Reason::NotReady
    );
    for journal in &cluster.journals {
        journal.restart();
    }
    assert_eq!(
        cluster.locate("a1").await,
        ("a1".to_owned(), 3),
        "it keeps what it knows"
    );
    decider.epoch = 3;
    decider.commit(&txn).await;
}

/// R19: a candidate may not know all the streams that the last owner voted for.
#[tokio::test(start_paused = true)]
async fn a_candidate_with_an_older_map_than_the_last_owner_does_not_take_over() {
    let mut cluster = Cluster::start(&["a1", "a2"]).await;
    cluster.set_map_version(5);
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    decider.commit(&txn).await;
    cluster.kill("a1").await;
    cluster.set_map_version(4);
    for _ in 0..20 {
        let request = LocateRequest {
            stream: STREAM,
            passive: false,
        };
        let located = cluster.client("a2").locate(request).await.unwrap().into_inner();
        assert_eq!(located.owner, "", "it does not know the map yet");
        sleep(Duration::from_millis(200)).await;
    }
    cluster.set_map_version(5);
    assert_eq!(cluster.locate("a2").await.0, "a2");
}
