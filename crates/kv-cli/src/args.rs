//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meridian_client::{Key, RangeChange};

use crate::command::{self, Command, Scan};
use crate::failure::Failure;
use crate::output::Format;
use crate::text::parse_token;

/// The Meridian shell and its one-shot commands.
///
/// Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or failed,
/// 2 usage, 3 conflict (nothing applied, run it again), 4 unavailable, 5 outcome unknown.
#[derive(Debug, Parser)]
#[command(name = "kv-cli", version, max_term_width = 100)]
pub struct Cli {
    /// Options of all commands.
    #[command(flatten)]
    pub global: Global,
    /// What to do. Without it: the shell.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// Options of all commands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Routers to connect to, HOST:PORT; the first is preferred. Separated by commas, or given repeatedly.
    #[arg(
        long,
        global = true,
        env = "MERIDIAN_ENDPOINT",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    pub endpoint: Vec<String>,
    /// Routers of other regions, used only while none of --endpoint answers.
    #[arg(
        long,
        global = true,
        env = "MERIDIAN_FAR_ENDPOINT",
        value_delimiter = ',',
        value_name = "ENDPOINT"
    )]
    pub far_endpoint: Vec<String>,
    /// How results are printed. For import and export: the file's format.
    #[arg(long, global = true, value_enum)]
    pub format: Option<Format>,
    /// How long one command may take, in seconds (at most 60).
    #[arg(long, global = true, env = "MERIDIAN_TIMEOUT", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
    /// Run these shell commands, separated by `;`, and exit.
    #[arg(short = 'e', long = "execute", global = true, value_name = "COMMANDS")]
    pub execute: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Start a cluster in this process, durable under a directory, and open the shell on it.
    Dev(Dev),
    /// Open the shell. Input that is not a terminal is run and ends it.
    Shell,
    /// Read keys.
    Get {
        /// The keys, taken literally.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Set a key.
    Put {
        /// The key, taken literally.
        key: OsString,
        /// Its new value, taken literally.
        value: OsString,
    },
    /// Delete keys, all in one transaction.
    Del {
        /// The keys, taken literally.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Read the keys of a range.
    Scan {
        /// Which keys.
        #[command(flatten)]
        range: RangeArgs,
        /// At most this many rows.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// From the end to the start.
        #[arg(long)]
        reverse: bool,
        /// Leave the values out.
        #[arg(long)]
        keys: bool,
    },
    /// Count the keys of a range.
    Count {
        /// Which keys.
        #[command(flatten)]
        range: RangeArgs,
    },
    /// Read records from a file into the cluster. Can be run again, or gone on with by --skip, after a failure.
    Import(Import),
    /// Write the records of one snapshot to a file.
    Export(Export),
    /// What runs where: nodes, services, ranges, epochs, leases, positions and lag; and what is wrong with it.
    Status {
        /// Show it again every so many seconds (1 if none are given), until ^C.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
        watch: Option<Duration>,
    },
    /// Look for what is wrong with the cluster, or soon will be, and say what to do. Exit code 1 when somebody is needed.
    Doctor,
    /// The key ranges: their keys, who owns them and in which region, their lead, and how far each region lags.
    Ranges,
    /// Cut and heal links between regions, kill and restart nodes and regions. Only of a cluster that `dev --listen` runs.
    ///
    /// What is sent over a link that is cut does not arrive until it is healed; links of clients are never cut.
    Fault(Fault),
    /// Give a range to another adjudicator.
    Move {
        /// The range, as `ranges` names it.
        range: String,
        /// The adjudicator.
        node: String,
    },
    /// Split the range that holds a key: a new one begins with it.
    Split {
        /// The first key of the second part.
        key: OsString,
    },
    /// Make one range of the one that begins with a key and the one before it.
    Merge {
        /// The first key of the second part.
        key: OsString,
    },
    /// Move everything away from a region, ahead of its loss or of work on it; and back.
    #[command(subcommand)]
    Region(RegionAction),
    /// Let the adjudicators of the configuration own ranges, those that are new in it too, and nobody else.
    ///
    /// The configuration is that of the router that is asked: run it when that router has the new one.
    Adopt,
    /// What became of a transaction. One that has not committed by now never will.
    Outcome {
        /// The token, as an error or a commit showed it: TXN:START:HOME.
        token: String,
    },
    /// Do something in a transaction of its own, and say where its time went, hop by hop.
    Trace(Trace),
    /// Measure puts and gets in a closed loop.
    Bench(Bench),
}

/// Which keys: all, a prefix, or from a start to an end.
#[derive(Clone, Debug, Args)]
pub struct RangeArgs {
    /// A prefix, or with END the first key.
    pub start: Option<OsString>,
    /// The first key that is not included any more; empty: without end.
    pub end: Option<OsString>,
}

/// `dev`.
#[derive(Clone, Debug, Args)]
pub struct Dev {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR", default_value = "meridian-data")]
    pub data: PathBuf,
    /// Serve other clients here as well.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// No shell: serve until ^C.
    #[arg(long, requires = "listen", conflicts_with = "execute")]
    pub no_shell: bool,
    /// How many regions: a, b, ... and, of three or more, the last a witness called w, which has a journal node only. Like
    /// the ranges this is said at the first start, and stays.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    pub regions: Option<u8>,
    /// How long messages take between regions, one way, separated by commas: a-b=30ms,a-w=10ms (a>b=30ms: in that
    /// direction only). 20ms where nothing is said.
    #[arg(long, value_name = "DELAYS", value_delimiter = ',')]
    pub delay: Vec<String>,
    /// How far ahead of the present commits land, in milliseconds. 0: the cheapest commit, and reads of a range under writes wait
    /// for what is in flight. When nothing is said it is tuned with several regions, so that reads do not wait, and 0 with one.
    #[arg(long, value_name = "MS")]
    pub lead: Option<u64>,
    /// How many key ranges, divided evenly as if keys began with small letters. The regions take turns at owning them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "split")]
    pub ranges: Option<u16>,
    /// Begin a key range at each of these keys, separated by commas. The regions take turns at owning them.
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub split: Vec<String>,
}

/// `fault`.
#[derive(Clone, Debug, Args)]
pub struct Fault {
    /// What to do; without it: show the links, and which nodes are down.
    #[arg(value_enum, default_value = "show")]
    pub action: FaultAction,
    /// A region, a link (a-b: both ways, a>b: from a to b only), or for kill and restart a node. Heal and restart without
    /// it: everything.
    #[arg(default_value = "")]
    pub target: String,
}

/// What can be done with a region.
#[derive(Clone, Debug, Subcommand)]
pub enum RegionAction {
    /// Ranges go to other regions and stay there, clients are sent there; nothing depends on the region any more. Survives restarts.
    Drain {
        /// The region.
        region: String,
    },
    /// The region is used again as before.
    Undrain {
        /// The region.
        region: String,
    },
}

/// What `fault` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FaultAction {
    /// Show the links, and which nodes are down.
    Show,
    /// Cut a link, or all links of a region.
    Cut,
    /// Heal what was cut.
    Heal,
    /// Kill a node, or all nodes of a region.
    Kill,
    /// Start again what was killed.
    Restart,
}

