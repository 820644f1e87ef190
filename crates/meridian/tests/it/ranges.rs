//! Ranges that are split, merged and moved under load, in a whole cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use meridian::embedded::{Cluster, Options};
use meridian_client::proto::RangeMove;
use meridian_client::{Client, KeyRange, RangeChange, ScanOptions};

const ACCOUNTS: u64 = 20;
const EACH: u64 = 100;

fn account(number: u64) -> String {
    format!("account/{number:02}")
}

fn amount(bytes: &[u8]) -> u64 {
    String::from_utf8_lossy(bytes).parse().unwrap()
}

/// Moves money between accounts until told to stop. Returns how often.
async fn transfer(client: Client, seed: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let from = account((seed + done * 7) % ACCOUNTS);
        let to = account((seed + done * 11 + 3) % ACCOUNTS);
        if from != to {
            let moved = client.transact(|txn| {
                let (from, to) = (from.clone(), to.clone());
                async move {
                    let left = amount(&txn.get(from.as_str()).await?.unwrap_or_default());
                    let right = amount(&txn.get(to.as_str()).await?.unwrap_or_default());
                    txn.put(from.as_str(), left.saturating_sub(1).to_string()).await?;
                    txn.put(to.as_str(), (right + left.min(1)).to_string()).await
                }
            });
            moved.await.unwrap();
        }
        done += 1;
    }
    done
}

async fn total(client: &Client) -> u64 {
    let rows = client.scan(KeyRange::prefix("account/".into()), ScanOptions::default());
    rows.await.unwrap().iter().map(|row| amount(&row.value)).sum()
}

/// The streams that have an owner which serves, by the nodes that own them.
async fn owned(client: &Client) -> BTreeSet<(u64, String)> {
    let status = client.cluster_status().await.unwrap();
    let mut owned = BTreeSet::new();
    for node in status.nodes {
        for range in node.services.iter().flat_map(|service| &service.ranges) {
            if range.role == "owner" {
                owned.insert((range.stream, node.node.clone()));
            }
        }
    }
    owned
}

async fn until_owned(client: &Client, what: &str, condition: impl Fn(&BTreeSet<(u64, String)>) -> bool) {
    for _ in 0..200 {
        if condition(&owned(client).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {:?}", owned(client).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_change_under_load_and_nothing_is_lost_or_seen_by_halves() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Options::new(dir.path())).await.unwrap();
    let client = cluster.client().unwrap();
    for number in 0..ACCOUNTS {
        client.put(account(number), EACH.to_string()).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let work: Vec<_> = (0..3)
        .map(|seed| tokio::spawn(transfer(client.clone(), seed, stop.clone())))
        .collect();
    let pause = || tokio::time::sleep(Duration::from_millis(300));
    let has = |stream: u64| move |owned: &BTreeSet<(u64, String)>| owned.iter().any(|(of, _)| *of == stream);

    client
        .change_ranges(RangeChange::Split("account/10".into()))
        .await
        .unwrap();
    until_owned(&client, "split", |owned| has(2)(owned) && has(3)(owned)).await;
    assert_eq!(total(&client).await, ACCOUNTS * EACH);
    pause().await;
    let before: BTreeSet<_> = owned(&client)
        .await
        .into_iter()
        .filter(|(stream, _)| *stream == 3)
        .collect();
    let (_, owner) = before.first().unwrap();
    let to = if owner == "adjudicator-1" {
        "adjudicator-2"
    } else {
        "adjudicator-1"
    };
    let wanted = RangeMove {
        range: 3,
        node: to.to_owned(),
    };
    client.change_ranges(RangeChange::Move(wanted)).await.unwrap();
    until_owned(&client, "moved", |owned| owned.contains(&(3, to.to_owned()))).await;
    assert_eq!(total(&client).await, ACCOUNTS * EACH);
    pause().await;
    client
        .change_ranges(RangeChange::Merge("account/10".into()))
        .await
        .unwrap();
    until_owned(&client, "merged", has(4)).await;
    assert_eq!(total(&client).await, ACCOUNTS * EACH);
    pause().await;
    stop.store(true, Ordering::Relaxed);
    for work in work {
        assert!(work.await.unwrap() > 0);
    }
    assert!(
        client
            .change_ranges(RangeChange::Merge("account/10".into()))
            .await
            .is_err()
    );
    assert_eq!(total(&client).await, ACCOUNTS * EACH);
    cluster.shutdown().await;

    // The configuration knows one range only.
    let cluster = Cluster::start(Options::new(dir.path())).await.unwrap();
    let client = cluster.client().unwrap();
    assert_eq!(total(&client).await, ACCOUNTS * EACH);
    client.put(account(1), "1").await.unwrap();
    until_owned(&client, "served again", has(4)).await;
    cluster.shutdown().await;
}
