//! `sim-tests`: runs one seed, or many, one process each.
//!
//! ```text
//! sim-tests --seed 17 --trace       one seed, with its log
//! sim-tests --seeds 0..200          many; exit code 1 when any failed
//! sim-tests --minutes 30            as many as fit
//! ```
#![deny(unsafe_code)]

mod libc_seam;

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sim_tests::driver::{self, Job, SUMMARY};
use sim_tests::mutation::Mutation;
use sim_tests::run::{self, Report};
use sim_tests::trace;
use tracing::Level;

/// Simulates whole clusters, each from a seed: the same seed is the same run, byte for byte.
#[derive(Parser)]
struct Args {
    /// Run one seed, in this process.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
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
    let (committed, aborted, unknown) = report.outcomes();
    let faults: u64 = report.faults.values().sum();
    println!(
        "{SUMMARY} {:016x}/{} {} {committed} {aborted} {unknown} {faults}",
        report.digest,
        report.lines,
        report.simulated.as_millis(),
    );
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
            "VIOLATED: {} ({count} times): {}",
            violation.invariant, violation.what
        );
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
    let options = args
        .mutation
        .iter()
        .flat_map(|mutation| [OsString::from("--mutation"), mutation.to_string().into()]);
    let job = Job {
        program: std::env::current_exe().map_err(|error| error.to_string())?,
        options: options.collect(),
        jobs: args.jobs,
        twice: args.check_determinism,
        until: args
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        stop_at_first: args.stop_at_first,
    };
    let end = if args.minutes.is_some() {
        u64::MAX
    } else {
        args.seeds.end
    };
    let total = driver::run(&job, args.seeds.start..end).map_err(|error| error.to_string())?;
    println!("done: {total}");
    if !total.failed.is_empty() {
        println!("failed seeds: {:?}", total.failed);
    }
    Ok(total.failed.is_empty())
}
