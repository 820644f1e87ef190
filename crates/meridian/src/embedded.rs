//! A whole cluster in one process: three journal nodes, two adjudicators, a storage node, a query processor and
//! a router, durable under one directory. The same services as in separate processes, started by the same
//! functions; they call each other without a socket.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use meridian::embedded::{Cluster, Options};
//!
//! let cluster = Cluster::start(Options::new("data")).await?;
//! let client = cluster.client()?;
//! client.put("greeting", "hello").await?;
//! cluster.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! With [`Options::regions`] it has several regions: nodes of different ones talk over real HTTP/2 through pipes that delay
//! ([`Delay`]) and can be cut ([`Cluster::cut`]).
//!
//! Caveats: one process, so a crash of it stops everything (and loses nothing); all nodes share one clock.

mod entrance;
mod faults;
mod hub;
mod links;
mod listen;
mod options;
mod pipe;
mod state;
mod timer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use meridian_client::Client;
use meridian_clock::SharedClock;
use meridian_rpc::{Listener, ServiceFailure};
use meridian_types::{ClusterId, NodeName};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio_util::sync::CancellationToken;

pub use faults::Place;
pub use links::{Between, DEFAULT_DELAY, Delay, Link};
pub use options::Options;
pub use timer::Timer;

use crate::config::{ClockSource, File, NodeSection, RegionKind, Role};
use crate::error::Error;
use crate::lock::DirectoryLock;
use crate::node::{self, Node, NodeStart};
use crate::{init, serve};
use hub::Hub;
use links::Links;
use listen::{Listening, Socket, bind_all};

/// All nodes read the same clock, so between them it is as good as exact.
const CLOCK: ClockSource = ClockSource::Fixed { bound_us: 1 };

/// How long the files of a node that was killed may stay in use, and how often it is looked.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const RELEASE_INTERVAL: Duration = Duration::from_millis(50);

/// A running embedded cluster. Dropping it stops everything at once, as a crash would: nothing
/// acknowledged is lost. [`Self::shutdown`] stops it cleanly, and the next start is quicker for it.
pub struct Cluster {
    inner: Arc<Inner>,
    listening: Vec<Listening>,
    _lock: DirectoryLock,
}

struct Inner {
    file: File,
    cluster: ClusterId,
    clock: SharedClock,
    hub: Hub,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    seeds: Mutex<StdRng>,
    start_timeout: Duration,
}

impl Cluster {
    /// Starts the cluster, creating it first when the directory is new. Returns when it is ready.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has the directory; what went wrong with a file or an address; regions or ranges
    /// that are not those that the directory was created with.
    pub async fn start(options: Options) -> Result<Self, Error> {
        init::create_dir(&options.data_dir)?;
        let lock = DirectoryLock::acquire(&options.data_dir)?;
        let seed = options.seed.unwrap_or_else(rand::random);
        let mut seeds = StdRng::seed_from_u64(seed);
        let clock = serve::clock(CLOCK, &options.settings);
        let (mut file, cluster) = state::open(&options, &clock, &mut seeds)?;
        let regions: Vec<String> = file.regions().into_iter().map(str::to_owned).collect();
        let links = Links::new(&regions, &options.delays)?;
        file.cluster.settings = options.settings_for(regions.len(), links.longest());
        let sockets = bind_all(&mut file, options.listen).await?;
        let of_nodes = file
            .nodes
            .iter()
            .map(|node| (node.node_name(), node.region.clone()));
        let hub = Hub::new(cluster, of_nodes.collect(), links);
        let inner = Inner {
            file,
            cluster,
            clock,
            hub,
            nodes: Mutex::default(),
            seeds: Mutex::new(seeds),
            start_timeout: options.start_timeout,
        };
        let mut started = Self {
            inner: Arc::new(inner),
            listening: Vec::new(),
            _lock: lock,
        };
        if let Err(error) = started.start_all(sockets).await {
            started.shutdown().await;
            return Err(error);
        }
        Ok(started)
    }

    async fn start_all(&mut self, sockets: Vec<Socket>) -> Result<(), Error> {
        let names: Vec<String> = self
            .inner
            .file
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect();
        for name in &names {
            self.inner.start_node(name).await?;
        }
        for node in self.inner.running() {
            node::wait_ready(&node.health, self.inner.start_timeout).await?;
        }
        for Socket {
            router,
            socket,
            address,
        } in sockets
        {
            let region = self.inner.file.node(&router.0)?.region.clone();
            let router = self.inner.hub.client_network(&region).transport(&router);
            let routes = entrance::routes(router, Arc::downgrade(&self.inner));
            let stop = CancellationToken::new();
            let served = meridian_rpc::serve(Listener::Tcp(socket), routes, stop.clone());
            self.listening.push(Listening {
                region,
                address,
                stop,
                task: tokio::spawn(served),
            });
        }
        Ok(())
    }

    /// A client in the first region, in this process. It connects when it is first used.
    pub fn client(&self) -> Result<Client, meridian_client::Error> {
        let first = self.regions().into_iter().next().unwrap_or_default();
        self.client_in(&first)
    }

