//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use meridian::embedded::Delay;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::peers::{Peers, default_dir};
use crate::run::Plan;
use crate::scale::ScaleArgs;
use crate::system::{Kind, Regions};
use crate::tell;
use crate::workload::{Shape, Workload};

/// Meridian beside what one would pick instead, in one run on one machine.
///
/// Results go to standard output, everything else to standard error. docs/benchmarks.md tells what is measured, and how the comparison
/// is kept fair.
#[derive(Debug, Parser)]
#[command(name = "kv-bench", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Measure one system.
    Run(RunArgs),
    /// Measure several systems that run side by side, in turns. One that is missing is left out.
    Compare(CompareArgs),
    /// Offer up to ten times as much as a system can do, and see what becomes of it.
    Overload(OverloadArgs),
    /// What one client of Meridian waits for, beside a sync of the disk and calls that do nothing.
    Floors(FloorsArgs),
    /// What Meridian costs as it grows: ranges, nodes, keys, open transactions, log.
    Scale(ScaleArgs),
    /// The systems to compare with.
    #[command(subcommand)]
    Peers(PeersAction),
}

/// `kv-bench peers`.
#[derive(Debug, Subcommand)]
pub enum PeersAction {
    /// Install etcd (a Python package, into a directory of this tool) and PostgreSQL (the distribution's package).
    Install(PeersArgs),
    /// Say what is there and what is missing.
    Status(PeersArgs),
}

