//! What a storage node lets its operator choose.

use std::path::PathBuf;
use std::time::Duration;

use meridian_types::{ClusterId, KeyRange, NodeName, limits};
use serde::{Deserialize, Serialize};

use crate::store::Engine;

/// The configuration of a storage node. All of it is the process's own choice: nodes of one cluster may
/// differ.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the versions are kept. May be emptied while the node is stopped: it is rebuilt from its
    /// checkpoint (`checkpoint/` in it, which may stay), from another node's, or from the journal.
    pub data_dir: PathBuf,
    /// Whose versions they are; not the operator's choice. A directory of another cluster is refused: its positions would be
    /// taken for this journal's.
    #[serde(skip)]
    pub cluster: Option<ClusterId>,
    /// The keys that it holds and may be asked for; as the cluster's configuration says, not the process's own choice.
    #[serde(skip)]
    pub keys: KeyRange,
    /// The other storage nodes of all regions, the nearest first: whom a checkpoint is asked of when the journal was trimmed. As the
    /// cluster's configuration says.
    #[serde(skip)]
    pub peers: Vec<Peer>,
    /// What keeps the versions: `fjall` or `sled`. If nothing is said, what has written the directory, and fjall where it is empty. A
    /// directory that the other one has written is refused.
    pub engine: Option<Engine>,
    /// Memory for cached pages, in bytes.
    pub cache_bytes: u64,
    /// Memory for the newest versions of keys that are read, about, in bytes, whatever the engine; 0 for none.
    pub newest_cache_bytes: u64,
    /// Versions older than this, in milliseconds, are dropped, except the newest. Not below the age that a
    /// transaction may have, or long transactions end with SNAPSHOT_TOO_OLD.
    pub retention_ms: u64,
    /// Pause between two sweeps of the retention, in milliseconds.
    pub sweep_interval_ms: u64,
    /// Pause between two chunks of one sweep, in milliseconds, so that reads go first.
    pub sweep_pause_ms: u64,
    /// Versions that one chunk of a sweep looks at.
    pub sweep_chunk: usize,
    /// About how many bytes one page of a scan carries when the reader does not say.
    pub page_bytes: usize,
    /// Most bytes that a reader may ask one page to carry.
    pub max_page_bytes: usize,
    /// Keys that one page of a scan looks at, at most: bounds a page whose predicate rejects everything.
    pub page_keys: usize,
    /// Most reads that are under way or waiting at once, over all connections. More are refused as overload.
    pub max_reads: usize,
    /// Most bytes of requests that are under way or waiting at once, over all connections.
    pub max_read_bytes: usize,
    /// First pause before a broken feed is opened again, in milliseconds. Doubles up to
    /// `feed_backoff_max_ms`.
    pub feed_backoff_ms: u64,
    /// Longest pause before a broken feed is opened again, in milliseconds.
    pub feed_backoff_max_ms: u64,
    /// A feed that says nothing for this long, in milliseconds, although the owner said that there is more,
    /// is left for another journal node's.
    pub feed_quiet_ms: u64,
    /// How often a node that follows another journal node than the nearest sees whether the nearest can be followed again,
    /// in milliseconds.
    pub feed_return_ms: u64,
    /// About how many bytes of entries are applied in one batch.
    pub apply_batch_bytes: usize,
    /// How long an owner may take to answer one request to close, in milliseconds.
    pub close_timeout_ms: u64,
    /// A closure that the owner said it sent and that did not arrive is asked for again after this, in
    /// milliseconds.
    pub close_again_ms: u64,
    /// How often sled writes out what was applied, in milliseconds; fjall hands each batch to the operating system at once. What is
    /// lost in a crash is read from the journal again.
    pub flush_interval_ms: u64,
    /// How often all versions are written to a checkpoint, in milliseconds, if anything was applied since. A large store is written
    /// less often: at most a twentieth of the time goes into it. The journal is kept for at least as long.
    pub checkpoint_interval_ms: u64,
    /// Versions that are copied into a checkpoint, or out of one, at once.
    pub checkpoint_chunk: usize,
    /// What checkpoints are written by.
    #[serde(skip)]
    pub checkpoint_writer: Writer,
}

/// Another storage node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: NodeName,
    /// The keys that it is configured to hold.
    pub keys: KeyRange,
}

/// What checkpoints are written by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
            data_dir: PathBuf::from("data/storage"),
            cluster: None,
            keys: KeyRange::all(),
            peers: Vec::new(),
            engine: None,
            cache_bytes: 128 << 20,
            newest_cache_bytes: 64 << 20,
            retention_ms: u64::try_from(limits::DEFAULT_RETENTION.as_millis()).unwrap_or(u64::MAX),
            sweep_interval_ms: 10_000,
            sweep_pause_ms: 2,
            sweep_chunk: 1_000,
            page_bytes: limits::SCAN_PAGE_BYTES,
            max_page_bytes: 4 << 20,
            page_keys: 50_000,
            max_reads: 20_000,
            max_read_bytes: 64 << 20,
            feed_backoff_ms: 20,
            feed_backoff_max_ms: 1_000,
            feed_quiet_ms: 500,
            feed_return_ms: 5_000,
            apply_batch_bytes: 1 << 20,
            close_timeout_ms: 2_000,
            close_again_ms: 100,
            flush_interval_ms: 500,
            checkpoint_interval_ms: 600_000,
            checkpoint_chunk: 1_000,
            checkpoint_writer: Writer::default(),
        }
    }
}

impl Config {
    /// [`Self::retention_ms`] as a duration.
    pub fn retention(&self) -> Duration {
        Duration::from_millis(self.retention_ms)
    }

    /// What makes no sense in it, naming the field.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("cache_bytes", self.cache_bytes),
            ("retention_ms", self.retention_ms),
            ("sweep_interval_ms", self.sweep_interval_ms),
            ("sweep_chunk", self.sweep_chunk as u64),
            ("page_bytes", self.page_bytes as u64),
            ("page_keys", self.page_keys as u64),
            ("max_reads", self.max_reads as u64),
            ("max_read_bytes", self.max_read_bytes as u64),
            ("feed_backoff_ms", self.feed_backoff_ms),
            ("feed_quiet_ms", self.feed_quiet_ms),
            ("feed_return_ms", self.feed_return_ms),
            ("apply_batch_bytes", self.apply_batch_bytes as u64),
            ("close_timeout_ms", self.close_timeout_ms),
            ("close_again_ms", self.close_again_ms),
            ("flush_interval_ms", self.flush_interval_ms),
            ("checkpoint_interval_ms", self.checkpoint_interval_ms),
            ("checkpoint_chunk", self.checkpoint_chunk as u64),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("storage.{name} must be greater than zero"));
        }
        let limit = limits::MAX_MESSAGE_BYTES / 2;
        if self.page_bytes > self.max_page_bytes || self.max_page_bytes > limit {
            return Err(format!(
                "storage.page_bytes must not exceed storage.max_page_bytes, nor that {limit}"
            ));
        }
        Ok(())
    }
}
