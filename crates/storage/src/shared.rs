//! What the tasks of one storage node share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_clock::SharedClock;
use meridian_metrics::{Histogram, names};
use meridian_protocol::closing::ClosedMap;
use meridian_protocol::visibility::SnapshotTooOld;
use meridian_rpc::owner::Owners;
use meridian_rpc::{Env, KvError};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{KeyRange, Lsn, NodeName, RangeId, StreamId, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{Checkpoints, holds};
use crate::config::Config;
use crate::error::StoreError;
use crate::store::cached::{self, Lookups};
use crate::store::{Progress, VersionStore};

/// How often the owner of a range is told that it is read here.
const READ_NOTICE: Duration = Duration::from_secs(1);
/// Reads further in the past than this do not want the range to be closed up to the present.
const STRONG_READ: Duration = Duration::from_secs(1);
/// When an overloaded node wants to be asked again.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// One node's state. The store and the clock answer for themselves; everything else here is small.
pub(crate) struct Shared {
    pub config: Config,
    pub node: NodeName,
    pub clock: SharedClock,
    pub owners: Owners,
    pub store: Arc<dyn VersionStore>,
    /// R5: raised by the applier only, after everything that the closure depends on was applied.
    pub closed: watch::Sender<ClosedMap>,
    pub wants: Wants,
    pub checkpoints: Checkpoints,
    /// What is being done to fill the store, while it is.
    filling: Mutex<Option<String>>,
    /// The journal node whose feed is followed, if one is.
    following: Mutex<Option<NodeName>>,
    pub figures: Figures,
    /// Ends all tasks of the node.
    pub shutdown: CancellationToken,
    /// No read below this is answered (R6). Raised before anything is dropped under it.
    horizon: AtomicU64,
    /// Up to when the owners said that they have closed, since the feed was last opened.
    announced: Mutex<ClosedMap>,
    /// How far the applier has come, for status.
    applied: Mutex<BTreeMap<StreamId, Lsn>>,
    /// The first reason why the node cannot go on.
    failure: Mutex<Option<String>>,
}

/// Counters, for status.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub feed_connected: AtomicBool,
    pub entries_applied: AtomicU64,
    pub versions_applied: AtomicU64,
    pub versions_dropped: AtomicU64,
    pub feeds_opened: AtomicU64,
    pub closes_asked: AtomicU64,
    pub reads: AtomicU64,
    pub reads_waited: AtomicU64,
    pub reads_refused: AtomicU64,
    pub reads_timed_out: AtomicU64,
    pub disk_bytes: AtomicU64,
    /// The checkpoint's size, when it was begun by its writer's clock, and how long the last one took to write.
    pub checkpoint_bytes: AtomicU64,
    pub checkpoint_begun: AtomicU64,
    pub checkpoint_ms: AtomicU64,
    pub checkpoints_written: AtomicU64,
    pub checkpoints_failed: AtomicU64,
    /// 1 while the last attempt to write one was in vain.
    pub checkpoint_failing: AtomicU64,
    /// Times that the store was filled from a checkpoint.
    pub fills: AtomicU64,
    /// Keys that were looked up, from memory and in the engine.
    pub lookups: Arc<Lookups>,
    /// Reads and bytes of requests that are under way or waiting.
    pub reads_open: AtomicUsize,
    pub read_bytes_open: AtomicUsize,
    pub times: Times,
}

/// What takes how long, for metrics alone.
#[derive(Debug)]
pub(crate) struct Times {
    /// Batches applied.
    pub apply: Histogram,
    /// Passes in which reads are worked on.
    pub read: Histogram,
    /// R5, of the reads that have to wait.
    pub wait: Histogram,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            apply: names::STORAGE_BUSY.histogram(&[]),
            read: names::STORAGE_READ_BUSY.histogram(&[]),
            wait: names::STORAGE_READ_WAIT.histogram(&[]),
        }
    }
}

