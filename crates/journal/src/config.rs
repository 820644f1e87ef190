//! What an operator can choose at a journal node.

use std::time::Duration;

use meridian_types::NodeName;
use serde::{Deserialize, Serialize};

use crate::error::StartError;

/// So many streams keep `tail_bytes` each.
const WHOLE_TAILS: usize = 32;

/// The configuration of a journal node. All of it is this process's own choice, but for `max_ahead_ms`, which should be the
/// same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The size of a segment file in bytes, set aside when it is begun. 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// The newest entries of each stream are kept in memory for subscribers, up to about this many bytes per stream. More than 32
    /// streams share what 32 would take.
    pub tail_bytes: usize,
    /// Appends that wait for the disk may hold this many bytes in all; further ones are not read from
    /// their connections. At least 16 MiB (one message).
    pub queue_bytes: usize,
    /// Append messages of one connection that may wait for the disk or for their replies to be fetched.
    pub connection_queue: usize,
    /// One write and sync takes about this many bytes of what is queued, at least one message.
    pub group_bytes: usize,
    /// About how many bytes one message of a feed or of a read carries (at least one entry, whatever its size).
    pub batch_bytes: usize,
    /// R20: entries whose timestamps lie further ahead of this node's clock than this are refused, in milliseconds. At least the
    /// longest lease, lead and prepare timeout together plus the largest clock error.
    pub max_ahead_ms: u64,
    /// When nothing was written for this long, the sync mark is made durable too, in milliseconds.
    pub idle_sync_ms: u64,
    /// The most streams that the node holds.
    pub max_streams: usize,
    /// This directory replaces a lost disk: if it is not registered, or something durable is damaged, begin with a new disk id and
    /// an empty log, and count again once the streams' owners have rebuilt it. Has no effect on a sound disk.
    pub replace_lost_disk: bool,
    /// What is needed by nobody any more is trimmed, but nothing younger than this, in milliseconds. Not below the time for which outcomes can
    /// be asked for (10 minutes), but for tests.
    pub trim_min_age_ms: u64,
    /// All storage nodes of all regions: nothing is trimmed that one of them does not have in a checkpoint. When none is named nothing
    /// is trimmed. Follows from the cluster's configuration.
    #[serde(skip)]
    pub storage_nodes: Vec<NodeName>,
    /// What the log is written by.
    pub writer: Writer,
}

/// What the write-ahead log is written by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// A thread of its own: a sync does not hold up the node's other work.
    #[default]
    Thread,
    /// A task of the runtime, for simulations, where a sync takes no real time and threads are not allowed.
    Task,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            tail_bytes: 8 << 20,
            queue_bytes: 64 << 20,
            connection_queue: 256,
            group_bytes: 8 << 20,
            batch_bytes: 256 << 10,
            max_ahead_ms: 10_000,
            idle_sync_ms: 1_000,
            max_streams: 100_000,
            replace_lost_disk: false,
            trim_min_age_ms: 3_600_000,
            storage_nodes: Vec::new(),
            writer: Writer::default(),
        }
    }
}

impl Config {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |what: &str| {
            Err(StartError::Config {
                what: what.to_owned(),
            })
        };
        if !(4 << 10..=1 << 30).contains(&self.segment_bytes) {
            return wrong("segment_bytes must lie between 4 KiB and 1 GiB");
        }
        if self.queue_bytes < meridian_types::limits::MAX_MESSAGE_BYTES {
            return wrong("queue_bytes must be at least 16 MiB");
        }
        let counts = [
            self.connection_queue,
            self.max_streams,
            self.group_bytes,
            self.batch_bytes,
        ];
        if counts.contains(&0) {
            return wrong("connection_queue, max_streams, group_bytes and batch_bytes must be at least 1");
        }
        Ok(())
    }

    /// The newest entries that each of so many streams keeps in memory, in bytes.
    pub(crate) fn tail_bytes_of(&self, streams: usize) -> usize {
        let shared = self.tail_bytes.saturating_mul(WHOLE_TAILS) / streams.max(1);
        self.tail_bytes.min(shared)
    }

    pub(crate) fn max_ahead(&self) -> Duration {
        Duration::from_millis(self.max_ahead_ms)
    }
}
