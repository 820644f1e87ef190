//! A query processor with its stand-ins around it, and transactions over its unary calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::{SharedClock, SystemClock};
use meridian_query::{Config, StorageNode};
use meridian_rpc::internal::adjudicator_server::AdjudicatorServer;
use meridian_rpc::internal::storage_server::StorageServer;
use meridian_rpc::owner::Owners;
use meridian_rpc::v1::kv_client::KvClient;
use meridian_rpc::v1::{self, BeginRequest, BeginResponse, Row};
use meridian_rpc::{
    CommittedWatch, Env, Identity, KvError, LocalNodes, Network, Started, TcpDialer, Transport,
};
use meridian_types::{ClusterId, KeyRange, NodeName, RangeMap, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::adjudicator::FakeAdjudicator;
use crate::world::{FakeStorage, World, new_core};

/// A query processor and everything around it.
pub struct Cluster {
    pub world: World,
    pub clock: SharedClock,
    pub started: Started,
    pub shutdown: CancellationToken,
    /// What the journal node of the region tells.
    pub committed: CommittedWatch,
    client: Network,
    pub map: watch::Sender<Arc<RangeMap>>,
}

/// The adjudicators' nodes.
pub const ADJUDICATORS: [&str; 3] = ["adj", "adj-2", "adj-3"];

/// The storage nodes.
pub const STORAGE: [&str; 3] = ["st-1", "st-2", "st-3"];

/// Two that hold everything.
fn whole_storage() -> Vec<StorageNode> {
    let whole = STORAGE.into_iter().take(2);
    whole.map(|name| NodeName::from(name).into()).collect()
}

pub type Client = KvClient<Transport>;

impl Cluster {
    pub async fn start() -> Self {
        Self::with(test_config()).await
    }

    pub async fn with(config: Config) -> Self {
        let clock: SharedClock = Arc::new(SystemClock::new(
            Duration::from_micros(100),
            Duration::from_millis(250),
        ));
        Self::with_clock(config, clock).await
    }

    pub async fn with_clock(config: Config, clock: SharedClock) -> Self {
        let map = RangeMap::single(vec!["adj".into()]);
        Self::build(config, clock, map, whole_storage()).await
    }

    /// Storage nodes st-1, st-2, ..., each with a part of the keys.
    pub async fn with_storage(keys: &[KeyRange]) -> Self {
        let clock: SharedClock = Arc::new(SystemClock::new(
            Duration::from_micros(100),
            Duration::from_millis(250),
        ));
        let storage = STORAGE.into_iter().zip(keys).map(|(name, keys)| StorageNode {
            name: name.into(),
            keys: keys.clone(),
        });
        let map = RangeMap::single(vec!["adj".into()]);
        Self::build(test_config(), clock, map, storage.collect()).await
    }

    /// Ranges r1, r2, ... divided at these keys; the n-th is owned by `ADJUDICATORS[n - 1]`.
    pub async fn with_ranges(splits: &[&str]) -> Self {
        let candidates = |first: usize| {
            let others = ADJUDICATORS
                .iter()
                .skip(first)
                .chain(ADJUDICATORS.iter().take(first));
            others.map(|name| NodeName::from(*name)).collect()
        };
        let map = RangeMap::divided(splits.iter().map(|key| (*key).into()), candidates);
        let clock: SharedClock = Arc::new(SystemClock::new(
            Duration::from_micros(100),
            Duration::from_millis(250),
        ));
        Self::build(test_config(), clock, map, whole_storage()).await
    }

    async fn build(config: Config, clock: SharedClock, map: RangeMap, storage: Vec<StorageNode>) -> Self {
        let world = World {
            core: Arc::new(Mutex::new(new_core())),
            clock: clock.clone(),
        };
        let local = LocalNodes::default();
        let network = |node: &str| {
            let identity = Identity {
                cluster: ClusterId(Uuid::from_u128(1)),
                node: node.into(),
            };
            Network::new(&identity, local.clone(), Arc::new(TcpDialer::default()))
        };
        for (name, entry) in ADJUDICATORS.into_iter().zip(&map.entries) {
            world.core().owners.insert(entry.stream, name);
        }
        for name in ADJUDICATORS {
            let world = world.clone();
            let adjudicator =
                AdjudicatorServer::new(FakeAdjudicator { world, name }).max_decoding_message_size(16 << 20);
            let mut routes = tonic::service::Routes::builder();
            routes.add_service(adjudicator);
            local.register(name.into(), routes.routes());
        }
        for (name, StorageNode { keys, .. }) in STORAGE.into_iter().zip(&storage) {
            let (world, keys) = (world.clone(), keys.clone());
            let mut routes = tonic::service::Routes::builder();
            routes.add_service(StorageServer::new(FakeStorage { world, name, keys }));
            local.register(name.into(), routes.routes());
        }
        let (map_sender, map) = watch::channel(Arc::new(map));
        let env = Env::new("qp".into(), "here".to_owned(), clock.clone(), network("qp"), 7);
        let owners = Owners::new(network("qp"), map);
        let shutdown = CancellationToken::new();
        let committed = CommittedWatch::default();
        let started =
            meridian_query::start(config, env, owners, committed.clone(), storage, shutdown.clone())
                .await
                .unwrap();
        let mut routes = tonic::service::Routes::builder();
        started.service.register(&mut routes);
        local.register("qp".into(), routes.routes());
        Self {
            world,
            clock,
            started,
            shutdown,
            committed,
            client: network("client"),
            map: map_sender,
        }
    }

    pub fn client(&self) -> Client {
        KvClient::new(self.client.transport(&"qp".into()))
            .max_decoding_message_size(16 << 20)
            .max_encoding_message_size(16 << 20)
    }

    pub async fn begin(&self) -> Txn {
        self.begin_with(BeginRequest::default()).await
    }

    pub async fn begin_with(&self, request: BeginRequest) -> Txn {
        let begun = self.client().begin(request).await.unwrap().into_inner();
        Txn {
            client: self.client(),
            begun,
        }
    }

    pub async fn serializable(&self) -> Txn {
        self.begin_with(BeginRequest {
            isolation: v1::Isolation::Serializable.into(),
            ..BeginRequest::default()
        })
        .await
    }

    pub fn figure(&self, name: &str) -> u64 {
        self.started.service.status().figures[name]
    }
}

/// Short pauses, so that tests are short.
pub fn test_config() -> Config {
    Config {
        retry_min_ms: 1,
        retry_max_ms: 10,
        reap_interval_ms: 20,
        read_attempt_ms: 300,
        drain_ms: 100,
        ..Config::default()
    }
}

/// A transaction over unary calls.
pub struct Txn {
    pub client: Client,
    pub begun: BeginResponse,
}

fn error(status: Status) -> KvError {
    KvError::from_status(&status).unwrap_or_else(|| panic!("not ours: {status:?}"))
}

impl Txn {
    pub fn handle(&self) -> Bytes {
        self.begun.transaction.clone()
    }

    pub async fn get(&mut self, key: &str) -> Result<Option<String>, KvError> {
        self.get_with(key, false).await
    }

    pub async fn get_for_update(&mut self, key: &str) -> Result<Option<String>, KvError> {
        self.get_with(key, true).await
    }

    async fn get_with(&mut self, key: &str, for_update: bool) -> Result<Option<String>, KvError> {
        let request = v1::GetRequest {
            transaction: self.handle(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            for_update,
        };
        let got = self.client.get(request).await.map_err(error)?.into_inner();
        Ok(got.value.map(|value| String::from_utf8(value.to_vec()).unwrap()))
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), KvError> {
        let request = v1::PutRequest {
            transaction: self.handle(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
        };
        self.client.put(request).await.map_err(error).map(drop)
    }

    pub async fn delete(&mut self, key: &str) -> Result<(), KvError> {
        let request = v1::DeleteRequest {
            transaction: self.handle(),
            key: Bytes::copy_from_slice(key.as_bytes()),
        };
        self.client.delete(request).await.map_err(error).map(drop)
    }

    pub async fn delete_range(&mut self, start: &str, end: &str) -> Result<u64, KvError> {
        let request = v1::DeleteRangeRequest {
            transaction: self.handle(),
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
        };
        let deleted = self.client.delete_range(request).await.map_err(error)?;
        Ok(deleted.into_inner().deleted)
    }

    pub async fn savepoint(&mut self, name: &str) -> Result<(), KvError> {
        let (transaction, name) = (self.handle(), name.to_owned());
        let request = v1::SavepointRequest { transaction, name };
        self.client.savepoint(request).await.map_err(error).map(drop)
    }

    pub async fn rollback_to(&mut self, name: &str) -> Result<(), KvError> {
        let (transaction, name) = (self.handle(), name.to_owned());
        let request = v1::SavepointRequest { transaction, name };
        self.client.rollback_to(request).await.map_err(error).map(drop)
    }

    /// All rows, and the count that the last page names.
    pub async fn scan(&mut self, request: v1::ScanRequest) -> Result<(Vec<Row>, u64), KvError> {
        let transaction = self.handle();
        let request = v1::ScanRequest {
            transaction,
            ..request
        };
        let mut pages = self.client.scan(request).await.map_err(error)?.into_inner();
        let mut rows = Vec::new();
        loop {
            let page = pages.message().await.map_err(error)?.expect("a last page");
            rows.extend(page.rows);
            if page.last {
                assert!(pages.message().await.unwrap().is_none());
                return Ok((rows, page.count));
            }
        }
    }

    /// The values of a scan, as text.
    pub async fn values(&mut self, start: &str, end: &str) -> Result<Vec<(String, String)>, KvError> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let request = v1::ScanRequest {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
            ..v1::ScanRequest::default()
        };
        let (rows, _) = self.scan(request).await?;
        Ok(rows
            .iter()
            .map(|row| (text(&row.key), text(&row.value)))
            .collect())
    }

    pub async fn commit(&mut self) -> Result<Timestamp, KvError> {
        self.commit_within(Duration::from_secs(10)).await
    }

    pub async fn commit_within(&mut self, timeout: Duration) -> Result<Timestamp, KvError> {
        let transaction = self.handle();
        let mut request = Request::new(v1::CommitRequest { transaction });
        request.set_timeout(timeout);
        let committed = self.client.commit(request).await.map_err(error)?;
        Ok(Timestamp(committed.into_inner().commit_timestamp))
    }

    pub async fn rollback(&mut self) -> Result<(), KvError> {
        let transaction = self.handle();
        self.client
            .rollback(v1::RollbackRequest { transaction })
            .await
            .map_err(error)
            .map(drop)
    }
}

pub async fn execute(
    client: &mut Client,
    request: v1::ExecuteRequest,
) -> Result<v1::ExecuteResponse, KvError> {
    client
        .execute(request)
        .await
        .map(Response::into_inner)
        .map_err(error)
}

pub async fn outcome(client: &mut Client, token: v1::CommitToken) -> Result<v1::OutcomeResponse, KvError> {
    let request = v1::OutcomeRequest { token: Some(token) };
    client
        .outcome(request)
        .await
        .map(Response::into_inner)
        .map_err(error)
}
