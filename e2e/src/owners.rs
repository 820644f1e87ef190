//! Which key is in which range, and who owns it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use meridian_client::Client;

/// How long every range may take to have an owner.
const PATIENCE: Duration = Duration::from_secs(20);

/// The first key of a range of [`Layout::ranges`](crate::Layout::ranges); keys that begin with it are in that range too.
pub fn key_in(range: usize) -> String {
    format!("range-{range:02}/")
}

/// The adjudicators that own the `count` ranges, by the number of the range: each of them is written, so that it has an owner, and the
/// cluster is asked until it says who.
pub async fn owners(client: &Client, count: usize) -> BTreeMap<usize, String> {
    for range in 0..count {
        let put = client.put(key_in(range), "used").await;
        put.unwrap_or_else(|error| panic!("put in range {range}: {error}"));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.cluster_status().await.expect("the cluster says how it is");
        // A node that was replaced and does not know it yet says so as well: the highest epoch counts.
        let mut owners: BTreeMap<usize, (u64, String)> = BTreeMap::new();
        for node in &status.nodes {
            let ranges = node.services.iter().flat_map(|service| &service.ranges);
            for range in ranges.filter(|range| range.role == "owner" && range.range > 0) {
                let number = usize::try_from(range.range - 1).expect("a small number");
                let claim = (range.epoch, node.node.clone());
                let known = owners.entry(number).or_insert_with(|| claim.clone());
                *known = claim.max(known.clone());
            }
        }
        if owners.len() == count {
            return owners
                .into_iter()
                .map(|(range, (_, node))| (range, node))
                .collect();
        }
        assert!(
            Instant::now() < deadline,
            "not every range has an owner: {status:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The nodes that own ranges now, by the number of the range, as far as the cluster says.
pub async fn owning_nodes(client: &Client) -> BTreeMap<u64, String> {
    let Ok(status) = client.cluster_status().await else {
        return BTreeMap::new();
    };
    let mut owners: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for node in &status.nodes {
        let ranges = node.services.iter().flat_map(|service| &service.ranges);
        for range in ranges.filter(|range| range.role == "owner" && range.range > 0) {
            let claim = (range.epoch, node.node.clone());
            let known = owners.entry(range.range).or_insert_with(|| claim.clone());
            *known = claim.max(known.clone());
        }
    }
    owners
        .into_iter()
        .map(|(range, (_, node))| (range, node))
        .collect()
}

/// Returns once all `count` ranges have an owner that is wanted for them.
///
/// # Panics
/// When that takes too long.
pub async fn until_owned(client: &Client, count: usize, wanted: impl Fn(u64, &str) -> bool) {
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let owners = owning_nodes(client).await;
        if owners.len() == count && owners.iter().all(|(range, node)| wanted(*range, node)) {
            return;
        }
        assert!(Instant::now() < deadline, "the ranges are with {owners:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
