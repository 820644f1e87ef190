//! The router: where clients connect. It passes their calls on to query processors, body and trailers as they
//! are, admits only as much as can be served, and drains when it is stopped.
//!
//! | module | what |
//! |---|---|
//! | `proxy` | which query processor gets a call, and what becomes of one that breaks |
//! | `head` | which call it is |
//! | `peek` | the transaction's handle in the first bytes of a request |
//! | `call`, `upload`, `answer` | a call's two directions, which end together |
//! | `notice` | how the client of a session is asked to open another |
//! | `frames` | where messages begin, and how large they are |
//! | `status` | statuses that are safe to read |
//! | `backends` | which query processors are ready |
//! | `admin`, `figures` | the status of the cluster, and of the router |
//!
//! Invariant: the router knows nothing of what a transaction means, and holds nothing that must survive.
#![forbid(unsafe_code)]

mod admin;
mod answer;
mod backends;
mod call;
mod config;
mod error;
mod figures;
mod frames;
mod head;
mod notice;
mod peek;
mod proxy;
mod ranges;
mod router;
mod status;
mod upload;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::v1::ServiceStatus;
use meridian_rpc::v1::admin_server::AdminServer;
use meridian_rpc::{Env, Listener, Service, ServiceFailure, Started};
use meridian_types::{NodeName, RangeMap};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};

pub use config::Config;
pub use error::ConfigError;

use admin::AdminService;
use error::ROLE;
use proxy::Proxy;
use router::Router;

/// How long connections may take to close after everything on them has ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A node of the cluster's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeName,
    /// Its region.
    pub region: String,
    /// `host:port`, as status shows it.
    pub address: String,
    /// What it runs.
    pub roles: Vec<String>,
}

/// Starts a router and returns at once.
///
/// `queries`: the query processors that it may send clients to. `nodes`: every node of the cluster, for
/// its status. `map`: tells which regions are drained; in one of them it sends its clients elsewhere. After `shutdown` it lets in no new session or transaction, and ends what is still open
/// after `drain_ms`.
pub async fn start(
    config: Config,
    env: Env,
    queries: Vec<NodeName>,
    nodes: Vec<NodeInfo>,
    map: watch::Receiver<Arc<RangeMap>>,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    if queries.is_empty() {
        return Err(ConfigError::NoQueryProcessors.into());
    }
    config.check()?;
    let router = Arc::new(Router::new(config, env, &queries, nodes, map, shutdown));
    let service = RouterService {
        router: router.clone(),
    };
    let stopped = tokio::spawn(async move {
        router.run().await;
        Ok(())
    });
    Ok(Started {
        service: Arc::new(service),
        stopped,
    })
}

/// Runs a router alone on `listener` until `shutdown`. It listens until it has drained: meanwhile open
/// transactions are served, and who wants something new is told to go elsewhere.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    queries: Vec<NodeName>,
    nodes: Vec<NodeInfo>,
    map: watch::Receiver<Arc<RangeMap>>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let failed = |what: String| ServiceFailure { role: ROLE, what };
    // The router also ends with its listener.
    let stop = shutdown.child_token();
    let _stop_at_the_end = stop.clone().drop_guard();
    let mut started = start(config, env, queries, nodes, map, stop).await?;
    let mut routes = Routes::builder();
    started.service.register(&mut routes);
    let drained = CancellationToken::new();
    let mut served = pin!(meridian_rpc::serve(listener, routes.routes(), drained.clone()));
    let ended = tokio::select! {
        biased;
        ended = &mut started.stopped => ended,
        served = &mut served => {
            let why = served.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            return Err(failed(format!("the listener failed: {why}")));
        }
    };
    drained.cancel();
    // Connections that do not end in time are left to their clients.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, served).await;
    ended.map_err(|error| failed(error.to_string()))?
}

struct RouterService {
    router: Arc<Router>,
}

impl Service for RouterService {
    fn role(&self) -> &'static str {
        ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        routes.add_service(Proxy(self.router.clone()));
        routes.add_service(AdminServer::new(AdminService(self.router.clone())));
    }

    fn status(&self) -> ServiceStatus {
        let router = &self.router;
        let mut figures = router.figures.by_name();
        let sessions = router.backends.sessions();
        figures.extend(sessions.map(|(node, sessions)| (format!("sessions_at_{node}"), sessions as u64)));
        figures.insert("sessions".to_owned(), router.open_sessions() as u64);
        figures.insert("requests".to_owned(), router.open_requests() as u64);
        figures.insert(
            "query_processors_ready".to_owned(),
            router.backends.ready() as u64,
        );
        figures.insert("region_drained".to_owned(), u64::from(router.is_drained()));
        let state = if router.shutdown.is_cancelled() {
            "shutting down"
        } else if router.is_drained() {
            "its region is drained: clients are sent to others"
        } else if router.backends.ready() == 0 {
            "no query processor is ready"
        } else {
            "ready"
        };
        ServiceStatus {
            role: ROLE.to_owned(),
            state: state.to_owned(),
            figures,
            ..ServiceStatus::default()
        }
    }

    fn is_ready(&self) -> bool {
        !self.router.shutdown.is_cancelled() && self.router.backends.ready() > 0
    }
}
