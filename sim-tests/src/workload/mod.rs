//! What clients do: the real client library, and a record of everything it says.

mod audit;
mod bank;
mod call;
mod connector;
mod counters;
mod inserts;
mod ledger;
mod lists;
mod mortals;
mod open;
mod operator;
mod pages;
mod pairs;
mod recorded;
mod recorder;
mod registers;
mod savepoints;
mod settle;
mod slots;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use crate::cluster::Shared;
use crate::history::History;
use crate::plan::{CLIENT_HOST, ClientHost, Kind, Plan};
use crate::seams::derive;
use connector::Connector;

pub use audit::{AUDITOR, run as audit};
pub use bank::{ACCOUNT_START, PREFIX as BANK, accounts, balance};
pub use call::Call;
pub use connector::Connect;
pub use counters::number_of;
pub use operator::OPERATOR;
pub use pairs::{Guard, is_on_at};
pub use recorder::Recorder;
pub use slots::{ROOM, shelf};

/// What a workload's keys begin with.
pub const LISTS: &str = "list/";
/// See [`LISTS`].
pub const REGISTERS: &str = "register/";
/// See [`LISTS`].
pub const LEDGER: &str = "ledger/";
/// See [`LISTS`].
pub const INSERTS: &str = "insert/";
/// See [`LISTS`].
pub const COUNTERS: &str = "counter/";
/// See [`LISTS`].
pub const PAIRS: &str = "pair/";
/// See [`LISTS`].
pub const SLOTS: &str = "slot/";
/// See [`LISTS`].
pub const PAGES: &str = "page/";
/// See [`LISTS`].
pub const SAVEPOINTS: &str = "save/";
/// See [`LISTS`].
pub const MORTALS: &str = "mortal/";

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The cluster comes up and the auditor prepares it.
    Setup,
    /// Faults.
    Chaos,
    /// No faults: everybody must get on.
    Calm,
    /// Clients finish, and learn all outcomes.
    Finish,
    /// The auditor reads everything.
    Audit,
    /// All is done.
    Done,
}

/// Who is where.
pub struct Control {
    /// What is going on.
    pub phase: Cell<Phase>,
    /// Clients that have not finished.
    pub working: Cell<usize>,
    /// The operator changes ranges.
    pub is_operating: Cell<bool>,
    /// When each client last committed something that it began after the faults ended.
    pub progress: RefCell<BTreeMap<String, Option<Duration>>>,
}

impl Control {
    /// Before the beginning, for clients of these names.
    pub fn new(workers: &[&String], is_operating: bool) -> Self {
        Self {
            phase: Cell::new(Phase::Setup),
            working: Cell::new(workers.len()),
            is_operating: Cell::new(is_operating),
            progress: RefCell::new(workers.iter().map(|name| ((*name).clone(), None)).collect()),
        }
    }

