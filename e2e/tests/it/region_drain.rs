//! A region is drained ahead of its loss: then nothing depends on it, and nobody notices that it is gone.

use std::time::{Duration, Instant};

use meridian_client::Client;
use meridian_e2e::load::Load;
use meridian_e2e::{Cluster, RegionLayout, owning_nodes, until_owned};

const RANGES: usize = 4;
/// Longer than a range stays where it was taken over before it goes back to where it is preferred.
const PLACED: Duration = Duration::from_secs(6);
/// For liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

fn is_in(region: &str) -> impl Fn(u64, &str) -> bool {
    let node = format!("adjudicator-{region}1");
    move |_, owner| owner == node
}

/// The sessions at the region's routers, as they say.
async fn sessions(client: &Client, region: &str) -> u64 {
    let status = client.cluster_status().await.expect("the cluster's status");
    let nodes = status.nodes.iter().filter(|node| node.region == region);
    let services = nodes.flat_map(|node| &node.services);
    let routers = services.filter(|service| service.role == "router");
    routers.filter_map(|router| router.figures.get("sessions")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_a_drained_region_is_lost() {
    let mut cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    until_owned(&clients[1], RANGES, |range, node| {
        is_in(if range % 2 == 1 { "a" } else { "b" })(range, node)
    })
    .await;

    let began = Instant::now();
    println!(
        "region drain a: {}",
        cluster.kv_cli("a", &["region", "drain", "a"]).trim()
    );
    until_owned(&clients[1], RANGES, is_in("b")).await;
    println!("all ranges are in b after {:.2?}", began.elapsed());
    while sessions(&clients[1], "a").await > 0 {
        assert!(began.elapsed() < PATIENCE, "clients stay at a's router");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("all clients have left after {:.2?}", began.elapsed());
    // Neither a restart of those who know nor time brings anything back.
    for node in ["adjudicator-a1", "adjudicator-b1", "router-a1"] {
        cluster.restart(node).await;
    }
    until_owned(&clients[1], RANGES, is_in("b")).await;
    tokio::time::sleep(PLACED).await;
    let owners = owning_nodes(&clients[1]).await;
    assert!(owners.values().all(|node| node == "adjudicator-b1"), "{owners:?}");
    assert_eq!(sessions(&clients[1], "a").await, 0);
    assert!(cluster.kv_cli("b", &["ranges"]).contains("drained"));
    assert!(
        cluster
            .kv_cli("b", &["doctor"])
            .contains("region a is drained: it may be stopped")
    );

    let killed = Instant::now();
    cluster.kill_at_once(&cluster.nodes_of("a", ""));
    tokio::time::sleep(PLACED).await;
    let restored = Instant::now();
    for node in cluster.nodes_of("a", "") {
        cluster.start_node(&node);
        cluster.wait_until_ready(&node).await;
    }
    println!(
        "region undrain a: {}",
        cluster.kv_cli("b", &["region", "undrain", "a"]).trim()
    );
    until_owned(&clients[1], RANGES, |range, node| {
        is_in(if range % 2 == 1 { "a" } else { "b" })(range, node)
    })
    .await;
    println!(
        "the preferred placement is back {:.2?} after the start of a",
        restored.elapsed()
    );
    while sessions(&clients[1], "a").await == 0 {
        assert!(
            restored.elapsed() < PATIENCE,
            "no client comes back to a's router"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = load.stop().await;
    println!(
        "{} appends; from the drain on the longest gap was {:.2?} of a reader, {:.2?} of a writer by hand; from the kill on {:.2?} and {:.2?}",
        seen.written.acknowledged.len(),
        seen.reads.longest_gap(began),
        seen.by_hand.longest_gap(began),
        seen.reads.longest_gap(killed),
        seen.by_hand.longest_gap(killed),
    );
    seen.assert_no_errors();
}
