//! Nodes are added to a cluster and taken out of it under load, by a new configuration and restarts one after the other: no call of a
//! client fails.

use std::time::{Duration, Instant};

use meridian_client::Client;
use meridian_e2e::load::Load;
use meridian_e2e::{Cluster, RegionLayout, until_owned};

const RANGES: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
/// Roles of which region a gets a second node and loses its first.
const ROLES: [&str; 2] = ["storage", "query"];

/// Restarts everything that runs and is in the configuration, so that it goes by the new one.
async fn roll_out(cluster: &mut Cluster) {
    for role in ["journal", "storage", "adjudicator", "query", "router"] {
        for region in ["a", "b", "w"] {
            for node in cluster.nodes_of(region, role) {
                cluster.restart(&node).await;
            }
        }
    }
}

/// Until the storage node has applied, of every stream, what was committed when this was asked.
async fn caught_up(client: &Client, node: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.cluster_status().await.expect("the cluster's status");
        let services = || {
            status
                .nodes
                .iter()
                .flat_map(|node| node.services.iter().map(move |service| (node, service)))
        };
        let streams = services().flat_map(|(_, service)| &service.streams);
        let mut committed = streams
            .map(|stream| (stream.stream, stream.committed_lsn))
            .filter(|(stream, _)| *stream > 0);
        let of_node = services().filter(|(of, _)| of.node == node);
        let applied: Vec<_> = of_node.flat_map(|(_, service)| &service.applied).collect();
        // Under load it is always a little behind.
        let is_there = |(stream, lsn): (u64, u64)| {
            applied
                .iter()
                .any(|applied| applied.stream == stream && applied.applied_lsn + 50 >= lsn)
        };
        if !applied.is_empty() && committed.all(is_there) {
            return;
        }
        assert!(Instant::now() < deadline, "{node} is behind: {applied:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_gets_new_nodes_and_loses_its_old_ones() {
    let mut cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    tokio::time::sleep(Duration::from_secs(1)).await;

    for role in ROLES {
        cluster.add_node(&format!("{role}-a2"), "a", role);
    }
    // Those that run still go by the old configuration; the new ones work beside them.
    for role in ROLES {
        let node = format!("{role}-a2");
        cluster.start_node(&node);
        cluster.wait_until_ready(&node).await;
    }
    roll_out(&mut cluster).await;
    caught_up(&clients[1], "storage-a2").await;
    println!("grown");

    for role in ROLES {
        cluster.remove_node(&format!("{role}-a1"));
    }
    roll_out(&mut cluster).await;
    for role in ROLES {
        let node = format!("{role}-a1");
        assert_eq!(cluster.stop(&node).await, Some(0), "{node}");
    }
    println!("shrunk");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = load.stop().await;
    println!(
        "{} appends, {} reads, {} by hand",
        seen.written.acknowledged.len(),
        seen.reads.succeeded,
        seen.by_hand.succeeded
    );
    seen.assert_no_errors();
}

/// The range map is written down before nodes begin to disagree about the configuration; so it is what they all go by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adjudicator_is_added_and_another_one_taken_out() {
    let mut cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("adopt: {}", cluster.kv_cli("a", &["adopt"]).trim());

    cluster.add_node("adjudicator-a2", "a", "adjudicator");
    cluster.start_node("adjudicator-a2");
    cluster.wait_until_ready("adjudicator-a2").await;
    roll_out(&mut cluster).await;
    println!("adopt: {}", cluster.kv_cli("a", &["adopt"]).trim());
    for range in 1..=RANGES {
        cluster.kv_cli("a", &["move", &range.to_string(), "adjudicator-a2"]);
    }
    until_owned(&clients[1], RANGES, |_, node| node == "adjudicator-a2").await;
    println!("grown");

    // It hands over while everybody still knows where it is: whoever takes over a range asks its owner for what it knows.
    assert_eq!(cluster.stop("adjudicator-a1").await, Some(0));
    cluster.remove_node("adjudicator-a1");
    roll_out(&mut cluster).await;
    println!("adopt: {}", cluster.kv_cli("a", &["adopt"]).trim());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seen = load.stop().await;
    println!("{} appends", seen.written.acknowledged.len());
    seen.assert_no_errors();
}
