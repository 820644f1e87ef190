//! Closing per range (R13 to R15): a stuck adjudicator stops the reads and commits of its own ranges, and of no others.

use std::collections::BTreeMap;

use meridian_client::{Client, Execute};
use meridian_e2e::{Cluster, Layout, key_in, owners};

const RANGES: usize = 16;
/// Reads and commits in each range that is not touched.
const ROUNDS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stuck_adjudicator_stops_its_own_ranges_alone() {
    let cluster = Cluster::start(Layout::four_adjudicators(RANGES)).await;
    let client = cluster.client().await;
    let before = owners(&client, RANGES).await;
    let stuck = before[&RANGES.div_euclid(2)].clone();
    let (lost, kept): (Vec<usize>, Vec<usize>) = (0..RANGES).partition(|range| before[range] == stuck);
    assert!(!lost.is_empty() && kept.len() > 1, "{before:?}");
    let mut values = BTreeMap::new();
    for range in 0..RANGES {
        write(&client, &mut values, &[range], "before").await;
    }
    cluster.pause(&stuck);
    // Nobody touches its ranges, and so nobody replaces it: the others do not need it for anything.
    for round in 0..ROUNDS {
        for (place, range) in kept.iter().enumerate() {
            let value = format!("round {round}");
            let other = kept[(place + 1) % kept.len()];
            write(&client, &mut values, &[*range], &value).await;
            write(&client, &mut values, &[*range, other], &value).await;
            assert_eq!(
                read(&client, *range).await,
                values.get(range).cloned(),
                "range {range}"
            );
        }
    }
    // Now they are used: others take them over, and all ranges go on together.
    for range in &lost {
        assert_eq!(read(&client, *range).await.as_deref(), Some("before"));
        write(&client, &mut values, &[*range, kept[0]], "after").await;
    }
    let after = owners(&client, RANGES).await;
    assert!(lost.iter().all(|range| after[range] != stuck), "{after:?}");
    assert!(
        kept.iter().all(|range| after[range] == before[range]),
        "nobody took what was not stuck: {before:?} {after:?}"
    );
    cluster.resume(&stuck);
    for range in 0..RANGES {
        write(&client, &mut values, &[range], "again").await;
        assert_eq!(
            read(&client, range).await,
            values.get(&range).cloned(),
            "range {range}"
        );
    }
}

/// One transaction over all of these ranges.
async fn write(client: &Client, values: &mut BTreeMap<usize, String>, ranges: &[usize], value: &str) {
    let mut writes = Execute::new();
    for range in ranges {
        writes = writes.put(key(*range), value.to_owned());
        values.insert(*range, value.to_owned());
    }
    let done = client.execute(&writes).await;
    done.unwrap_or_else(|error| panic!("write {value} in ranges {ranges:?}: {error}"));
}

async fn read(client: &Client, range: usize) -> Option<String> {
    let value = client.get(key(range)).await;
    let value = value.unwrap_or_else(|error| panic!("read in range {range}: {error}"))?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

fn key(range: usize) -> String {
    format!("{}key", key_in(range))
}
