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
//! Caveats: one process, so a crash of it stops everything (and loses nothing); all nodes share one clock.

mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use meridian_client::Client;
use meridian_clock::SharedClock;
use meridian_rpc::{Dialer, Identity, Listener, LocalNodes, Network, ServiceFailure};
use meridian_types::{ClusterId, NodeName};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::config::{AgreedSettings, ClockSource, File, Role};
use crate::error::Error;
use crate::lock::DirectoryLock;
use crate::node::{self, Node, NodeStart};
use crate::{init, serve};

/// The region that all nodes are in.
const REGION: &str = "local";
/// Where the router is found.
const ROUTER: &str = "router-1";
/// All nodes read the same clock, so between them it is as good as exact.
const CLOCK: ClockSource = ClockSource::Fixed { bound_us: 1 };

/// How to start an embedded cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept. Created at the first start.
    pub data_dir: PathBuf,
    /// Also serve the router (Kv, Admin, health, reflection) here. Port 0 chooses one: see [`Cluster::address`].
    pub listen: Option<SocketAddr>,
    /// All randomness derives from it; drawn from the operating system when `None`.
    pub seed: Option<u64>,
    /// The protocol's bounds.
    pub settings: AgreedSettings,
    /// How long the services may take to become ready.
    pub start_timeout: Duration,
}

impl Options {
    /// A cluster under this directory, for this process only.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: None,
            seed: None,
            settings: AgreedSettings::default(),
            start_timeout: Duration::from_secs(60),
        }
    }

    /// The same, served to others on this address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }
}

/// A running embedded cluster. Dropping it stops everything at once, as a crash would: nothing
/// acknowledged is lost. [`Self::shutdown`] stops it cleanly, and the next start is quicker for it.
pub struct Cluster {
    file: File,
    cluster: ClusterId,
    clock: SharedClock,
    local: LocalNodes,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    seeds: Mutex<StdRng>,
    listening: Option<Listening>,
    start_timeout: Duration,
    _lock: DirectoryLock,
}

struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Cluster {
    /// Starts the cluster, creating it first when the directory is new. Returns when it is ready.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has the directory; what went wrong with a file or an address.
    pub async fn start(options: Options) -> Result<Self, Error> {
        init::create_dir(&options.data_dir)?;
        let lock = DirectoryLock::acquire(&options.data_dir)?;
        let seed = options.seed.unwrap_or_else(rand::random);
        let mut seeds = StdRng::seed_from_u64(seed);
        let clock = serve::clock(CLOCK, &options.settings);
        let (file, cluster) = state::open(&options, &clock, &mut seeds)?;
        let socket = match options.listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let mut started = Self {
            file,
            cluster,
            clock,
            local: LocalNodes::default(),
            nodes: Mutex::default(),
            seeds: Mutex::new(seeds),
            listening: None,
            start_timeout: options.start_timeout,
            _lock: lock,
        };
        if let Err(error) = started.start_all(socket).await {
            started.shutdown().await;
            return Err(error);
        }
        Ok(started)
    }

    async fn start_all(&mut self, socket: Option<(TcpListener, SocketAddr)>) -> Result<(), Error> {
        let names: Vec<String> = self.file.nodes.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            self.start_node(name).await?;
        }
        for node in self.running() {
            node::wait_ready(&node.health, self.start_timeout).await?;
        }
        if let (Some((socket, address)), Some(router)) = (socket, self.node(ROUTER)) {
            let stop = CancellationToken::new();
            let served = meridian_rpc::serve(Listener::Tcp(socket), router.routes.clone(), stop.clone());
            let task = tokio::spawn(served);
            self.listening = Some(Listening { address, stop, task });
        }
        Ok(())
    }

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
            network: self.network(name),
            seed,
        })
        .await?;
        self.local.register(section.node_name(), node.routes.clone());
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Arc::new(node));
        Ok(())
    }

    /// A client of the cluster, in this process. It connects when it is first used.
    pub fn client(&self) -> Result<Client, meridian_client::Error> {
        Client::builder()
            .transport(ROUTER, self.network("client").transport(&ROUTER.into()))
            .connect_lazy()
    }

    /// Where the router is served to other processes.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|listening| listening.address)
    }

    /// The cluster's id.
    pub fn id(&self) -> ClusterId {
        self.cluster
    }

    /// The names of all nodes, running or not.
    pub fn nodes(&self) -> Vec<NodeName> {
        self.file
            .nodes
            .iter()
            .map(crate::config::NodeSection::node_name)
            .collect()
    }

    /// Takes a node away: it cannot be called any more, and is told to stop. Returns when it has stopped. For
    /// tests; a node that is not running is left alone.
    ///
    /// Not a crash: what the node does while it stops (an adjudicator hands its range over) still happens.
    pub async fn kill(&self, name: &str) {
        let removed = self
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if let Some(node) = removed {
            self.local.remove(&name.into());
            node.abandon();
            node.stop().await;
        }
    }

    /// Starts a node again that was killed.
    ///
    /// # Errors
    /// No node has that name, it runs already, or it does not start.
    pub async fn restart(&self, name: &str) -> Result<(), Error> {
        if self.node(name).is_some() {
            return Err(Error::Usage(format!("{name} is running")));
        }
        self.start_node(name).await
    }

    /// Returns when a service could not go on, with the reason. The others go on without it.
    pub async fn failed(&self) -> Arc<ServiceFailure> {
        let nodes = self.running();
        let mut failures: FuturesUnordered<_> = nodes.iter().map(|node| node.failed()).collect();
        match failures.next().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Stops everything cleanly, clients' side first.
    pub async fn shutdown(mut self) {
        let listening = self.listening.take();
        let nodes = self.running();
        for role in Role::ALL.into_iter().rev() {
            let stops: FuturesUnordered<_> = nodes.iter().map(|node| node.stop_role(role)).collect();
            stops.collect::<()>().await;
        }
        if let Some(listening) = listening {
            listening.stop.cancel();
            // Connections that did not end in time are dropped.
            let _ = listening.task.await;
        }
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

    fn network(&self, name: &str) -> Network {
        let identity = Identity {
            cluster: self.cluster,
            node: name.into(),
        };
        Network::new(&identity, self.local.clone(), Arc::new(NobodyElse))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.stop.cancel();
        }
        // The services can call each other through these, so without this they would keep each other alive.
        for name in self.nodes() {
            self.local.remove(&name);
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let listen_error = |source| Error::Listen {
        address: address.to_string(),
        source,
    };
    let socket = TcpListener::bind(address).await.map_err(listen_error)?;
    let address = socket.local_addr().map_err(listen_error)?;
    Ok((socket, address))
}

/// There are no nodes outside of this process.
struct NobodyElse;

impl Dialer for NobodyElse {
    fn dial(&self, _: &NodeName) -> Option<Channel> {
        None
    }
}