impl Figures {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(
        config: Config,
        env: &Env,
        owners: Owners,
        store: Arc<dyn VersionStore>,
        checkpoints: Checkpoints,
        shutdown: CancellationToken,
    ) -> Result<Self, StoreError> {
        let horizon = store.horizon()?;
        let applied = store
            .progress()?
            .into_iter()
            .map(|(stream, progress)| (stream, progress.position.lsn));
        let applied = applied.collect();
        let figures = Figures::default();
        let newest_cache_bytes = config.newest_cache_bytes;
        Ok(Self {
            config,
            node: env.node.clone(),
            clock: env.clock.clone(),
            owners,
            store: cached::over(store, newest_cache_bytes, figures.lookups.clone()),
            closed: watch::Sender::new(ClosedMap::new()),
            wants: Wants::default(),
            checkpoints,
            filling: Mutex::default(),
            following: Mutex::default(),
            figures,
            shutdown,
            horizon: AtomicU64::new(horizon.0),
            announced: Mutex::default(),
            applied: Mutex::new(applied),
            failure: Mutex::default(),
        })
    }

    /// R16: reads of these ranges at `at` came in, whether or not they have to wait.
    pub fn note_read(&self, ranges: &BTreeSet<RangeId>, at: Timestamp) {
        if self.clock.now().latest.saturating_sub(STRONG_READ) <= at {
            self.wants.note_read(ranges, at);
        }
    }

    /// Refuses what another storage node has to be asked for.
    pub fn check_held(&self, keys: &KeyRange) -> Result<(), KvError> {
        let held = &self.config.keys;
        if holds(held, keys) || is_broken(Rule::HeldKeys) {
            return Ok(());
        }
        let (node, key) = (&self.node, &keys.start);
        let end = held
            .end
            .as_ref()
            .map_or("the end".to_owned(), |end| end.to_string());
        Err(KvError::unavailable(format!(
            "storage node {node} holds keys from {:?} to {end} only, and was asked for {key}: do all nodes of the region have the \
             same configuration?",
            held.start
        )))
    }

    /// The journal node whose feed is followed from now on.
    pub fn follow(&self, journal: Option<NodeName>) {
        *lock(&self.following) = journal;
    }

    /// The journal node whose feed is followed.
    pub fn following(&self) -> Option<NodeName> {
        lock(&self.following).clone()
    }

    /// Up to when a range is complete here.
    pub fn closed(&self, range: RangeId) -> Timestamp {
        self.closed.borrow().closed(range)
    }

    /// The retention horizon in force.
    pub fn horizon(&self) -> Timestamp {
        Timestamp(self.horizon.load(Ordering::SeqCst))
    }

    /// Puts a horizon in force.
    pub fn raise_horizon(&self, to: Timestamp) {
        self.horizon.fetch_max(to.0, Ordering::SeqCst);
    }

    /// R6, asked before a read and again after it was evaluated: retention may have dropped meanwhile what it
    /// should see.
    pub fn admit(&self, at: Timestamp) -> Result<(), KvError> {
        let horizon = meridian_protocol::visibility::Horizon::new(self.horizon());
        horizon
            .admit(at)
            .map_err(|SnapshotTooOld { horizon, .. }| KvError::SnapshotTooOld { min_start: horizon })
    }

    /// An owner says that it has closed a range.
    pub fn announce(&self, range: RangeId, closed: Timestamp) {
        lock(&self.announced).close(range, closed);
    }

    /// Whether an owner has closed a range further than this node knows.
    pub fn is_behind(&self) -> bool {
        let announced = lock(&self.announced);
        let closed = self.closed.borrow();
        let map = self.owners.map();
        map.entries
            .iter()
            .any(|range| announced.closed(range.id) > closed.closed(range.id))
    }

    /// A feed was opened: what was announced before may have been lost with the one before it.
    pub fn forget_announced(&self) {
        *lock(&self.announced) = ClosedMap::new();
    }

    /// How far each stream was applied.
    pub fn applied(&self) -> BTreeMap<StreamId, Lsn> {
        lock(&self.applied).clone()
    }

    pub fn note_applied(&self, stream: StreamId, lsn: Lsn) {
        lock(&self.applied).insert(stream, lsn);
    }

    /// Whether the checkpoint holds entries that the store does not.
    pub fn is_behind_checkpoint(&self) -> Result<bool, StoreError> {
        let Some(header) = self.checkpoints.header() else {
            return Ok(false);
        };
        let progress = self.store.progress()?;
        let lsn = |stream| progress.get(stream).copied().unwrap_or_default().position.lsn;
        let mut held = header.progress.iter();
        Ok(held.any(|(stream, held)| held.position.lsn > lsn(stream)))
    }

