//! Every process of a cluster is restarted, one after the other, under load: no call of a client fails. And what the same load is
//! told when a process gets no time to say goodbye, without which the first would show nothing.

use std::time::{Duration, Instant};

use meridian_e2e::load::{Load, Seen};
use meridian_e2e::{Cluster, RegionLayout};

const RANGES: usize = 4;
/// Load before, after, and four times as long as between two restarts.
const STEADY: Duration = Duration::from_secs(2);

/// The order of docs/operations.md.
const ROLES: [&str; 5] = ["journal", "storage", "adjudicator", "query", "router"];

async fn restart_all(cluster: &mut Cluster) -> Seen {
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    tokio::time::sleep(STEADY).await;
    for role in ROLES {
        for region in ["a", "b", "w"] {
            for node in cluster.nodes_of(region, role) {
                let at = Instant::now();
                cluster.restart(&node).await;
                println!("{node}: ready again after {:.2?}", at.elapsed());
                tokio::time::sleep(STEADY / 4).await;
            }
        }
    }
    tokio::time::sleep(STEADY).await;
    let before = load.acknowledged();
    tokio::time::sleep(STEADY).await;
    assert!(load.acknowledged() > before, "nothing is acknowledged any more");
    load.stop().await
}

async fn no_call_fails(layout: RegionLayout) {
    let mut cluster = Cluster::start_regions(layout).await;
    let began = Instant::now();
    let seen = restart_all(&mut cluster).await;
    println!(
        "{} appends, {} reads, {} transactions by hand; longest gap of a writer {:.2?}, of a reader {:.2?}, by hand {:.2?}",
        seen.written.acknowledged.len(),
        seen.reads.succeeded,
        seen.by_hand.succeeded,
        seen.written.longest_gap,
        seen.reads.longest_gap(began),
        seen.by_hand.longest_gap(began),
    );
    seen.assert_no_errors();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_with_one_of_each_kind_in_a_region() {
    no_call_fails(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_of_a_cluster_with_two_of_each_kind_in_a_region() {
    no_call_fails(RegionLayout {
        ranges: RANGES,
        adjudicators: 2,
        storages: 2,
        queries: 2,
        routers: 2,
        ..RegionLayout::default()
    })
    .await;
}

/// Kills of the region's only query processor until a client is told, at most: each finds several transactions open, but one that has
/// neither read nor written yet may be begun elsewhere without a word.
const KILLS: usize = 10;

/// The contrast: SIGKILL takes the open transactions with it, and this load notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_drain_open_transactions_fail() {
    let mut cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    tokio::time::sleep(STEADY).await;
    let node = cluster.nodes_of("a", "query").remove(0);
    for _ in 0..KILLS {
        cluster.kill(&node);
        tokio::time::sleep(STEADY / 4).await;
        cluster.start_node(&node);
        cluster.wait_until_ready(&node).await;
        tokio::time::sleep(STEADY / 4).await;
        if load.failed() > 0 {
            break;
        }
    }
    let errors = load.stop().await.errors();
    for (_, error) in &errors {
        println!("{error}");
    }
    assert!(
        !errors.is_empty(),
        "{KILLS} kills, and no open transaction failed"
    );
}
