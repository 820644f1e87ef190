//! `sim-tests`: runs one seed, or many, one process each.
//!
//! ```text
//! sim-tests --seed 17 --trace       one seed, with its log
//! sim-tests --seeds 0..200          many; exit code 1 when any failed
//! sim-tests --minutes 30            as many as fit
//! sim-tests --regressions           those that once showed something
//! sim-tests --mutations             the table of mutations
//! ```
#![deny(unsafe_code)]

mod libc_seam;

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sim_tests::driver::{self, Job};
use sim_tests::mutation::Mutation;
use sim_tests::run::{self, Report};
use sim_tests::{document, ledger, regressions, table, trace};
use tracing::Level;

/// Simulates whole clusters, each from a seed: the same seed is the same run, byte for byte.
#[derive(Parser)]
struct Args {
    /// Run one seed, in this process.
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "mutations", "regressions"])]
    seed: Option<u64>,
    /// Run these seeds, first..end.
    #[arg(long, value_parser = parse_range, default_value = "0..20")]
    seeds: Range<u64>,
    /// Run seeds from the first of --seeds on, as many as fit into this many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Seeds at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Run each seed twice and compare every log line and every byte on every wire.
    #[arg(long)]
    check_determinism: bool,
    /// Stop at the first seed that fails.
    #[arg(long)]
    stop_at_first: bool,
    /// Print the log of the seed (level info; with --debug all of it).
    #[arg(long)]
    trace: bool,
    /// With --trace: everything that the services log.
    #[arg(long)]
    debug: bool,
    /// Write everything that the comparison looks at to this file.
    #[arg(long)]
    trace_file: Option<PathBuf>,
    /// Print what every client did and saw.
    #[arg(long)]
    history: bool,
    /// Break one rule on purpose.
    #[arg(long)]
    mutation: Option<Mutation>,
    /// Break one rule after the other, each until a seed of --seeds fails, and print the table.
    #[arg(long, conflicts_with_all = ["mutation", "minutes", "ledger"])]
    mutations: bool,
    /// With --mutations: only these.
    #[arg(long, value_delimiter = ',', requires = "mutations")]
    only: Vec<Mutation>,
    /// With --mutations: also put the rows into the table of this document.
    #[arg(long, requires = "mutations")]
    into: Option<PathBuf>,
    /// Run the seeds of regressions.txt.
    #[arg(long, conflicts_with_all = ["mutation", "mutations", "minutes", "ledger"])]
    regressions: bool,
    /// Add what came of the seeds to the ledger in this document.
    #[arg(long, conflicts_with = "mutation")]
    ledger: Option<PathBuf>,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text
        .split_once("..")
        .ok_or("give seeds as first..end, for example 0..200")?;
    let number = |text: &str| {
        text.parse()
            .map_err(|error| format!("{text:?} is no seed: {error}"))
    };
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let passed = match args.seed {
        Some(seed) => one(&args, seed),
        None if args.mutations => all_mutations(&args),
        None if args.regressions => all_regressions(&args),
        None => many(&args),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn one(args: &Args, seed: u64) -> Result<bool, String> {
    let level = if args.debug { Level::DEBUG } else { Level::INFO };
    let options = trace::Options {
        print: args.trace.then_some(level),
        file: args.trace_file.clone(),
    };
    let report = run::run(seed, args.mutation, &options)?;
    if args.history {
        for txn in &report.txns {
            println!("{txn}");
        }
    }
    print_violations(&report, args.mutation);
    println!("{}", driver::summary(&report));
    Ok(report.violations.is_empty())
}

/// Each kind of violation once, with the transactions that show it.
fn print_violations(report: &Report, mutation: Option<Mutation>) {
    let mut named: Vec<&str> = Vec::new();
    for violation in &report.violations {
        if named.contains(&violation.invariant) {
            continue;
        }
        named.push(violation.invariant);
        let count = report
            .violations
            .iter()
            .filter(|other| other.invariant == violation.invariant)
            .count();
        println!(
            "{}",
            driver::violated(violation.invariant, count, &violation.what)
        );
        for line in violation.excerpt.iter().take(12) {
            println!("  {line}");
        }
        let shown = report.txns.iter().filter(|txn| violation.txns.contains(&txn.id));
        for txn in shown.take(6) {
            println!("  {txn}");
        }
    }
    if !named.is_empty() {
        let mutation = mutation.map_or(String::new(), |mutation| format!(" --mutation {mutation}"));
        println!(
            "run it again: cargo run --release -p sim-tests -- --seed {}{mutation} --trace",
            report.seed
        );
    }
}

fn many(args: &Args) -> Result<bool, String> {
    let options = args.mutation.map(with).unwrap_or_default();
    let end = if args.minutes.is_some() {
        u64::MAX
    } else {
        args.seeds.end
    };
    let total =
        driver::run(&job(args, options)?, args.seeds.start..end).map_err(|error| error.to_string())?;
    println!("done: {total}");
    println!("workloads: {}", total.describe_workloads());
    if !total.failed.is_empty() {
        println!("failed seeds: {:?}", total.failed_seeds());
    }
    if let Some(file) = &args.ledger {
        ledger::add(file, &total)?;
    }
    Ok(total.failed.is_empty())
}

/// The options of a seed whose run is to break this.
fn with(mutation: Mutation) -> Vec<OsString> {
    vec!["--mutation".into(), mutation.to_string().into()]
}

fn job(args: &Args, options: Vec<OsString>) -> Result<Job, String> {
    let minutes = |minutes: f64| Duration::from_secs_f64(minutes * 60.0);
    Ok(Job {
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        options,
        jobs: args.jobs,
        twice: args.check_determinism,
        until: args.minutes.map(minutes),
        stop_at_first: args.stop_at_first,
        quiet: false,
    })
}

/// True when every one was caught.
fn all_mutations(args: &Args) -> Result<bool, String> {
    let wanted: Vec<Mutation> = match args.only.as_slice() {
        [] => Mutation::all()
            .filter(|mutation| mutation.is_available())
            .collect(),
        only => only.to_vec(),
    };
    let mut rows = Vec::new();
    for mutation in wanted {
        mutation.arm()?;
        let job = Job {
            stop_at_first: true,
            quiet: true,
            ..job(args, with(mutation))?
        };
        let row = table::run(&job, mutation, args.seeds.clone())?;
        println!("{row}");
        rows.push(row);
        if let Some(file) = &args.into {
            document::replace(file, table::NAME, |old| Ok(table::merge(old, &rows)))?;
        }
    }
    println!("\n{}", table::merge("", &rows));
    Ok(rows.iter().all(|row| row.caught.is_some()))
}

/// True when every one passed, and those with a mutation failed.
fn all_regressions(args: &Args) -> Result<bool, String> {
    let (mut ran, mut bad, mut skipped) = (0, 0, 0);
    for regression in regressions::all()? {
        if regression
            .mutation
            .is_some_and(|mutation| !mutation.is_available())
        {
            skipped += 1;
            continue;
        }
        let must_fail = regression.mutation.is_some();
        let job = Job {
            quiet: must_fail,
            ..job(args, regression.options)?
        };
        let seed = regression.seed;
        let total = driver::run(&job, std::iter::once(seed)).map_err(|error| error.to_string())?;
        ran += 1;
        if total.failed.is_empty() == must_fail {
            bad += 1;
            let how = if must_fail { "passed" } else { "failed" };
            println!("seed {seed} {how}: {}", regression.why);
        }
    }
    println!("{ran} regressions, {bad} bad; {skipped} skipped, for they need --features mutation");
    Ok(bad == 0)
}
