//! `scale`: what Meridian costs as it grows, in ranges, nodes, keys, open transactions and log. Every node is a process of its own
//! (`servers`), so that processor time and memory are told by role. Throughput would show nothing of it where all nodes share a few
//! processors: the load is at a fixed rate, and what counts is what an operation costs.
//!
//! ```text
//! growth         a cluster for each layout: put, get, txn
//! idle           the clusters that differ in ranges alone, left alone
//! memory         one cluster: more and more keys
//! transactions   the same: more and more open transactions
//! recovery       one cluster: a longer and longer log, each time everything is killed; then the storage node loses its disk
//! ```

mod args;
mod figures;
mod growth;
mod layout;
mod memory;
mod recovery;
mod servers;
mod tables;

use std::fs;
use std::path::Path;

use serde::Serialize;
use tempfile::TempDir;

pub use args::{Part, ScaleArgs};
pub use figures::ByRole;
pub use growth::{Growth, Idle, IdleRange};
pub use layout::Layout;
pub use memory::{Memory, MemoryPer};
pub use recovery::Recovery;
pub use tables::table;

use crate::error::{Error, Result};
use crate::peers::Peers;
use crate::tell;
use servers::Servers;

/// One result, as a line of JSON. `measurement` says which.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "measurement", rename_all = "snake_case")]
pub enum Line {
    /// What operations cost in one layout.
    Growth(Growth),
    /// What a cluster costs that nobody uses.
    Idle(Idle),
    /// What one more idle range costs.
    IdleRange(IdleRange),
    /// Memory with so many keys.
    Memory(Memory),
    /// What a million keys more cost.
    MemoryPerMillionKeys(MemoryPer),
    /// Memory with so many open transactions.
    Transactions(Memory),
    /// What a thousand open transactions more cost.
    MemoryPerThousandTransactions(MemoryPer),
    /// How long it takes to go on.
    Recovery(Recovery),
}

/// Where clusters are started.
struct Place {
    dir: TempDir,
    peers: Peers,
    keep: bool,
}

impl Place {
    fn new(args: &ScaleArgs) -> Result<Self> {
        Ok(Self {
            dir: args.place.directory()?,
            peers: args.place.peers.peers(),
            keep: args.place.keep,
        })
    }

    /// Starts a cluster, in a directory of its own, which goes with it.
    async fn start(&self, layout: Layout) -> Result<Servers> {
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(self.dir.path());
        let mut dir = dir.map_err(Error::io("create a directory", self.dir.path()))?;
        dir.disable_cleanup(self.keep);
        tell(&format!("starting {layout}"));
        Servers::start(self.peers.meridian()?, dir, layout).await
    }
}

/// Measures the parts that are asked for. The results of each are shown together, as soon as they are there.
///
/// # Errors
/// A cluster does not start, or its data cannot be loaded; or something that was acknowledged is gone.
pub async fn scale(args: &ScaleArgs, mut show: impl FnMut(&[Line]) -> Result<()>) -> Result<()> {
    tell_load();
    let place = Place::new(args)?;
    if args.has(Part::Growth) || args.has(Part::Idle) {
        let (growth, idle) = growth::run(&place, args).await?;
        show(&growth)?;
        show(&idle)?;
    }
    if args.has(Part::Memory) || args.has(Part::Transactions) {
        let (keys, transactions) = memory::run(&place, args).await?;
        show(&keys)?;
        show(&transactions)?;
    }
    if args.has(Part::Recovery) {
        show(&recovery::run(&place, args).await?)?;
    }
    tell_load();
    Ok(())
}

/// On a machine that does other things as well, figures are worth less: whoever reads them should know.
fn tell_load() {
    let load = fs::read_to_string(Path::new("/proc/loadavg")).unwrap_or_default();
    let averages: Vec<&str> = load.split_whitespace().take(3).collect();
    tell(&format!("load average: {}", averages.join(" ")));
}