impl FaultAction {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Show => "show",
            Self::Cut => "cut",
            Self::Heal => "heal",
            Self::Kill => "kill",
            Self::Restart => "restart",
        }
    }
}

/// `trace`.
#[derive(Clone, Debug, Args)]
pub struct Trace {
    /// The same as --format json.
    #[arg(long)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub action: Traced,
}

/// What can be traced.
#[derive(Clone, Debug, Subcommand)]
pub enum Traced {
    /// Read a key.
    Get {
        /// The key, taken literally.
        key: OsString,
    },
    /// Set a key.
    Put {
        /// The key, taken literally.
        key: OsString,
        /// Its new value, taken literally.
        value: OsString,
    },
    /// Delete keys, all in one transaction.
    Del {
        /// The keys, taken literally.
        #[arg(required = true)]
        keys: Vec<OsString>,
    },
    /// Read the keys of a range.
    Scan {
        /// Which keys.
        #[command(flatten)]
        range: RangeArgs,
    },
    /// Count the keys of a range.
    Count {
        /// Which keys.
        #[command(flatten)]
        range: RangeArgs,
    },
}

impl Traced {
    fn command(&self) -> Result<Command, Failure> {
        let command = match self {
            Self::Get { key: name } => Command::Get {
                key: key(name)?,
                for_update: false,
            },
            Self::Put { key: name, value } => Command::Put {
                key: key(name)?,
                value: value.as_bytes().to_vec(),
            },
            Self::Del { keys } => Command::Delete(keys.iter().map(key).collect::<Result<_, _>>()?),
            Self::Scan { range } => Command::Scan(Scan {
                range: range.to_range(),
                ..Scan::default()
            }),
            Self::Count { range } => Command::Count(range.to_range()),
        };
        command::traced(command)
    }
}