    /// The store was filled up to these positions.
    pub fn note_filled(&self, progress: &BTreeMap<StreamId, Progress>) {
        let applied = progress.iter().map(|(stream, at)| (*stream, at.position.lsn));
        *lock(&self.applied) = applied.collect();
    }

    /// What is being done to fill the store; `None` when that is over.
    pub fn note_filling(&self, what: Option<String>) {
        *lock(&self.filling) = what;
    }

    /// What is being done to fill the store, while it is.
    pub fn filling(&self) -> Option<String> {
        lock(&self.filling).clone()
    }

    /// The node cannot go on: keeps the first reason and ends all tasks.
    pub fn fail(&self, why: String) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            tracing::error!(node = %self.node, why, "storage node stops");
            *failure = Some(why);
        }
        drop(failure);
        self.shutdown.cancel();
    }

    /// Why the node could not go on.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// What a read is told when the store failed under it; also stops the node, which would fail at the next
    /// one too.
    pub fn store_failed(&self, error: &StoreError) -> KvError {
        self.fail(error.to_string());
        KvError::unavailable(format!("storage node {} has failed", self.node))
    }

    /// A place for one read of `bytes`, or OVERLOADED.
    pub fn ticket(self: &Arc<Self>, bytes: usize) -> Result<Ticket, KvError> {
        let ticket = Ticket {
            shared: self.clone(),
            bytes,
        };
        let reads = self.figures.reads_open.fetch_add(1, Ordering::Relaxed) + 1;
        let open_bytes = self.figures.read_bytes_open.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if reads <= self.config.max_reads && open_bytes <= self.config.max_read_bytes {
            return Ok(ticket);
        }
        Figures::add(&self.figures.reads_refused, 1);
        let what = format!(
            "storage node {} has {reads} reads of {open_bytes} bytes to answer",
            self.node
        );
        Err(KvError::overloaded(what, RETRY_AFTER))
    }
}

/// One read's place among those that the node works on.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let figures = &self.shared.figures;
        figures.reads_open.fetch_sub(1, Ordering::Relaxed);
        figures.read_bytes_open.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What reads wait for, per range: shared by all of them, so that one request closes for all.
#[derive(Default)]
pub(crate) struct Wants {
    wants: Mutex<BTreeMap<RangeId, Want>>,
    /// Of the ranges that were read: when their owners were told last.
    told: Mutex<BTreeMap<RangeId, Instant>>,
    /// Ranges whose owners are to be told, and the timestamp read at.
    to_tell: Mutex<BTreeMap<RangeId, Timestamp>>,
    pub changed: Notify,
}

/// A timestamp through which a range should be closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// The highest that any read waits for.
    pub at: Timestamp,
    /// Nobody waits longer.
    pub until: Instant,
}

impl Wants {
    /// A read waits until `until` for the range to be closed through `at`.
    pub fn add(&self, range: RangeId, at: Timestamp, until: Instant) {
        let mut wants = lock(&self.wants);
        let want = wants.entry(range).or_insert(Want { at, until });
        let is_news = want.at <= at;
        want.at = want.at.max(at);
        want.until = want.until.max(until);
        drop(wants);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// Reads of these ranges came in.
    fn note_read(&self, ranges: &BTreeSet<RangeId>, at: Timestamp) {
        let now = Instant::now();
        let mut told = lock(&self.told);
        let is_due = |range: &&RangeId| told.get(range).is_none_or(|last| now - *last >= READ_NOTICE);
        let due: Vec<RangeId> = ranges.iter().filter(is_due).copied().collect();
        if due.is_empty() {
            return;
        }
        // Those that are not read any more.
        told.retain(|_, last| now - *last < READ_NOTICE);
        told.extend(due.iter().map(|range| (*range, now)));
        drop(told);
        lock(&self.to_tell).extend(due.into_iter().map(|range| (range, at)));
        self.changed.notify_one();
    }

    /// The ranges whose owners are to be told that they are read, each once.
    pub fn take_read(&self) -> BTreeMap<RangeId, Timestamp> {
        std::mem::take(&mut *lock(&self.to_tell))
    }

    /// What is still wanted: drops what is closed by now or given up.
    pub fn open(&self, closed: &ClosedMap) -> BTreeMap<RangeId, Want> {
        let now = Instant::now();
        let mut wants = lock(&self.wants);
        wants.retain(|range, want| want.at > closed.closed(*range) && want.until > now);
        wants.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
