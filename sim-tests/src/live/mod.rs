//! The same clients and checkers on a real cluster: containers that are killed, paused and cut off while clients in both regions work, and
//! a verdict on all that these saw.
//!
//! ```text
//! run ─┬─> clients: workloads and probes ──> history ──> invariants::clients ──> verdict
//!      └─> chaos (a thread): strikes ──> docker          board: which probes commit again, and when
//! ```
//!
//! Nothing here is deterministic: time, threads and the network are the machine's.

mod board;
mod chaos;
mod clients;
mod docker;
mod report;
mod strikes;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::task::LocalSet;

use crate::history::Txn;
use crate::invariants::{self, Evidence};
use crate::plan::{Kind, Plan};
use crate::workload::{AUDITOR, Phase};

use board::Board;
use chaos::Chaos;
use clients::Live;
pub use docker::Compose;
pub use report::Verdict;

/// The clients of each region at work, beside the probes.
const WORKERS: [Kind; 11] = [
    Kind::Bank,
    Kind::Bank,
    Kind::Lists,
    Kind::Lists,
    Kind::Ledger,
    Kind::Registers,
    Kind::Inserts,
    Kind::Counters,
    Kind::Pairs,
    Kind::Pages,
    Kind::Mortals,
];
/// A cluster that has just been started must take writes within this.
const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// Without faults every client must commit again within this.
const CALM_LIMIT: Duration = Duration::from_secs(60);
const FINISH_LIMIT: Duration = Duration::from_secs(120);
const AUDIT_LIMIT: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The accounts of the bank: enough that they lie in two ranges.
const KEYS: usize = 8;

/// What to do to which cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it runs.
    pub compose: Compose,
    /// The routers that clients of each active region use first, by the region's name.
    pub routers: Vec<(String, String)>,
    /// How long faults go on.
    pub chaos: Duration,
    /// Draws faults and transactions, though not their timing.
    pub seed: u64,
    /// Where to put all that clients did and saw when something was wrong.
    pub history: Option<PathBuf>,
}

/// Runs clients and faults to the end and judges. An error when it could not be tried, for example because Docker does not answer.
pub fn run(options: &Options) -> Result<Verdict, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    LocalSet::new().block_on(&runtime, whole_run(options))
}

async fn whole_run(options: &Options) -> Result<Verdict, String> {
    let plan = Rc::new(plan(options));
    let board = Arc::new(Board::new(
        options.routers.iter().map(|(region, _)| region.as_str()),
    ));
    let live = Live::start(options, &plan, &board);
    let mut wrong = Vec::new();
    let mut strikes = Vec::new();
    if live
        .until(SETUP_LIMIT, || live.control.phase.get() >= Phase::Chaos)
        .await
    {
        eprintln!("clients are at work, faults begin");
        strikes = struck(options, &board).await?;
        wrong.extend(live.finish().await.err());
    } else {
        wrong.push(format!(
            "liveness: the cluster takes no writes within {SETUP_LIMIT:?}"
        ));
    }
    let lasted = board.now();
    wrong.extend(options.compose.broken_services()?);
    let txns = live.history.take();
    let is_done = live.control.phase.get() == Phase::Done;
    eprintln!("checking {} transactions", txns.len());
    wrong.extend(judge(&plan, &txns, is_done));
    wrong.extend(strikes.iter().filter_map(strikes::Struck::lasting));
    if let Some(file) = options.history.as_ref().filter(|_| !wrong.is_empty()) {
        report::write_history(file, &txns)?;
    }
    Ok(Verdict::new(lasted, &txns, strikes, wrong))
}

/// What the workloads need of a plan; the faults are others here.
fn plan(options: &Options) -> Plan {
    let mut plan = Plan::new(options.seed, None);
    plan.keys = KEYS;
    plan.think = Duration::from_millis(300);
    plan.deadline = Duration::from_secs(10);
    plan.clocks_beyond = false;
    plan.mutation = None;
    plan
}

/// Lets the faults happen on a thread of their own, since they wait for Docker.
async fn struck(options: &Options, board: &Arc<Board>) -> Result<Vec<strikes::Struck>, String> {
    let is_over = Arc::new(AtomicBool::new(false));
    let chaos = Chaos::new(options.compose.clone(), board.clone(), options.seed);
    let (lasts, over) = (options.chaos, is_over.clone());
    let thread: JoinHandle<Result<Vec<strikes::Struck>, String>> = std::thread::Builder::new()
        .name("chaos".to_owned())
        .spawn(move || {
            let struck = chaos.run(lasts);
            over.store(true, Ordering::Release);
            struck
        })
        .map_err(|error| error.to_string())?;
    while !is_over.load(Ordering::Acquire) && !thread.is_finished() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    thread
        .join()
        .map_err(|_| "the thread of faults panicked".to_owned())?
}

/// What clients were promised and did not get.
fn judge(plan: &Plan, txns: &[Txn], is_done: bool) -> Vec<String> {
    let audit = txns
        .iter()
        .rev()
        .find(|txn| txn.client == AUDITOR && txn.is_committed());
    let evidence = Evidence {
        plan,
        map: &meridian_types::RangeMap::single(Vec::new()),
        txns,
        audit: audit.filter(|_| is_done),
        stores: &[],
        events: &[],
        unreadable: &[],
    };
    let violations = invariants::clients::check(&evidence);
    violations
        .into_iter()
        .map(|violation| {
            let shown: Vec<String> = violation
                .txns
                .iter()
                .take(8)
                .map(|txn| format!("T{txn}"))
                .collect();
            format!(
                "{}: {} ({})",
                violation.invariant,
                violation.what,
                shown.join(", ")
            )
        })
        .collect()
}
