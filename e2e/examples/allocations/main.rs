//! How often a put, a get and a transaction allocate, and how much: a guard against regressions that is not a timing, so that a busy
//! machine changes little of what it says. Exit code 1 when a figure is above its budget (`budgets.toml`, beside this file).
//!
//! `cargo run -p meridian-e2e --example allocations`
//!
//! ```text
//! round   |-- put, one by one --|-- idle, as long --|-- get --|-- idle --|-- txn --|-- idle --|
//! figure   (allocations while busy - allocations while idle) / operations; the lower quartile of all rounds
//! ```
//!
//! One embedded cluster as `kv-cli dev` starts it (one region, three journals), client included, all in one thread: what is counted is
//! what an operation costs on its whole way, and nothing depends on which threads have time. Operations come one after another, so that no
//! two of them share a message or a group of the journal.
//!
//! Caveat: what storage nodes and journals do in threads of their own counts as well.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod budgets;

use std::alloc::System;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian::embedded::{Cluster, Options};
use meridian_client::Client;
use stats_alloc::{INSTRUMENTED_SYSTEM, Stats, StatsAlloc};

use budgets::{Budgets, Figures, Judgement, Verdict, lower_quartile};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Rounds. Many short ones: what happens once in a while (a flush, a lease that went to another owner because the
/// machine stood still) is in few of them.
const ROUNDS: usize = 15;
/// Operations of a kind in a round.
const OPERATIONS: usize = 64;
/// Keys that are there.
const KEYS: usize = 64;
/// The length of a value.
const VALUE_BYTES: usize = 100;
/// After the last operation storage nodes still apply what it wrote: that is part of its price.
const SETTLE: Duration = Duration::from_millis(200);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What clients do.
#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
    Txn,
}

const KINDS: [(&str, Kind); 3] = [("put", Kind::Put), ("get", Kind::Get), ("txn", Kind::Txn)];

fn main() -> ExitCode {
    match judged() {
        Ok(judgements) => report(&judgements),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn judged() -> Outcome<Vec<Judgement>> {
    let budgets = Budgets::recorded()?;
    Ok(budgets.judge(&measured()?))
}

/// What counts of all rounds.
fn measured() -> Outcome<Vec<(&'static str, Figures)>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let directory = tempfile::tempdir()?;
    let rounds = runtime.block_on(async {
        let cluster = Cluster::start(Options::new(directory.path().join("data"))).await?;
        let client = cluster.client()?;
        let rounds = rounds(&client).await;
        cluster.shutdown().await;
        rounds
    })?;
    let kinds = KINDS.iter().enumerate();
    Ok(kinds
        .map(|(index, (name, _))| {
            let of_kind: Vec<Figures> = rounds
                .iter()
                .filter_map(|round| round.get(index).copied())
                .collect();
            (*name, lower_quartile(&of_kind))
        })
        .collect())
}

async fn rounds(client: &Client) -> Outcome<Vec<Vec<Figures>>> {
    let keys: Vec<Bytes> = (0..KEYS)
        .map(|index| format!("user{index:016x}").into())
        .collect();
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    // Connections, caches and buffers come to their size, and every key gets its value.
    for (_, kind) in KINDS {
        work(client, &keys, &value, kind).await?;
    }
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        let mut round = Vec::new();
        for (name, kind) in KINDS {
            let figures = measure(client, &keys, &value, kind).await?;
            eprintln!(
                "round {number} of {ROUNDS}: {name} {:.1} allocations, {:.0} bytes",
                figures.allocations, figures.bytes
            );
            round.push(figures);
        }
        rounds.push(round);
    }
    Ok(rounds)
}

/// One kind, without what goes on anyway: leases, heartbeats, flushes.
async fn measure(client: &Client, keys: &[Bytes], value: &Bytes, kind: Kind) -> Outcome<Figures> {
    let (began, before) = (Instant::now(), ALLOCATOR.stats());
    work(client, keys, value, kind).await?;
    tokio::time::sleep(SETTLE).await;
    let (took, busy) = (began.elapsed(), ALLOCATOR.stats());
    tokio::time::sleep(took).await;
    let idle = ALLOCATOR.stats();
    Ok(between(before, busy).minus(between(busy, idle)).per(OPERATIONS))
}

fn between(before: Stats, after: Stats) -> Figures {
    let calls = |stats: Stats| stats.allocations + stats.reallocations;
    Figures {
        allocations: (calls(after) - calls(before)) as f64,
        bytes: (after.bytes_allocated - before.bytes_allocated) as f64,
    }
}

async fn work(client: &Client, keys: &[Bytes], value: &Bytes, kind: Kind) -> Outcome<()> {
    let others = keys.iter().cycle().skip(1);
    for (key, other) in keys.iter().cycle().zip(others).take(OPERATIONS) {
        match kind {
            Kind::Put => {
                client.put(key.clone(), value.clone()).await?;
            }
            Kind::Get => {
                let read = client.get(key.clone()).await?;
                read.ok_or("a key is missing that was written")?;
            }
            Kind::Txn => {
                let changed = client.transact(|txn| async move {
                    txn.get(key.clone()).await?;
                    txn.get(other.clone()).await?;
                    txn.put(key.clone(), value.clone()).await?;
                    txn.put(other.clone(), value.clone()).await
                });
                changed.await?;
            }
        }
    }
    Ok(())
}

/// Shows all figures, and says which of them are wrong.
fn report(judgements: &[Judgement]) -> ExitCode {
    const HEADER: [&str; 6] = [
        "operation",
        "per operation",
        "measured",
        "recorded",
        "budget",
        "verdict",
    ];
    let rows = judgements.iter().map(Judgement::row);
    for [operation, figure, measured, recorded, budget, verdict] in
        [HEADER.map(str::to_owned)].into_iter().chain(rows)
    {
        println!("{operation:<9}  {figure:<13}  {measured:>9}  {recorded:>9}  {budget:>9}  {verdict}");
    }
    let with = |verdict| {
        judgements
            .iter()
            .filter(move |judgement| judgement.verdict == verdict)
    };
    for judgement in with(Verdict::FarBelow) {
        println!(
            "{judgement} is far below what is recorded: lower it in {}",
            budgets::PLACE
        );
    }
    let mut code = ExitCode::SUCCESS;
    for judgement in with(Verdict::Above) {
        eprintln!(
            "FAILED: {judgement} is above its budget: find what allocates more, or record the new figure in {} and say why",
            budgets::PLACE
        );
        code = ExitCode::FAILURE;
    }
    code
}
