//! The client against the in-memory cluster, in process and over TCP.
#![allow(clippy::unwrap_used)]

mod doubt;
mod isolation;
mod operations;
mod overload;
mod reconnect;
mod retries;

use meridian_client::fake::FakeCluster;
use meridian_client::{Client, Error, Txn};

/// A counter's value; 0 when it has none.
async fn number(txn: &Txn, key: &str) -> Result<u64, Error> {
    let text = txn.get(key).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).parse().unwrap_or(0))
}

/// Adds one in a transaction with retries.
async fn increment(client: &Client, key: &'static str) -> Result<u64, Error> {
    client
        .transact(|txn| async move {
            let next = number(&txn, key).await? + 1;
            txn.put(key, next.to_string()).await?;
            Ok(next)
        })
        .await
}

async fn over_tcp(cluster: &FakeCluster) -> Client {
    Client::connect([cluster.listen().await.to_string()])
        .await
        .unwrap()
}
