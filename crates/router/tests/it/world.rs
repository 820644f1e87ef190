//! Query processors, routers and clients, put together.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use meridian_clock::SystemClock;
use meridian_router::{Config, NodeInfo};
use meridian_rpc::handle::TxnHandle;
use meridian_rpc::v1::kv_client::KvClient;
use meridian_rpc::v1::{BeginRequest, GetRequest};
use meridian_rpc::{
    Env, Identity, KvError, Listener, LocalNodes, Network, Service, ServiceFailure, TcpDialer, Transport,
};
use meridian_types::{ClusterId, NodeName, RangeMap, TxnId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service as _;
use uuid::Uuid;

use crate::backend::Backend;

/// Longer than anything here should take, on a machine that has other things to do as well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How everybody reaches everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Local,
    Tcp,
}

pub const WIRES: [Wire; 2] = [Wire::Local, Wire::Tcp];

pub type Client = KvClient<Transport>;

/// Query processors, each with a line that can be cut.
pub struct World {
    wire: Wire,
    local: LocalNodes,
    addresses: BTreeMap<NodeName, String>,
    lines: BTreeMap<NodeName, CancellationToken>,
    /// As all routers know it.
    pub map: watch::Sender<Arc<RangeMap>>,
    pub backends: Vec<Backend>,
}

impl World {
    pub async fn new(wire: Wire, names: &[&str]) -> Self {
        let mut world = Self {
            wire,
            local: LocalNodes::default(),
            addresses: BTreeMap::new(),
            lines: BTreeMap::new(),
            map: watch::Sender::default(),
            backends: names.iter().map(|name| Backend::new(name)).collect(),
        };
        for backend in world.backends.clone() {
            world.connect(&backend).await;
        }
        world
    }

    async fn connect(&mut self, backend: &Backend) {
        if self.wire == Wire::Local {
            self.local.register(backend.name.clone(), backend.routes());
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let served = meridian_rpc::serve(Listener::Tcp(server), backend.routes(), CancellationToken::new());
        tokio::spawn(served);
        let line = CancellationToken::new();
        let entry = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = entry.local_addr().unwrap().to_string();
        self.addresses.insert(backend.name.clone(), address);
        self.lines.insert(backend.name.clone(), line.clone());
        tokio::spawn(line.clone().run_until_cancelled_owned(async move {
            loop {
                let (near, _) = entry.accept().await.unwrap();
                tokio::spawn(line.clone().run_until_cancelled_owned(relay(near, target)));
            }
        }));
    }

    /// Nobody reaches the backend any more; over sockets, its open connections break as well.
    pub fn cut(&self, backend: usize) {
        let name = &self.backends[backend].name;
        self.local.remove(name);
        if let Some(line) = self.lines.get(name) {
            line.cancel();
        }
    }

    /// In process only: the backend is there again.
    pub fn restore(&self, backend: usize) {
        let backend = &self.backends[backend];
        self.local.register(backend.name.clone(), backend.routes());
    }

    fn network(&self, node: &str, router: Option<(&str, String)>) -> Network {
        let identity = Identity {
            cluster: ClusterId(Uuid::from_u128(1)),
            node: node.into(),
        };
        let mut addresses = self.addresses.clone();
        addresses.extend(router.map(|(name, address)| (name.into(), address)));
        Network::new(&identity, self.local.clone(), Arc::new(TcpDialer::new(addresses)))
    }

    fn env(&self, name: &str) -> Env {
        let clock = SystemClock::new(Duration::from_micros(100), Duration::from_millis(250));
        let network = self.network(name, None);
        Env::new(name.into(), "here".to_owned(), Arc::new(clock), network, 7)
    }

    fn queries(&self) -> Vec<NodeName> {
        self.backends.iter().map(|backend| backend.name.clone()).collect()
    }

    /// A router, and what a client reaches it by.
    pub async fn router(&self, name: &str, config: Config) -> RouterNode {
        let shutdown = CancellationToken::new();
        let nodes = self.queries().into_iter().map(|name| NodeInfo {
            address: format!("{name}:1"),
            name,
            region: "here".to_owned(),
            roles: vec!["query".to_owned()],
        });
        let started = meridian_router::start(
            config,
            self.env(name),
            self.queries(),
            nodes.collect(),
            self.map.subscribe(),
            shutdown.clone(),
        )
        .await
        .unwrap();
        let mut routes = tonic::service::Routes::builder();
        started.service.register(&mut routes);
        let routes = routes.routes();
        let network = match self.wire {
            Wire::Local => {
                self.local.register(name.into(), routes);
                self.network("client", None)
            }
            Wire::Tcp => {
                let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = socket.local_addr().unwrap().to_string();
                let served = meridian_rpc::serve(Listener::Tcp(socket), routes, CancellationToken::new());
                tokio::spawn(served);
                self.network("client", Some((name, address)))
            }
        };
        RouterNode {
            transport: network.transport(&name.into()),
            service: started.service,
            stopped: started.stopped,
            shutdown,
        }
    }

    /// A router as a server of its own.
    pub async fn router_alone(
        &self,
        config: Config,
        shutdown: CancellationToken,
    ) -> (Client, JoinHandle<Result<(), ServiceFailure>>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let network = self.network("client", Some(("alone", address)));
        let (env, queries) = (self.env("alone"), self.queries());
        let run = meridian_router::run(
            config,
            env,
            Listener::Tcp(socket),
            queries,
            vec![],
            self.map.subscribe(),
            shutdown,
        );
        (client(network.transport(&"alone".into())), tokio::spawn(run))
    }
}

async fn relay(mut near: TcpStream, target: std::net::SocketAddr) {
    if let Ok(mut far) = TcpStream::connect(target).await {
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    }
}

/// A running router.
pub struct RouterNode {
    pub transport: Transport,
    pub service: Arc<dyn Service>,
    pub stopped: JoinHandle<Result<(), ServiceFailure>>,
    pub shutdown: CancellationToken,
}

impl RouterNode {
    pub fn client(&self) -> Client {
        client(self.transport.clone())
    }

