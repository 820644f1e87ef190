//! The state of a journal node and what may be done with it.
//!
//! ```text
//! handlers ── decide (under the lock) ──> queue ──> writer: write, sync ──> complete (under the lock) ──> replies
//!                                                      └── disk full ──> refuse: all decisions since the last sync
//! ```
//! One lock guards everything that is decided; it is held for short, never across an await, a write or a read of a file.
//! Decisions enter the queue in the order in which they were made, and replies leave in that order, after the sync that covers them.

mod append;
mod checkpoints;
mod closures;
mod commits;
mod complete;
mod fetch;
mod state;
#[cfg(test)]
mod tests;
mod trimming;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use meridian_clock::SharedClock;
use meridian_metrics::{Counter, names};
use meridian_protocol::fencing::ReplicaLog;
use meridian_protocol::quorum;
use meridian_rpc::KvError;
use meridian_rpc::internal::{AppendReply, AppendReplyBatch, FenceResponse};
use meridian_types::{Epoch, Lsn, NodeName, Position, StreamId, Timestamp};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::config::Config;
use crate::disk::DiskIdentity;
use crate::stream::{Stream, Undo};
use crate::wal::Segments;
use crate::wal::format::Body;
use checkpoints::Checkpoints;
use closures::Closures;
use commits::Commits;

pub use append::MAX_OWNER_BYTES;
pub use fetch::{Fetched, Located};
pub use state::Figures;
pub use trimming::Plan;

/// Where an append batch's replies go; a place in the connection's bounded queue, taken before the batch is decided.
pub type ReplySlot = mpsc::OwnedPermit<Result<AppendReplyBatch, Status>>;

/// A journal node's state, shared by its handlers and the writer.
pub struct Journal {
    config: Config,
    identity: DiskIdentity,
    /// All replicas of every stream, in the order of the `acked` vectors.
    replicas: Vec<NodeName>,
    own_index: usize,
    quorum: usize,
    clock: SharedClock,
    state: Mutex<State>,
    /// Wakes the writer's thread, or its task.
    work: Condvar,
    work_task: Notify,
    /// Rises whenever something is committed or a closure arrived.
    progress: watch::Sender<u64>,
    segments: Segments,
    /// Bytes that may wait for the disk.
    room: Arc<Semaphore>,
    /// Messages refused because the disk was full.
    refused: Counter,
    /// The node serves no more: it failed, or was shut down.
    stopped: CancellationToken,
    started_at: Instant,
}

struct State {
    streams: BTreeMap<StreamId, Stream>,
    /// Records to be written, one batch per element of `pending` that the writer has not taken yet.
    queue: VecDeque<Vec<Body>>,
    /// What becomes true with the syncs to come, oldest first.
    pending: VecDeque<Pending>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    closures: Closures,
    commits: Commits,
    checkpoints: Checkpoints,
    /// The segment that is written to.
    active_segment: u32,
    phase: Phase,
    figures: Figures,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Closing,
    Failed(String),
}

/// One open append stream.
struct Connection {
    owner: NodeName,
    last_heard: Instant,
}

/// Decisions of one message, waiting for their sync.
struct Pending {
    decisions: Vec<Decision>,
    answer: Answer,
    /// The message's bytes count until its records are written.
    _room: Option<OwnedSemaphorePermit>,
}

struct Decision {
    stream: StreamId,
    undo: Undo,
    /// For an append: its epoch, and how far the log equals the owner's.
    matched: Option<(Epoch, Position)>,
}

enum Answer {
    Append(ReplySlot, Vec<AppendReply>),
    Fence(oneshot::Sender<Result<FenceResponse, KvError>>, FenceResponse),
}

/// What the writer is to do next.
pub enum Work {
    /// Write these, in this order, and sync; then complete or refuse them.
    Write(Vec<Vec<Body>>),
    /// Nothing now.
    Idle,
    /// Nothing any more.
    Close,
}

/// The parts of a journal node that are known before its log is read.
pub struct Parts {
    /// The configuration.
    pub config: Config,
    /// The disk.
    pub identity: DiskIdentity,
    /// All replicas of every stream, this node among them.
    pub replicas: Vec<NodeName>,
    /// The node's clock.
    pub clock: SharedClock,
    /// The log's segments, for reading.
    pub segments: Segments,
    /// The one that is written to.
    pub active_segment: u32,
}

