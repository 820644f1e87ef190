use std::time::{Duration, Instant};

use meridian::embedded::{Cluster, Options};
use meridian::error::Error;
use meridian_client::Client;

async fn shut_down(cluster: Cluster) {
    tokio::time::timeout(Duration::from_secs(20), cluster.shutdown())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("new/data");
    let cluster = Cluster::start(Options::new(&data_dir)).await.unwrap();
    let id = cluster.id();
    let client = cluster.client().unwrap();
    for number in 0..20 {
        client
            .put(format!("key/{number}"), number.to_string())
            .await
            .unwrap();
    }
    let second = Cluster::start(Options::new(&data_dir)).await;
    assert!(
        matches!(second.as_ref().err(), Some(Error::InUse { .. })),
        "one process per directory"
    );
    shut_down(cluster).await;

    // Dropped, not shut down: as good as a crash.
    drop(Cluster::start(Options::new(&data_dir)).await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let cluster = Cluster::start(Options::new(&data_dir)).await.unwrap();
    assert_eq!(cluster.id(), id);
    let client = cluster.client().unwrap();
    for number in 0..20 {
        let value = client.get(format!("key/{number}")).await.unwrap();
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()));
    }
    println!("a restart and twenty reads: {:?}", began.elapsed());
    shut_down(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_go_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Options::new(dir.path())).await.unwrap();
    let client = cluster.client().unwrap();
    client.put("before", "1").await.unwrap();
    for name in [
        "journal-2",
        "adjudicator-1",
        "adjudicator-2",
        "storage-1",
        "query-1",
        "router-1",
    ] {
        cluster.kill(name).await;
        if !["storage-1", "query-1", "router-1"].contains(&name) {
            client.put(format!("without/{name}"), "1").await.unwrap();
        }
        cluster.restart(name).await.unwrap();
        assert!(cluster.restart(name).await.is_err(), "{name} runs already");
        client.put(format!("with/{name}"), "1").await.unwrap();
        assert!(client.get("before").await.unwrap().is_some(), "{name}");
    }
    shut_down(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_reach_it_where_it_listens() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path()).listen("127.0.0.1:0".parse().unwrap());
    let cluster = Cluster::start(options).await.unwrap();
    let address = cluster.address().unwrap().to_string();
    let outside = Client::connect([&address]).await.unwrap();
    outside.put("from", "outside").await.unwrap();
    let inside = cluster.client().unwrap();
    assert_eq!(
        inside.get("from").await.unwrap().as_deref(),
        Some(&b"outside"[..])
    );

    let status = outside.cluster_status().await.unwrap();
    let names: Vec<_> = status.nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names.len(), cluster.nodes().len(), "{names:?}");
    let unreachable: Vec<_> = status
        .nodes
        .iter()
        .filter(|node| !node.unreachable.is_empty())
        .collect();
    assert!(unreachable.is_empty(), "{unreachable:?}");
    drop((outside, inside));
    shut_down(cluster).await;
}

#[tokio::test]
async fn a_directory_that_lost_a_part_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    shut_down(Cluster::start(Options::new(dir.path())).await.unwrap()).await;
    std::fs::remove_dir_all(dir.path().join("journal-2")).unwrap();
    let error = Cluster::start(Options::new(dir.path()))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("journal-2"), "{error}");
    std::fs::remove_file(dir.path().join("CLUSTER")).unwrap();
    let error = Cluster::start(Options::new(dir.path()))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("CLUSTER is missing"), "{error}");
}
