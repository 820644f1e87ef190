//! One node: the real service on a simulated host, started by its own `start`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use meridian::status::NodeReport;
use meridian_adjudicator::Lead;
use meridian_journal::{DiskIdentity, Writer};
use meridian_router::NodeInfo;
use meridian_rpc::guard::guarded;
use meridian_rpc::owner::Owners;
use meridian_rpc::{Env, Identity, Listener, LocalNodes, Network, ServiceFailure, Started};
use meridian_types::{NodeName, RangeMap};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use super::clock::SkewedClock;
use super::disk::Disk;
use super::{REGION, Role, Shared, wire};
use crate::seams::derive;

/// A node, running or not.
pub struct Node {
    /// What it runs.
    pub role: Role,
    /// Its name, and its disk's.
    pub identity: DiskIdentity,
    /// Its clock goes on while it is down.
    pub clock: Arc<SkewedClock>,
    /// Outlives its process.
    pub disk: Disk,
    shared: Rc<Shared>,
    /// How often it was started: each process draws other random numbers.
    starts: Cell<u64>,
    /// Asks the present process to stop.
    stop: RefCell<CancellationToken>,
}

impl Node {
    /// A node that was never started.
    pub fn new(
        shared: Rc<Shared>,
        role: Role,
        identity: DiskIdentity,
        clock: Arc<SkewedClock>,
        disk: Disk,
    ) -> Self {
        Self {
            role,
            identity,
            clock,
            disk,
            shared,
            starts: Cell::new(0),
            stop: RefCell::default(),
        }
    }

    /// Its name, which is its host's too.
    pub fn name(&self) -> &str {
        &self.identity.node.0
    }

    /// Asks its process to stop, as SIGTERM does.
    pub fn ask_to_stop(&self) {
        self.stop.borrow().cancel();
    }

    /// The process: ends when it was asked to stop, or when its service cannot go on.
    pub async fn run(self: Rc<Self>) -> turmoil::Result {
        self.starts.set(self.starts.get() + 1);
        let stop = CancellationToken::new();
        self.stop.replace(stop.clone());
        tracing::info!(start = self.starts.get(), "process starts");
        match self.serve(stop).await {
            Ok(()) => tracing::info!("process ends"),
            // No plan damages a disk or takes its room, so nothing may give up.
            Err(failure) => self.shared.alarm(format!("{} gave up: {failure}", self.name())),
        }
        Ok(())
    }

    async fn serve(&self, stop: CancellationToken) -> Result<(), ServiceFailure> {
        let identity = Identity {
            cluster: self.identity.cluster,
            node: self.identity.node.clone(),
        };
        let seed = derive(
            self.shared.plan.seed,
            &format!("{} {}", self.name(), self.starts.get()),
        );
        let dialer = Arc::new(self.shared.dialer(self.name()));
        let network = Network::new(&identity, LocalNodes::default(), dialer);
        let env = Env::new(
            identity.node.clone(),
            REGION.to_owned(),
            self.clock.clone(),
            network.clone(),
            seed,
        );
        let candidates = Role::Adjudicator.names().collect();
        // Held as long as the node lives: its services watch it.
        let (_map, map) = watch::channel(Arc::new(RangeMap::single(candidates)));
        let owners = Owners::new(network, map.clone());
        let started = self.start(env, owners, map, stop.clone()).await?;
        let report = NodeReport::new(
            identity.clone(),
            REGION.to_owned(),
            self.name().to_owned(),
            self.clock.clone(),
            vec![started.service.clone()],
        );
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        routes.add_service(report.server());
        let routes = guarded(routes.routes(), identity);
        let failed = |what: String| ServiceFailure {
            role: "process",
            what,
        };
        let incoming = wire::accept(self.name().into(), self.shared.trace.clone()).await;
        let incoming = incoming.map_err(|error| failed(format!("cannot listen: {error}")))?;
        // Served until the service has stopped: while it stops it still talks to others.
        let served = CancellationToken::new();
        let server = tokio::spawn(meridian_rpc::serve(
            Listener::Incoming(incoming),
            routes,
            served.clone(),
        ));
        let ended = started.stopped.await;
        served.cancel();
        let _ = server.await;
        match ended {
            Ok(Ok(())) if !stop.is_cancelled() => Err(failed("ended although nobody asked it to".to_owned())),
            Ok(result) => result,
            Err(error) => Err(failed(format!("its task ended: {error}"))),
        }
    }

    async fn start(
        &self,
        env: Env,
        owners: Owners,
        map: watch::Receiver<Arc<RangeMap>>,
        stop: CancellationToken,
    ) -> Result<Started, ServiceFailure> {
        let journals: Vec<NodeName> = Role::Journal.names().collect();
        match self.role {
            Role::Journal => {
                let config = self.journal_config();
                let (identity, files) = (self.identity.clone(), self.disk.files());
                let started = meridian_journal::start(config, env, identity, journals, files, stop);
                started.await.map_err(ServiceFailure::from)
            }
            Role::Adjudicator => {
                meridian_adjudicator::start(self.adjudicator_config(), env, map, journals, stop).await
            }
            Role::Storage => {
                let config = meridian_storage::Config::default();
                let store = Arc::new(self.disk.store.clone());
                meridian_storage::start_with_store(config, env, owners, journals, store, stop)
            }
            Role::Query => {
                let config = meridian_query::Config::default();
                let storage = Role::Storage.names().collect();
                meridian_query::start(config, env, owners, storage, stop).await
            }
            Role::Router => {
                let config = meridian_router::Config::default();
                let queries = Role::Query.names().collect();
                meridian_router::start(config, env, queries, all_nodes(), stop).await
            }
        }
    }

    fn journal_config(&self) -> meridian_journal::Config {
        meridian_journal::Config {
            segment_bytes: self.shared.plan.segment_bytes,
            writer: Writer::Task,
            ..meridian_journal::Config::default()
        }
    }

    fn adjudicator_config(&self) -> meridian_adjudicator::Config {
        let plan = &self.shared.plan;
        meridian_adjudicator::Config {
            lease_length_ms: plan.lease_ms,
            recent_bytes: plan.recent_bytes,
            lead: match plan.lead_ms {
                Some(ms) => Lead::Fixed { ms },
                None => Lead::Auto {
                    floor_ms: 0,
                    ceiling_ms: 250,
                },
            },
            ..meridian_adjudicator::Config::default()
        }
    }
}

fn all_nodes() -> Vec<NodeInfo> {
    let nodes = Role::LAYOUT.iter().flat_map(|(role, _)| {
        role.names().map(|name| NodeInfo {
            address: name.to_string(),
            name,
            region: REGION.to_owned(),
            roles: vec![role.to_string()],
        })
    });
    nodes.collect()
}
