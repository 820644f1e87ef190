//! Clients of the real library, on the machine's own network.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use meridian_client::Client;

use super::board::Board;
use super::{AUDIT_LIMIT, CALM_LIMIT, FINISH_LIMIT, LOOK_AGAIN, Options, WORKERS};
use crate::history::History;
use crate::plan::Plan;
use crate::seams::derive;
use crate::workload::{AUDITOR, Call, Commons, Connect, Control, Phase, Recorder, Worker, audit};

/// A write of a probe is given up after this, and the next one begun.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// Between two writes of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(150);
/// The clients get on for so long after the last fault.
const CALM: Duration = Duration::from_secs(2);

/// How the clients of a region reach the cluster: through their own region's router, or another's.
struct Connector {
    near: String,
    far: Vec<String>,
    deadline: Duration,
    seed: u64,
    /// How many it made: each draws other transaction ids.
    made: Cell<u64>,
}

impl Connector {
    fn new(options: &Options, region: &str, purpose: &str, deadline: Duration) -> Self {
        let others = options.routers.iter().filter(|(other, _)| other != region);
        let own = options.routers.iter().find(|(other, _)| other == region);
        // Ids must differ from those of earlier runs on the same cluster.
        let began = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
        Self {
            near: own.map(|(_, router)| router.clone()).unwrap_or_default(),
            far: others.map(|(_, router)| router.clone()).collect(),
            deadline,
            seed: derive(options.seed, &format!("{region} {purpose} {began}")),
            made: Cell::default(),
        }
    }
}

impl Connect for Connector {
    fn client(&self) -> Result<Client, Box<dyn Error>> {
        self.made.set(self.made.get() + 1);
        let builder = Client::builder()
            .endpoint(&self.near)
            .deadline(self.deadline)
            .seed(derive(self.seed, &self.made.get().to_string()));
        let builder = self
            .far
            .iter()
            .fold(builder, |builder, router| builder.far_endpoint(router));
        Ok(builder.connect_lazy()?)
    }
}

/// All clients at work.
pub struct Live {
    /// Where they are.
    pub control: Rc<Control>,
    /// What they saw.
    pub history: History,
}

impl Live {
    /// Starts them all; the workers wait until the cluster is prepared.
    pub fn start(options: &Options, plan: &Rc<Plan>, board: &Arc<Board>) -> Self {
        let workers: Vec<(String, crate::plan::Kind, String)> = options
            .routers
            .iter()
            .flat_map(|(region, _)| {
                let numbered = WORKERS.iter().enumerate();
                numbered
                    .map(move |(number, kind)| (region.clone(), *kind, format!("{kind}-{region}{number}")))
            })
            .collect();
        let names: Vec<&String> = workers.iter().map(|(_, _, name)| name).collect();
        let control = Rc::new(Control::new(&names, false));
        let history = History::new({
            let board = board.clone();
            move || board.now()
        });
        let commons = Rc::new(Commons::new(plan));
        for (region, kind, name) in &workers {
            let connector = Rc::new(Connector::new(options, region, name, plan.deadline));
            let (control, history) = (control.clone(), history.clone());
            let (plan, commons, kind, name) = (plan.clone(), commons.clone(), *kind, name.clone());
            tokio::task::spawn_local(async move {
                match connector.client() {
                    Ok(client) => {
                        control.reached(Phase::Chaos).await;
                        let recorder = Recorder::new(&name, client, history, control.clone());
                        Worker::new(recorder, &plan, &commons, connector)
                            .work(kind, control)
                            .await;
                    }
                    Err(error) => eprintln!("{name}: {error}"),
                }
            });
        }
        let live = Self { control, history };
        live.start_probes(options, board);
        live.start_auditor(options, plan);
        live
    }

    fn start_probes(&self, options: &Options, board: &Arc<Board>) {
        for (place, probe) in board.probes().iter().enumerate() {
            let connector = Connector::new(options, &probe.region, probe.key, PROBE_DEADLINE);
            let (name, key) = (format!("probe-{}-{}", probe.region, probe.key), probe.key);
            let (control, history, board) = (self.control.clone(), self.history.clone(), board.clone());
            tokio::task::spawn_local(async move {
                let client = match connector.client() {
                    Ok(client) => client,
                    Err(error) => return eprintln!("{name}: {error}"),
                };
                control.reached(Phase::Chaos).await;
                let mut recorder = Recorder::new(&name, client, history, control.clone());
                let mut number = 0;
                while control.phase.get() < Phase::Finish {
                    number += 1;
                    let began = board.now();
                    let call = Call::new().put(&format!("{key}/{name}"), format!("{name}.{number}"));
                    if recorder.execute(call).await.is_some() {
                        board.acknowledged(place, began);
                    }
                    tokio::time::sleep(PROBE_PAUSE).await;
                }
                recorder.settle().await;
            });
        }
    }

    fn start_auditor(&self, options: &Options, plan: &Rc<Plan>) {
        let region = options.routers.first().map_or("", |(region, _)| region);
        let connector = Connector::new(options, region, AUDITOR, plan.deadline);
        let (control, history, plan) = (self.control.clone(), self.history.clone(), plan.clone());
        tokio::task::spawn_local(async move {
            match connector.client() {
                Ok(client) => {
                    let recorder = Recorder::new(AUDITOR, client, history, control.clone());
                    audit(recorder, &control, &plan).await;
                }
                Err(error) => eprintln!("{AUDITOR}: {error}"),
            }
        });
    }

    /// After the last fault: everybody gets on, finishes, learns all outcomes, and the auditor reads everything.
    pub async fn finish(&self) -> Result<(), String> {
        let control = &self.control;
        control.phase.set(Phase::Calm);
        let got_on = || control.progress.borrow().values().all(Option::is_some);
        if !self.until(CALM_LIMIT, got_on).await {
            let progress = control.progress.borrow();
            let stuck: Vec<&str> = progress
                .iter()
                .filter(|(_, progress)| progress.is_none())
                .map(|(name, _)| name.as_str())
                .collect();
            let what = format!(
                "liveness: {CALM_LIMIT:?} after the last fault nothing committed: {}",
                stuck.join(", ")
            );
            return Err(what);
        }
        tokio::time::sleep(CALM).await;
        control.phase.set(Phase::Finish);
        if !self.until(FINISH_LIMIT, || control.working.get() == 0).await {
            return Err(format!(
                "liveness: clients do not learn their outcomes within {FINISH_LIMIT:?}"
            ));
        }
        control.phase.set(Phase::Audit);
        if !self
            .until(AUDIT_LIMIT, || control.phase.get() == Phase::Done)
            .await
        {
            return Err(format!(
                "liveness: everything cannot be read within {AUDIT_LIMIT:?}"
            ));
        }
        Ok(())
    }

    /// Waits for the condition; whether it came about within the limit.
    pub async fn until(&self, limit: Duration, holds: impl Fn() -> bool) -> bool {
        let began = self.history.now();
        while !holds() {
            if self.history.now().saturating_sub(began) >= limit {
                return false;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        true
    }
}
