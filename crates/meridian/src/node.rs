//! One node: its services, started in order, behind one set of routes, stopped in the opposite order.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use meridian_clock::SharedClock;
use meridian_rpc::owner::Owners;
use meridian_rpc::{DESCRIPTORS, Env, Identity, Network, Service, ServiceFailure, Started, guard, meta};
use meridian_types::{ClusterId, RangeMap};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::{Routes, RoutesBuilder};

use crate::config::{File, NodeSection, Role};
use crate::error::Error;
use crate::front;
use crate::health::NodeHealth;
use crate::services::{self, Common};
use crate::status::NodeReport;

/// How long one service may take to stop; then the process goes on without it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node is started with.
pub struct NodeStart<'a> {
    /// The whole configuration.
    pub file: &'a File,
    /// The node's part of it.
    pub node: &'a NodeSection,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// What to run: the node's roles, or some of them.
    pub roles: &'a [Role],
    /// The node's clock.
    pub clock: SharedClock,
    /// How it reaches the others.
    pub network: Network,
    /// All of the node's randomness derives from it.
    pub seed: u64,
}

/// A running node.
pub struct Node {
    /// All services of the node, guarded: calls of another cluster are refused.
    pub routes: Routes,
    /// Whether it lives, and whether it is ready.
    pub health: NodeHealth,
    /// What it says of itself.
    pub report: NodeReport,
    draining: CancellationToken,
    services: Vec<Running>,
    /// Lives as long as the node: its services watch it.
    _map: watch::Sender<Arc<RangeMap>>,
    /// Its services are told what is committed as long as it lives.
    _following: DropGuard,
}

struct Running {
    role: Role,
    service: Arc<dyn Service>,
    stop: CancellationToken,
    /// What the service ended with, once it has.
    ended: watch::Receiver<Option<Result<(), Arc<ServiceFailure>>>>,
}

impl Node {
    /// Starts the services. If one of them does not start, those that did are stopped again.
    pub async fn start(start: NodeStart<'_>) -> Result<Self, Error> {
        let identity = Identity {
            cluster: start.cluster,
            node: start.node.node_name(),
        };
        let env = Env::new(
            identity.node.clone(),
            start.node.region.clone(),
            start.clock.clone(),
            start.network.clone(),
            start.seed,
        );
        let (map, map_receiver) = watch::channel(Arc::new(start.file.range_map()));
        let following = CancellationToken::new();
        let stops_following = following.clone().drop_guard();
        if start.roles.iter().any(|role| *role != Role::Journal) {
            let journals = start.file.with_role(Role::Journal);
            meta::follow(&env, &journals, &map, &following);
        }
        let common = Common {
            owners: Owners::new(start.network.clone(), map_receiver.clone()),
            map: map_receiver,
            committed: services::follow_committed(&start, &env, following),
            env,
        };
        let draining = CancellationToken::new();
        let mut services = Vec::new();
        let mut roles = start.roles.to_vec();
        roles.sort();
        for role in roles {
            let stop = CancellationToken::new();
            match services::start(role, &start, &common, stop.clone()).await {
                Ok(started) => services.push(Running::new(role, started, stop)),
                Err(error) => {
                    draining.cancel();
                    stop_all(&services).await;
                    return Err(error);
                }
            }
        }
        let all: Vec<Arc<dyn Service>> = services.iter().map(|running| running.service.clone()).collect();
        let health = NodeHealth::new(all.clone(), draining.clone());
        let address = start.node.address.clone();
        let report = NodeReport::new(
            identity.clone(),
            start.node.region.clone(),
            address,
            start.clock,
            all,
        )
        .with_files(start.node.data_dir.clone());
        let routes = routes(&services, &health, &report)?;
        Ok(Self {
            routes: guard::guarded(routes, identity),
            health,
            report,
            draining,
            services,
            _map: map,
            _following: stops_following,
        })
    }

