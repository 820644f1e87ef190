//! `run` and `compare`: every workload with every number of clients on every system, in turns.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use crate::args::SiteArgs;
use crate::error::{Error, Result};
use crate::load::{Alarm, Summary};
use crate::measure::{LOADERS, Load, check_bank, measure, preload};
use crate::report::{Cell, Cost, Report};
use crate::system::{self, Kind, Region, Regions, Site, System, timer};
use crate::tell;
use crate::workload::{Generators, Shape, Workload};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// Numbers of clients in each region.
    pub clients: Vec<usize>,
    /// Before it counts.
    pub warm_up: Duration,
    /// How long a round counts.
    pub length: Duration,
    /// How often each measurement is made.
    pub rounds: u32,
    /// Open loop: operations per second in each region.
    pub rate: Option<f64>,
    /// How much data there is.
    pub shape: Shape,
    /// All operations derive from it.
    pub seed: u64,
}

/// Systems that run, with their files.
pub struct Started {
    /// The systems, in the order in which they were named.
    pub systems: Vec<Box<dyn System>>,
    /// The distances.
    pub regions: Regions,
    dir: Option<TempDir>,
}

impl Started {
    /// Starts the systems and loads the data. Those whose programs are missing are left out, and named.
    ///
    /// # Errors
    /// One does not start, or none can be.
    pub async fn start(kinds: &[Kind], args: &SiteArgs, max_clients: usize) -> Result<Self> {
        let regions = args.distances()?;
        let peers = args.place.peers.peers();
        let dir = args.place.directory()?;
        let setup = args.setup();
        let mut started = Self {
            systems: Vec::new(),
            regions: regions.clone(),
            dir: None,
        };
        for kind in kinds {
            if let Some(missing) = peers.missing(*kind) {
                tell(&format!("{kind} is left out: {missing}"));
                continue;
            }
            let site = Site {
                dir: dir.path().join(kind.name()),
                regions: regions.clone(),
                max_clients: max_clients + LOADERS,
                peers: peers.clone(),
                setup: setup.clone(),
            };
            tell(&format!("{kind}: starting, loading {} keys", args.keys));
            let system = system::start(*kind, site).await?;
            preload(system.as_ref(), &regions, args.shape(), args.seed).await?;
            started.systems.push(system);
        }
        if started.systems.is_empty() {
            return Err(Error::Usage("no system can be measured".to_owned()));
        }
        started.dir = Some(dir);
        Ok(started)
    }

    /// Stops them all and removes their files.
    pub async fn stop(self) {
        for system in self.systems {
            system.stop().await;
        }
        drop(self.dir);
    }
}

/// Makes all measurements. Each result is shown as soon as it is there.
///
/// # Errors
/// Clients cannot be connected, or the bank lost money.
pub async fn compare(started: &Started, plan: &Plan, mut show: impl FnMut(&Report)) -> Result<Vec<Report>> {
    let alarm = Alarm::Exact(timer()?);
    let (mut reports, mut number) = (Vec::new(), 0);
    for workload in &plan.workloads {
        for clients in &plan.clients {
            let mut results = BTreeMap::new();
            for round in 0..plan.rounds {
                number += 1;
                let load = Load {
                    generators: Generators::new(*workload, plan.shape, plan.seed, number),
                    clients: *clients,
                    warm_up: plan.warm_up,
                    length: plan.length,
                    rate: plan.rate,
                };
                // So that no system always comes after the same one.
                let (later, first) = started.systems.split_at(round as usize % started.systems.len());
                for system in first.iter().chain(later) {
                    let measured =
                        measure(system.as_ref(), &started.regions.of_clients(), load, &alarm).await?;
                    add(&mut results, *workload, system.kind(), *clients, measured);
                    if *workload == Workload::Bank {
                        check_bank(system.as_ref(), &started.regions).await?;
                    }
                }
            }
            for (cell, (summary, cost)) in in_order(results, started) {
                tell_errors(cell, &summary);
                let report = Report::new(cell, &summary, &cost, plan.rate);
                show(&report);
                reports.push(report);
            }
        }
    }
    Ok(reports)
}

type Results = BTreeMap<Cell, (Summary, Cost)>;

fn add(
    results: &mut Results,
    workload: Workload,
    system: Kind,
    clients: usize,
    (summaries, cost): (BTreeMap<Option<Region>, Summary>, Cost),
) {
    for (region, summary) in summaries {
        let cell = Cell {
            workload,
            clients,
            system,
            region,
        };
        match results.get_mut(&cell) {
            Some((all, costs)) => {
                all.merge(&summary);
                costs.merge(&cost);
            }
            None => {
                results.insert(cell, (summary, cost));
            }
        }
    }
}

/// Beside each other what is to be compared: the systems in the order in which they were named, within each region.
fn in_order(results: Results, started: &Started) -> Vec<(Cell, (Summary, Cost))> {
    let place = |kind: Kind| started.systems.iter().position(|system| system.kind() == kind);
    let mut all: Vec<_> = results.into_iter().collect();
    all.sort_by_key(|(cell, _)| (cell.region, place(cell.system)));
    all
}

fn tell_errors(cell: Cell, summary: &Summary) {
    for (kind, count) in &summary.kinds {
        tell(&format!(
            "{} {} with {} clients: {count} times: {kind}",
            cell.system, cell.workload, cell.clients
        ));
    }
}
