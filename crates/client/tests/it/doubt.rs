//! Answers that are lost at commit: the library finds out itself, and nothing is applied twice.

use std::time::Duration;

use meridian_client::fake::{FakeCluster, Fault};
use meridian_client::{Client, Error, Execute, KvError, Outcome, TxnOptions};

use crate::{number, over_tcp};

/// Increments once under the fault; returns how often the work ran, and the counter afterwards.
async fn increments(cluster: &FakeCluster, client: &Client, fault: Fault) -> (u32, u64) {
    cluster.inject([fault]);
    let mut runs = 0;
    let counted = client.transact(|txn| {
        runs += 1;
        async move {
            let next = number(&txn, "n").await? + 1;
            txn.put("n", next.to_string()).await
        }
    });
    counted.await.unwrap();
    let after = client
        .transact(|txn| async move { number(&txn, "n").await })
        .await
        .unwrap();
    (runs, after)
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_and_the_work_not_run_again() {
    for fault in [Fault::LoseReply, Fault::LoseTokenAndReply] {
        let cluster = FakeCluster::new();
        for client in [cluster.client(), over_tcp(&cluster).await] {
            let before = client.get("n").await.unwrap();
            assert_eq!(increments(&cluster, &client, fault.clone()).await.0, 1);
            assert_ne!(client.get("n").await.unwrap(), before);
        }
        assert_eq!(cluster.counters().outcomes, 2);
    }
}

#[tokio::test]
async fn a_lost_request_is_definitely_aborted_and_the_work_run_again() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    assert_eq!(increments(&cluster, &client, Fault::LoseRequest).await, (2, 1));
    assert_eq!(cluster.counters().outcomes, 1);
}

#[tokio::test]
async fn asking_goes_on_while_nobody_can_answer() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    cluster.fail_outcomes([
        KvError::unavailable("recovering"),
        KvError::internal("a bug"),
        KvError::unavailable("recovering"),
    ]);
    assert_eq!(increments(&cluster, &client, Fault::LoseReply).await, (1, 1));
    assert_eq!(cluster.counters().outcomes, 4);
}

#[tokio::test]
async fn unknown_is_said_only_at_the_deadline_and_with_the_token() {
    let cluster = FakeCluster::new();
    let deadline = Duration::from_millis(300);
    let client = cluster.client_with(Client::builder().deadline(deadline));
    cluster.inject([Fault::Silence]);
    let began = tokio::time::Instant::now();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k", "v").await.unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(began.elapsed() >= deadline);
    assert!(!error.is_retryable() && !error.is_definite());
    let token = error.token().unwrap();
    let Outcome::Committed(timestamp) = client.outcome(token).await.unwrap() else {
        panic!("it committed");
    };
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    assert_eq!(
        txn.get_versioned("k").await.unwrap().unwrap().timestamp,
        timestamp
    );
}

#[tokio::test]
async fn an_answer_that_leaves_doubt_is_settled() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    let internal = KvError::internal("who knows");
    assert_eq!(
        increments(&cluster, &client, Fault::Refuse(internal)).await,
        (2, 1)
    );
}

#[tokio::test]
async fn a_transaction_that_was_asked_about_never_commits() {
    let client = FakeCluster::new().client();
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k", "v").await.unwrap();
    assert_eq!(client.outcome(txn.token()).await.unwrap(), Outcome::Aborted);
    assert!(matches!(
        txn.commit().await.unwrap_err(),
        Error::Kv(KvError::Aborted { .. })
    ));
    assert_eq!(client.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_one_shot_write_is_applied_once_whatever_is_lost() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    for (fault, known) in [
        (Fault::LoseReply, false),
        (Fault::LoseRequest, true),
        (Fault::None, true),
    ] {
        client.delete("k").await.unwrap();
        cluster.inject([fault]);
        // Would fail if it were run again after it was applied.
        let create = Execute::new().if_exists("k", false).get("other").put("k", "v");
        let executed = client.execute(&create).await.unwrap();
        assert_eq!(executed.values_known, known);
        assert_eq!(client.get("k").await.unwrap().unwrap(), "v");
    }
}

/// A refused question says nothing of the commit that it is about.
#[tokio::test]
async fn a_question_that_is_refused_leaves_the_commit_in_doubt() {
    let cluster = FakeCluster::new();
    let client = cluster.client_with(Client::builder().deadline(Duration::from_millis(300)));
    let refusals = |count| vec![KvError::invalid("a stream that this node does not know yet"); count];
    cluster.fail_outcomes(refusals(2));
    assert_eq!(increments(&cluster, &client, Fault::LoseReply).await, (1, 1));

    let write = Execute::new().put("k", "v");
    cluster.inject([Fault::LoseReply]);
    cluster.fail_outcomes(refusals(100));
    let error = client.execute(&write).await.unwrap_err();
    assert!(!error.is_definite() && error.token().is_some(), "{error}");
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("l", "v").await.unwrap();
    cluster.inject([Fault::LoseReply]);
    let error = txn.commit().await.unwrap_err();
    assert!(!error.is_definite() && error.token().is_some(), "{error}");
    // Whoever asks without a commit of its own is told what is wrong with the question.
    let error = client.outcome(error.token().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::Kv(KvError::Invalid { .. })), "{error}");
}
