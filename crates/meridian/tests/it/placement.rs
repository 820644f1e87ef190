//! Ranges that change their owner while transactions are open, and come back where they belong after a region was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meridian::embedded::{Cluster, Delay, Options};
use meridian_client::proto::RangeMove;
use meridian_client::{Client, Error, KvError, RangeChange, TxnOptions};

/// Long enough for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn options(dir: &std::path::Path) -> Options {
    let delays = ["a-b=20ms", "a-w=5ms", "b-w=5ms"].map(|delay| delay.parse::<Delay>().unwrap());
    Options::new(dir).regions(3).delays(delays).split_at(["m"])
}

/// The nodes that own the ranges, in order.
async fn owners(client: &Client) -> Vec<String> {
    let Ok(status) = client.cluster_status().await else {
        return Vec::new();
    };
    let mut owners = Vec::new();
    for node in status.nodes {
        let ranges = node.services.iter().flat_map(|service| &service.ranges);
        let owned = ranges.filter(|range| range.role == "owner" && range.range > 0);
        owners.extend(owned.map(|range| (range.range, range.epoch, node.node.clone())));
    }
    owners.sort();
    // One that was deposed and does not know it yet is of a lower epoch.
    let newest = |of: u64| owners.iter().rfind(|(range, ..)| *range == of);
    [1, 2]
        .into_iter()
        .filter_map(|range| Some(newest(range)?.2.clone()))
        .collect()
}

async fn until_owned(client: &Client, wanted: [&str; 2]) {
    let began = Instant::now();
    while owners(client).await != wanted {
        let late = began.elapsed() > PATIENCE;
        assert!(!late, "{:?}, not {wanted:?}", owners(client).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn move_to(client: &Client, range: u64, node: &str) {
    let wanted = RangeMove {
        range,
        node: node.to_owned(),
    };
    client.change_ranges(RangeChange::Move(wanted)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_are_open_across_a_move_commit_or_meet_what_they_would_have_met() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    let a = cluster.client_in("a").unwrap();
    for key in ["apple", "banana", "pear"] {
        a.put(key, "before").await.unwrap();
    }
    until_owned(&a, ["adjudicator-a1", "adjudicator-b1"]).await;

    for (round, to) in ["adjudicator-b1", "adjudicator-a1"].into_iter().enumerate() {
        let begin = || a.begin(TxnOptions::default());
        let (free, across, beaten) = (
            begin().await.unwrap(),
            begin().await.unwrap(),
            begin().await.unwrap(),
        );
        for open in [&free, &across, &beaten] {
            assert!(open.get("apple").await.unwrap().is_some());
        }
        a.put("banana", format!("between {round}")).await.unwrap();
        move_to(&a, 1, to).await;
        until_owned(&a, [to, "adjudicator-b1"]).await;

        free.put("apple", format!("{round}")).await.unwrap();
        free.commit().await.unwrap();
        across.put("avocado", format!("{round}")).await.unwrap();
        across.put("pear", format!("{round}")).await.unwrap();
        across.commit().await.unwrap();
        beaten.put("banana", "lost").await.unwrap();
        let refused = beaten.commit().await.unwrap_err();
        assert!(
            matches!(refused, Error::Kv(KvError::Conflict { .. })),
            "{refused}"
        );
    }
    let value = a.get("banana").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"between 1"[..]));
    drop(a);
    cluster.shutdown().await;
}

/// Writes to both ranges until told to stop. The first error that a client sees, if there is one.
async fn write(client: Client, stop: Arc<AtomicBool>) -> Result<u64, Error> {
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        for key in ["apple", "pear"] {
            let options = TxnOptions {
                deadline: Some(PATIENCE),
                ..TxnOptions::default()
            };
            let put = client.transact_with(options, |txn| async move { txn.put(key, "during").await });
            put.await?;
            writes += 1;
        }
    }
    Ok(writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_comes_back_gets_its_ranges_back_and_no_client_sees_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    let b = cluster.client_in("b").unwrap();
    for key in ["apple", "pear"] {
        b.put(key, "before").await.unwrap();
    }
    until_owned(&b, ["adjudicator-a1", "adjudicator-b1"]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(b.clone(), stop.clone()));
    let lost = cluster.place("a").unwrap();
    cluster.cut(&lost).unwrap();
    until_owned(&b, ["adjudicator-b1", "adjudicator-b1"]).await;
    cluster.heal(&lost).unwrap();
    until_owned(&b, ["adjudicator-a1", "adjudicator-b1"]).await;

    cluster.crash(&lost).await.unwrap();
    until_owned(&b, ["adjudicator-b1", "adjudicator-b1"]).await;
    cluster.revive(&lost).await.unwrap();
    until_owned(&b, ["adjudicator-a1", "adjudicator-b1"]).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap().unwrap() > 0);
    drop(b);
    cluster.shutdown().await;
}
