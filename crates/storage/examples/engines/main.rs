//! The engines of the version store side by side: `cargo run --release -p meridian-storage --example engines`.
//!
//! ```text
//! engines [--rounds 3] [--versions 1000000] [--cache-mib 128] [--dir DIR]
//! ```
//! Each engine works in processes of its own, so that memory is told apart: one applies, reads and ends like a process that is killed,
//! another opens what it left, and sweeps. The engines take turns, and the figures are the medians of the rounds.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

mod work;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

type Failure = Box<dyn Error>;

const ENGINES: [&str; 2] = ["sled", "fjall"];
/// What is measured, and in what.
const FIGURES: [(&str, &str); 16] = [
    ("apply", "versions/s, batches of 100"),
    ("apply_p99", "us, one batch of 100"),
    ("apply_max", "ms, one batch of 100"),
    ("apply_small", "versions/s, batches of 2"),
    ("newest_p50", "us, random key"),
    ("newest_p99", "us, random key"),
    ("scan_p50", "us, 100 keys"),
    ("scan_p99", "us, 100 keys"),
    ("memory", "MiB resident after applying"),
    ("memory_peak", "MiB resident at most"),
    ("disk", "MiB of files"),
    ("restart", "ms, open and first read"),
    ("memory_after", "MiB resident after the restart"),
    ("cold_p50", "us, random key after the restart"),
    ("sweep", "versions dropped/s"),
    ("disk_swept", "MiB of files after the sweep"),
];

type Figures = BTreeMap<String, f64>;

struct Options {
    rounds: usize,
    versions: u64,
    cache_bytes: u64,
    dir: PathBuf,
    /// The phase and the engine of a child.
    child: Option<(String, String)>,
}

impl Options {
    fn parse() -> Result<Self, Failure> {
        let mut options = Self {
            rounds: 3,
            versions: 1_000_000,
            cache_bytes: 128 << 20,
            dir: std::env::temp_dir().join("meridian-engines"),
            child: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--rounds" => options.rounds = value()?.parse()?,
                "--versions" => options.versions = value()?.parse()?,
                "--cache-mib" => options.cache_bytes = value()?.parse::<u64>()? << 20,
                "--dir" => options.dir = value()?.into(),
                "--child" => options.child = Some((value()?, value()?)),
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    let done = Options::parse().and_then(|options| match &options.child {
        None => compare(&options),
        Some((phase, engine)) => work::child(&options, phase, engine),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("engines: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), Failure> {
    let mut rounds: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    for round in 0..options.rounds {
        let mut order = ENGINES;
        if round % 2 == 1 {
            order.reverse();
        }
        for engine in order {
            let mut figures = run(options, "apply", engine)?;
            figures.extend(run(options, "restart", engine)?);
            rounds.entry(engine).or_default().push(figures);
            fs::remove_dir_all(options.dir.join(engine))?;
        }
        println!("round {} done, load {}", round + 1, load());
    }
    let (sled, fjall) = (&rounds["sled"], &rounds["fjall"]);
    println!("| figure | sled | fjall | fjall / sled |\n|---|---|---|---|");
    for (name, unit) in FIGURES {
        let ratios: Vec<f64> = sled.iter().zip(fjall).map(|(s, f)| f[name] / s[name]).collect();
        let median = |of: &[Figures]| middle(of.iter().map(|figures| figures[name]).collect());
        println!(
            "| {name} ({unit}) | {:.1} | {:.1} | {:.2} ({:.2} to {:.2}) |",
            median(sled),
            median(fjall),
            middle(ratios.clone()),
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
    }
    Ok(())
}

fn run(options: &Options, phase: &str, engine: &str) -> Result<Figures, Failure> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--child", phase, engine])
        .args(["--versions", &options.versions.to_string()])
        .args(["--cache-mib", &(options.cache_bytes >> 20).to_string()])
        .arg("--dir")
        .arg(&options.dir)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(format!("{phase} of {engine}: {text}").into());
    }
    let figures = text.lines().filter_map(|line| line.split_once('='));
    figures
        .map(|(name, value)| Ok((name.to_owned(), value.parse()?)))
        .collect()
}

fn middle(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().unwrap_or("unknown").to_owned()
}
