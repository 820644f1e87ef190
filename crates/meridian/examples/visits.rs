//! Counts its own runs in an embedded cluster: `cargo run --release -p meridian --example visits -- DIR`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use meridian::embedded::{Cluster, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data_dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "data/visits".to_owned());
    let began = Instant::now();
    let cluster = Cluster::start(Options::new(data_dir)).await?;
    let client = cluster.client()?;
    println!("ready after {:?}", began.elapsed());

    let visits = client
        .transact(|txn| async move {
            let visits = txn.get("visits").await?;
            let visits = visits.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
            let visits = visits.unwrap_or(0_u64) + 1;
            txn.put("visits", visits.to_string()).await?;
            Ok(visits)
        })
        .await?;
    println!("visit {visits}, counted after {:?}", began.elapsed());

    cluster.shutdown().await;
    println!("stopped after {:?}", began.elapsed());
    Ok(())
}
