//! One node: the real service, started by its own `start`, as a process on a simulated host.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use meridian::status::NodeReport;
use meridian_adjudicator::Lead;
use meridian_journal::{DiskIdentity, Writer};
use meridian_query::StorageNode;
use meridian_router::NodeInfo;
use meridian_rpc::guard::guarded;
use meridian_rpc::owner::Owners;
use meridian_rpc::{
    CommittedWatch, Env, Identity, Listener, LocalNodes, Network, ServiceFailure, Started, meta,
};
use meridian_storage::Peer;
use meridian_types::{NodeName, RangeMap};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use super::clock::SkewedClock;
use super::disk::Disk;
use super::process::Process;
use super::sockets::Sockets;
use super::{Role, Shared, wire};
use crate::plan::Region;
use crate::seams::derive;

/// What is known of a loss of a journal node's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loss {
    #[default]
    None,
    /// Something is gone; the node does not know yet.
    Expected,
    /// The node noticed.
    Refused,
    /// An operator said that it may begin anew.
    MayBeginAnew,
}

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
    /// Those of its operating system.
    pub sockets: Sockets,
    shared: Rc<Shared>,
    /// `None` while it is down.
    process: RefCell<Option<Process>>,
    is_paused: Cell<bool>,
    loss: Cell<Loss>,
    /// A storage node that began anew without a word of it: what it once said it holds may be trimmed while it follows.
    has_lost_store: Cell<bool>,
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
            sockets: Sockets::default(),
            shared,
            process: RefCell::default(),
            is_paused: Cell::default(),
            loss: Cell::default(),
            has_lost_store: Cell::default(),
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

    /// Starts a new process.
    pub fn start(self: &Rc<Self>) {
        self.is_paused.set(false);
        self.disk.process_starts();
        self.starts.set(self.starts.get() + 1);
        let stop = CancellationToken::new();
        self.stop.replace(stop.clone());
        match Process::new(self.clone().run(stop)) {
            Ok(process) => drop(self.process.replace(Some(process))),
            Err(error) => self.shared.alarm(format!("{}: no runtime: {error}", self.name())),
        }
    }

    /// The process dies, paused or not.
    pub fn kill(&self) {
        self.sockets.close();
        self.process.replace(None);
    }

    /// The process gets no turn until [`Node::resume`], but may be killed.
    pub fn pause(&self) {
        self.is_paused.set(true);
    }

    /// Whether it gets no turn.
    pub fn is_paused(&self) -> bool {
        self.is_paused.get()
    }

    /// It goes on where it was.
    pub fn resume(&self) {
        self.is_paused.set(false);
    }

    /// Its disk lost something: it may refuse to start, and is expected to.
    pub fn expect_refusal(&self) {
        self.loss.set(Loss::Expected);
    }

    /// It begins with an empty store.
    pub fn lose_store(&self) {
        self.disk.lose();
        self.has_lost_store.set(true);
    }

    /// Whether this end is one that decision 29 allows (4.), after which the next process is filled from a checkpoint.
    fn is_to_be_filled(&self, failure: &ServiceFailure) -> bool {
        self.has_lost_store.get() && failure.what.contains("it is then filled from a checkpoint")
    }

    /// Whether it refused its disk and was not told yet what to do; then it is told to begin anew.
    pub fn is_told_to_begin_anew(&self) -> bool {
        let has_refused = self.loss.get() == Loss::Refused;
        if has_refused {
            self.loss.set(Loss::MayBeginAnew);
        }
        has_refused
    }

    /// Whether it has a process, paused or not.
    pub fn is_running(&self) -> bool {
        self.process.borrow().is_some()
    }

    /// One step.
    pub fn turn(&self) {
        let _span = tracing::info_span!("node", name = self.name()).entered();
        let goes_on = match self.process.borrow_mut().as_mut() {
            Some(process) if self.is_paused.get() => {
                process.miss_turn();
                true
            }
            Some(process) => process.turn(),
            None => true,
        };
        if !goes_on {
            self.kill();
        }
    }

    /// The process: ends when it was asked to stop, or when its service cannot go on.
    async fn run(self: Rc<Self>, stop: CancellationToken) {
        tracing::info!(start = self.starts.get(), "process starts");
        match self.serve(stop).await {
            Ok(()) => tracing::info!("process ends"),
            Err(failure) if self.loss.get() == Loss::Expected => {
                tracing::info!(%failure, "refuses its disk");
                self.loss.set(Loss::Refused);
            }
            Err(failure) if self.disk.excuses_failure() => {
                tracing::info!(%failure, "gives up, and may: its disk gave it reason to");
            }
            Err(failure) if self.is_to_be_filled(&failure) => {
                tracing::info!(%failure, "ends, to be filled");
            }
            Err(failure) => self.shared.alarm(format!("{} gave up: {failure}", self.name())),
        }
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
        let dialer = Arc::new(self.shared.dialer_of(self.name(), Some(self.sockets.clone())));
        let network = Network::new(&identity, LocalNodes::default(), dialer);
        let env = Env::new(
            identity.node.clone(),
            self.region().name().to_owned(),
            self.clock.clone(),
            network.clone(),
            seed,
        )
        .with_fault_points(self.shared.points.of(self.name()));
        // Held as long as the node lives: its services watch it. It begins with the configured map and is told the rest.
        let (sender, map) = watch::channel(Arc::new(self.shared.map()));
        let following = CancellationToken::new();
        let _stops_following = following.clone().drop_guard();
        if self.role != Role::Journal {
            meta::follow(&env, &self.shared.names(Role::Journal), &sender, &following);
        }
        let owners = Owners::new(network, map.clone());
        let mut learnt = map.clone();
        let mut started = self.start_service(env, owners, map, stop.clone()).await?;
        let report = NodeReport::new(
            identity.clone(),
            self.region().name().to_owned(),
            self.name().to_owned(),
            self.clock.clone(),
            vec![started.service.clone()],
        );
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        routes.add_service(report.server());
        let routes = guarded(routes.routes(), identity);
        let routes = self
            .shared
            .messages
            .before(routes, self.name(), self.starts.get());
        let failed = |what: String| ServiceFailure {
            role: "process",
            what,
        };
        let incoming = wire::accept(self.name().into(), &self.sockets, self.shared.trace.clone());
        // Served until the service has stopped: while it stops it still talks to others.
        let served = CancellationToken::new();
        let server = tokio::spawn(meridian_rpc::serve(
            Listener::Incoming(incoming),
            routes,
            served.clone(),
        ));
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut started.stopped => break ended,
                Ok(()) = learnt.changed() => self.shared.learnt(&learnt.borrow_and_update()),
            }
        };
        served.cancel();
        let _ = server.await;
        match ended {
            Ok(Ok(())) if !stop.is_cancelled() => Err(failed("ended although nobody asked it to".to_owned())),
            Ok(result) => result,
            Err(error) => Err(failed(format!("its task ended: {error}"))),
        }
    }

    async fn start_service(
        &self,
        env: Env,
        owners: Owners,
        map: watch::Receiver<Arc<RangeMap>>,
        stop: CancellationToken,
    ) -> Result<Started, ServiceFailure> {
        let journals = self.nearest(Role::Journal);
        match self.role {
            Role::Journal => {
                let config = self.journal_config();
                let files = self.disk.files();
                // A disk that was replaced has another identity than the first one.
                let identity = match meridian_journal::disk::load_from(&self.disk.directory()) {
                    Ok(present) => present,
                    Err(_) => self.identity.clone(),
                };
                let replicas = self.shared.names(Role::Journal);
                let started = meridian_journal::start(config, env, identity, replicas, files, stop);
                started.await.map_err(ServiceFailure::from)
            }
            Role::Adjudicator => {
                let committed = CommittedWatch::start(&env, journals.clone(), stop.clone());
                let config = self.adjudicator_config();
                meridian_adjudicator::start(config, env, map, journals, committed, stop).await
            }
            Role::Storage => {
                let config = self.storage_config();
                let store = self.disk.versions.store().map_err(|error| ServiceFailure {
                    role: "storage",
                    what: error.to_string(),
                })?;
                let files = self.disk.files();
                meridian_storage::start_with_store(config, env, owners, journals, store, files, stop)
            }
            Role::Query => {
                let config = meridian_query::Config {
                    page_bytes: self.shared.plan.page_bytes,
                    ..meridian_query::Config::default()
                };
                let storage = self.in_region(Role::Storage).into_iter().map(|name| StorageNode {
                    keys: self.shared.plan.shards.of(&name.0),
                    name,
                });
                let storage = storage.collect();
                let committed = CommittedWatch::start(&env, journals, stop.clone());
                meridian_query::start(config, env, owners, committed, storage, stop).await
            }
            Role::Router => {
                let config = meridian_router::Config::default();
                let queries = self.in_region(Role::Query);
                meridian_router::start(config, env, queries, all_nodes(&self.shared), map, stop).await
            }
        }
    }

    fn region(&self) -> Region {
        self.shared.plan.regions.of_node(self.name())
    }

    /// The nodes that run this, the nearest region's first.
    fn nearest(&self, role: Role) -> Vec<NodeName> {
        let mut names = self.shared.names(role);
        let regions = &self.shared.plan.regions;
        if let Some(distances) = regions.distances {
            names.sort_by_key(|name| distances.between(self.region(), regions.of_node(&name.0)));
        }
        names
    }

    /// The nodes that run this where it is.
    fn in_region(&self, role: Role) -> Vec<NodeName> {
        let regions = &self.shared.plan.regions;
        let mut names = self.shared.names(role);
        names.retain(|name| regions.of_node(&name.0) == self.region());
        names
    }

    fn journal_config(&self) -> meridian_journal::Config {
        let default = meridian_journal::Config::default();
        let plan = &self.shared.plan;
        meridian_journal::Config {
            segment_bytes: plan.segment_bytes,
            trim_min_age_ms: plan.trim_min_age_ms.unwrap_or(default.trim_min_age_ms),
            storage_nodes: self.shared.names(Role::Storage),
            writer: Writer::Task,
            replace_lost_disk: self.loss.get() == Loss::MayBeginAnew,
            ..default
        }
    }

    fn storage_config(&self) -> meridian_storage::Config {
        let plan = &self.shared.plan;
        let others = self.nearest(Role::Storage).into_iter();
        let others = others.filter(|name| name.0 != self.name());
        let (interval, chunk) = plan.checkpoints;
        meridian_storage::Config {
            cluster: Some(self.identity.cluster),
            keys: plan.shards.of(self.name()),
            peers: others
                .map(|name| Peer {
                    keys: plan.shards.of(&name.0),
                    name,
                })
                .collect(),
            newest_cache_bytes: plan.newest_cache_bytes,
            checkpoint_interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            checkpoint_chunk: chunk,
            checkpoint_writer: meridian_storage::Writer::Task,
            ..meridian_storage::Config::default()
        }
    }

    fn adjudicator_config(&self) -> meridian_adjudicator::Config {
        let plan = &self.shared.plan;
        meridian_adjudicator::Config {
            lease_length_ms: plan.lease_ms,
            recent_bytes: plan.recent_bytes,
            hand_over_bytes: plan.hand_over_bytes,
            return_after_ms: plan.return_after_ms,
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

fn all_nodes(shared: &Shared) -> Vec<NodeInfo> {
    let nodes = Role::ALL.into_iter().flat_map(|role| {
        shared.names(role).into_iter().map(move |name| NodeInfo {
            address: name.to_string(),
            region: shared.plan.regions.of_node(&name.0).name().to_owned(),
            name,
            roles: vec![role.to_string()],
        })
    });
    nodes.collect()
}
