//! What reads and commits take while one of several adjudicators is paused, in ranges that are not its own: real processes on loopback.
//!
//! `cargo run --release -p meridian-e2e --example one_paused [SECONDS]`: so long each part is measured.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use meridian_client::{Client, Error, Execute};
use meridian_e2e::{Cluster, Layout, key_in, owners};
use tokio::time::Instant;

const RANGES: usize = 16;
/// Between two operations: a client that asks without a pause measures how busy the machine is.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Commit,
    Across,
}

const KINDS: [(&str, Kind); 3] = [
    ("read", Kind::Read),
    ("commit", Kind::Commit),
    ("commit across two ranges", Kind::Across),
];

#[tokio::main]
async fn main() -> Result<(), Error> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(5.0));
    let cluster = Cluster::start(Layout::four_adjudicators(RANGES)).await;
    let client = cluster.client().await;
    let owners_before = owners(&client, RANGES).await;
    let Some(stuck) = owners_before.get(&0).cloned() else {
        return Ok(());
    };
    let kept: Vec<usize> = (0..RANGES)
        .filter(|range| owners_before.get(range) != Some(&stuck))
        .collect();
    println!(
        "{RANGES} ranges, 4 adjudicators; {} of the ranges are those of {stuck}",
        RANGES - kept.len()
    );
    println!("operation | when | count | p50 us | p99 us | max us");
    for (name, kind) in KINDS {
        let warm = Duration::from_secs(1);
        measure(&client, &kept, kind, warm).await?;
        show(name, "before", measure(&client, &kept, kind, time).await?);
    }
    cluster.pause(&stuck);
    for (name, kind) in KINDS {
        show(name, "paused", measure(&client, &kept, kind, time).await?);
    }
    let began = Instant::now();
    for range in (0..RANGES).filter(|range| !kept.contains(range)) {
        client.put(key(range, 0), "x").await?;
        println!(
            "range {range}, which was {stuck}'s, is written {:?} after the first was asked for",
            began.elapsed()
        );
    }
    cluster.resume(&stuck);
    for (name, kind) in KINDS {
        show(name, "after", measure(&client, &kept, kind, time).await?);
    }
    Ok(())
}

/// One operation after another, in one range after another.
async fn measure(
    client: &Client,
    ranges: &[usize],
    kind: Kind,
    time: Duration,
) -> Result<Vec<Duration>, Error> {
    let end = Instant::now() + time;
    let mut latencies = Vec::new();
    let others = ranges.iter().cycle().skip(1);
    for (number, (range, other)) in ranges.iter().cycle().zip(others).enumerate() {
        if Instant::now() >= end {
            break;
        }
        let began = Instant::now();
        let first = key(*range, number);
        match kind {
            Kind::Read => drop(client.get(first).await?),
            Kind::Commit => drop(client.put(first, "x").await?),
            Kind::Across => {
                let writes = Execute::new().put(first, "x").put(key(*other, number), "x");
                client.execute(&writes).await?;
            }
        }
        latencies.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    latencies.sort_unstable();
    Ok(latencies)
}

fn key(range: usize, number: usize) -> String {
    format!("{}{}", key_in(range), number % 1_000)
}

fn show(name: &str, when: &str, sorted: Vec<Duration>) {
    let count = sorted.len();
    let micros = |index: usize| {
        sorted
            .get(index.min(count.saturating_sub(1)))
            .map_or(0, Duration::as_micros)
    };
    println!(
        "{name} | {when} | {count} | {} | {} | {}",
        micros(count / 2),
        micros(count * 99 / 100),
        micros(count)
    );
}