    /// Returns when a service could not go on. Does not keep the node alive.
    pub fn failed(&self) -> impl Future<Output = Arc<ServiceFailure>> + Send + use<> {
        let mut ends: FuturesUnordered<_> = self.services.iter().map(Running::failure).collect();
        async move {
            match ends.next().await {
                Some(failure) => failure,
                None => pending().await,
            }
        }
    }

    /// Returns when all services are ready; an error names those that are not after `timeout`.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), Error> {
        wait_ready(&self.health, timeout).await
    }

    /// Stops everything, clients' side first. Returns when all services have stopped, or did not in time.
    pub async fn stop(&self) {
        self.draining.cancel();
        stop_all(&self.services).await;
    }

    /// Tells clients and health checks that the node is about to stop.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Tells all services to stop, all at once, without waiting for any of them.
    pub fn abandon(&self) {
        self.draining.cancel();
        for running in &self.services {
            running.stop.cancel();
        }
    }

    /// Stops one role, if the node has it: a cluster in one process stops in the order of its roles.
    pub(crate) async fn stop_role(&self, role: Role) {
        self.draining.cancel();
        for running in self.services.iter().filter(|running| running.role == role) {
            running.stop().await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// Polls often: it is asked for a few times in the life of a process.
pub(crate) async fn wait_ready(health: &NodeHealth, timeout: Duration) -> Result<(), Error> {
    let ready = async {
        while !health.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(timeout, ready)
        .await
        .map_err(|_| Error::NotReady {
            waited_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            what: health.not_ready().join(", "),
        })
}

async fn stop_all(services: &[Running]) {
    for running in services.iter().rev() {
        running.stop().await;
    }
}

impl Running {
    fn new(role: Role, started: Started, stop: CancellationToken) -> Self {
        let (sender, ended) = watch::channel(None);
        let token = stop.clone();
        tokio::spawn(async move {
            let result = outcome(role, started.stopped, &token).await;
            sender.send_replace(Some(result.map_err(Arc::new)));
        });
        Self {
            role,
            service: started.service,
            stop,
            ended,
        }
    }

    fn failure(&self) -> impl Future<Output = Arc<ServiceFailure>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            let end = ended
                .wait_for(Option::is_some)
                .map(|end| end.ok().and_then(|end| end.clone()))
                .await;
            match end {
                Some(Err(failure)) => failure,
                _ => pending().await,
            }
        }
    }

    async fn stop(&self) {
        self.stop.cancel();
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some);
        if tokio::time::timeout(STOP_TIMEOUT, end).await.is_err() {
            tracing::warn!(role = %self.role, "did not stop within {STOP_TIMEOUT:?}; going on without it");
        }
    }
}

/// How a service ended. One that ends without having been asked to has failed, whatever it says.
async fn outcome(
    role: Role,
    stopped: JoinHandle<Result<(), ServiceFailure>>,
    stop: &CancellationToken,
) -> Result<(), ServiceFailure> {
    let failure = |what: String| ServiceFailure {
        role: role.name(),
        what,
    };
    match stopped.await {
        Ok(Ok(())) if !stop.is_cancelled() => Err(failure("ended although nobody asked it to".to_owned())),
        Ok(result) => result,
        Err(error) => Err(failure(format!("its task ended: {error}"))),
    }
}

fn routes(services: &[Running], health: &NodeHealth, report: &NodeReport) -> Result<Routes, Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error| {
        Error::Usage(format!(
            "the descriptors built into this program are broken: {error}"
        ))
    };
    let is_also_query = services.iter().any(|running| running.role == Role::Query);
    let mut routes = RoutesBuilder::default();
    let mut front = None;
    for running in services {
        if running.role == Role::Router && is_also_query {
            let mut public = RoutesBuilder::default();
            running.service.register(&mut public);
            front = Some(public.routes());
        } else {
            running.service.register(&mut routes);
        }
    }
    routes.add_service(health.server());
    routes.add_service(report.server());
    routes.add_service(reflection().build_v1().map_err(broken)?);
    routes.add_service(reflection().build_v1alpha().map_err(broken)?);
    let routes = routes.routes();
    Ok(match front {
        Some(front) => front::combine(front, routes),
        None => routes,
    })
}
