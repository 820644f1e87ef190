//! A running storage node: its tasks, its RPCs, its status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_files::{Files, RealFiles};
use meridian_rpc::internal::storage_server::StorageServer;
use meridian_rpc::owner::Owners;
use meridian_rpc::v1::{AppliedStatus, ServiceStatus};
use meridian_rpc::{Env, Listener, Service, ServiceFailure, Started};
use meridian_types::{NodeName, limits};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::RoutesBuilder;

use crate::applier::Applier;
use crate::checkpoint::{self, Checkpoints};
use crate::closer::Closer;
use crate::config::Config;
use crate::ends;
use crate::error::{CheckpointFault, StoreError};
use crate::reads::Reads;
use crate::retention::Retention;
use crate::shared::Shared;
use crate::store::{VersionStore, engine};

const ROLE: &str = "storage";
/// The directory of the checkpoint, beside the store's files.
const CHECKPOINTS: &str = "checkpoint";
/// How long a predecessor in the same process or another may take to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Closures that owners have answered with and that wait for the applier.
const CLOSURES: usize = 256;

/// Starts a storage node on the versions in `config.data_dir`, and returns once they are open; it then
/// catches up with the journal by itself. `journals` are the journal nodes, the nearest first.
pub async fn start(
    config: Config,
    env: Env,
    owners: Owners,
    journals: Vec<NodeName>,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    config.check().map_err(failure)?;
    let store = open(&config, &shutdown).await.map_err(failure)?;
    let dir = config.data_dir.join(CHECKPOINTS);
    let files =
        RealFiles::new(&dir).map_err(|error| failure(format!("cannot open {}: {error}", dir.display())))?;
    start_with_store(config, env, owners, journals, store, Arc::new(files), shutdown)
}

/// Starts a storage node on a store of the caller's (a [`crate::store::MemoryStore`] in simulations), with its checkpoint in `files`.
pub fn start_with_store(
    config: Config,
    env: Env,
    owners: Owners,
    journals: Vec<NodeName>,
    store: Arc<dyn VersionStore>,
    files: Arc<dyn Files>,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    config.check().map_err(failure)?;
    let own = shutdown.child_token();
    let dir = files.describe(".");
    let checkpoints = Checkpoints::open(files, env.node.clone(), config.cluster, config.keys.clone());
    let checkpoints = checkpoints.map_err(|fault| failure(unusable(&dir, &fault)))?;
    let shared = Shared::new(config, &env, owners, store, checkpoints, own).map_err(failure)?;
    let shared = Arc::new(shared);
    let (to_applier, answers) = mpsc::channel(CLOSURES);
    let applier = Applier::new(shared.clone(), env.clone(), journals.clone(), answers).map_err(failure)?;
    let mut workers = JoinSet::new();
    let writer = checkpoint::Worker::new(shared.clone(), env.clone());
    checkpoint::spawn(&mut workers, writer);
    workers.spawn(checkpoint::tell(shared.clone(), env.network.clone(), journals));
    workers.spawn(applier.run());
    workers.spawn(Closer::new(shared.clone(), env, to_applier).run());
    workers.spawn(ends::run(shared.clone()));
    workers.spawn(Retention::new(shared.clone()).run());
    let reads = Reads {
        shared: shared.clone(),
        tasks: TaskTracker::new(),
    };
    let stopped = tokio::spawn(supervise(shared, workers, reads.tasks.clone()));
    Ok(Started {
        service: Arc::new(StorageService { reads }),
        stopped,
    })
}

/// Ends after all tasks of the node. A task that dies (the store panicked, say) ends the others: a node that
/// answers reads but applies nothing, or the other way round, would only look alive.
async fn supervise(
    shared: Arc<Shared>,
    mut workers: JoinSet<()>,
    connections: TaskTracker,
) -> Result<(), ServiceFailure> {
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended {
            shared.fail(format!("a task of the node died: {error}"));
        }
    }
    connections.close();
    connections.wait().await;
    let flushed = shared.store.flush();
    match (shared.failure(), flushed) {
        (Some(why), _) => Err(failure(why)),
        (None, Err(error)) => Err(failure(error)),
        (None, Ok(())) => Ok(()),
    }
}

/// Starts a storage node and serves it alone on `listener`, until `shutdown` is cancelled or the node cannot
/// go on.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    owners: Owners,
    journals: Vec<NodeName>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let own = shutdown.child_token();
    let started = start(config, env, owners, journals, own.clone()).await?;
    let mut routes = RoutesBuilder::default();
    started.service.register(&mut routes);
    let serving = meridian_rpc::serve(listener, routes.routes(), own.clone());
    let mut stopped = started.stopped;
    let (served, ended) = tokio::select! {
        biased;
        ended = &mut stopped => (Ok(()), ended),
        served = serving => {
            own.cancel();
            (served, stopped.await)
        }
    };
    own.cancel();
    ended.map_err(failure)??;
    served.map_err(failure)
}

