//! One simulation, from its start to the verdict.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use meridian_client::{KeyRange, Timestamp};
use meridian_storage::store::Direction;
use turmoil::Sim;

use crate::cluster::time::{SimTime, TICK};
use crate::cluster::{Cluster, Role, Shared, distances};
use crate::faults::{FARTHEST, Faults};
use crate::history::{Outcome, Txn};
use crate::invariants::clients::convergence::agree;
use crate::invariants::{self, Content, Evidence, Violation};
use crate::mutation::Mutation;
use crate::plan::Plan;
use crate::seams;
use crate::trace::{self, Trace};
use crate::workload::{AUDITOR, Phase, Workload};

/// A new cluster must be able to work within this.
const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// After the last fault everybody must get on within this.
const CALM_LIMIT: Duration = Duration::from_secs(30);
/// After that, all outcomes must be known within this: the longest deadline, and some more.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// And everything must have been read within this.
const AUDIT_LIMIT: Duration = Duration::from_secs(30);
/// Clients go on for at least so long after the last fault.
const CALM: Duration = Duration::from_millis(1_500);
/// Storage nodes must hold the same within this, counted from the end of the audit.
const CONVERGE_LIMIT: Duration = Duration::from_secs(30);

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// What clients saw.
    pub txns: Vec<Txn>,
    /// Simulated time.
    pub simulated: Duration,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<String, u64>,
    /// The hash of the log and of all bytes on all wires.
    pub digest: u64,
    /// Log lines.
    pub lines: u64,
}

impl Report {
    /// How many transactions were acknowledged, aborted, and are in doubt.
    pub fn outcomes(&self) -> (usize, usize, usize) {
        let committed = self.txns.iter().filter(|txn| txn.is_committed()).count();
        let aborted = self.txns.iter().filter(|txn| txn.is_aborted()).count();
        (committed, aborted, self.txns.len() - committed - aborted)
    }

    /// The same for each workload.
    pub fn workloads(&self) -> BTreeMap<&str, [usize; 3]> {
        let mut workloads: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for txn in &self.txns {
            let [committed, aborted, unknown] = workloads.entry(txn.workload()).or_default();
            match txn.outcome {
                Outcome::Committed(_) => *committed += 1,
                Outcome::Aborted(_) => *aborted += 1,
                Outcome::Unknown => *unknown += 1,
            }
        }
        workloads
    }
}

/// Runs a seed on a fresh thread, so that nothing of the process gets in but the seed.
pub fn run(seed: u64, mutation: Option<Mutation>, options: &trace::Options) -> Result<Report, String> {
    if let Some(mutation) = mutation {
        mutation.arm()?;
    }
    trace::watch_panics();
    let options = options.clone();
    let body = move || {
        seams::set_random(seams::derive(seed, "libc"));
        let simulation = AssertUnwindSafe(|| simulate(Plan::new(seed, mutation), &options));
        match catch_unwind(simulation) {
            Ok(ended) => ended.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the simulation panicked: {}", trace::panics().join("; "))),
        }
    };
    let thread = std::thread::Builder::new()
        .name("simulation".to_owned())
        .stack_size(16 << 20)
        .spawn(body);
    let ended = thread.map_err(|error| error.to_string())?.join();
    ended.unwrap_or_else(|_| Err("the simulation panicked".to_owned()))
}

fn simulate(plan: Plan, options: &trace::Options) -> turmoil::Result<Report> {
    let time = SimTime::new();
    let trace = Trace::new(options, time.clone())?;
    let _guard = trace.install();
    tracing::info!(?plan, "begins");
    let mut sim = build(&plan, &time);
    let shared = Shared::new(plan, time, trace.clone());
    let cluster = Cluster::new(&shared);
    cluster.start(&mut sim);
    let workload = Workload::new(&shared);
    workload.start(&mut sim, &shared);
    let hosts = cluster.nodes.iter().map(|node| node.name().to_owned());
    let hosts: Vec<String> = hosts.chain(workload.names.iter().cloned()).collect();
    distances::apply(&sim, &shared, &hosts, Duration::ZERO);
    let mut world = World {
        faults: Faults::new(shared.clone(), &cluster, &workload.names),
        sim,
        shared,
        cluster,
        workload,
        violations: Vec::new(),
    };
    if let Err(violation) = world.phases() {
        world.violations.push(violation);
    }
    Ok(world.report(&trace))
}

fn build(plan: &Plan, time: &SimTime) -> Sim<'static> {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seams::derive(plan.seed, "network"))
        .epoch(UNIX_EPOCH + Duration::from_nanos(time.epoch_ns()))
        .tick_duration(TICK)
        .simulation_duration(Duration::MAX)
        .min_message_latency(plan.latency.0)
        .max_message_latency(plan.latency.1)
        .tcp_capacity(plan.tcp_capacity);
    if plan.random_order {
        builder.enable_random_order();
    }
    builder.build()
}

/// The run while it goes on.
struct World {
    sim: Sim<'static>,
    shared: Rc<Shared>,
    cluster: Cluster,
    workload: Workload,
    faults: Faults,
    violations: Vec<Violation>,
}