/// `import`.
#[derive(Clone, Debug, Args)]
pub struct Import {
    /// JSON lines or CSV (.csv); `-` is standard input.
    pub file: PathBuf,
    /// Leave out so many records at the beginning: those that an earlier run reported as acknowledged.
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
    /// Records per transaction.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// Transactions under way at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub parallel: u64,
}

/// `export`.
#[derive(Clone, Debug, Args)]
pub struct Export {
    /// JSON lines or CSV (.csv); `-` is standard output.
    pub file: PathBuf,
    /// Only keys with this prefix.
    #[arg(long, default_value = "")]
    pub prefix: OsString,
}

/// `bench`.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Clients, each with one operation under way.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub clients: u64,
    /// How long each part runs, in seconds.
    #[arg(long, default_value = "5", value_parser = seconds)]
    pub time: Duration,
    /// Measure reads and commits from every region in ranges that are adjudicated in each, and show beside them what the
    /// delays alone make of it (which only a cluster of `dev` knows). One client; keys are those of the ranges.
    #[arg(long, conflicts_with_all = ["clients", "keys", "value_bytes"])]
    pub by_region: bool,
    /// Keys that are written and read: bench/0 and so on.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Bytes per value.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub value_bytes: u64,
}

impl Action {
    /// The shell's commands that this stands for, if it is one of those.
    pub fn commands(&self) -> Result<Option<Vec<Command>>, Failure> {
        let commands = match self {
            Self::Get { keys } => keys
                .iter()
                .map(|name| {
                    Ok(Command::Get {
                        key: key(name)?,
                        for_update: false,
                    })
                })
                .collect::<Result<_, Failure>>()?,
            Self::Put { key: name, value } => vec![Command::Put {
                key: key(name)?,
                value: value.as_bytes().to_vec(),
            }],
            Self::Del { keys } => vec![Command::Delete(keys.iter().map(key).collect::<Result<_, _>>()?)],
            Self::Scan {
                range,
                limit,
                reverse,
                keys,
            } => vec![Command::Scan(Scan {
                range: range.to_range(),
                limit: *limit,
                reverse: *reverse,
                keys_only: *keys,
            })],
            Self::Count { range } => vec![Command::Count(range.to_range())],
            Self::Outcome { token } => vec![Command::Outcome(parse_token(token).ok_or_else(|| {
                Failure::usage(format!("{token} is no token: it has the form TXN:START:HOME"))
            })?)],
            Self::Status { watch: None } => vec![Command::Status],
            Self::Doctor => vec![Command::Doctor],
            Self::Ranges => vec![Command::Ranges],
            Self::Fault(fault) => vec![Command::Fault {
                action: fault.action.name().to_owned(),
                target: fault.target.clone(),
            }],
            Self::Move { range, node } => vec![command::move_range(range, node.clone())?],
            Self::Split { key: at } => vec![Command::ChangeRanges(RangeChange::Split(key(at)?.0))],
            Self::Merge { key: at } => vec![Command::ChangeRanges(RangeChange::Merge(key(at)?.0))],
            Self::Region(RegionAction::Drain { region }) => vec![command::drain(region.clone())],
            Self::Region(RegionAction::Undrain { region }) => vec![command::undrain(region.clone())],
            Self::Adopt => vec![command::adopt()],
            Self::Trace(trace) => vec![trace.action.command()?],
            Self::Status { watch: Some(_) }
            | Self::Dev(_)
            | Self::Shell
            | Self::Import(_)
            | Self::Export(_)
            | Self::Bench(_) => return Ok(None),
        };
        Ok(Some(commands))
    }
}

impl RangeArgs {
    fn to_range(&self) -> meridian_client::KeyRange {
        let bytes = |text: &OsString| Key::from(text.as_bytes());
        command::range(self.start.as_ref().map(bytes), self.end.as_ref().map(bytes))
    }
}

fn key(text: &OsString) -> Result<Key, Failure> {
    match text.as_bytes() {
        [] => Err(Failure::usage("a key has at least one byte")),
        bytes => Ok(bytes.into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is needed".to_owned())?;
    if seconds > 0.0 && seconds <= 86_400.0 {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err("has to be above 0 and at most a day".to_owned())
}
