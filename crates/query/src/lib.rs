//! The query processor: it holds open transactions (snapshot, own writes, what is to be checked), reads from
//! storage, and drives each commit to a definite end.
//!
//! | module | what |
//! |---|---|
//! | `session`, `unary` | the two faces of the public interface |
//! | `txn` | one transaction: everything that must happen in the client's order |
//! | `buffer`, `read_set`, `overlay`, `scan` | own writes, checked reads, and reads through both |
//! | `plan` | which ranges a commit touches, and its home |
//! | `commit`, `outcome`, `execute` | attempts at the owners, and what became of them |
//! | `registry`, `budget` | which transactions there are, and how much they may hold |
//! | `mux`, `storage`, `shards`, `adjudicators`, `delays` | calls to the other services, what they hold, and how far they are |
//!
//! Invariant: the query processor knows nothing of the journal but what is committed, and nothing that it holds is durable: when it
//! dies, its open transactions are aborted, and the outcome of those being committed is with their home.
#![forbid(unsafe_code)]

mod adjudicators;
mod begin;
mod budget;
mod buffer;
mod commit;
mod config;
mod delays;
mod error;
mod execute;
mod figures;
mod mux;
mod outcome;
mod overlay;
mod plan;
mod predicate;
mod processor;
mod read_set;
mod registry;
mod retry;
mod scan;
mod session;
mod shards;
mod storage;
mod trace;
mod txn;
mod unary;

use std::sync::Arc;

use meridian_rpc::handle::MAX_NODE_BYTES;
use meridian_rpc::owner::Owners;
use meridian_rpc::v1::ServiceStatus;
use meridian_rpc::v1::kv_server::KvServer;
use meridian_rpc::{CommittedWatch, Env, Listener, Service, ServiceFailure, Started};
use meridian_types::limits;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};

pub use config::Config;
pub use error::ConfigError;
pub use shards::StorageNode;

use error::ROLE;
use processor::Processor;
use unary::KvService;

/// Starts a query processor and returns at once.
///
/// `committed`: what the journal has committed, as the region's journal node tells. `storage`: the storage nodes of its
/// region: any of those that hold a key may be asked for it. After `shutdown` it begins
/// nothing new, lets open transactions end within `drain_ms`, and rolls back the rest.
pub async fn start(
    config: Config,
    env: Env,
    owners: Owners,
    committed: CommittedWatch,
    storage: Vec<StorageNode>,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    check(&config, &env, &storage)?;
    tracing::trace!(target: meridian_protocol::events::TARGET, event = "booted");
    let processor = Arc::new(Processor::new(
        config,
        env,
        owners,
        committed,
        &storage,
        shutdown.clone(),
    ));
    let service = QueryService {
        processor: processor.clone(),
    };
    let stopped = tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = processor.reap() => {}
        }
        processor.drain().await;
        processor.closed.cancel();
        Ok(())
    });
    Ok(Started {
        service: Arc::new(service),
        stopped,
    })
}

/// Runs a query processor alone on `listener` until `shutdown`.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    owners: Owners,
    committed: CommittedWatch,
    storage: Vec<StorageNode>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let failed = |what: String| ServiceFailure { role: ROLE, what };
    let started = start(config, env, owners, committed, storage, shutdown.clone()).await?;
    let mut routes = Routes::builder();
    started.service.register(&mut routes);
    let served = meridian_rpc::serve(listener, routes.routes(), shutdown).await;
    served.map_err(|error| failed(format!("the listener failed: {error}")))?;
    started.stopped.await.map_err(|error| failed(error.to_string()))?
}

fn check(config: &Config, env: &Env, storage: &[StorageNode]) -> Result<(), ConfigError> {
    let got = env.node.0.len();
    if got > MAX_NODE_BYTES {
        return Err(ConfigError::NodeName {
            name: env.node.0.clone(),
            got,
            allowed: MAX_NODE_BYTES,
        });
    }
    if storage.is_empty() {
        return Err(ConfigError::NoStorage {
            region: env.region.clone(),
        });
    }
    let bounds = [
        ("max_open_transactions", config.max_open_transactions),
        ("max_operations", config.max_operations),
        ("max_sessions", config.max_sessions),
        ("session_operations", config.session_operations),
        ("session_transactions", config.session_transactions),
        ("session_scans", config.session_scans),
        ("queue_requests", config.queue_requests),
        ("batch_requests", config.batch_requests),
        ("page_bytes", config.page_bytes),
    ];
    match bounds.into_iter().find(|(_, bound)| *bound == 0) {
        Some((name, _)) => Err(ConfigError::Zero { name }),
        None => Ok(()),
    }
}

struct QueryService {
    processor: Arc<Processor>,
}

impl Service for QueryService {
    fn role(&self) -> &'static str {
        ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        routes.add_service(
            KvServer::new(KvService(self.processor.clone()))
                .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(limits::MAX_MESSAGE_BYTES),
        );
    }

    fn status(&self) -> ServiceStatus {
        let mut figures = self.processor.figures.by_name();
        figures.insert(
            "transactions_open".to_owned(),
            self.processor.registry.open() as u64,
        );
        let sessions = self.processor.open_sessions();
        figures.insert("sessions_open".to_owned(), sessions as u64);
        figures.insert("bytes_held".to_owned(), self.processor.budget.used() as u64);
        let state = match self.processor.check_ready() {
            Ok(()) => "ready".to_owned(),
            Err(error) => error.to_string(),
        };
        ServiceStatus {
            role: ROLE.to_owned(),
            state,
            figures,
            ..ServiceStatus::default()
        }
    }

    fn is_ready(&self) -> bool {
        self.processor.check_ready().is_ok()
    }
}
