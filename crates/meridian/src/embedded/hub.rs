//! How the nodes of an embedded cluster reach each other: within a region directly, between regions over real HTTP/2
//! through pipes that take their time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use meridian_rpc::listen::Io;
use meridian_rpc::network::tuned;
use meridian_rpc::{Dialer, Identity, Listener, LocalNodes, Network};
use meridian_types::{ClusterId, NodeName};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use super::links::Links;
use super::pipe;

/// Connections that may wait to be accepted by one node.
const BACKLOG: usize = 64;

/// All nodes that run. Cheap to clone: all clones are the same.
#[derive(Clone)]
pub(super) struct Hub {
    cluster: ClusterId,
    /// The region of every node, running or not.
    regions: Arc<BTreeMap<NodeName, String>>,
    pub(super) links: Links,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The running nodes of each region.
    local: BTreeMap<String, LocalNodes>,
    doors: BTreeMap<NodeName, Door>,
    /// Of nodes that were started: cancelled when they lose their connections.
    power: BTreeMap<NodeName, CancellationToken>,
}

/// Where connections from other regions come in.
struct Door {
    connections: mpsc::Sender<io::Result<Io>>,
    stop: CancellationToken,
}

impl Hub {
    pub(super) fn new(cluster: ClusterId, regions: BTreeMap<NodeName, String>, links: Links) -> Self {
        Self {
            cluster,
            regions: Arc::new(regions),
            links,
            state: Arc::default(),
        }
    }

    /// The network as a node sees it that is about to start.
    pub(super) fn node_network(&self, node: &NodeName) -> Network {
        let power = CancellationToken::new();
        self.lock().power.insert(node.clone(), power.clone());
        let region = self.regions.get(node).cloned().unwrap_or_default();
        self.network(node.clone(), region, power, true)
    }

    /// The network as a client in the region sees it. Faults of the cluster's links are not the client's.
    pub(super) fn client_network(&self, region: &str) -> Network {
        self.network(
            "client".into(),
            region.to_owned(),
            CancellationToken::new(),
            false,
        )
    }

    fn network(&self, node: NodeName, region: String, power: CancellationToken, is_subject: bool) -> Network {
        let identity = Identity {
            cluster: self.cluster,
            node,
        };
        let local = self.lock().local(&region);
        let dialer = HubDialer {
            hub: self.clone(),
            region,
            power,
            is_subject,
        };
        Network::new(&identity, local, Arc::new(dialer))
    }

    /// Makes a node reachable.
    pub(super) fn register(&self, node: &NodeName, routes: Routes) {
        let region = self.regions.get(node).cloned().unwrap_or_default();
        let mut state = self.lock();
        state.local(&region).register(node.clone(), routes.clone());
        if self.regions.values().all(|other| *other == region) {
            return;
        }
        let (connections, incoming) = mpsc::channel(BACKLOG);
        let stop = CancellationToken::new();
        let incoming = Listener::Incoming(ReceiverStream::new(incoming).boxed());
        // It ends when it is told to, and before that only when its source does.
        tokio::spawn(meridian_rpc::serve(incoming, routes, stop.clone()));
        state.doors.insert(node.clone(), Door { connections, stop });
    }

    /// Makes a node unreachable.
    pub(super) fn remove(&self, node: &NodeName) {
        let mut state = self.lock();
        if let Some(region) = self.regions.get(node) {
            state.local(region).remove(node);
        }
        if let Some(door) = state.doors.remove(node) {
            door.stop.cancel();
        }
    }

    /// Breaks all connections between the node and other regions, for good: until it is started again it makes no new ones.
    pub(super) fn cut_power(&self, node: &NodeName) {
        if let Some(power) = self.lock().power.get(node) {
            power.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn local(&mut self, region: &str) -> LocalNodes {
        self.local.entry(region.to_owned()).or_default().clone()
    }
}

/// Opens connections from one region to nodes of the others.
#[derive(Clone)]
struct HubDialer {
    hub: Hub,
    region: String,
    power: CancellationToken,
    is_subject: bool,
}

impl Dialer for HubDialer {
    fn dial(&self, node: &NodeName) -> Option<Channel> {
        // Nodes of the own region that run are called directly, and those that do not run cannot be called.
        let region = self
            .hub
            .regions
            .get(node)
            .filter(|region| **region != self.region)?;
        let endpoint = Endpoint::from_shared(format!("http://{node}")).ok()?;
        let (dialer, node, region) = (self.clone(), node.clone(), region.clone());
        let connector = tower::service_fn(move |_| {
            let (dialer, node, region) = (dialer.clone(), node.clone(), region.clone());
            async move { dialer.connect(&node, &region).await.map(TokioIo::new) }
        });
        Some(tuned(endpoint).connect_with_connector_lazy(connector))
    }
}

impl HubDialer {
    /// Takes a round trip, as TCP does.
    async fn connect(&self, node: &NodeName, region: &str) -> io::Result<Io> {
        if self.power.is_cancelled() {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        let links = &self.hub.links;
        let mut there = links.way(&self.region, region, self.is_subject);
        let mut back = links.way(region, &self.region, self.is_subject);
        there.arrival(there.due()).await;
        let found = {
            let state = self.hub.lock();
            let door = state.doors.get(node).map(|door| door.connections.clone());
            door.zip(state.power.get(node).cloned())
        };
        let end = found.and_then(|(connections, power)| {
            let (near, far) = pipe::connect(there, back.clone(), [self.power.clone(), power]);
            connections.try_send(Ok(far)).ok()?;
            Some(near)
        });
        back.arrival(back.due()).await;
        end.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}
