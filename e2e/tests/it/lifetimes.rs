//! Connections and sessions live for a second only, under load: all are renewed again and again, and no call of a client fails.

use std::time::Duration;

use meridian_e2e::load::Load;
use meridian_e2e::{Cluster, RegionLayout};

const RANGES: usize = 4;
const LOAD: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_connections_are_renewed_without_an_error() {
    let cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        routers: 2,
        connection_age_ms: Some(1_000),
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    let load = Load::start(&clients, RANGES);
    tokio::time::sleep(LOAD).await;
    let seen = load.stop().await;
    let status = clients[0].cluster_status().await.expect("the cluster's status");
    let services = status.nodes.iter().flat_map(|node| &node.services);
    let sessions: u64 = services
        .filter_map(|service| service.figures.get("sessions_served"))
        .sum();
    println!(
        "{sessions} sessions for {} clients; {} appends, {} reads, {} by hand",
        clients.len(),
        seen.written.acknowledged.len(),
        seen.reads.succeeded,
        seen.by_hand.succeeded
    );
    seen.assert_no_errors();
    assert!(
        sessions > 2 * clients.len() as u64,
        "{sessions} sessions: they are not renewed"
    );
}
