//! One measurement of one system: data, clients, load, and what it cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Duration, Instant, sleep_until};

use crate::cpu;
use crate::error::{Error, Result};
use crate::load::open::Schedule;
use crate::load::{Alarm, Done, Failure, Recorder, Summary, Window, Work, closed, open};
use crate::report::Cost;
use crate::system::{Client, Region, Regions, Row, System, Wanted};
use crate::workload::{Generator, Generators, Op, Shape, bank, keys};

/// Clients that load data at the same time.
pub const LOADERS: usize = 8;
/// An open loop gives up an arrival that could not begin within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The load of one measurement.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What clients do.
    pub generators: Generators,
    /// How many there are, in each region.
    pub clients: usize,
    /// Before it counts.
    pub warm_up: Duration,
    /// While it counts.
    pub length: Duration,
    /// Open loop: operations per second, in each region.
    pub rate: Option<f64>,
}

/// Writes all rows that workloads expect.
///
/// # Errors
/// When one cannot be written.
pub async fn preload(system: &dyn System, regions: &Regions, shape: Shape, seed: u64) -> Result<()> {
    let clients = load(system, regions, 0..shape.keys, shape.value_bytes, seed).await?;
    let accounts = 0..bank::ACCOUNTS;
    let accounts: Vec<Row> = accounts
        .map(|index| {
            (
                bank::account(index),
                bank::written(bank::OPENING, shape.value_bytes),
            )
        })
        .collect();
    if let Some(client) = clients.first() {
        let loaded = client.load(accounts).await;
        loaded.map_err(|failure| not_loaded(system, &failure))?;
    }
    system.settle().await
}

/// Writes the rows of these users, and returns the clients that did.
///
/// # Errors
/// When one cannot be written.
pub async fn load(
    system: &dyn System,
    regions: &Regions,
    users: Range<u64>,
    value_bytes: usize,
    seed: u64,
) -> Result<Vec<Arc<dyn Client>>> {
    let wanted = Wanted {
        region: regions.are_apart().then_some(Region::A),
        count: LOADERS,
        connected_as: LOADERS,
        tries_again: true,
    };
    let clients = system.connect(wanted).await?;
    let each = (users.end.saturating_sub(users.start))
        .div_ceil(LOADERS as u64)
        .max(1);
    let loads = clients.iter().zip(0..).map(|(client, number)| {
        let mut random = StdRng::seed_from_u64(seed ^ number);
        let begin_of = |number: u64| (users.start + number * each).min(users.end);
        let own = begin_of(number)..begin_of(number + 1);
        let rows = own.map(|index| (keys::user(index), keys::value(&mut random, value_bytes)));
        client.load(rows.collect())
    });
    let loaded = try_join_all(loads).await;
    loaded.map_err(|failure| not_loaded(system, &failure))?;
    Ok(clients)
}

fn not_loaded(system: &dyn System, failure: &Failure) -> Error {
    failed(system, "the data cannot be loaded", failure)
}

fn failed(system: &dyn System, what: &str, failure: &Failure) -> Error {
    Error::System {
        system: system.kind().name(),
        what: format!("{what}: {failure}"),
    }
}

/// Has clients do their work, in all of these places at the same time.
///
/// # Errors
/// When clients cannot be connected. What fails afterwards is in the summary.
pub async fn measure(
    system: &dyn System,
    places: &[Option<Region>],
    load: Load,
    alarm: &Alarm,
) -> Result<(BTreeMap<Option<Region>, Summary>, Cost)> {
    let mut teams = Vec::new();
    let everybody = (load.clients * places.len()) as u64;
    for (region, first) in places.iter().zip((0..).step_by(load.clients)) {
        let wanted = Wanted {
            region: *region,
            count: load.clients,
            connected_as: load.clients,
            tries_again: true,
        };
        let clients = system.connect(wanted).await?;
        teams.push((*region, workers(clients, load.generators, first, everybody)));
    }
    let begin = Instant::now();
    let window = Window::new(begin + load.warm_up, load.length);
    let mut recorders = BTreeMap::new();
    let mut runs: Vec<BoxFuture<'_, ()>> = Vec::new();
    for (region, workers) in teams {
        let recorder = match load.rate {
            None => Arc::new(Recorder::closed(window)),
            Some(_) => Arc::new(Recorder::open(window)),
        };
        recorders.insert(region, recorder.clone());
        runs.push(match load.rate {
            None => closed::run(workers, window.end, recorder).boxed(),
            Some(rate) => {
                let schedule = Schedule::new([(rate, load.warm_up + load.length)]);
                open::run(workers, schedule, begin, PATIENCE, alarm.clone(), recorder).boxed()
            }
        });
    }
    let (_, mut cost) = tokio::join!(futures::future::join_all(runs), cost_of(system, window));
    let summaries: BTreeMap<_, _> = recorders
        .into_iter()
        .map(|(region, recorder)| (region, recorder.summary()))
        .collect();
    cost.operations = summaries.values().map(|summary| summary.operations).sum();
    Ok((summaries, cost))
}

