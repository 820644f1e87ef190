//! What all calls of one router share.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::Env;
use meridian_types::{NodeName, RangeMap};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::NodeInfo;
use crate::backends::Backends;
use crate::config::Config;
use crate::figures::Figures;

/// How often draining looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long the ends of what was cut may take to reach the clients' connections.
const CUT_GRACE: Duration = Duration::from_millis(200);

/// One router.
pub(crate) struct Router {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) backends: Backends,
    pub(crate) nodes: Vec<NodeInfo>,
    pub(crate) map: watch::Receiver<Arc<RangeMap>>,
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) figures: Figures,
    /// Nothing new is let in.
    pub(crate) shutdown: CancellationToken,
    /// What is still open is ended.
    pub(crate) cut: CancellationToken,
}

impl Router {
    pub(crate) fn new(
        mut config: Config,
        env: Env,
        queries: &[NodeName],
        nodes: Vec<NodeInfo>,
        map: watch::Receiver<Arc<RangeMap>>,
        shutdown: CancellationToken,
    ) -> Self {
        // More is as good as no limit, and a semaphore would not take it.
        config.max_sessions = config.max_sessions.min(Semaphore::MAX_PERMITS);
        config.max_requests = config.max_requests.min(Semaphore::MAX_PERMITS);
        Self {
            backends: Backends::new(&env.network, queries, env.rng()),
            sessions: Arc::new(Semaphore::new(config.max_sessions)),
            requests: Arc::new(Semaphore::new(config.max_requests)),
            figures: Figures::default(),
            cut: CancellationToken::new(),
            shutdown,
            nodes,
            map,
            env,
            config,
        }
    }

    /// Whether operators want no client to depend on this region.
    pub(crate) fn is_drained(&self) -> bool {
        self.map.borrow().drained.contains_key(&self.env.region)
    }

    /// Returns when the client of a session that begins now is to be asked to open another.
    pub(crate) fn session_ends(&self) -> impl Future<Output = ()> + Send + use<> {
        let age = Duration::from_millis(self.config.max_connection_age_ms);
        // At least three quarters of it: those that began at once shall not end at once.
        let age = (!age.is_zero()).then(|| age / 2 + self.backends.jitter(age / 4));
        let (mut map, region, shutdown) = (self.map.clone(), self.env.region.clone(), self.shutdown.clone());
        async move {
            let drained = async {
                let is_drained = |map: &Arc<RangeMap>| map.drained.contains_key(&region);
                if map.wait_for(is_drained).await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = drained => {}
                () = async { tokio::time::sleep(age.unwrap_or_default()).await }, if age.is_some() => {}
            }
        }
    }

    /// Sessions open now.
    pub(crate) fn open_sessions(&self) -> usize {
        self.config
            .max_sessions
            .saturating_sub(self.sessions.available_permits())
    }

    /// Other calls under way now.
    pub(crate) fn open_requests(&self) -> usize {
        self.config
            .max_requests
            .saturating_sub(self.requests.available_permits())
    }

    /// Probes the query processors until shutdown is asked for; then lets open calls end, within a bound, and
    /// cuts those that have not.
    pub(crate) async fn run(&self) {
        let interval = Duration::from_millis(self.config.probe_interval_ms);
        let patience = Duration::from_millis(self.config.probe_timeout_ms);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            () = self.backends.probe(interval, patience) => {}
        }
        // Either way the log says what is left.
        let _ = timeout(Duration::from_millis(self.config.drain_ms), self.idle()).await;
        let (sessions, requests) = (self.open_sessions(), self.open_requests());
        tracing::info!(sessions, requests, "router drained; what is open is cut");
        self.cut.cancel();
        // A client that does not read holds its answer's end up, but not us.
        let _ = timeout(CUT_GRACE, self.idle()).await;
    }

    /// Returns when nothing is open.
    async fn idle(&self) {
        while self.open_sessions() + self.open_requests() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }
}
