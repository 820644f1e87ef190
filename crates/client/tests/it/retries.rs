//! When and how often work is run again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use meridian_client::fake::{FakeCluster, Fault};
use meridian_client::{Client, Error, KvError, RetryBudget, TxnOptions};
use tokio::time::Instant;

/// How often a transaction runs, and how it ends.
async fn runs(client: &Client) -> (u32, Result<(), Error>) {
    let mut runs = 0;
    let result = client.transact(|txn| {
        runs += 1;
        async move { txn.put("k", "v").await }
    });
    let result = result.await;
    (runs, result)
}

#[tokio::test]
async fn an_outage_is_not_multiplied() {
    let cluster = FakeCluster::new();
    let budget = RetryBudget {
        capacity: 3.0,
        per_success: 0.01,
        per_second: 0.0,
    };
    let client = cluster.client_with(Client::builder().retry_budget(budget));
    let error = || KvError::overloaded("commits", Duration::from_millis(1));
    cluster.inject((0..12).map(|_| Fault::Refuse(error())));
    let (ran, result) = runs(&client).await;
    assert_eq!(
        (ran, result),
        (4, Err(error().into())),
        "one attempt and three tokens"
    );
    for _ in 0..8 {
        assert_eq!(runs(&client).await.0, 1, "the budget is spent");
    }
    assert!(runs(&client).await.1.is_ok());
}

#[tokio::test]
async fn the_delay_that_the_server_asks_for_is_kept() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    let delay = Duration::from_millis(120);
    cluster.inject([Fault::Refuse(KvError::overloaded("commits", delay))]);
    let began = Instant::now();
    assert!(matches!(runs(&client).await, (2, Ok(()))));
    assert!(began.elapsed() >= delay);
}

#[tokio::test]
async fn the_deadline_ends_retries_with_the_last_error() {
    let cluster = FakeCluster::new();
    let client = cluster.client_with(Client::builder().deadline(Duration::from_millis(200)));
    cluster.inject((0..1_000).map(|_| {
        Fault::Refuse(KvError::Aborted {
            why: "again".to_owned(),
        })
    }));
    let began = Instant::now();
    let (ran, result) = runs(&client).await;
    assert!(ran > 1);
    assert!(matches!(result, Err(Error::Kv(KvError::Aborted { .. }))));
    assert!(began.elapsed() < Duration::from_millis(400));
}

#[tokio::test]
async fn a_retry_begins_after_what_it_conflicted_with() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    // In the future of the fake's clock: a retry that ignored it would see an older snapshot.
    let with = client.put("x", "1").await.unwrap().timestamp.0 + 1_000_000_000;
    let conflict = KvError::Conflict {
        key: "k".into(),
        with: meridian_client::Timestamp(with),
    };
    cluster.inject([Fault::Refuse(conflict)]);
    let starts = std::sync::Mutex::new(vec![]);
    let note = &starts;
    client
        .transact(|txn| async move {
            txn.get("x").await?;
            txn.put("k", "v").await?;
            note.lock().unwrap().push(txn.token().start.0);
            Ok(())
        })
        .await
        .unwrap();
    let committed = client
        .begin(TxnOptions::at(meridian_client::Timestamp(with)))
        .await
        .unwrap();
    assert_eq!(starts.into_inner().unwrap().len(), 2);
    assert_eq!(
        committed.get("k").await.unwrap(),
        None,
        "its snapshot is not before {with}"
    );
}

#[tokio::test]
async fn what_is_not_worth_a_retry_is_not_retried() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    let limit = KvError::LimitExceeded {
        limit: "bytes".to_owned(),
        allowed: 1,
        got: 2,
    };
    cluster.inject([Fault::Refuse(limit.clone())]);
    assert_eq!(runs(&client).await, (1, Err(limit.into())));
}

#[tokio::test]
async fn work_that_gives_up_is_rolled_back_and_keeps_its_error() {
    #[derive(Debug, PartialEq)]
    enum Own {
        GaveUp,
        Other(Error),
    }
    impl From<Error> for Own {
        fn from(error: Error) -> Self {
            Self::Other(error)
        }
    }
    let client = FakeCluster::new().client();
    let result: Result<(), Own> = client
        .try_transact(TxnOptions::default(), |txn| async move {
            txn.put("k", "v").await?;
            Err(Own::GaveUp)
        })
        .await;
    assert_eq!(result, Err(Own::GaveUp));
    assert_eq!(client.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_retryable_error_is_retried_even_when_the_work_hides_it_in_its_own() {
    let cluster = FakeCluster::new();
    let client = cluster.client();
    let runs = AtomicU32::new(0);
    #[derive(Debug)]
    struct Text(#[allow(dead_code)] String);
    impl From<Error> for Text {
        fn from(error: Error) -> Self {
            Self(error.to_string())
        }
    }
    let (runs, cluster) = (&runs, &cluster);
    client
        .try_transact(TxnOptions::default(), |txn| async move {
            txn.get("k").await?;
            if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                cluster.forget_transactions();
            }
            txn.get("k")
                .await
                .map_err(|error| Text(format!("reading failed: {error}")))?;
            Ok::<_, Text>(())
        })
        .await
        .unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 2);
}
