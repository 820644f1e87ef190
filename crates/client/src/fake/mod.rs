//! An in-memory cluster for tests of programs that use this library: real snapshot isolation on a
//! `BTreeMap`, served in process or over TCP, with faults on demand. Not durable, not distributed.
//!
//! Only `Session` and `Admin.ClusterStatus` are served. Its time is a counter, so the same run gives the
//! same timestamps.

mod service;
mod session;
mod status;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_rpc::v1::admin_server::AdminServer;
use meridian_rpc::v1::kv_server::KvServer;
use meridian_rpc::{KvError, Listener, serve};
use meridian_types::{Timestamp, limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{Builder, Client};
use store::Store;

/// What goes wrong at the next commit (of a transaction or an `execute`). Each happens once, in turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The session breaks before the commit is looked at.
    LoseRequest,
    /// It commits, the token is told, and the session breaks before the answer.
    LoseReply,
    /// It commits, and the session breaks before anything is told.
    LoseTokenAndReply,
    /// It commits and the answer never comes; the session stays.
    Silence,
    /// The commit is refused with this, and nothing is applied.
    Refuse(KvError),
    /// It goes through. To place other faults later.
    None,
}

/// How often things were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions opened.
    pub sessions: u64,
    /// Transactions begun.
    pub begun: u64,
    /// Commits and executes asked for.
    pub commits: u64,
    /// Outcomes asked for.
    pub outcomes: u64,
    /// Pages of scans sent.
    pub pages: u64,
}

/// The cluster. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct FakeCluster {
    inner: Arc<Mutex<State>>,
}

pub(crate) struct State {
    store: Store,
    faults: VecDeque<Fault>,
    outcome_errors: VecDeque<KvError>,
    counters: Counters,
    /// Ends every session that is open.
    kill: CancellationToken,
    down: Option<KvError>,
    /// Transactions of an earlier generation are not known any more.
    generation: u64,
    page_rows: usize,
    operations: u32,
    listeners: BTreeMap<SocketAddr, CancellationToken>,
}

impl Default for FakeCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeCluster {
    /// An empty cluster.
    pub fn new() -> Self {
        let state = State {
            store: Store::default(),
            faults: VecDeque::new(),
            outcome_errors: VecDeque::new(),
            counters: Counters::default(),
            kill: CancellationToken::new(),
            down: None,
            generation: 0,
            page_rows: 100,
            operations: 0,
            listeners: BTreeMap::new(),
        };
        Self {
            inner: Arc::new(Mutex::new(state)),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its services, callable in process.
    pub fn routes(&self) -> Routes {
        let kv = KvServer::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        Routes::new(kv).add_service(AdminServer::new(self.clone()))
    }

    /// A client in process. Must be called within a tokio runtime.
    ///
    /// # Panics
    /// Never: the transport is valid.
    pub fn client(&self) -> Client {
        self.client_with(Builder::default())
    }

    /// A client in process, otherwise as the builder says.
    ///
    /// # Panics
    /// When the builder has a malformed endpoint.
    #[allow(clippy::expect_used)]
    pub fn client_with(&self, builder: Builder) -> Client {
        let builder = builder.transport("fake", self.routes());
        builder.connect_lazy().expect("the endpoints are valid")
    }

    /// Serves on a free port of the loopback interface.
    ///
    /// # Panics
    /// When no port can be bound.
    #[allow(clippy::expect_used)]
    pub async fn listen(&self) -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let stop = CancellationToken::new();
        self.lock().listeners.insert(address, stop.clone());
        let routes = self.routes();
        tokio::spawn(async move { serve(Listener::Tcp(socket), routes, stop).await });
        address
    }

    /// Stops serving on an address, and ends all sessions.
    pub fn close(&self, address: SocketAddr) {
        if let Some(stop) = self.lock().listeners.remove(&address) {
            stop.cancel();
        }
        self.kill_sessions();
    }

    /// Ends all sessions; their transactions are gone.
    pub fn kill_sessions(&self) {
        let kill = std::mem::take(&mut self.lock().kill);
        kill.cancel();
    }

    /// Refuses new sessions with this error, or (`None`) takes them again.
    pub fn set_down(&self, error: Option<KvError>) {
        self.lock().down = error;
    }

    /// What goes wrong at the next commits, in turn.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// The next questions for an outcome fail with these.
    pub fn fail_outcomes(&self, errors: impl IntoIterator<Item = KvError>) {
        self.lock().outcome_errors.extend(errors);
    }

    /// Forgets all open transactions, as when they were idle for too long.
    pub fn forget_transactions(&self) {
        self.lock().generation += 1;
    }

    /// Refuses reads at older timestamps from now on.
    pub fn set_horizon(&self, horizon: Timestamp) {
        self.lock().store.horizon = horizon.0;
    }

    /// The retention horizon becomes the present.
    pub fn expire_snapshots(&self) {
        let state = &mut *self.lock();
        state.store.horizon = state.store.now();
    }

    /// How many rows a page of a scan has at most.
    pub fn set_page_rows(&self, rows: usize) {
        self.lock().page_rows = rows.max(1);
    }

    /// How many operations of a session that is opened from now on are worked on at a time; 0: it does not say.
    pub fn set_operations(&self, operations: u32) {
        self.lock().operations = operations;
    }

    /// How often things were asked for so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }
}
