//! The router: where clients connect. It passes their calls on to query processors, body and trailers as they
//! are, admits only as much as can be served, and drains when it is stopped.
//!
//! | module | what |
//! |---|---|
//! | `proxy` | which query processor gets a call, and what becomes of one that breaks |
//! | `peek` | the transaction's handle in the first bytes of a request |
//! | `body` | bodies that can be taken back, or cut |
//! | `backends` | which query processors are ready |
//! | `admin` | the status of the cluster |
//!
//! Invariant: the router knows nothing of what a transaction means, and holds nothing that must survive.
#![forbid(unsafe_code)]

mod admin;
mod backends;
mod body;
mod config;
mod error;
mod peek;
mod proxy;
mod router;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meridian_rpc::v1::ServiceStatus;
use meridian_rpc::v1::admin_server::AdminServer;
use meridian_rpc::{Env, Listener, Service, ServiceFailure, Started};
use meridian_types::NodeName;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};

pub use config::Config;
pub use error::ConfigError;

use admin::AdminService;
use error::ROLE;
use proxy::KvProxy;
use router::Router;

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
/// its status. After `shutdown` it lets in no new session or transaction, and ends what is still open
/// after `drain_ms`.
pub async fn start(
    config: Config,
    env: Env,
    queries: Vec<NodeName>,
    nodes: Vec<NodeInfo>,
    shutdown: CancellationToken,
) -> Result<Started, ServiceFailure> {
    if queries.is_empty() {
        return Err(ConfigError::NoQueryProcessors.into());
    }
    let bounds = [
        ("max_sessions", config.max_sessions),
        ("max_requests", config.max_requests),
    ];
    if let Some((name, _)) = bounds.into_iter().find(|(_, bound)| *bound == 0) {
        return Err(ConfigError::Zero { name }.into());
    }
    let router = Arc::new(Router::new(config, env, &queries, nodes, shutdown));
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

/// Runs a router alone on `listener` until `shutdown`.
pub async fn run(
    config: Config,
    env: Env,
    listener: Listener,
    queries: Vec<NodeName>,
    nodes: Vec<NodeInfo>,
    shutdown: CancellationToken,
) -> Result<(), ServiceFailure> {
    let failed = |what: String| ServiceFailure { role: ROLE, what };
    let started = start(config, env, queries, nodes, shutdown.clone()).await?;
    let mut routes = Routes::builder();
    started.service.register(&mut routes);
    let served = meridian_rpc::serve(listener, routes.routes(), shutdown).await;
    served.map_err(|error| failed(format!("the listener failed: {error}")))?;
    started.stopped.await.map_err(|error| failed(error.to_string()))?
}

struct RouterService {
    router: Arc<Router>,
}

impl Service for RouterService {
    fn role(&self) -> &'static str {
        ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        routes.add_service(KvProxy(self.router.clone()));
        routes.add_service(AdminServer::new(AdminService(self.router.clone())));
    }

    fn status(&self) -> ServiceStatus {
        let router = &self.router;
        let mut figures: std::collections::HashMap<String, u64> = router
            .backends
            .sessions()
            .map(|(node, sessions)| (format!("sessions_at_{node}"), sessions as u64))
            .collect();
        figures.insert("sessions".to_owned(), router.open_sessions() as u64);
        figures.insert("requests".to_owned(), router.open_requests() as u64);
        figures.insert(
            "refused_overloaded".to_owned(),
            router.refused.load(Ordering::Relaxed),
        );
        figures.insert(
            "query_processors_ready".to_owned(),
            router.backends.ready() as u64,
        );
        let state = if router.shutdown.is_cancelled() {
            "shutting down"
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