async fn open(config: &Config, shutdown: &CancellationToken) -> Result<Arc<dyn VersionStore>, StoreError> {
    let mut patience = LOCK_PATIENCE;
    loop {
        match engine::open(config) {
            Err(StoreError::Locked { .. }) if !patience.is_zero() && !shutdown.is_cancelled() => {
                patience = patience.saturating_sub(LOCK_PAUSE);
                sleep(LOCK_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

fn unusable(dir: &str, fault: &CheckpointFault) -> String {
    format!(
        "the checkpoint in {dir} cannot be used: {fault}. If the right directory is mounted and the right version of Meridian is started, \
         remove it: the node writes another one"
    )
}

fn failure(what: impl ToString) -> ServiceFailure {
    ServiceFailure {
        role: ROLE,
        what: what.to_string(),
    }
}

struct StorageService {
    reads: Reads,
}

impl StorageService {
    fn state(&self) -> String {
        let shared = &self.reads.shared;
        if let Some(why) = shared.failure() {
            return format!("failed: {why}");
        }
        if shared.shutdown.is_cancelled() {
            return "stopping".to_owned();
        }
        if let Some(what) = shared.filling() {
            return format!("filling: {what}");
        }
        match self.is_ready() {
            true => "ready".to_owned(),
            false => "no journal node feeds it".to_owned(),
        }
    }
}

impl Service for StorageService {
    fn role(&self) -> &'static str {
        ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        let server = StorageServer::new(self.reads.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        routes.add_service(server);
    }

    fn status(&self) -> ServiceStatus {
        let shared = &self.reads.shared;
        let map = shared.owners.map();
        let lsns = shared.applied();
        // The streams of the map, and those that were followed under an earlier one.
        let streams: BTreeSet<_> = map
            .entries
            .iter()
            .map(|range| range.stream)
            .chain(lsns.keys().copied())
            .collect();
        let applied = streams.into_iter().map(|stream| AppliedStatus {
            stream: stream.0,
            applied_lsn: lsns.get(&stream).map_or(0, |lsn| lsn.0),
            closed: map.by_stream(stream).map_or(0, |range| shared.closed(range.id).0),
        });
        let figures = &shared.figures;
        let counters = [
            ("entries_applied", &figures.entries_applied),
            ("versions_applied", &figures.versions_applied),
            ("versions_dropped", &figures.versions_dropped),
            ("feeds_opened", &figures.feeds_opened),
            ("closes_asked", &figures.closes_asked),
            ("reads", &figures.reads),
            ("reads_waited", &figures.reads_waited),
            ("reads_refused", &figures.reads_refused),
            ("reads_timed_out", &figures.reads_timed_out),
            ("disk_bytes", &figures.disk_bytes),
            ("checkpoint_bytes", &figures.checkpoint_bytes),
            ("checkpoint_begun", &figures.checkpoint_begun),
            ("checkpoint_ms", &figures.checkpoint_ms),
            ("checkpoints_written", &figures.checkpoints_written),
            ("checkpoints_failed", &figures.checkpoints_failed),
            ("checkpoint_failing", &figures.checkpoint_failing),
            ("fills", &figures.fills),
            ("newest_hits", &figures.lookups.hits),
            ("newest_misses", &figures.lookups.misses),
        ];
        let counters = counters.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)));
        let levels = [
            ("horizon", shared.horizon().0),
            ("cache_bytes", shared.config.cache_bytes),
            ("newest_cache_bytes", shared.config.newest_cache_bytes),
            ("reads_open", figures.reads_open.load(Ordering::Relaxed) as u64),
            (
                "read_bytes_open",
                figures.read_bytes_open.load(Ordering::Relaxed) as u64,
            ),
        ];
        let figures = counters
            .into_iter()
            .chain(levels)
            .map(|(name, value)| (name.to_owned(), value));
        ServiceStatus {
            role: ROLE.to_owned(),
            state: self.state(),
            applied: applied.collect(),
            figures: figures.collect(),
            ..ServiceStatus::default()
        }
    }

    fn is_ready(&self) -> bool {
        let shared = &self.reads.shared;
        !shared.shutdown.is_cancelled()
            && shared.filling().is_none()
            && shared.figures.feed_connected.load(Ordering::Relaxed)
    }
}
