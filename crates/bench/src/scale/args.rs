//! The command line of `scale`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::args::{PlaceArgs, rate, seconds};
use crate::workload::Shape;

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What operations cost with more ranges, adjudicators, storage nodes and query processors.
    Growth,
    /// What ranges cost that nobody uses.
    Idle,
    /// Memory with more keys.
    Memory,
    /// Memory with more open transactions.
    Transactions,
    /// How long it takes to go on after a crash of everything, as the log grows.
    Recovery,
}

/// `kv-bench scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// What to measure, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "growth,idle,memory,transactions,recovery"
    )]
    pub part: Vec<Part>,
    /// How long each workload is measured in each layout; an idle cluster twice as long.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// So many operations begin per second: fewer than any layout can do.
    #[arg(long, default_value = "300", value_parser = rate)]
    pub rate: f64,
    /// Numbers of ranges.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub ranges: Vec<u32>,
    /// Numbers of adjudicators, of storage nodes and of query processors; of one role after another, with one node of the others.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub nodes: Vec<u32>,
    /// Keys that are there while layouts are measured.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub keys: u64,
    /// Numbers of keys for which memory is measured.
    #[arg(long, value_delimiter = ',', default_value = "50000,100000,150000,200000")]
    pub memory_keys: Vec<u64>,
    /// Numbers of open transactions for which memory is measured. A query processor has at most 50,000.
    #[arg(long, value_delimiter = ',', default_value = "2000,4000,8000", value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub open: Vec<u64>,
    /// Lengths of the log, in MB of values that were written.
    #[arg(long, value_delimiter = ',', default_value = "16,64,160")]
    pub log_mb: Vec<u64>,
    /// The length of values (but those of the log: 1,000).
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(20..=100_000))]
    pub value_bytes: u32,
    /// All operations derive from it.
    #[arg(long, default_value = "1")]
    pub seed: u64,
    /// One JSON object per result instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Files and programs.
    #[command(flatten)]
    pub place: PlaceArgs,
}

impl ScaleArgs {
    /// Whether the part is asked for.
    pub fn has(&self, part: Part) -> bool {
        self.part.contains(&part)
    }

    /// The data while layouts are measured.
    pub fn shape(&self) -> Shape {
        Shape {
            keys: self.keys,
            value_bytes: self.value_bytes as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Action, Cli};

    #[test]
    fn the_command_line_is_what_the_documentation_shows() {
        let line = "kv-bench scale --part growth,idle --ranges 1,16,64 --seconds 10";
        let Action::Scale(args) = Cli::try_parse_from(line.split(' ')).unwrap().action else {
            panic!("{line}");
        };
        assert!(args.has(Part::Growth) && args.has(Part::Idle) && !args.has(Part::Recovery));
        assert_eq!((args.ranges, args.nodes), (vec![1, 16, 64], vec![1, 2, 3, 4]));
        for wrong in [
            "--ranges 0",
            "--nodes 17",
            "--open 50001",
            "--rate 0",
            "--part all",
        ] {
            let line = format!("kv-bench scale {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
