//! A region's journal node loses its disk: the region's storage node, which comes back at the same time, reads from another region's
//! until it is whole again.

use std::time::{Duration, Instant};

use meridian_client::Client;
use meridian_e2e::ledger::{self, Writers};
use meridian_e2e::{Cluster, RegionLayout};

const RANGES: usize = 4;
/// For liveness only.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the journal node holds every range's stream again.
async fn is_whole(client: &Client, node: &str) -> bool {
    let Ok(status) = client.cluster_status().await else {
        return false;
    };
    let services = status.nodes.iter().filter(|status| status.node == node);
    let mut journals = services.flat_map(|status| &status.services);
    journals.any(|journal| {
        let held = journal
            .streams
            .iter()
            .filter(|stream| stream.stream > 0 && stream.committed_lsn > 0);
        journal.state == "ready" && held.count() == RANGES
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_writes_go_on_while_a_region_s_journal_node_is_rebuilt() {
    let mut cluster = Cluster::start_regions(RegionLayout {
        ranges: RANGES,
        ..RegionLayout::default()
    })
    .await;
    let clients = [cluster.client_in("a"), cluster.client_in("b")];
    for range in 0..RANGES {
        clients[0]
            .put(format!("{range}/kept"), "before")
            .await
            .expect("a put");
    }
    let writers = Writers::start(&clients, RANGES, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(1)).await;

    cluster.kill_at_once(&["journal-a1", "storage-a1"].map(str::to_owned));
    cluster.replace_lost_disk("journal-a1");
    cluster.start_node("storage-a1");
    cluster.start_node("journal-a1");
    let deadline = Instant::now() + PATIENCE;
    while !is_whole(&clients[1], "journal-a1").await {
        for range in 0..RANGES {
            let kept = clients[0]
                .get(format!("{range}/kept"))
                .await
                .expect("a read in a");
            assert_eq!(kept.as_deref(), Some(&b"before"[..]));
        }
        assert!(Instant::now() < deadline, "journal-a1 is not rebuilt");
    }
    // Now there is no quorum without it, and storage has nothing else near.
    cluster.kill("journal-w1");
    for range in 0..RANGES {
        for client in &clients {
            client.put(format!("{range}/kept"), "after").await.expect("a put");
            let kept = client.get(format!("{range}/kept")).await.expect("a read");
            assert_eq!(kept.as_deref(), Some(&b"after"[..]));
        }
    }
    let written = writers.stop().await;
    println!(
        "{} appends, longest gap of a writer {:?}",
        written.acknowledged.len(),
        written.longest_gap
    );
    assert!(written.errors.is_empty(), "{:?}", written.errors);
    for client in &clients {
        ledger::check(&ledger::read(client, RANGES).await, &written);
    }
}