/// `kv-bench run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The system.
    #[arg(long, value_enum)]
    pub system: Kind,
    /// What is measured.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Where.
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `kv-bench compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The systems, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "meridian,etcd,postgres"
    )]
    pub systems: Vec<Kind>,
    /// What is measured.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Where.
    #[command(flatten)]
    pub site: SiteArgs,
}

/// What is measured.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The workloads, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "put,get,txn,hot,scan,ycsb-a,ycsb-b,ycsb-c,ycsb-d,ycsb-e,ycsb-f,bank"
    )]
    pub workload: Vec<Workload>,
    /// How many clients, in each region; one measurement for each number. In an open loop: how many operations may be under way.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: Vec<u32>,
    /// How long each round of a measurement takes.
    #[arg(long, default_value = "8", value_parser = seconds)]
    pub seconds: Duration,
    /// How long clients work before it counts.
    #[arg(long, default_value = "2", value_parser = seconds_or_none)]
    pub warm_up: Duration,
    /// Rounds of each measurement; systems take turns after each.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Open loop: so many operations begin per second in each region, whatever becomes of those before them.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Draw the results into this file.
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// Where it is measured.
#[derive(Debug, Args)]
pub struct SiteArgs {
    /// One JSON object per result instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Keys that are there beforehand.
    #[arg(long, default_value = "100000", value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub keys: u64,
    /// The length of values.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(20..=100_000))]
    pub value_bytes: u32,
    /// All operations derive from it.
    #[arg(long, default_value = "1")]
    pub seed: u64,
    /// 3: the nodes are in regions a, b and w that are apart; clients in a and b are measured each by themselves.
    #[arg(long, default_value = "1", value_parser = ["1", "3"])]
    pub regions: String,
    /// How long messages take between two regions, one way: a-b=30ms, or a>b=30ms for that way only. 20 ms where nothing is said.
    #[arg(long, value_delimiter = ',', value_name = "LINK=MS")]
    pub delay: Vec<Delay>,
    /// Meridian's own choices.
    #[command(flatten)]
    pub setup: SetupArgs,
    /// Files and programs.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// What is to be chosen of Meridian alone.
#[derive(Clone, Debug, Default, Args)]
pub struct SetupArgs {
    /// Meridian: divide the keys of every workload into two ranges, one adjudicated in each region. So it is with --regions 3; otherwise
    /// all keys are in one range.
    #[arg(long)]
    pub divided: bool,
    /// Meridian: what storage nodes keep versions in; their own choice if nothing is said.
    #[arg(long, value_parser = ["fjall", "sled"])]
    pub engine: Option<String>,
    /// Meridian: a setting of each node, as in its configuration below `settings` (`query.page_bytes = 65536`), or of the cluster
    /// (`cluster.lease_ms = 2000`). May be repeated.
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    pub settings: Vec<String>,
}

/// Where servers find room, and their programs.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// Where servers may write; a directory is made in it, and removed at the end.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Leave the directory, with the servers' logs.
    #[arg(long)]
    pub keep: bool,
    /// The programs.
    #[command(flatten)]
    pub peers: PeersArgs,
}

/// Where the programs are.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
    /// Where `peers install` puts what it gets.
    #[arg(long, env = "KV_BENCH_PEERS", value_name = "DIR")]
    pub peers: Option<PathBuf>,
    /// Meridian's server binary. By default the one beside this program.
    #[arg(long, env = "KV_BENCH_MERIDIAN", value_name = "FILE")]
    pub meridian: Option<PathBuf>,
}

/// `kv-bench overload`.
#[derive(Debug, Args)]
pub struct OverloadArgs {
    /// The system.
    #[arg(long, value_enum, default_value = "meridian")]
    pub system: Kind,
    /// The workload.
    #[arg(long, value_enum, default_value = "put")]
    pub workload: Workload,
    /// How long each step takes, and the measurement of the peak.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// Clients that measure the peak, in a closed loop.
    #[arg(long, default_value = "256", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// The most operations under way.
    #[arg(long, default_value = "20000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// An operation that could not begin within so many seconds is given up.
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub patience: Duration,
    /// Where.
    #[command(flatten)]
    pub site: SiteArgs,
}

/// `kv-bench floors`.
#[derive(Debug, Args)]
pub struct FloorsArgs {
    /// Rounds; in each, everything is measured once.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// How long each workload is measured in each round.
    #[arg(long, default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
    /// Where.
    #[command(flatten)]
    pub site: SiteArgs,
}

impl LoadArgs {
    /// The plan of all measurements.
    pub fn plan(&self, site: &SiteArgs) -> Plan {
        Plan {
            workloads: self.workload.clone(),
            clients: self.clients.iter().map(|count| *count as usize).collect(),
            warm_up: self.warm_up,
            length: self.seconds,
            rounds: self.rounds,
            rate: self.rate,
            shape: site.shape(),
            seed: site.seed,
        }
    }
}

impl SiteArgs {
    /// How much data there is.
    pub fn shape(&self) -> Shape {
        Shape {
            keys: self.keys,
            value_bytes: self.value_bytes as usize,
        }
    }

    /// What is chosen of Meridian. Regions that are apart adjudicate each their own keys.
    pub fn setup(&self) -> SetupArgs {
        SetupArgs {
            divided: self.setup.divided || self.regions == "3",
            ..self.setup.clone()
        }
    }

    /// The distances.
    ///
    /// # Errors
    /// Delays without regions, or between unknown ones.
    pub fn distances(&self) -> Result<Regions> {
        let are_apart = self.regions == "3";
        if !are_apart && !self.delay.is_empty() {
            return Err(Error::Usage("--delay goes with --regions 3".to_owned()));
        }
        Regions::new(are_apart, self.delay.clone())
    }
}

impl PlaceArgs {
    /// The directory for this run's files; it goes with the value, unless it is to be kept.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self) -> Result<TempDir> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("kv-bench-").tempdir_in(&parent);
        let mut dir = dir.map_err(Error::io("create a directory", &parent))?;
        if self.keep {
            dir.disable_cleanup(true);
            tell(&format!("files and logs stay in {}", dir.path().display()));
        }
        Ok(dir)
    }
}

impl PeersArgs {
    /// Where to look.
    pub fn peers(&self) -> Peers {
        Peers {
            dir: self.peers.clone().unwrap_or_else(default_dir),
            meridian: self.meridian.clone(),
        }
    }
}

pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.1..=1e7).contains(&number) {
        Ok(number)
    } else {
        Err("from 0.1 to 10,000,000 per second".to_owned())
    }
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.0..=86_400.0).contains(&number) {
        return Ok(Duration::from_secs_f64(number));
    }
    Err("at most a day".to_owned())
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match seconds_or_none(text) {
        Ok(Duration::ZERO) => Err("more than nothing".to_owned()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_takes_what_the_documentation_shows() {
        Cli::command().debug_assert();
        let line = "kv-bench run --system meridian --workload a,put --clients 1,16 --seconds 0.5 --rate 100 --regions 3 --delay a-b=30ms,a-w=10ms --json";
        let Action::Run(run) = Cli::try_parse_from(line.split(' ')).unwrap().action else {
            panic!("{line}");
        };
        assert_eq!(run.load.workload, [Workload::YcsbA, Workload::Put]);
        assert!(run.site.distances().unwrap().are_apart());
        let line = "kv-bench compare --delay a-b=30ms";
        let Action::Compare(compare) = Cli::try_parse_from(line.split(' ')).unwrap().action else {
            panic!("{line}");
        };
        assert_eq!(compare.load.workload, Workload::ALL);
        assert_eq!(compare.systems, [Kind::Meridian, Kind::Etcd, Kind::Postgres]);
        assert!(compare.site.distances().is_err());
        for wrong in ["--seconds 0", "--clients 0", "--rate -1", "--regions 2"] {
            let line = format!("kv-bench run --system dev {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
