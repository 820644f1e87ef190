//! Sessions that break, endpoints that fail.

use std::time::Duration;

use meridian_client::fake::{FakeCluster, Fault};
use meridian_client::{Client, Error, KeyRange, KvError, ScanOptions, TxnOptions};
use tokio::time::Instant;

use crate::{increment, over_tcp};

#[tokio::test]
async fn a_transaction_does_not_survive_its_session_and_says_so() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k", "v").await.unwrap();
    assert_eq!(txn.get("k").await.unwrap().unwrap(), "v");
    cluster.kill_sessions();
    let error = txn.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Kv(KvError::Aborted { .. })), "{error}");
    assert!(error.is_retryable());
    assert_eq!(txn.failure().as_ref(), error.kv());
    assert!(txn.commit().await.unwrap_err().is_definite());
    assert_eq!(client.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn work_goes_on_while_sessions_are_killed() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    let killer = tokio::spawn({
        let cluster = cluster.clone();
        async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(7)).await;
                cluster.kill_sessions();
            }
        }
    });
    let mut done = 0;
    while !killer.is_finished() {
        done = increment(&client, "n").await.unwrap();
    }
    assert_eq!(increment(&client, "n").await.unwrap(), done + 1);
    assert!(cluster.counters().sessions > 1);
}

#[tokio::test]
async fn another_endpoint_takes_over() {
    let cluster = FakeCluster::new();
    let (first, second) = (cluster.listen().await, cluster.listen().await);
    let client = Client::connect([first.to_string(), second.to_string()])
        .await
        .unwrap();
    increment(&client, "n").await.unwrap();
    cluster.close(first);
    assert_eq!(increment(&client, "n").await.unwrap(), 2);
    assert_eq!(client.cluster_status().await.unwrap().nodes.len(), 2);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_passed_over() {
    let cluster = FakeCluster::new();
    let client = Client::connect(["127.0.0.1:1".to_owned(), cluster.listen().await.to_string()]);
    increment(&client.await.unwrap(), "n").await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_at_once_and_names_the_endpoint() {
    let began = Instant::now();
    let error = Client::connect(["127.0.0.1:1"]).await.unwrap_err();
    assert!(matches!(error.kv(), Some(KvError::Unavailable { .. })), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(2));
    assert!(Client::connect(["no port : here"]).await.is_err());
    assert!(Client::connect([] as [&str; 0]).await.is_err());
}

#[tokio::test]
async fn a_cluster_that_is_down_for_a_moment_is_waited_for() {
    let cluster = FakeCluster::new();
    let client = over_tcp(&cluster).await;
    cluster.set_down(Some(KvError::unavailable("no query processor is ready")));
    cluster.kill_sessions();
    let later = cluster.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        later.set_down(None);
    });
    assert_eq!(increment(&client, "n").await.unwrap(), 1);
}

#[tokio::test]
async fn a_cluster_that_stays_down_is_reported_with_its_own_words() {
    let cluster = FakeCluster::new();
    cluster.set_down(Some(KvError::unavailable("no query processor is ready")));
    let client = cluster.client_with(Client::builder().deadline(Duration::from_millis(150)));
    let error = increment(&client, "n").await.unwrap_err();
    assert!(
        error.to_string().contains("no query processor is ready"),
        "{error}"
    );
    assert!(error.is_retryable());
}

#[tokio::test]
async fn old_sessions_are_replaced_and_open_transactions_go_on() {
    let cluster = FakeCluster::new();
    let lifetime = Duration::from_millis(30);
    let client = cluster.client_with(Client::builder().session_lifetime(lifetime));
    let txn = client.begin(TxnOptions::default()).await.unwrap();
    txn.put("k", "v").await.unwrap();
    tokio::time::sleep(lifetime * 4).await;
    assert!(cluster.counters().sessions > 1);
    txn.commit().await.unwrap();
    assert_eq!(client.get("k").await.unwrap().unwrap(), "v");
}

#[tokio::test]
async fn a_scan_that_is_cut_off_fails_and_does_not_end_early() {
    let cluster = FakeCluster::new();
    cluster.set_page_rows(2);
    let client = over_tcp(&cluster).await;
    for n in 0..10 {
        client.put(format!("k{n}").as_str(), "v").await.unwrap();
    }
    let txn = client.begin(TxnOptions::read_only()).await.unwrap();
    let mut scan = txn.scan(KeyRange::all(), ScanOptions::default()).await.unwrap();
    assert!(scan.next().await.unwrap().is_some());
    cluster.kill_sessions();
    let mut rows = 1;
    let error = loop {
        match scan.next().await {
            Ok(Some(_)) => rows += 1,
            Ok(None) => panic!("ended after {rows} rows without an error"),
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error}");
    assert!(rows < 10);
}

#[tokio::test]
async fn a_far_endpoint_is_used_only_while_no_near_one_answers() {
    // Two clusters, so that it is seen who was asked.
    let (near, far) = (FakeCluster::new(), FakeCluster::new());
    let near_address = near.listen().await;
    let client = Client::builder()
        .endpoint(near_address.to_string())
        .far_endpoint(far.listen().await.to_string())
        .sessions(2)
        .connect()
        .await
        .unwrap();
    increment(&client, "n").await.unwrap();
    assert_eq!((near.counters().commits, far.counters().sessions), (1, 0));

    near.set_down(Some(KvError::unavailable("the region is gone")));
    near.kill_sessions();
    for expected in 1..=3 {
        assert_eq!(increment(&client, "n").await.unwrap(), expected);
    }
    let open = client.begin(TxnOptions::default()).await.unwrap();
    open.put("k", "v").await.unwrap();

    near.set_down(None);
    let back = async {
        while near.counters().commits == 1 {
            increment(&client, "n").await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    // What had begun over there ends there.
    open.commit().await.unwrap();
    assert_eq!(far.client().get("k").await.unwrap().unwrap(), "v");
    assert_eq!(near.client().get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_near_endpoint_whose_calls_fail_is_left_for_a_while() {
    let (near, far) = (FakeCluster::new(), FakeCluster::new());
    let client = Client::builder()
        .endpoint(near.listen().await.to_string())
        .far_endpoint(far.listen().await.to_string())
        .connect()
        .await
        .unwrap();
    increment(&client, "n").await.unwrap();
    let cut_off = KvError::unavailable("no owner of stream s1 was found");
    near.inject(std::iter::repeat_n(Fault::Refuse(cut_off), 3));
    assert_eq!(increment(&client, "n").await.unwrap(), 1, "over there");
    assert_eq!((near.counters().commits, far.counters().commits), (4, 1));
    let back = async {
        while near.counters().commits == 4 {
            increment(&client, "n").await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_near_endpoint_leaves_without_an_answer_is_done_elsewhere() {
    let (near, far) = (FakeCluster::new(), FakeCluster::new());
    let builder = Client::builder().deadline(Duration::from_secs(20));
    let client = near.client_with(builder.far_transport("far", far.routes()));
    increment(&client, "n").await.unwrap();
    near.inject([Fault::Silence]);
    let began = Instant::now();
    assert_eq!(increment(&client, "n").await.unwrap(), 1, "over there");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((far.counters().outcomes, far.counters().commits), (1, 1));

    // After a while it goes back.
    let back = async {
        while client.get("n").await.unwrap().as_deref() == Some(&b"1"[..]) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
}
