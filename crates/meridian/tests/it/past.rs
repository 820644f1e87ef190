//! Reads of the past in a region that is cut off, over all services of an embedded cluster.

use std::time::{Duration, Instant};

use meridian::embedded::{Cluster, Options};
use meridian_client::TxnOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_reads_the_past_in_all_ranges_and_says_how_old_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path()).regions(3).split_at(["h"]);
    let cluster = Cluster::start(options).await.unwrap();
    let client = cluster.client_in("a").unwrap();
    // The first range is owned in region a, the second one in b.
    let write = |txn: meridian_client::Txn| async move {
        txn.put("a", "1").await?;
        txn.put("s", "1").await
    };
    client.transact(write).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for link in ["a-b", "a-w"] {
        cluster.cut(&cluster.place(link).unwrap()).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let begun = Instant::now();
    let stale = TxnOptions::stale(Duration::from_secs(60));
    let past = client.begin(stale).await.unwrap();
    for key in ["a", "s"] {
        assert_eq!(past.get(key).await.unwrap().as_deref(), Some(&b"1"[..]));
    }
    let snapshot = past.snapshot().unwrap();
    let waited = begun.elapsed();
    println!("{snapshot:?} in {waited:?}");
    assert!(waited < Duration::from_secs(2));
    assert!(snapshot.age > Duration::from_millis(100), "{snapshot:?}");
    tokio::time::timeout(Duration::from_secs(20), cluster.shutdown())
        .await
        .unwrap();
}