/// Processor time within the window, and memory at its end.
async fn cost_of(system: &dyn System, window: Window) -> Cost {
    let pids = system.pids();
    let servers = || (!pids.is_empty()).then(|| cpu::used(&pids).micros);
    sleep_until(window.begin).await;
    let before = (servers(), cpu::used_here().micros);
    sleep_until(window.end).await;
    let after = (servers(), cpu::used_here().micros);
    Cost {
        server_micros: after
            .0
            .zip(before.0)
            .map(|(after, before)| after.saturating_sub(before)),
        client_micros: after.1.saturating_sub(before.1),
        rss_mb: (!pids.is_empty()).then(|| cpu::resident_mb(&pids)),
        operations: 0,
    }
}

/// Whether transfers left the money as it was.
///
/// # Errors
/// They did not, or the accounts cannot be read.
pub async fn check_bank(system: &dyn System, regions: &Regions) -> Result<()> {
    let wanted = Wanted {
        region: regions.are_apart().then_some(Region::B),
        count: 1,
        connected_as: 1,
        tries_again: true,
    };
    for client in system.connect(wanted).await? {
        let limit = u32::try_from(bank::ACCOUNTS + 1).unwrap_or(u32::MAX);
        let rows = client.scan(bank::FIRST.into(), bank::END.into(), limit).await;
        let rows = rows.map_err(|failure| failed(system, "the accounts cannot be read", &failure))?;
        let checked = bank::check(&rows).map_err(Failure::Failed);
        checked.map_err(|failure| failed(system, "bank", &failure))?;
    }
    Ok(())
}

/// A worker for each client.
pub fn workers(
    clients: Vec<Arc<dyn Client>>,
    generators: Generators,
    first: u64,
    everybody: u64,
) -> Vec<Box<dyn Work>> {
    let workers = clients.into_iter().zip(first..).map(|(client, index)| {
        let worker = Worker {
            client,
            generator: generators.client(index, everybody),
        };
        Box::new(worker) as Box<dyn Work>
    });
    workers.collect()
}

/// A client with what it has to do.
struct Worker {
    client: Arc<dyn Client>,
    generator: Generator,
}

impl Work for Worker {
    fn step(&mut self) -> BoxFuture<'_, Result<Done, Failure>> {
        let op = self.generator.draw();
        carry_out(self.client.as_ref(), op).boxed()
    }
}

/// Everything that is read was written before, so what is missing is an error.
async fn carry_out(client: &dyn Client, op: Op) -> Result<Done, Failure> {
    let missing = || Failure::Failed("what was written before is missing".to_owned());
    match op {
        Op::Get { key } => client
            .get(key)
            .await?
            .map(|_| Done::default())
            .ok_or_else(missing),
        Op::Put { key, value } => {
            client.put(key, value).await?;
            Ok(Done::default())
        }
        Op::Scan { from, to, limit } => {
            let rows = client.scan(from, to, limit).await?;
            if rows.is_empty() {
                Err(missing())
            } else {
                Ok(Done::default())
            }
        }
        Op::Rewrite { keys, value } => {
            let change = move |before: &[Option<Bytes>]| {
                let is_complete = before.iter().all(Option::is_some);
                is_complete.then(|| vec![value.clone(); before.len()])
            };
            Ok(committed(client.update(&keys, &change).await?))
        }
        Op::Transfer { accounts, amount } => {
            let change = move |before: &[Option<Bytes>]| bank::transferred(before, amount);
            Ok(committed(client.update(&accounts, &change).await?))
        }
    }
}

fn committed(aborts: u64) -> Done {
    Done {
        aborts,
        is_transaction: true,
    }
}
