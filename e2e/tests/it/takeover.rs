//! Adjudicators and journal nodes that die, stop and come back.

use std::time::{Duration, Instant};

use meridian_client::{Client, KvError, TxnOptions};
use meridian_e2e::{Cluster, Layout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_dies_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start(Layout {
        routers: 1,
        ..Layout::default()
    })
    .await;
    let client = cluster.client().await;
    a_killed_owner_is_replaced(&mut cluster, &client).await;
    a_paused_owner_commits_nothing_when_it_wakes(&mut cluster, &client).await;
    one_journal_node_may_be_missing_and_catches_up(&mut cluster, &client).await;
    a_storage_node_is_rebuilt_from_nothing(&mut cluster, &client).await;
    everything_killed_at_once_comes_back(&mut cluster).await;
    every_process_stops_cleanly(&mut cluster).await;
}

async fn put(client: &Client, key: &str, value: &str) {
    client
        .put(key, value.to_owned())
        .await
        .unwrap_or_else(|error| panic!("put {key}: {error}"));
}

async fn assert_value(client: &Client, key: &str, value: &str) {
    assert_eq!(
        client.get(key).await.unwrap().as_deref(),
        Some(value.as_bytes()),
        "{key}"
    );
}

/// The adjudicator that owns the range now, as the cluster's own status tells.
async fn owner(client: &Client) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = client.cluster_status().await.unwrap();
        let owner = status.nodes.iter().find(|node| {
            node.services
                .iter()
                .any(|service| service.ranges.iter().any(|range| range.role == "owner"))
        });
        if let Some(owner) = owner {
            return owner.node.clone();
        }
        assert!(Instant::now() < deadline, "nobody owns the range: {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_killed_owner_is_replaced(cluster: &mut Cluster, client: &Client) {
    put(client, "takeover/before", "1").await;
    let old = owner(client).await;
    cluster.kill(&old);
    let killed = Instant::now();
    put(client, "takeover/after", "1").await;
    println!("killed {old}: the next put took {:?}", killed.elapsed());
    assert_ne!(owner(client).await, old);
    assert_value(client, "takeover/before", "1").await;
    cluster.start_node(&old);
    put(client, "takeover/again", "1").await;
}

async fn a_paused_owner_commits_nothing_when_it_wakes(cluster: &mut Cluster, client: &Client) {
    put(client, "pause/key", "before").await;
    let old = owner(client).await;
    let reader = client.begin(TxnOptions::default()).await.unwrap();
    reader.get("pause/key").await.unwrap();
    cluster.pause(&old);
    let paused = Instant::now();
    put(client, "pause/key", "by the successor").await;
    println!("paused {old}: the next put took {:?}", paused.elapsed());
    cluster.resume(&old);
    // It began before the successor's commit and wrote the same key: it must not get through anywhere.
    reader.put("pause/key", "by the old owner").await.unwrap();
    let late = reader
        .commit()
        .await
        .expect_err("its snapshot is from before the takeover");
    let refused = matches!(
        late.kv(),
        Some(KvError::Conflict { .. } | KvError::SnapshotTooOld { .. })
    );
    assert!(refused, "{late}");
    assert_value(client, "pause/key", "by the successor").await;
    assert_ne!(owner(client).await, old);
}

async fn one_journal_node_may_be_missing_and_catches_up(cluster: &mut Cluster, client: &Client) {
    cluster.kill("journal-2");
    for number in 0..100 {
        put(client, &format!("missing/{number:03}"), "x").await;
    }
    cluster.start_node("journal-2");
    // With another one gone, the one that was missing is needed for every quorum.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = client.cluster_status().await.unwrap();
        let lsn = |node: &str| {
            let node = status.nodes.iter().find(|status| status.node == node)?;
            node.services
                .iter()
                .find_map(|service| service.streams.first())
                .map(|stream| stream.last_lsn)
        };
        if lsn("journal-2").is_some() && lsn("journal-2") >= lsn("journal-1") {
            break;
        }
        assert!(Instant::now() < deadline, "journal-2 does not catch up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.kill("journal-1");
    put(client, "missing/quorum", "1 and 3 are not enough without 2").await;
    cluster.start_node("journal-1");
    assert_value(client, "missing/099", "x").await;
}

/// Which is also how a further storage node joins: empty, and in the configuration.
async fn a_storage_node_is_rebuilt_from_nothing(cluster: &mut Cluster, client: &Client) {
    put(client, "rebuilt/key", "in the journal").await;
    cluster.kill("storage-2");
    std::fs::remove_dir_all(cluster.directory().join("storage-2")).expect("its directory is removed");
    cluster.start_node("storage-2");
    // Now there is nobody else who could answer.
    cluster.kill("storage-1");
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = client.get("rebuilt/key").await {
        assert!(Instant::now() < deadline, "storage-2 does not serve: {error}");
    }
    assert_value(client, "rebuilt/key", "in the journal").await;
    assert_value(client, "takeover/before", "1").await;
    cluster.start_node("storage-1");
}

async fn everything_killed_at_once_comes_back(cluster: &mut Cluster) {
    let client = cluster.client().await;
    put(&client, "all/key", "kept").await;
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_until_writable().await;
    let client = cluster.client().await;
    assert_value(&client, "all/key", "kept").await;
    assert_value(&client, "takeover/again", "1").await;
    assert_value(&client, "pause/key", "by the successor").await;
}

async fn every_process_stops_cleanly(cluster: &mut Cluster) {
    // From the front to the back, so that nobody misses a service that it needs to stop.
    let mut names = cluster.nodes();
    let order = ["router", "query", "storage", "adjudicator", "journal"];
    names.sort_by_key(|name| order.iter().position(|role| name.starts_with(role)));
    for name in names {
        assert_eq!(cluster.stop(&name).await, Some(0), "{name}");
    }
}