    /// Returns when `phase` has come.
    pub async fn reached(&self, phase: Phase) {
        while self.phase.get() < phase {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// All clients of a run.
pub struct Workload {
    /// Who is where.
    pub control: Rc<Control>,
    /// What they saw.
    pub history: History,
    /// Their hosts.
    pub names: Vec<String>,
}

impl Workload {
    /// The clients that the plan wants, none of them started.
    pub fn new(shared: &Rc<Shared>) -> Self {
        let hosts = &shared.plan.clients.hosts;
        let workers: Vec<&String> = hosts
            .iter()
            .flat_map(|host| host.workers.iter().map(|(_, name)| name))
            .collect();
        let control = Control::new(&workers, shared.plan.changes.is_some());
        let mut names: Vec<String> = (1..=hosts.len())
            .map(|number| format!("{CLIENT_HOST}{number}"))
            .collect();
        names.push(AUDITOR.to_owned());
        names.extend(shared.plan.changes.as_ref().map(|_| OPERATOR.to_owned()));
        Self {
            control: Rc::new(control),
            history: History::new({
                let time = shared.time.clone();
                move || time.elapsed()
            }),
            names,
        }
    }

    /// Starts them, several on a host as an application's tasks are.
    pub fn start(&self, sim: &mut Sim<'_>, shared: &Rc<Shared>) {
        let plan = Rc::new(shared.plan.clone());
        let commons = Rc::new(Commons::new(&plan));
        for (name, host) in self.names.iter().zip(&shared.plan.clients.hosts) {
            let (control, history) = (self.control.clone(), self.history.clone());
            let (plan, commons) = (plan.clone(), commons.clone());
            let connector = Rc::new(Connector::new(name, shared, host));
            let workers = host.workers.clone();
            sim.client(name.clone(), async move {
                let client = connector.client()?;
                control.reached(Phase::Chaos).await;
                let mut all = Vec::new();
                for (kind, name) in workers {
                    let client = match kind {
                        // When it dies the others go on.
                        Kind::Mortals => connector.client()?,
                        _ => client.clone(),
                    };
                    let recorder = Recorder::new(&name, client, history.clone(), control.clone());
                    let worker = Worker::new(recorder, &plan, &commons, connector.clone());
                    all.push(worker.work(kind, control.clone()));
                }
                futures::future::join_all(all).await;
                Ok(())
            });
        }
        if let Some(changes) = shared.plan.changes.clone() {
            let connector = Connector::new(OPERATOR, shared, &changes.host);
            let (shared, control) = (shared.clone(), self.control.clone());
            sim.client(OPERATOR, async move {
                operator::run(&connector.client()?, &control, &shared, &changes).await;
                control.is_operating.set(false);
                Ok(())
            });
        }
        let auditor = ClientHost::plain();
        let connector = Connector::new(AUDITOR, shared, &auditor);
        let (history, control) = (self.history.clone(), self.control.clone());
        sim.client(AUDITOR, async move {
            let recorder = Recorder::new(AUDITOR, connector.client()?, history, control.clone());
            audit::run(recorder, &control, &plan).await;
            Ok(())
        });
    }
}

/// What clients of a kind tell one another behind the cluster's back.
pub struct Commons {
    lists: lists::Generations,
    inserts: inserts::Frontier,
}

impl Commons {
    /// Nothing was told yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            lists: lists::Generations::new(plan.keys),
            inserts: inserts::Frontier::default(),
        }
    }
}

/// One client at work.
pub struct Worker {
    recorder: Recorder,
    rng: StdRng,
    plan: Rc<Plan>,
    commons: Rc<Commons>,
    connector: Rc<dyn Connect>,
}

impl Worker {
    /// A client that draws its own random numbers from the plan's seed.
    pub fn new(
        recorder: Recorder,
        plan: &Rc<Plan>,
        commons: &Rc<Commons>,
        connector: Rc<dyn Connect>,
    ) -> Self {
        Self {
            rng: StdRng::seed_from_u64(derive(plan.seed, &recorder.name)),
            recorder,
            plan: plan.clone(),
            commons: commons.clone(),
            connector,
        }
    }

    /// Works until all have to finish, then learns what became of everything.
    pub async fn work(mut self, kind: Kind, control: Rc<Control>) {
        let mut number = 0;
        while control.phase.get() < Phase::Finish {
            number += 1;
            self.step(kind, number).await;
            let think = self.rng.random_range(Duration::ZERO..=self.plan.think);
            tokio::time::sleep(think).await;
        }
        self.recorder.settle().await;
        control.working.set(control.working.get() - 1);
    }

    async fn step(&mut self, kind: Kind, number: u64) {
        let (recorder, rng, plan) = (&mut self.recorder, &mut self.rng, &*self.plan);
        match kind {
            Kind::Bank => bank::step(recorder, rng, plan, number).await,
            Kind::Lists => lists::step(recorder, rng, &self.commons.lists, number).await,
            Kind::Registers => registers::step(recorder, rng, plan, number).await,
            Kind::Ledger => ledger::step(recorder, rng, number).await,
            Kind::Inserts => inserts::step(recorder, rng, &self.commons.inserts, number).await,
            Kind::Counters => counters::step(recorder, rng, number).await,
            Kind::Pairs => pairs::step(recorder, rng, plan, number).await,
            Kind::Slots => slots::step(recorder, rng, plan, number).await,
            Kind::Pages => pages::step(recorder, rng, plan, number).await,
            Kind::Savepoints => savepoints::step(recorder, rng, number).await,
            Kind::Mortals => mortals::step(recorder, rng, &*self.connector, number).await,
        }
    }
}