    /// A client in that region, in this process: it uses the region's router, and while that does not answer those of the others,
    /// each as far away as its region. It connects when it is first used.
    ///
    /// # Errors
    /// No such region, or one that nobody can read or write in.
    pub fn client_in(&self, region: &str) -> Result<Client, meridian_client::Error> {
        let network = self.inner.hub.client_network(region);
        let target =
            |router: &NodeName| entrance::routes(network.transport(router), Arc::downgrade(&self.inner));
        let mut builder = Client::builder();
        for router in self.inner.routers(region) {
            builder = builder.transport(router.0.clone(), target(&router));
        }
        for other in self.regions().iter().filter(|other| *other != region) {
            for router in self.inner.routers(other) {
                builder = builder.far_transport(router.0.clone(), target(&router));
            }
        }
        builder.connect_lazy()
    }

    /// The regions in which clients can be: the active ones.
    pub fn regions(&self) -> Vec<String> {
        let file = &self.inner.file;
        let active = |region: &&str| file.region_kind(region) == RegionKind::Active;
        file.regions()
            .into_iter()
            .filter(active)
            .map(str::to_owned)
            .collect()
    }

    /// Where the first region's router is served to other processes.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.first().map(|listening| listening.address)
    }

    /// Where each region's router is served to other processes.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        let each = self.listening.iter();
        each.map(|listening| (listening.region.clone(), listening.address))
            .collect()
    }

    /// The links between the regions, from one to the other.
    pub fn links(&self) -> BTreeMap<(String, String), Link> {
        self.inner.hub.links.all()
    }

    /// The cluster's id.
    pub fn id(&self) -> ClusterId {
        self.inner.cluster
    }

    /// The names of all nodes, running or not.
    pub fn nodes(&self) -> Vec<NodeName> {
        self.inner.file.nodes.iter().map(NodeSection::node_name).collect()
    }

    /// Takes a node away: it cannot be called any more, and is told to stop. Returns when it has stopped. For
    /// tests; a node that is not running is left alone.
    ///
    /// Not a crash: what the node does while it stops (an adjudicator hands its range over) still happens. For one that is
    /// as close to a crash as one process can come, see [`Self::crash`].
    pub async fn kill(&self, name: &str) {
        if let Some(node) = self.inner.take(name) {
            node.abandon();
            node.stop().await;
            self.inner.hub.cut_power(&name.into());
        }
    }

    /// Starts a node again that was killed.
    ///
    /// # Errors
    /// No node has that name, it runs already, or it does not start.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        if self.inner.node(name).is_some() {
            return Err(Error::Usage(format!("{name} is running")));
        }
        self.inner.start_again(name).await
    }

    /// Returns when a service could not go on, with the reason. The others go on without it.
    pub async fn failed(&self) -> Arc<ServiceFailure> {
        // Nodes that are killed later must not live on in here: their files would stay in use.
        let mut failures: FuturesUnordered<_> =
            self.inner.running().iter().map(|node| node.failed()).collect();
        match failures.next().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Stops everything cleanly, clients' side first.
    pub async fn shutdown(mut self) {
        let listening = std::mem::take(&mut self.listening);
        // Over links that are cut nobody could say good-bye.
        self.inner.hub.links.set(|_| true, false);
        let nodes = self.inner.running();
        for role in Role::ALL.into_iter().rev() {
            let stops: FuturesUnordered<_> = nodes.iter().map(|node| node.stop_role(role)).collect();
            stops.collect::<()>().await;
        }
        for listening in listening {
            listening.stop.cancel();
            // Connections that did not end in time are dropped.
            let _ = listening.task.await;
        }
    }
}

impl Inner {
    async fn start_node(&self, name: &str) -> Result<(), Error> {
        let section = self.file.node(name)?;
        let seed = self
            .seeds
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64();
        let node = Node::start(NodeStart {
            file: &self.file,
            node: section,
            cluster: self.cluster,
            roles: &section.roles,
            clock: self.clock.clone(),
            network: self.hub.node_network(&section.node_name()),
            seed,
        })
        .await?;
        self.hub.register(&section.node_name(), node.routes.clone());
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Arc::new(node));
        Ok(())
    }

    /// Starts a node that was running before. Connections that break a moment after it stopped may still hold its files.
    async fn start_again(&self, name: &str) -> Result<(), Error> {
        let end = tokio::time::Instant::now() + RELEASE_TIMEOUT;
        loop {
            match self.start_node(name).await {
                Err(_) if tokio::time::Instant::now() < end => tokio::time::sleep(RELEASE_INTERVAL).await,
                result => return result,
            }
        }
    }

    /// The routers of a region, running or not.
    fn routers(&self, region: &str) -> Vec<NodeName> {
        let nodes = self.file.nodes.iter();
        nodes
            .filter(|node| node.region == region && node.has(Role::Router))
            .map(NodeSection::node_name)
            .collect()
    }

    /// Makes a node unreachable, and hands it out if it was running.
    fn take(&self, name: &str) -> Option<Arc<Node>> {
        let removed = self
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if removed.is_some() {
            self.hub.remove(&name.into());
        }
        removed
    }

    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn running(&self) -> Vec<Arc<Node>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for listening in &self.listening {
            listening.stop.cancel();
        }
        // The services can call each other through these, so without this they would keep each other alive.
        for name in self.nodes() {
            self.inner.hub.remove(&name);
            self.inner.hub.cut_power(&name);
        }
    }
}