    pub fn figure(&self, name: &str) -> u64 {
        self.service.status().figures[name]
    }

    /// Sends bytes as they are.
    pub async fn raw(&self, method: &str, body: Body) -> Result<http::Response<Body>, Status> {
        let request = http::Request::post(format!("/meridian.v1.Kv/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let mut transport = self.transport.clone();
        within(transport.call(request))
            .await
            .map_err(|error| Status::from_error(error.into()))
    }
}

fn client(transport: Transport) -> Client {
    KvClient::new(transport)
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20)
}

/// Short pauses, so that tests are short.
pub fn config() -> Config {
    Config {
        probe_interval_ms: 20,
        drain_ms: 100,
        ..Config::default()
    }
}

/// Nothing is probed: what calls find is what counts.
pub fn config_without_probes() -> Config {
    Config {
        probe_interval_ms: 3_600_000,
        ..config()
    }
}

/// A body whose bytes come when they are sent.
pub fn open_body() -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, Body::new(StreamBody::new(ReceiverStream::new(receiver))))
}

pub fn handle(node: &str) -> Bytes {
    TxnHandle {
        node: node.into(),
        txn: TxnId(Uuid::from_u128(1)),
    }
    .encode()
}

pub fn get(node: &str) -> GetRequest {
    GetRequest {
        transaction: handle(node),
        key: "k".into(),
        for_update: false,
    }
}

/// Which backend answers a call of this transaction.
pub async fn who(client: &Client, transaction: &Bytes) -> Result<String, Status> {
    let request = GetRequest {
        transaction: transaction.clone(),
        ..get("")
    };
    let got = within(client.clone().get(request)).await?.into_inner();
    Ok(String::from_utf8(got.value.unwrap().to_vec()).unwrap())
}

pub async fn begin(client: &Client) -> Result<Bytes, Status> {
    let begun = within(client.clone().begin(BeginRequest::default())).await?;
    Ok(begun.into_inner().transaction)
}

/// The error that a status carries; `None` when it says nothing about what became of the request.
pub fn error(status: &Status) -> Option<KvError> {
    KvError::from_status(status)
}

/// Nothing is known of what became of the request.
pub fn assert_unknown(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(error(status), None, "{status:?}");
}

/// Surely not applied, and worth another try elsewhere after a moment.
pub fn assert_not_applied(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let error = error(status).unwrap_or_else(|| panic!("bare: {status:?}"));
    assert!(error.is_definite(), "{error:?}");
    assert!(
        error.retry_after().is_some_and(|delay| !delay.is_zero()),
        "{error:?}"
    );
}

/// Nothing may hang a test.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "never: {what}");
}
