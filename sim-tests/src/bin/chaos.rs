//! `chaos`: kills, pauses and cuts off the containers of a running Compose project while clients work, and judges what they saw.
//! `deploy/chaos.sh` brings the cluster up and calls it. Exit code 0: all held; 1: something did not; 2: it could not be tried.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use sim_tests::live::{self, Compose, Options};

/// Faults on a cluster of containers, and a verdict.
#[derive(Parser)]
struct Args {
    /// The Compose project: its containers are killed, paused and cut off.
    #[arg(long)]
    project: String,
    /// The routers of the active regions, REGION=HOST:PORT, two or more.
    #[arg(long, value_parser = parse_router, required = true, num_args = 1..)]
    routers: Vec<(String, String)>,
    /// How long faults go on.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Draws faults and transactions, though not their timing.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// If something is wrong: puts all that clients did and saw into this file.
    #[arg(long)]
    history: Option<PathBuf>,
}

fn parse_router(text: &str) -> Result<(String, String), String> {
    let (region, router) = text.split_once('=').ok_or("give REGION=HOST:PORT")?;
    Ok((region.to_owned(), router.to_owned()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Ok(chaos) = Duration::try_from_secs_f64(args.minutes * 60.0) else {
        eprintln!("--minutes {} is no time", args.minutes);
        return ExitCode::from(2);
    };
    let options = Options {
        compose: Compose {
            project: args.project,
        },
        routers: args.routers,
        chaos,
        seed: args.seed,
        history: args.history,
    };
    match live::run(&options) {
        Ok(verdict) => {
            println!("{verdict}");
            if verdict.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!("FAILED: it could not be tried: {error}");
            ExitCode::from(2)
        }
    }
}
