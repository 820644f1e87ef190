//! What clients do: the real client library, and a record of everything it says.

mod audit;
mod bank;
mod ledger;
mod lists;
mod recorder;
mod registers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use turmoil::Sim;

use crate::cluster::Shared;
use crate::history::History;
use crate::seams::derive;

pub use audit::AUDITOR;
pub use bank::{ACCOUNT_START, PREFIX as BANK, accounts};
pub use recorder::Recorder;

/// What a workload's keys begin with.
pub const LISTS: &str = "list/";
/// See [`LISTS`].
pub const REGISTERS: &str = "register/";
/// See [`LISTS`].
pub const LEDGER: &str = "ledger/";

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
    /// When each client last committed something that it began after the faults ended.
    pub progress: RefCell<BTreeMap<String, Option<Duration>>>,
}

impl Control {
    /// Returns when `phase` has come.
    pub async fn reached(&self, phase: Phase) {
        while self.phase.get() < phase {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

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
        let clients = shared.plan.clients;
        let counts = [
            ("bank", clients.bank),
            ("lists", clients.lists),
            ("registers", clients.registers),
            ("ledger", clients.ledger),
        ];
        let each = counts
            .iter()
            .flat_map(|(name, count)| (1..=*count).map(move |number| format!("{name}-{number}")));
        let mut names: Vec<String> = each.collect();
        let control = Control {
            phase: Cell::new(Phase::Setup),
            working: Cell::new(names.len()),
            progress: RefCell::new(names.iter().map(|name| (name.clone(), None)).collect()),
        };
        names.push(AUDITOR.to_owned());
        Self {
            control: Rc::new(control),
            history: History::new(shared.time.clone()),
            names,
        }
    }

    /// Starts them, each on a host of its own.
    pub fn start(&self, sim: &mut Sim<'_>, shared: &Rc<Shared>) {
        let generations = Rc::new(lists::Generations::new(shared.plan.keys));
        for name in &self.names {
            let (name, shared, control) = (name.clone(), shared.clone(), self.control.clone());
            let (history, generations) = (self.history.clone(), generations.clone());
            sim.client(name.clone(), async move {
                let recorder = Recorder::new(&name, &shared, history, control.clone())?;
                let rng = StdRng::seed_from_u64(derive(shared.plan.seed, &name));
                if name == AUDITOR {
                    audit::run(recorder, &control, &shared).await;
                    return Ok(());
                }
                control.reached(Phase::Chaos).await;
                let work = work(&name, recorder, rng, shared, control.clone(), generations);
                work.await;
                control.working.set(control.working.get() - 1);
                Ok(())
            });
        }
    }
}

fn work(
    name: &str,
    mut recorder: Recorder,
    mut rng: StdRng,
    shared: Rc<Shared>,
    control: Rc<Control>,
    generations: Rc<lists::Generations>,
) -> Work {
    let kind = name.split('-').next().unwrap_or_default().to_owned();
    Box::pin(async move {
        let mut number = 0;
        while control.phase.get() < Phase::Finish {
            number += 1;
            match kind.as_str() {
                "bank" => bank::step(&mut recorder, &mut rng, &shared.plan).await,
                "lists" => lists::step(&mut recorder, &mut rng, &generations, number).await,
                "registers" => registers::step(&mut recorder, &mut rng, &shared.plan, number).await,
                _ => ledger::step(&mut recorder, &mut rng, number).await,
            }
            let think = rand::Rng::random_range(&mut rng, Duration::ZERO..=shared.plan.think);
            tokio::time::sleep(think).await;
        }
        recorder.settle().await;
    })
}
