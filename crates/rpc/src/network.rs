//! The network seam: how a node calls another one.
//!
//! A [`Network`] turns a node's name into a [`Transport`], on which every generated client runs. Nodes of
//! the same process are called directly, without a socket; others through a [`Dialer`] (TCP, or a simulated
//! network). Nobody else in the project opens a connection between nodes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use meridian_types::NodeName;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::error::KvError;
use crate::guard::Identity;

/// A connection that answers no ping for this long is broken: without it a stream would stay silent for
/// ever after a partition.
pub(crate) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Flow-control windows: one full transaction per stream, several per connection.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Opens connections to nodes of other processes.
pub trait Dialer: Send + Sync + 'static {
    /// A channel to the node, connected when it is first used and again when it broke. `None` when the
    /// node's address is not known.
    fn dial(&self, node: &NodeName) -> Option<Channel>;
}

/// Dials over TCP, by a directory of addresses.
#[derive(Clone, Debug, Default)]
pub struct TcpDialer {
    addresses: BTreeMap<NodeName, String>,
}

impl TcpDialer {
    /// A dialer that knows these addresses (`host:port`).
    pub fn new(addresses: BTreeMap<NodeName, String>) -> Self {
        Self { addresses }
    }
}

impl Dialer for TcpDialer {
    fn dial(&self, node: &NodeName) -> Option<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.addresses.get(node)?)).ok()?;
        Some(tuned(endpoint).connect_lazy())
    }
}

/// The settings that every connection has, whoever opens it.
pub fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
}

/// How one node reaches the others. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    headers: HeaderMap,
    local: LocalNodes,
    dialer: Arc<dyn Dialer>,
    channels: Mutex<BTreeMap<NodeName, Channel>>,
}

impl Network {
    /// The network as the node `identity` sees it.
    pub fn new(identity: &Identity, local: LocalNodes, dialer: Arc<dyn Dialer>) -> Self {
        let headers = identity.headers();
        Self {
            inner: Arc::new(Inner {
                headers,
                local,
                dialer,
                channels: Mutex::default(),
            }),
        }
    }

    /// What a client for a service of `node` runs on. Always succeeds: a node that cannot be reached
    /// answers each call with an error.
    pub fn transport(&self, node: &NodeName) -> Transport {
        Transport {
            target: node.clone(),
            network: self.inner.clone(),
        }
    }
}

impl Inner {
    fn channel(&self, node: &NodeName) -> Option<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(node) {
            return Some(channel.clone());
        }
        let channel = self.dialer.dial(node)?;
        channels.insert(node.clone(), channel.clone());
        Some(channel)
    }
}

/// The nodes of this process. Cheap to clone: all clones share the same nodes.
#[derive(Clone, Default)]
pub struct LocalNodes {
    nodes: Arc<RwLock<BTreeMap<NodeName, Routes>>>,
}

impl LocalNodes {
    /// Makes a node's services callable.
    pub fn register(&self, node: NodeName, routes: Routes) {
        self.nodes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, routes);
    }

    /// Makes them unreachable. Streams that are open end when the services stop.
    pub fn remove(&self, node: &NodeName) {
        self.nodes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(node);
    }

    fn get(&self, node: &NodeName) -> Option<Routes> {
        self.nodes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
    }
}

/// Calls to one node. Resolved at each call, so that a node may come and go.
#[derive(Clone)]
pub struct Transport {
    target: NodeName,
    network: Arc<Inner>,
}

impl Transport {
    /// The node that is called.
    pub fn target(&self) -> &NodeName {
        &self.target
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Readiness is the channel's own, awaited in `call`: only there is it known which one is used.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        for (name, value) in &self.network.headers {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some(mut routes) = self.network.local.get(&self.target) {
            let answer = routes.call(request);
            return async move { Ok(answer.await.unwrap_or_else(|never| match never {})) }.boxed();
        }
        let Some(mut channel) = self.network.channel(&self.target) else {
            // Never sent, so it is safe to say that it was not applied.
            let error =
                KvError::unavailable(format!("node {} is not running or has no address", self.target));
            return std::future::ready(Ok(Status::from(error).into_http())).boxed();
        };
        async move {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
            channel.call(request).await
        }
        .boxed()
    }
}
