//! Clients prefer their own region: they go on through the other one while its routers are away, and come back.

use std::time::{Duration, Instant};

use meridian_client::{Client, Outcome, TxnOptions};
use meridian_e2e::{Cluster, RegionLayout};

/// For liveness only.
const PATIENCE: Duration = Duration::from_secs(30);

/// Puts to every range, until the client does so through that region. Every put succeeds.
async fn until_through(client: &Client, region: &str) {
    let deadline = Instant::now() + PATIENCE;
    for count in 0_u32.. {
        let key = format!("{}/failover", count % 2);
        client
            .put(key, count.to_string())
            .await
            .expect("a put succeeds all the while");
        if client.region().as_deref() == Some(region) {
            return;
        }
        assert!(Instant::now() < deadline, "its calls do not go through {region}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_to_the_other_region_and_back() {
    let layout = RegionLayout {
        ranges: 2,
        routers: 2,
        ..RegionLayout::default()
    };
    let mut cluster = Cluster::start_regions(layout).await;
    for (home, other) in [("a", "b"), ("b", "a")] {
        let (client, elsewhere) = (cluster.client_in(home), cluster.client_in(other));
        until_through(&client, home).await;
        let routers = cluster.nodes_of(home, "router");
        // One of two is no reason to leave.
        cluster.kill(&routers[0]);
        for count in 0..20 {
            client
                .put("0/failover", count.to_string())
                .await
                .expect("there is another router");
            assert_eq!(client.region().as_deref(), Some(home));
        }
        cluster.kill(&routers[1]);
        until_through(&client, other).await;
        until_through(&elsewhere, other).await;
        for router in &routers {
            cluster.start_node(router);
        }
        until_through(&client, home).await;
    }
    outcomes_are_answered_without_the_region_that_decided(&mut cluster).await;
}

async fn outcomes_are_answered_without_the_region_that_decided(cluster: &mut Cluster) {
    let client = cluster.client_in("b");
    // Its home is in a.
    let committed = client.put("0/outcome", "there").await.expect("a put");
    // Never asked to commit, as if its query processor had died with the region.
    let options = TxnOptions::default();
    let open = cluster
        .client_in("a")
        .begin(options)
        .await
        .expect("a transaction");
    open.put("0/never", "there").await.expect("a write");
    let never = open.token();
    cluster.kill_at_once(&cluster.nodes_of("a", ""));
    drop(open);
    let deadline = Instant::now() + PATIENCE;
    for (token, expected) in [(committed.token, "committed"), (never, "aborted")] {
        let outcome = loop {
            match client.outcome(token).await {
                Ok(outcome) => break outcome,
                Err(error) => assert!(Instant::now() < deadline, "{expected}: {error}"),
            }
        };
        match outcome {
            Outcome::Committed(at) => assert_eq!((expected, at), ("committed", committed.timestamp)),
            Outcome::Aborted => assert_eq!(expected, "aborted"),
            Outcome::Forgotten => panic!("it is not so long ago"),
        }
    }
    let value = client.get("0/outcome").await.expect("a read");
    assert_eq!(value.as_deref(), Some(&b"there"[..]));
    assert_eq!(client.get("0/never").await.expect("a read"), None);
}
