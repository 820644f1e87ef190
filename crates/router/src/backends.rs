//! The query processors: which of them are ready, how much each has to do, and whose turn it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_rpc::v1::NodeStatusRequest;
use meridian_rpc::v1::node_client::NodeClient;
use meridian_rpc::{Network, Transport};
use meridian_types::NodeName;
use rand::Rng;
use rand::rngs::StdRng;
use tonic::Code;

use crate::status::Checked;

/// The role and the state that a query processor's status must show.
const ROLE: &str = "query";
const READY: &str = "ready";

/// One query processor.
pub(crate) struct Backend {
    pub(crate) node: NodeName,
    transport: Transport,
    /// As the last probe or call found it.
    ready: AtomicBool,
    pub(crate) sessions: AtomicUsize,
}

impl Backend {
    /// What calls run on.
    pub(crate) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// Whether it was ready when last heard of.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn set_ready(&self, ready: bool, why: &str) {
        if self.ready.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(node = %self.node, ready, why, "query processor");
        }
    }

    /// A call did not get through, or it takes nothing new: nothing new goes there until a probe finds it ready.
    pub(crate) fn mark_down(&self, why: &str) {
        self.set_ready(false, why);
    }

    async fn probe(&self, timeout: Duration) {
        let mut client = NodeClient::new(Checked(self.transport()));
        let answer = tokio::time::timeout(timeout, client.status(NodeStatusRequest {})).await;
        match answer {
            Ok(Ok(status)) => {
                let services = status.into_inner().services;
                match services.iter().find(|service| service.role == ROLE) {
                    Some(service) => self.set_ready(service.state == READY, &service.state),
                    None => self.set_ready(false, "the node runs no query processor"),
                }
            }
            // A node that does not report is alive; calls will show whether it is ready.
            Ok(Err(status)) if status.code() == Code::Unimplemented => self.set_ready(true, "alive"),
            Ok(Err(status)) => self.set_ready(false, status.message()),
            Err(_) => self.set_ready(false, "no answer in time"),
        }
    }
}

/// All query processors that the router may send clients to.
pub(crate) struct Backends {
    all: Vec<Arc<Backend>>,
    by_name: BTreeMap<NodeName, Arc<Backend>>,
    turn: AtomicUsize,
    rng: Mutex<StdRng>,
}

impl Backends {
    pub(crate) fn new(network: &Network, nodes: &[NodeName], mut rng: StdRng) -> Self {
        let backend = |node: &NodeName| {
            Arc::new(Backend {
                node: node.clone(),
                transport: network.transport(node),
                // Until the first probe: a call shows.
                ready: AtomicBool::new(true),
                sessions: AtomicUsize::new(0),
            })
        };
        let all: Vec<_> = nodes.iter().map(backend).collect();
        Self {
            by_name: all
                .iter()
                .map(|backend| (backend.node.clone(), backend.clone()))
                .collect(),
            turn: AtomicUsize::new(rng.random_range(0..nodes.len().max(1))),
            all,
            rng: Mutex::new(rng),
        }
    }

    /// The one that a transaction's handle names.
    pub(crate) fn named(&self, node: &NodeName) -> Option<&Arc<Backend>> {
        self.by_name.get(node)
    }

    /// In which order to try them for something new: the ready ones first, those with fewest sessions first
    /// among them, otherwise in turn. The others last: better a refusal by them than by us.
    pub(crate) fn in_order(&self) -> Vec<Arc<Backend>> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.all.len();
        let turned = (0..count).filter_map(|step| self.all.get(first.wrapping_add(step) % count.max(1)));
        let mut order: Vec<_> = turned.cloned().collect();
        order.sort_by_key(|backend| (!backend.is_ready(), backend.sessions.load(Ordering::Relaxed)));
        order
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.all.iter().filter(|backend| backend.is_ready()).count()
    }

    /// Sessions by node.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&NodeName, usize)> {
        self.all
            .iter()
            .map(|backend| (&backend.node, backend.sessions.load(Ordering::Relaxed)))
    }

    /// Between one and two times `duration`: refused clients shall not come back all at once.
    pub(crate) fn jitter(&self, duration: Duration) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        duration.mul_f64(rng.random_range(1.0..=2.0))
    }

    /// Asks every query processor again and again whether it is ready.
    pub(crate) async fn probe(&self, interval: Duration, timeout: Duration) {
        loop {
            futures::future::join_all(self.all.iter().map(|backend| backend.probe(timeout))).await;
            let pause = self.jitter(interval / 2);
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }
}
