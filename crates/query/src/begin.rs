//! What a client may ask of a transaction when it begins it.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::{BeginRequest, Isolation};
use meridian_types::{Timestamp, TxnId, limits};

use crate::config::Config;

/// An id that says that it was made longer ago than this is not run. With the longest age and two deadlines it stays
/// within the time for which a bar is remembered: what its client was told meanwhile stays true.
const MAX_ID_AGE: Duration = limits::OUTCOME_RETENTION
    .saturating_sub(limits::MAX_TXN_AGE)
    .saturating_sub(limits::MAX_DEADLINE)
    .saturating_sub(limits::MAX_DEADLINE);

/// When the id was made, if it says so (a UUID of version 7).
pub(crate) fn made_at(id: TxnId) -> Option<Timestamp> {
    if id.0.get_version_num() != 7 {
        return None;
    }
    let (seconds, nanos) = id.0.get_timestamp()?.to_unix();
    Some(Timestamp::ZERO.saturating_add(Duration::new(seconds, nanos)))
}

/// Whether a request with this id was held up for so long that its client may have been told that it aborted, and
/// nobody remembers.
pub(crate) fn is_held_up(made_at: Timestamp, now: Timestamp) -> bool {
    now.since(made_at) > MAX_ID_AGE
}

/// Which snapshot a transaction reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Snapshot {
    /// The one of the moment of its first read.
    Present,
    /// One of the past.
    At(Timestamp),
    /// Whatever can be read at once and is at most this old.
    NotOlderThan(Duration),
}

/// The properties of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) serializable: bool,
    pub(crate) read_only: bool,
    /// The snapshot is not taken before this.
    pub(crate) min_start: Timestamp,
    pub(crate) snapshot: Snapshot,
    pub(crate) idle_timeout: Duration,
    /// Measure what it waits for.
    pub(crate) trace: bool,
}

impl Options {
    /// From a request. `now`: the node's `now.latest`.
    pub(crate) fn new(request: &BeginRequest, config: &Config, now: Timestamp) -> KvResult<Self> {
        let min_start = Timestamp(request.min_start);
        let snapshot = match (request.at, request.max_staleness_ms) {
            (0, 0) => Snapshot::Present,
            (at, 0) => Snapshot::At(Timestamp(at)),
            (0, ms) => Snapshot::NotOlderThan(Duration::from_millis(ms)),
            _ => return Err(KvError::invalid("at and max_staleness_ms exclude each other")),
        };
        if snapshot != Snapshot::Present && !request.read_only {
            return Err(KvError::invalid(
                "at and max_staleness_ms are for read-only transactions",
            ));
        }
        if let Snapshot::At(at) = snapshot {
            if at > now {
                return Err(KvError::invalid(format!(
                    "at {at} lies in the future: it is {now} now"
                )));
            }
            if at < min_start {
                return Err(KvError::invalid("at lies before min_start"));
            }
        }
        // Waited for, so what no deadline can reach is refused at once.
        if min_start > now.saturating_add(limits::MAX_DEADLINE) {
            return Err(KvError::invalid(format!(
                "min_start {min_start} lies far in the future: it is {now} now"
            )));
        }
        Ok(Self {
            serializable: is_serializable(request.isolation)?,
            read_only: request.read_only,
            min_start,
            snapshot,
            idle_timeout: config.idle_timeout(request.idle_timeout_ms),
            trace: request.trace,
        })
    }
}

fn is_serializable(isolation: i32) -> KvResult<bool> {
    match Isolation::try_from(isolation) {
        Ok(Isolation::Unspecified | Isolation::Snapshot) => Ok(false),
        Ok(Isolation::Serializable) => Ok(true),
        Err(_) => Err(KvError::invalid(format!("isolation {isolation} is not known"))),
    }
}
