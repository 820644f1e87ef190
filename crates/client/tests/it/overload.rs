//! More under way than the server has places for.

use std::time::Duration;

use meridian_client::fake::{FakeCluster, Fault};
use meridian_client::{Client, Error, KvError, RetryBudget, TxnOptions};

/// A client with one place, taken by an operation that is never answered, and without patience.
async fn busy(cluster: &FakeCluster, budget: RetryBudget) -> (Client, tokio::task::JoinHandle<()>) {
    cluster.set_operations(1);
    cluster.inject([Fault::Silence]);
    let builder = Client::builder().patience(Duration::ZERO).retry_budget(budget);
    let client = cluster.client_with(builder);
    let silent = client.clone();
    let task = tokio::spawn(async move {
        let _ = silent.put("silent", "1").await;
    });
    while cluster.counters().commits < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (client, task)
}

fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Refused(KvError::Overloaded { .. })) && error.is_definite() && error.is_retryable()
}

#[tokio::test]
async fn what_waits_too_long_is_refused_at_once_without_a_retry_and_not_sent() {
    let cluster = FakeCluster::new();
    let budget = RetryBudget {
        capacity: 1.0,
        per_success: 0.0,
        per_second: 0.0,
    };
    let (client, silent) = busy(&cluster, budget).await;
    let mut runs = 0;
    for _ in 0..20 {
        let error = client.put("k", "1").await.unwrap_err();
        assert!(is_refused(&error), "{error:?}");
        let error = client.transact(|txn| {
            runs += 1;
            async move { txn.put("k", "2").await }
        });
        assert!(is_refused(&error.await.unwrap_err()));
    }
    assert_eq!(runs, 0, "no transaction was begun");
    assert_eq!((cluster.counters().commits, cluster.counters().begun), (1, 0));
    // The budget is left for what the server refuses.
    silent.abort();
    let _ = silent.await;
    let again = KvError::overloaded("commits", Duration::from_millis(1));
    cluster.inject([Fault::Refuse(again)]);
    client.put("k", "3").await.unwrap();
    assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"3"[..]));
}

#[tokio::test]
async fn an_open_transaction_waits_for_its_turn_and_goes_on() {
    let cluster = FakeCluster::new();
    let client = cluster.client_with(Client::builder().patience(Duration::ZERO));
    client.put("k", "1").await.unwrap();
    drop(client);
    cluster.set_operations(1);
    let client = cluster.client_with(Client::builder().patience(Duration::ZERO));
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k", "2").await.unwrap();
    assert!(txn.get("k").await.unwrap().is_some());
    cluster.inject([Fault::Silence]);
    let before = cluster.counters().commits;
    let silent = client.clone();
    let silent = tokio::spawn(async move { silent.put("silent", "1").await });
    while cluster.counters().commits == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(is_refused(&client.get("k").await.unwrap_err()));
    let (committed, ()) = tokio::join!(
        async {
            assert!(txn.get("k").await.unwrap().is_some());
            txn.commit().await
        },
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            silent.abort();
        }
    );
    committed.unwrap();
    assert_eq!(client.get("k").await.unwrap().as_deref(), Some(&b"2"[..]));
}
