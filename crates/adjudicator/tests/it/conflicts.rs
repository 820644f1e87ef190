//! The commit decision through the RPC (section 4).

use meridian_rpc::internal::decision;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::refused::Reason;
use meridian_types::Timestamp;

use super::cluster::{Cluster, Txn};

#[tokio::test(start_paused = true)]
async fn the_first_committer_wins() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let start = cluster.now();
    let first = Txn::writing(cluster.new_txn(), start, "k");
    let second = Txn::writing(cluster.new_txn(), start, "k");
    let other = Txn::writing(cluster.new_txn(), start, "other");

    let won = decider.commit(&first).await;
    assert!(won.commit > start.0, "R2");
    let (reason, refused) = decider.refusal(&second).await;
    assert_eq!(reason, Reason::Conflict);
    assert_eq!((refused.key.as_ref(), refused.with), (b"k".as_ref(), won.commit));
    decider.commit(&other).await;

    let again = Txn {
        start: Timestamp(won.commit),
        ..second
    };
    assert!(decider.commit(&again).await.commit > won.commit, "I3");
}

#[tokio::test(start_paused = true)]
async fn a_retry_gets_the_answer_of_the_first() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let (one, two) = (decider.send(&txn).await, decider.send(&txn).await);
    let first = decider.answer(one).await;
    assert_eq!(first, decider.answer(two).await);
    assert!(matches!(first, decision::Result::Committed(_)));
    assert_eq!(cluster.journals[0].count(Kind::Commit), 1, "applied once");
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_checked_and_does_not_conflict_with_reads() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let start = cluster.now();
    let one = Txn::writing(cluster.new_txn(), start, "x").reading("y");
    let two = Txn::writing(cluster.new_txn(), start, "z").reading("y");
    let three = Txn::writing(cluster.new_txn(), start, "y").reading("x");
    decider.commit(&one).await;
    decider.commit(&two).await;
    assert_eq!(decider.refusal(&three).await.0, Reason::Conflict, "write skew");
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_are_refused_and_the_next_one_is_served() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let start = cluster.now();
    let empty = Txn {
        writes: Vec::new(),
        ..Txn::writing(cluster.new_txn(), start, "k")
    };
    assert_eq!(decider.refusal(&empty).await.0, Reason::Invalid);
    let no_key = Txn::writing(cluster.new_txn(), start, "");
    assert_eq!(decider.refusal(&no_key).await.0, Reason::Invalid);
    let ahead = Timestamp(start.0 + 10_000_000_000);
    let ahead = Txn::writing(cluster.new_txn(), ahead, "k");
    let reason = decider.refusal(&ahead).await.0;
    assert!(
        matches!(reason, Reason::StartAhead | Reason::NotReady),
        "R20: {reason:?}"
    );

    let epoch = std::mem::replace(&mut decider.epoch, 77);
    let wrong = Txn::writing(cluster.new_txn(), start, "k");
    let (reason, refused) = decider.refusal(&wrong).await;
    assert_eq!(
        (reason, refused.epoch, refused.owner.as_str()),
        (Reason::WrongEpoch, epoch, "a1")
    );
    decider.epoch = epoch;
    decider.commit(&Txn::writing(cluster.new_txn(), start, "k")).await;
}

#[tokio::test(start_paused = true)]
async fn overload_is_refused_with_a_delay_and_ends_with_its_cause() {
    let config = meridian_adjudicator::Config {
        queue_requests: 4,
        max_in_flight_bytes: 200,
        ..meridian_adjudicator::Config::default()
    };
    let mut cluster = Cluster::start_with(&["a1"], config).await;
    let mut decider = cluster.decider("a1").await;
    for journal in &cluster.journals[1..] {
        journal.hold("a1");
    }
    let mut sent = Vec::new();
    for _ in 0..30 {
        let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
        sent.push(decider.send(&txn).await);
    }
    let (reason, refused) = match decider.answer(sent[29]).await {
        decision::Result::Refused(refused) => (refused.reason(), refused),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, Reason::Overloaded);
    assert!(refused.retry_delay_ms > 0);
    for journal in &cluster.journals {
        journal.let_go();
    }
    assert!(matches!(
        decider.answer(sent[0]).await,
        decision::Result::Committed(_)
    ));
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "other");
    decider.commit(&txn).await;
}

#[tokio::test(start_paused = true)]
async fn reads_to_check_count_against_the_memory_of_the_queue() {
    let config = meridian_adjudicator::Config {
        queue_bytes: 64 << 10,
        max_in_flight_bytes: 1,
        ..meridian_adjudicator::Config::default()
    };
    let mut cluster = Cluster::start_with(&["a1"], config).await;
    let mut decider = cluster.decider("a1").await;
    for journal in &cluster.journals {
        journal.hold("a1");
    }
    let long = "k".repeat(4_000);
    let mut sent = Vec::new();
    for _ in 0..40 {
        let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k").reading(&long);
        sent.push(decider.send(&txn).await);
    }
    match decider.answer(sent[39]).await {
        decision::Result::Refused(refused) => assert_eq!(refused.reason(), Reason::Overloaded),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn reads_that_this_owner_cannot_check_are_refused() {
    let mut cluster = Cluster::start(&["a1"]).await;
    let mut decider = cluster.decider("a1").await;
    let mut txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let too_many = meridian_types::limits::MAX_TXN_READS + 1;
    txn.reads = vec![meridian_types::KeyRange::all(); too_many];
    let (reason, refused) = decider.refusal(&txn).await;
    assert_eq!(reason, Reason::Invalid);
    assert!(refused.message.contains("10000"), "{}", refused.message);

    cluster.keep_only_keys_before("m");
    let across = Txn::writing(cluster.new_txn(), cluster.now(), "k").reading("x");
    assert_eq!(decider.refusal(&across).await.0, Reason::Invalid, "I2s");
    let within = Txn::writing(cluster.new_txn(), cluster.now(), "k").reading("l");
    decider.commit(&within).await;
}
