//! The systems that are compared, behind one small trait: started with three nodes (but `dev`), connected to, asked to do four things,
//! stopped. Nothing here knows the workloads.

mod backoff;
mod dev;
mod etcd;
pub(crate) mod kv;
mod meridian;
mod place;
mod postgres;
mod process;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use futures::future::BoxFuture;

use crate::args::SetupArgs;
use crate::error::Result;
use crate::load::Failure;
use crate::peers::Peers;

pub use place::{Region, Regions, free_addresses, timer};
pub use process::{Process, output_of, until_ready};

/// Which system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// Meridian embedded in this process, as `kv-cli dev` runs it.
    Dev,
    /// Meridian: three server processes, two active ones and a witness.
    Meridian,
    /// etcd: three members.
    Etcd,
    /// PostgreSQL: a primary and two standbys, of which one must have each commit.
    Postgres,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dev, Self::Meridian, Self::Etcd, Self::Postgres];

    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Meridian => "meridian",
            Self::Etcd => "etcd",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a system is started with.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where it keeps its files: an empty directory of its own.
    pub dir: PathBuf,
    /// The distances.
    pub regions: Regions,
    /// The most clients that will be connected to it at a time.
    pub max_clients: usize,
    /// Where the programs are.
    pub peers: Peers,
    /// What is chosen of Meridian.
    pub setup: SetupArgs,
}

/// The clients that are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Where they are; anywhere when there are no distances.
    pub region: Option<Region>,
    /// How many.
    pub count: usize,
    /// They share as many connections, or sessions, as so many clients do otherwise (PostgreSQL: each has its own).
    pub connected_as: usize,
    /// Whether what the system refuses because of its load is tried again.
    pub tries_again: bool,
}

/// A system that runs. Dropping it kills its processes.
pub trait System: Send + Sync {
    /// Which it is.
    fn kind(&self) -> Kind;

    /// Its processes. Empty when it is in this one.
    fn pids(&self) -> Vec<u32>;

    /// Where one of its nodes takes calls of Meridian's protocol.
    fn entry(&self) -> Option<SocketAddr> {
        None
    }

    /// Connects clients. Several may share a connection, if that is how the system is meant to be used; if it is not, there may be
    /// fewer than wanted, but as many as the system was started for.
    fn connect(&self, wanted: Wanted) -> BoxFuture<'_, Result<Vec<Arc<dyn Client>>>>;

    /// Does what an administrator would do after loading much data.
    fn settle(&self) -> BoxFuture<'_, Result<()>>;

    /// Stops it.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Makes new values from those that were read, one for each key. `None`: they cannot be what they should be.
pub type Change = dyn Fn(&[Option<Bytes>]) -> Option<Vec<Bytes>> + Send + Sync;

/// A key and its value.
pub type Row = (Bytes, Bytes);

/// A client of a system. What it acknowledges is on the disks of a majority, and what it reads is the newest.
pub trait Client: Send + Sync {
    /// Reads a key.
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, Failure>>;

    /// Writes a key.
    fn put(&self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), Failure>>;

    /// Reads at most so many rows in order, from the one key on and before the other one.
    fn scan(&self, from: Bytes, to: Bytes, limit: u32) -> BoxFuture<'_, Result<Vec<Row>, Failure>>;

    /// A transaction: reads the keys one after the other, as a program does that decides by what it reads, and then writes the new
    /// values. Runs again when it meets a conflict; returns how often it did.
    fn update<'a>(&'a self, keys: &'a [Bytes], change: &'a Change) -> BoxFuture<'a, Result<u64, Failure>>;

    /// Writes many rows, as quickly as it can.
    fn load(&self, rows: Vec<Row>) -> BoxFuture<'_, Result<(), Failure>>;
}

/// Starts a system.
///
/// # Errors
/// Its programs are missing, or do not come up.
pub async fn start(kind: Kind, site: Site) -> Result<Box<dyn System>> {
    std::fs::create_dir_all(&site.dir).map_err(crate::Error::io("create the directory", &site.dir))?;
    Ok(match kind {
        Kind::Dev => Box::new(dev::Dev::start(site).await?),
        Kind::Meridian => Box::new(meridian::Servers::start(site).await?),
        Kind::Etcd => Box::new(etcd::Etcd::start(site).await?),
        Kind::Postgres => Box::new(postgres::Postgres::start(site).await?),
    })
}

/// The failure of values that are not what the workload wrote.
fn unexpected(before: &[Option<Bytes>]) -> Failure {
    let missing = before.iter().filter(|value| value.is_none()).count();
    Failure::Failed(format!(
        "what was read cannot be: {missing} of {} values missing",
        before.len()
    ))
}