impl World {
    fn phases(&mut self) -> Result<(), Violation> {
        let control = self.workload.control.clone();
        let liveness = |what: String| Violation::new("liveness", what, []);
        let is_ready = || control.phase.get() >= Phase::Chaos;
        if !self.until(SETUP_LIMIT, is_ready)? {
            return Err(liveness(format!(
                "a new cluster takes no writes within {SETUP_LIMIT:?}"
            )));
        }
        tracing::info!("phase: chaos");
        self.faults.begin();
        self.until(self.shared.plan.chaos, || false)?;
        tracing::info!("phase: calm");
        self.faults.end(&mut self.sim, &self.cluster);
        control.phase.set(Phase::Calm);
        let shared = self.shared.clone();
        let is_reshaped = || !control.is_operating.get() && shared.newest_map().reshaping.pending.is_empty();
        let all_got_on = || control.progress.borrow().values().all(Option::is_some);
        if !self.until(CALM_LIMIT, || all_got_on() && is_reshaped())? {
            if all_got_on() {
                let map = shared.newest_map();
                let pending = &map.reshaping.pending;
                let what = format!(
                    "{CALM_LIMIT:?} after the last fault the ranges are still being changed: {pending:?}"
                );
                return Err(liveness(what));
            }
            let stuck: Vec<String> = control
                .progress
                .borrow()
                .iter()
                .filter(|(_, progress)| progress.is_none())
                .map(|(name, _)| name.clone())
                .collect();
            let what = format!(
                "{CALM_LIMIT:?} after the last fault, nothing committed: {}",
                stuck.join(", ")
            );
            return Err(liveness(what));
        }
        self.until(CALM, || false)?;
        tracing::info!("phase: finish");
        control.phase.set(Phase::Finish);
        if !self.until(FINISH_LIMIT, || control.working.get() == 0)? {
            let what = format!(
                "{} clients do not learn their outcomes within {FINISH_LIMIT:?}",
                control.working.get()
            );
            return Err(liveness(what));
        }
        if self.shared.plan.clocks_beyond {
            // Commits may lie in the future, and there it is no shame to miss them.
            self.until(
                Duration::from_millis(self.shared.plan.lease_ms) + FARTHEST + CALM,
                || false,
            )?;
        }
        tracing::info!("phase: audit");
        control.phase.set(Phase::Audit);
        if !self.until(AUDIT_LIMIT, || control.phase.get() == Phase::Done)? {
            return Err(liveness(format!(
                "everything cannot be read within {AUDIT_LIMIT:?}"
            )));
        }
        let nodes = self.cluster.nodes.clone();
        let shards = self.shared.plan.shards.clone();
        // If they do not, the difference is reported afterwards.
        self.until(CONVERGE_LIMIT, || agree(&shards, &contents(&nodes)))?;
        Ok(())
    }

    /// Steps until the condition holds; whether it did within the limit.
    fn until(&mut self, limit: Duration, holds: impl Fn() -> bool) -> Result<bool, Violation> {
        let end = self.shared.time.elapsed() + limit;
        while !holds() {
            if self.shared.time.elapsed() >= end {
                return Ok(false);
            }
            self.step()?;
        }
        Ok(true)
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.shared.time.set(self.sim.elapsed());
        self.faults.step(&mut self.sim, &self.cluster);
        let stepped = self.sim.step();
        self.cluster.turn();
        let panics = trace::panics();
        if !panics.is_empty() {
            return Err(Violation::new("no panic", panics.join("; "), []));
        }
        if let Err(error) = stepped {
            return Err(Violation::new("no process fails", error.to_string(), []));
        }
        match self.shared.alarms().first() {
            Some(alarm) => Err(Violation::new("no service gives up", alarm.clone(), [])),
            None => Ok(()),
        }
    }

    fn report(mut self, trace: &Trace) -> Report {
        let txns = self.workload.history.take();
        let is_done = self.workload.control.phase.get() == Phase::Done;
        let audit = txns
            .iter()
            .rev()
            .find(|txn| txn.client == AUDITOR && txn.is_committed());
        let stores = if is_done {
            contents(&self.cluster.nodes)
        } else {
            Vec::new()
        };
        let (events, unreadable) = trace.take_events();
        let map = self.shared.map();
        let evidence = Evidence {
            plan: &self.shared.plan,
            map: &map,
            txns: &txns,
            audit: audit.filter(|_| is_done),
            stores: &stores,
            events: &events,
            unreadable: &unreadable,
        };
        self.violations.extend(invariants::check(&evidence));
        for violation in &self.violations {
            tracing::error!(invariant = violation.invariant, what = violation.what, "VIOLATED");
        }
        self.cluster.stop();
        self.shared.remove_dir();
        let simulated = self.sim.elapsed();
        let faults = self.faults.counts();
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for happened in &events {
            *counts.entry(happened.event.name()).or_default() += 1;
        }
        tracing::info!(?counts, "logged of the protocol");
        tracing::info!(?simulated, ?faults, "ends");
        let (digest, lines) = trace.digest();
        Report {
            seed: self.shared.plan.seed,
            violations: self.violations,
            txns,
            simulated,
            faults,
            digest,
            lines,
        }
    }
}

/// The newest versions at the storage nodes.
fn contents(nodes: &[Rc<crate::cluster::node::Node>]) -> Vec<(String, Content)> {
    let storage = nodes.iter().filter(|node| node.role == Role::Storage);
    storage
        .map(|node| (node.name().to_owned(), content(node)))
        .collect()
}

fn content(node: &crate::cluster::node::Node) -> Content {
    let mut content = Content::new();
    // A node without its versions differs from the others.
    let Ok(store) = node.disk.versions.store() else {
        return content;
    };
    let mut visit = |key: meridian_client::Key,
                     version: meridian_protocol::visibility::Version<bytes::Bytes>| {
        if let Some(value) = version.value {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            content.insert(text(&key.0), (version.timestamp.0, text(&value)));
        }
        ControlFlow::Continue(())
    };
    // What cannot be read is not there.
    let _ = store.walk(
        &KeyRange::all(),
        Timestamp::MAX,
        Direction::Forward,
        usize::MAX,
        &mut visit,
    );
    content
}
