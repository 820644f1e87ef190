//! The adjudicators: one decision loop per key range (protocol sections 4 to 8).
//!
//! ```text
//! query processor ──DecideBatch──> connection ──> stream task: decide ──records──> links ──> journal nodes
//!        ^────────DecisionBatch──── when a quorum persisted the record <──────────acks──────────┘
//! stream task ──votes, and how attempts ended (exchange)──> stream tasks of other ranges, here or in other processes
//! ```
//! Every decision is made by the pure modules of `meridian_protocol`; this crate moves records, waits and retries.
//!
//! Invariant: an adjudicator knows nothing of storage nodes, and keeps nothing on a disk of its own.
#![forbid(unsafe_code)]

pub mod config;
mod connection;
mod context;
mod distance;
pub mod error;
mod exchange;
mod figures;
mod handed;
mod journals;
mod link;
mod measured;
mod meta;
mod records;
mod registry;
mod request;
mod service;
mod stream;
mod takeover;

use std::sync::Arc;

use meridian_rpc::committed::CommittedWatch;
use meridian_rpc::owner::Owners;
use meridian_rpc::{Env, Listener, ServiceFailure, Started, serve};
use meridian_types::{NodeName, RangeMap};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

pub use config::{Config, Lead};
pub use error::ConfigError;

use context::Context;
use exchange::Exchange;
use registry::Registry;
use service::AdjudicatorService;

/// The service's role, as status and errors name it.
pub const ROLE: &str = "adjudicator";

/// Ranges that one process hands to other owners at a time: each of them pauses for some round trips.
const MOVES_AT_ONCE: usize = 2;

/// Starts an adjudicator: a candidate for every stream of the range map. `journals` are the replicas of every stream,
/// the nearest first, and `committed` follows what the nearest one knows.
///
/// After `shutdown` it stops deciding, hands its ranges over with a `Released` record (within
/// [`Config::release_timeout_ms`]) and ends.
pub async fn start(
    config: Config,
    env: Env,
    map: watch::Receiver<Arc<RangeMap>>,
    journals: Vec<NodeName>,
    committed: CommittedWatch,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    config.check()?;
    if journals.is_empty() {
        return Err(ConfigError::NoJournals.into());
    }
    let registry = Arc::new(Registry::new(journals.len()));
    let ctx = Arc::new(Context {
        owners: Owners::new(env.network.clone(), map.clone()),
        committed,
        figures: Arc::default(),
        exchange: Exchange::new(env.node.clone(), registry.clone()),
        moves: Arc::new(Semaphore::new(MOVES_AT_ONCE)),
        config,
        env,
        map,
        journals,
        started: Instant::now(),
        shutdown,
    });
    let service = Arc::new(AdjudicatorService {
        ctx: ctx.clone(),
        registry: registry.clone(),
    });
    let stopped = tokio::spawn(supervise(ctx, registry));
    Ok(Started { service, stopped })
}

/// [`start`], and serves it alone on `listener`.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    map: watch::Receiver<Arc<RangeMap>>,
    journals: Vec<NodeName>,
    committed: CommittedWatch,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let started = start(config, env, map, journals, committed, shutdown.clone()).await?;
    let mut routes = RoutesBuilder::default();
    started.service.register(&mut routes);
    let failure = |what: String| ServiceFailure { role: ROLE, what };
    serve(listener, routes.routes(), shutdown)
        .await
        .map_err(|error| failure(error.to_string()))?;
    started
        .stopped
        .await
        .map_err(|error| failure(error.to_string()))?
}

/// Runs the links and a task for each stream of the range map and the one that holds it, until shutdown.
async fn supervise(ctx: Arc<Context>, registry: Arc<Registry>) -> Result<(), ServiceFailure> {
    // The links end last: the streams still hand their ranges over.
    let stop = CancellationToken::new();
    let mut links = JoinSet::new();
    for replica in 0..ctx.journals.len() {
        links.spawn(link::run(ctx.clone(), registry.clone(), replica, stop.clone()));
    }
    links.spawn(distance::check(ctx.clone(), stop.clone()));
    let mut streams = JoinSet::new();
    streams.spawn(meta::open_if_unknown(ctx.clone(), registry.clone()));
    let mut map = ctx.map.clone();
    let mut failed = None;
    while failed.is_none() {
        let known = map.borrow_and_update().clone();
        for stream in ctx.streams() {
            if let Some(task) = stream::task(&ctx, &registry, stream) {
                streams.spawn(task);
            }
        }
        for node in known.adjudicators() {
            if let Some(link) = ctx.exchange.link(&ctx, node, &stop) {
                links.spawn(link);
            }
        }
        tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => break,
            Some(ended) = streams.join_next() => failed = failure_of(ended, "the task of a stream"),
            Some(ended) = links.join_next() => failed = failure_of(ended, "the link to a journal node or another adjudicator"),
            // A map that cannot change any more: only shutdown is left to wait for.
            () = changed(&mut map) => {}
        }
    }
    if failed.is_none() {
        while let Some(ended) = streams.join_next().await {
            failed = failed.or(failure_of(ended, "the task of a stream"));
        }
    }
    stop.cancel();
    while links.join_next().await.is_some() {}
    failed.map_or(Ok(()), Err)
}

/// Streams' tasks and links end by themselves only after shutdown; anything else is a bug that must not go unnoticed.
fn failure_of(ended: Result<(), tokio::task::JoinError>, which: &str) -> Option<ServiceFailure> {
    ended.err().map(|error| ServiceFailure {
        role: ROLE,
        what: format!("{which} failed: {error}"),
    })
}

async fn changed(map: &mut watch::Receiver<Arc<RangeMap>>) {
    if map.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
