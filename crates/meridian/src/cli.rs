//! The command line. Flags win over the environment (`MERIDIAN_…`), which wins over the file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use meridian::config::Role;
use meridian::logging::LogFormat;

/// Meridian, a transactional key-value store: the server.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the roles of one node until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Create a cluster, once: ids and directories.
    Init(InitArgs),
    /// Ask the node whether it is ready; exit code 1 if it is not. For health checks.
    Health(HealthArgs),
    /// Look at a configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with it, where, and what to do.
    Check(CheckArgs),
}

/// `meridian config check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The cluster's configuration.
    #[arg(long, env = "MERIDIAN_CONFIG", default_value = "cluster.toml")]
    pub config: PathBuf,
}

/// `meridian serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The cluster's configuration.
    #[arg(long, env = "MERIDIAN_CONFIG", default_value = "cluster.toml")]
    pub config: PathBuf,
    /// Which node of it this process is.
    #[arg(long, env = "MERIDIAN_NODE")]
    pub node: String,
    /// Only some of the node's roles, for example `journal,storage`.
    #[arg(long, env = "MERIDIAN_ROLE", value_delimiter = ',')]
    pub role: Option<Vec<Role>>,
    /// Listen here instead of at the node's address; the others still call the address.
    #[arg(long, env = "MERIDIAN_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Publish metrics for Prometheus here, at /metrics, instead of where the node's configuration says.
    #[arg(long, env = "MERIDIAN_METRICS", value_name = "HOST:PORT")]
    pub metrics: Option<String>,
    /// Keep files here instead of in the node's data_dir.
    #[arg(long, env = "MERIDIAN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// What is logged: a level, or directives such as `info,meridian_journal=debug`.
    #[arg(long, env = "MERIDIAN_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// How it is logged: text or json.
    #[arg(long, env = "MERIDIAN_LOG_FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// Worker threads; as many as there are cores by default.
    #[arg(long, env = "MERIDIAN_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// All randomness of the process derives from it. For tests.
    #[arg(long, env = "MERIDIAN_SEED", hide = true)]
    pub seed: Option<u64>,
}

/// `meridian init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The cluster's configuration. Ids are written into it.
    #[arg(long, env = "MERIDIAN_CONFIG", default_value = "cluster.toml")]
    pub config: PathBuf,
    /// Only this node's directory: run it on each machine.
    #[arg(long, env = "MERIDIAN_NODE")]
    pub node: Option<String>,
    /// The disk of this journal node was lost: give it a new identity and an empty log.
    #[arg(long, value_name = "NODE", conflicts_with = "node")]
    pub replace_lost_disk: Option<String>,
    /// Copy this file to where the configuration is to be, if there is none yet.
    #[arg(long, env = "MERIDIAN_TEMPLATE", value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// It is no error when everything was created before. For scripts and containers that run it at every start.
    #[arg(long)]
    pub if_needed: bool,
}

/// `meridian health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The cluster's configuration.
    #[arg(long, env = "MERIDIAN_CONFIG", default_value = "cluster.toml")]
    pub config: PathBuf,
    /// Which node of it to ask.
    #[arg(long, env = "MERIDIAN_NODE")]
    pub node: String,
    /// What to ask for: ready, live, or one of the node's roles.
    #[arg(long, default_value = "ready", value_name = "SERVICE")]
    pub service: String,
    /// Ask there instead of at the node's address.
    #[arg(long, value_name = "HOST:PORT")]
    pub at: Option<String>,
}
