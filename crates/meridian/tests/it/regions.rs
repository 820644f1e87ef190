//! Two active regions and a witness, with delays between them, in one process.

use std::time::{Duration, Instant};

use meridian::embedded::{Cluster, Delay, Options};
use meridian_client::proto::OwnedRangeStatus;
use meridian_client::{Client, Execute, TxnOptions};

/// Far enough to be told from everything else that takes time.
const A_B: Duration = Duration::from_millis(40);

fn options(dir: &std::path::Path) -> Options {
    let delays = ["a-b=40ms", "a-w=5ms", "b-w=5ms"].map(|delay| delay.parse::<Delay>().unwrap());
    Options::new(dir).regions(3).delays(delays).split_at(["n"])
}

async fn put_within(client: &Client, key: &str, patience: Duration) -> bool {
    let put = client.transact_with(
        TxnOptions {
            deadline: Some(patience),
            ..TxnOptions::default()
        },
        |txn| async move { txn.put(key, "value").await },
    );
    put.await.is_ok()
}

/// Each range's owner and its status.
async fn owners(client: &Client) -> Vec<(String, OwnedRangeStatus)> {
    let status = client.cluster_status().await.unwrap();
    let mut owners = Vec::new();
    for node in status.nodes {
        for service in node.services {
            let owned = service.ranges.into_iter().filter(|range| range.role == "owner");
            owners.extend(owned.map(|range| (node.node.clone(), range)));
        }
    }
    owners.sort_by_key(|(_, range)| range.range);
    owners
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_owned_where_they_are_to_be_and_messages_take_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    assert_eq!(cluster.regions(), ["a", "b"]);
    let (a, b) = (cluster.client_in("a").unwrap(), cluster.client_in("b").unwrap());
    a.put("apple", "1").await.unwrap();
    b.put("pear", "1").await.unwrap();
    assert_eq!(
        (a.region().as_deref(), b.region().as_deref()),
        (Some("a"), Some("b"))
    );

    let owners = owners(&a).await;
    let names: Vec<&str> = owners.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(names, ["adjudicator-a1", "adjudicator-b1"]);
    let (first, second) = (&owners[0].1, &owners[1].1);
    assert_eq!((&first.start[..], &first.end[..]), (&b""[..], &b"n"[..]));
    assert_eq!((&second.start[..], &second.end[..]), (&b"n"[..], &b""[..]));
    assert_eq!(second.replicas.len(), 3, "{second:?}");

    let began = Instant::now();
    a.put("pear", "2").await.unwrap();
    let took = began.elapsed();
    assert!(took >= A_B * 2, "to the other region and back in {took:?}");
    assert_eq!(b.get("pear").await.unwrap().as_deref(), Some(&b"2"[..]));
    drop((a, b));
    cluster.shutdown().await;

    // It keeps its regions and ranges; others are refused.
    let refused = Cluster::start(Options::new(dir.path()).regions(2)).await;
    assert!(
        refused
            .err()
            .unwrap()
            .to_string()
            .contains("created with other regions")
    );
    let cluster = Cluster::start(Options::new(dir.path())).await.unwrap();
    let value = cluster.client_in("b").unwrap().get("apple").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"1"[..]));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_lost_is_ridden_over_and_its_clients_go_to_the_other_one_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    let (a, b) = (cluster.client_in("a").unwrap(), cluster.client_in("b").unwrap());
    for key in ["apple", "pear"] {
        a.put(key, "before").await.unwrap();
        b.put(key, "before").await.unwrap();
    }
    let lost = cluster.place("b").unwrap();
    // At once back again, then for longer.
    cluster.crash(&lost).await.unwrap();
    cluster.revive(&lost).await.unwrap();
    cluster.crash(&lost).await.unwrap();
    for (client, name) in [(&a, "a"), (&b, "b")] {
        for key in ["apple", "pear"] {
            let patience = Duration::from_secs(20);
            assert!(
                put_within(client, key, patience).await,
                "{key} by the client of {name}"
            );
        }
        assert_eq!(client.region().as_deref(), Some("a"));
    }
    cluster.revive(&lost).await.unwrap();
    let began = Instant::now();
    while b.region().as_deref() != Some("b") {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the client of b stays in a"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(put_within(&b, "pear", Duration::from_secs(20)).await);
    drop((a, b));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_region_stops_and_the_side_with_the_witness_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    let (a, b) = (cluster.client_in("a").unwrap(), cluster.client_in("b").unwrap());
    a.put("apple", "before").await.unwrap();
    b.put("pear", "before").await.unwrap();

    let isolated = cluster.place("a").unwrap();
    cluster.cut(&isolated).unwrap();
    assert!(
        cluster
            .links()
            .iter()
            .all(|((from, to), link)| link.is_cut == (from == "a" || to == "a"))
    );
    for key in ["apple", "pear"] {
        assert!(
            put_within(&b, key, Duration::from_secs(20)).await,
            "{key} on the side of the witness"
        );
    }
    assert!(
        !put_within(&a, "apple", Duration::from_secs(2)).await,
        "without a majority"
    );
    cluster.heal(&isolated).unwrap();
    assert!(
        put_within(&a, "apple", Duration::from_secs(20)).await,
        "whole again"
    );

    // One way only, to the witness: the two active regions are a majority all the same.
    cluster.cut(&cluster.place("b>w").unwrap()).unwrap();
    assert!(put_within(&b, "pear", Duration::from_secs(20)).await);
    assert!(cluster.cut(&cluster.place("journal-w1").unwrap()).is_err());
    assert!(cluster.place("nowhere").is_err());
    drop((a, b));
    cluster.shutdown().await;
}

/// Moves one from one key to the other.
async fn transfer(client: &Client, from: &str, to: &str) {
    let moved = client.transact(|txn| async move {
        let number = async |key: &str| {
            let text = txn.get(key).await?.unwrap_or_default();
            Ok::<i64, meridian_client::Error>(String::from_utf8_lossy(&text).parse().unwrap())
        };
        let (left, right) = (number(from).await?, number(to).await?);
        txn.put(from, (left - 1).to_string()).await?;
        txn.put(to, (right + 1).to_string()).await
    });
    moved.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_across_ranges_are_seen_whole_in_both_regions() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(options(dir.path())).await.unwrap();
    let (a, b) = (cluster.client_in("a").unwrap(), cluster.client_in("b").unwrap());
    let both = Execute::new().put("apple", "100").put("pear", "100");
    a.execute(&both).await.unwrap();
    let sum = async |client: &Client| {
        let read = Execute::new().get("apple").get("pear");
        let values = client.execute(&read).await.unwrap().values;
        let numbers = values.into_iter().map(|found| found.unwrap().value);
        numbers
            .map(|text| String::from_utf8_lossy(&text).parse::<i64>().unwrap())
            .sum::<i64>()
    };
    assert_eq!((sum(&a).await, sum(&b).await), (200, 200));
    let movers = [(a.clone(), "apple", "pear"), (b.clone(), "pear", "apple")].map(|(client, from, to)| {
        tokio::spawn(async move {
            for _ in 0..5 {
                transfer(&client, from, to).await;
            }
        })
    });
    while !movers.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!((sum(&a).await, sum(&b).await), (200, 200));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for mover in movers {
        mover.await.unwrap();
    }
    let value = a.get("apple").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"100"[..]), "as many there as back");
    drop((a, b));
    cluster.shutdown().await;
}
