//! How long it takes to go on after everything was killed, and after the storage node lost its disk as well, as the log grows.

use std::time::Duration;

use meridian::config::Role;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::layout::Layout;
use super::memory::ascending;
use super::servers::Servers;
use super::{Line, Place, ScaleArgs};
use crate::error::{Error, Result};
use crate::measure::load;
use crate::system::Regions;
use crate::tell;
use crate::workload::keys;

/// The length of a value: of longer ones fewer have to be written for a long log.
const VALUE_BYTES: usize = 1_000;
/// Nothing is waited for any longer.
const LONGEST: Duration = Duration::from_secs(60);
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// How long it takes to go on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// Values that were written since the cluster was created.
    pub log_mb: u64,
    /// All processes were killed and started again: from the start to the first strong read. None: not within a minute.
    pub read_s: Option<f64>,
    /// The same, to the first write that was acknowledged.
    pub written_s: Option<f64>,
    /// The storage node was killed, lost its disk and was started again: from the start to the first strong read.
    pub rebuilt_s: Option<f64>,
}

/// Measures one cluster, whose log becomes longer and longer.
pub(super) async fn run(place: &Place, args: &ScaleArgs) -> Result<Vec<Line>> {
    let mut servers = place.start(Layout::default()).await?;
    let (mut there, mut lines) = (0, Vec::new());
    for log_mb in ascending(&args.log_mb) {
        let count = (log_mb * 1_000_000).div_ceil(VALUE_BYTES as u64).max(1);
        tell(&format!("writing a log of {log_mb} MB"));
        load(
            &servers,
            &Regions::default(),
            there..count,
            VALUE_BYTES,
            args.seed,
        )
        .await?;
        there = count;
        servers.kill(&Role::ALL);
        let began = Instant::now();
        servers.start_missing()?;
        let (read_s, written_s) =
            tokio::try_join!(until_read(&servers, began, there), until_written(&servers, began))?;
        servers.kill(&[Role::Storage]);
        servers.lose_disks(Role::Storage)?;
        let began = Instant::now();
        servers.start_missing()?;
        let recovery = Recovery {
            log_mb,
            read_s,
            written_s,
            rebuilt_s: until_read(&servers, began, there).await?,
        };
        tell(&format!("{recovery:?}"));
        lines.push(Line::Recovery(recovery));
    }
    Ok(lines)
}

/// Until the key that was written last can be read.
async fn until_read(servers: &Servers, began: Instant, there: u64) -> Result<Option<f64>> {
    let client = servers.client(1)?;
    let key = keys::user(there.saturating_sub(1));
    while began.elapsed() < LONGEST {
        match timeout(ATTEMPT, client.get(key.clone())).await {
            Ok(Ok(Some(_))) => return Ok(Some(seconds(began))),
            Ok(Ok(None)) => {
                return Err(Error::System {
                    system: "meridian",
                    what: "what was acknowledged before everything was killed is gone".to_owned(),
                });
            }
            Ok(Err(_)) | Err(_) => sleep(PAUSE).await,
        }
    }
    Ok(None)
}

async fn until_written(servers: &Servers, began: Instant) -> Result<Option<f64>> {
    let client = servers.client(1)?;
    while began.elapsed() < LONGEST {
        if let Ok(Ok(_)) = timeout(ATTEMPT, client.put("recovered", "yes")).await {
            return Ok(Some(seconds(began)));
        }
        sleep(PAUSE).await;
    }
    Ok(None)
}

fn seconds(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e3).round() / 1e3
}