impl Journal {
    /// A node that recovered these streams.
    pub fn new(parts: Parts, streams: BTreeMap<StreamId, Stream>) -> Self {
        let Parts {
            config,
            identity,
            mut replicas,
            clock,
            segments,
            active_segment,
        } = parts;
        if !replicas.contains(&identity.node) {
            replicas.push(identity.node.clone());
        }
        replicas.sort_unstable();
        replicas.dedup();
        let own_index = replicas
            .iter()
            .position(|name| *name == identity.node)
            .unwrap_or_default();
        let room = config
            .queue_bytes
            .min(Semaphore::MAX_PERMITS)
            .min(u32::MAX as usize);
        let mut commits = Commits::default();
        for (id, stream) in &streams {
            // What was trimmed is committed.
            if stream.log.committed() > Lsn(0) {
                commits.note(*id);
            }
        }
        Self {
            quorum: quorum::majority(replicas.len()),
            identity,
            replicas,
            own_index,
            clock,
            state: Mutex::new(State {
                streams,
                queue: VecDeque::new(),
                pending: VecDeque::new(),
                connections: BTreeMap::new(),
                next_connection: 0,
                closures: Closures::default(),
                commits,
                checkpoints: Checkpoints::new(&config.storage_nodes),
                active_segment,
                phase: Phase::Serving,
                figures: Figures::default(),
            }),
            config,
            work: Condvar::new(),
            work_task: Notify::new(),
            progress: watch::Sender::new(0),
            segments,
            room: Arc::new(Semaphore::new(room)),
            refused: names::JOURNAL_REFUSED.counter(&[]),
            stopped: CancellationToken::new(),
            started_at: Instant::now(),
        }
    }

    /// The log of a stream that this disk has not seen.
    pub fn unseen(identity: &DiskIdentity) -> ReplicaLog {
        if identity.rejoining {
            ReplicaLog::rejoining(identity.disk_id)
        } else {
            ReplicaLog::new()
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Wakes subscribers when there is something new for them.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// What is older than this was there for `age`, whatever this node's clock is wrong by.
    pub fn old_before(&self, age: Duration) -> Timestamp {
        self.clock.now().earliest.saturating_sub(age)
    }

    /// More may be known to be committed, or to be gone.
    pub fn note_trimmed(&self) {
        self.note_progress();
    }

    /// The segments up to `last` are to be removed: nobody may hold them open.
    pub fn forget_segments(&self, last: u32) {
        self.segments.forget_up_to(last);
    }

    /// Cancelled when the node serves no more.
    pub fn stopped(&self) -> &CancellationToken {
        &self.stopped
    }

    /// An error unless the node serves.
    pub fn check_serving(&self) -> Result<(), KvError> {
        self.lock().check_serving()
    }

    /// Waits until a message of about `bytes` may join what waits for the disk.
    pub async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, KvError> {
        let bytes = u32::try_from(bytes.clamp(1, self.config.queue_bytes)).unwrap_or(u32::MAX);
        let room = self.room.clone().acquire_many_owned(bytes).await;
        room.map_err(|_| KvError::unavailable("the journal node is shutting down"))
    }

    /// Nothing more is accepted; the writer finishes what is queued.
    pub fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Serving {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.wake_writer();
        self.stopped.cancel();
    }

    /// The node cannot go on: nothing is acknowledged any more.
    pub fn fail(&self, what: &str) {
        tracing::error!(node = %self.identity.node, disk = %self.identity.disk_id, what, "journal node stops");
        self.fail_in(&mut self.lock(), what);
    }

    /// What the node failed of, if it did.
    pub fn failure(&self) -> Option<String> {
        match &self.lock().phase {
            Phase::Failed(what) => Some(what.clone()),
            Phase::Serving | Phase::Closing => None,
        }
    }

    fn fail_in(&self, state: &mut State, what: &str) {
        if !matches!(state.phase, Phase::Failed(_)) {
            state.phase = Phase::Failed(what.to_owned());
        }
        // Dropped without an answer: their callers learn from `stopped` that the node is gone.
        state.queue.clear();
        state.pending.clear();
        self.stopped.cancel();
        self.wake_writer();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            let mut state = poisoned.into_inner();
            self.fail_half_way(&mut state);
            state
        })
    }

    /// What was decided may be held here and not be queued: a repeated append would be acknowledged without having been written.
    fn fail_half_way(&self, state: &mut State) {
        let what = "a decision died half-way";
        if !matches!(state.phase, Phase::Failed(_)) {
            tracing::error!(node = %self.identity.node, what, "journal node stops");
        }
        self.fail_in(state, what);
    }

    fn wake_writer(&self) {
        self.work.notify_one();
        self.work_task.notify_one();
    }

    fn note_progress(&self) {
        self.progress
            .send_modify(|version| *version = version.wrapping_add(1));
    }
}

impl State {
    fn check_serving(&self) -> Result<(), KvError> {
        match &self.phase {
            Phase::Serving => Ok(()),
            Phase::Closing => Err(KvError::unavailable("the journal node is shutting down")),
            Phase::Failed(what) => Err(KvError::unavailable(format!("the journal node stopped: {what}"))),
        }
    }
}
