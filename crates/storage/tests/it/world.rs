//! A cluster in one process: two journal nodes, two adjudicators, and storage nodes under test.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::{Clock, ManualClock};
use meridian_files::MemoryFiles;
use meridian_rpc::internal::adjudicator_server::AdjudicatorServer;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::journal_server::JournalServer;
use meridian_rpc::internal::storage_client::StorageClient;
use meridian_rpc::internal::storage_read::Read;
use meridian_rpc::internal::storage_read_reply::Result as Answer;
use meridian_rpc::internal::{
    Entry, GetKeys, GotKeys, ScanKeys, ScannedPage, StorageRead, StorageReadBatch, StorageReadReplyBatch,
    WriteRecord, WriteSet,
};
use meridian_rpc::network::LocalNodes;
use meridian_rpc::owner::Owners;
use meridian_rpc::{Env, FaultPoints, Identity, KvError, Network, ServiceFailure, Started, TcpDialer};
use meridian_storage::store::{MemoryStore, VersionStore};
use meridian_storage::{Config, Writer};
use meridian_types::{ClusterId, NodeName, RangeMap, Timestamp};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::service::RoutesBuilder;

use crate::journal::{Fact, FakeJournal, Log};
use crate::owner::FakeOwner;

/// The time at which every world begins, and the bound of its clocks.
pub const NOW: u64 = 1_000_000_000_000;
pub const BOUND: u64 = 1_000_000;

pub struct World {
    pub nodes: LocalNodes,
    pub clock: Arc<ManualClock>,
    pub log: Log,
    pub journals: [FakeJournal; 2],
    pub owners: [FakeOwner; 2],
    pub map: watch::Sender<Arc<RangeMap>>,
}

/// A storage node that runs.
pub struct Node {
    pub started: Started,
    pub shutdown: CancellationToken,
    nodes: LocalNodes,
    name: NodeName,
    network: Network,
}

impl World {
    pub fn new() -> Self {
        let nodes = LocalNodes::default();
        let log = Log::default();
        let journals = [FakeJournal::new(log.clone()), FakeJournal::new(log.clone())];
        for (name, journal) in ["j1", "j2"].into_iter().zip(&journals) {
            let mut routes = RoutesBuilder::default();
            routes.add_service(JournalServer::new(journal.clone()));
            nodes.register(name.into(), routes.routes());
        }
        let owners = [
            FakeOwner::new("a1", log.clone()),
            FakeOwner::new("a2", log.clone()),
        ];
        for owner in &owners {
            let mut routes = RoutesBuilder::default();
            routes.add_service(AdjudicatorServer::new(owner.clone()));
            nodes.register(owner.name.into(), routes.routes());
        }
        let map = RangeMap::single(vec!["a1".into(), "a2".into()]);
        Self {
            nodes,
            clock: Arc::new(ManualClock::new(Timestamp(NOW), Duration::from_nanos(BOUND))),
            log,
            journals,
            owners,
            map: watch::Sender::new(Arc::new(map)),
        }
    }

    pub fn config(&self) -> Config {
        Config {
            feed_backoff_ms: 1,
            feed_backoff_max_ms: 10,
            feed_quiet_ms: 50,
            close_again_ms: 10,
            close_timeout_ms: 200,
            sweep_interval_ms: 5,
            sweep_pause_ms: 0,
            cache_bytes: 1 << 20,
            checkpoint_writer: Writer::Task,
            ..Config::default()
        }
    }

    pub fn env(&self, name: &'static str) -> (Env, Owners) {
        let identity = Identity {
            cluster: ClusterId::default(),
            node: name.into(),
        };
        let network = Network::new(
            &identity,
            self.nodes.clone(),
            Arc::new(TcpDialer::new(BTreeMap::new())),
        );
        let env = Env::new(name.into(), "home".into(), self.clock.clone(), network.clone(), 7);
        (env, Owners::new(network, self.map.subscribe()))
    }

    fn node(&self, name: NodeName, env: Env, started: Started, shutdown: CancellationToken) -> Node {
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        self.nodes.register(name.clone(), routes.routes());
        Node {
            started,
            shutdown,
            nodes: self.nodes.clone(),
            name,
            network: env.network,
        }
    }

    /// A node on a store in memory.
    pub fn start(&self, config: Config) -> Node {
        self.start_on("st1", config, Arc::new(MemoryStore::new()))
    }

    pub fn start_on(&self, name: &'static str, config: Config, store: Arc<dyn VersionStore>) -> Node {
        self.start_with(name, config, store, MemoryFiles::new())
    }

    /// A node with its checkpoint in these files.
    pub fn start_with(
        &self,
        name: &'static str,
        config: Config,
        store: Arc<dyn VersionStore>,
        files: MemoryFiles,
    ) -> Node {
        let (env, owners) = self.env(name);
        self.start_in_env(env, owners, config, store, files)
    }

    /// A node in which somebody steps in.
    pub fn start_at(
        &self,
        name: &'static str,
        config: Config,
        store: Arc<dyn VersionStore>,
        files: MemoryFiles,
        points: Arc<dyn FaultPoints>,
    ) -> Node {
        let (env, owners) = self.env(name);
        self.start_in_env(env.with_fault_points(points), owners, config, store, files)
    }

    fn start_in_env(
        &self,
        env: Env,
        owners: Owners,
        config: Config,
        store: Arc<dyn VersionStore>,
        files: MemoryFiles,
    ) -> Node {
        let shutdown = CancellationToken::new();
        let journals = vec!["j1".into(), "j2".into()];
        let started = meridian_storage::start_with_store(
            config,
            env.clone(),
            owners,
            journals,
            store,
            Arc::new(files),
            shutdown.clone(),
        );
        self.node(env.node.clone(), env, started.unwrap(), shutdown)
    }

    /// A node on the default engine in `dir`.
    pub async fn start_in(&self, name: &'static str, dir: &Path) -> Node {
        let config = Config {
            data_dir: dir.to_owned(),
            ..self.config()
        };
        self.try_start(name, config).await.unwrap()
    }

    /// A node on an engine where the configuration says, or why there is none.
    pub async fn try_start(&self, name: &'static str, config: Config) -> Result<Node, ServiceFailure> {
        let (env, owners) = self.env(name);
        let shutdown = CancellationToken::new();
        let journals = vec!["j1".into(), "j2".into()];
        let started = meridian_storage::start(config, env.clone(), owners, journals, shutdown.clone());
        Ok(self.node(name.into(), env, started.await?, shutdown))
    }

    /// Appends a committed transaction.
    pub fn commit(&self, timestamp: u64, writes: &[(&str, Option<&str>)]) {
        let writes = writes.iter().map(|(key, value)| WriteRecord {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        });
        let payload = WriteSet {
            writes: writes.collect(),
        }
        .encode_to_vec();
        self.append(Kind::Commit, timestamp, payload);
    }

    pub fn append(&self, kind: Kind, timestamp: u64, payload: Vec<u8>) {
        self.log.push(Fact::Entry(Entry {
            epoch: 1,
            lsn: self.log.last_lsn() + 1,
            kind: kind as i32,
            timestamp,
            txn: Bytes::new(),
            payload: payload.into(),
        }));
    }

    /// Closes range 1 through `x`, after everything appended so far.
    pub fn close(&self, x: u64) {
        self.log.push(Fact::Closed {
            range: 1,
            x,
            after: self.log.last_lsn(),
        });
    }
}

impl Node {
    /// Stops the node as a process would end it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.nodes.remove(&self.name);
        let Started { service, stopped } = self.started;
        drop(service);
        stopped.await.unwrap().unwrap();
    }

    pub fn figure(&self, name: &str) -> u64 {
        self.started.service.status().figures[name]
    }

    pub fn applied_lsn(&self) -> u64 {
        self.started
            .service
            .status()
            .applied
            .first()
            .map_or(0, |applied| applied.applied_lsn)
    }

    pub fn closed(&self) -> u64 {
        self.started
            .service
            .status()
            .applied
            .first()
            .map_or(0, |applied| applied.closed)
    }

    pub async fn reader(&self) -> Reader {
        let mut client = StorageClient::new(self.network.transport(&self.name));
        let (requests, queue) = mpsc::channel(64);
        let answers = client
            .read(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        Reader {
            requests,
            answers,
            got: BTreeMap::new(),
            next: 1,
        }
    }
}

/// A query processor's end of a read stream.
pub struct Reader {
    pub requests: mpsc::Sender<StorageReadBatch>,
    pub answers: Streaming<StorageReadReplyBatch>,
    got: BTreeMap<u64, Answer>,
    next: u64,
}

impl Reader {
    /// Sends reads in one batch; answers their ids.
    pub async fn send(&mut self, reads: Vec<StorageRead>) -> Vec<u64> {
        let mut ids = Vec::new();
        let reads = reads.into_iter().map(|read| {
            ids.push(self.next);
            self.next += 1;
            StorageRead {
                id: self.next - 1,
                ..read
            }
        });
        let reads = reads.collect();
        self.requests.send(StorageReadBatch { reads }).await.unwrap();
        ids
    }

    /// The answer to one read.
    pub async fn answer(&mut self, id: u64) -> Result<Answer, KvError> {
        while !self.got.contains_key(&id) {
            let batch = timeout(Duration::from_secs(10), self.answers.message())
                .await
                .expect("an answer in time");
            for reply in batch.unwrap().expect("the stream goes on").replies {
                self.got.insert(reply.id, reply.result.unwrap());
            }
        }
        match self.got.remove(&id).unwrap() {
            Answer::Error(error) => Err(KvError::from_proto(&error)),
            answer => Ok(answer),
        }
    }

    /// Whether the answer has not come after `wait`.
    pub async fn is_unanswered(&mut self, id: u64, wait: Duration) -> bool {
        timeout(wait, self.answer(id)).await.is_err()
    }

    pub async fn one(&mut self, read: StorageRead) -> Result<Answer, KvError> {
        let ids = self.send(vec![read]).await;
        self.answer(ids[0]).await
    }

    pub async fn get(&mut self, key: &str, at: u64) -> Result<Option<String>, KvError> {
        let answer = self.one(get(key, at)).await?;
        Ok(got(answer)
            .values
            .remove(0)
            .value
            .map(|value| String::from_utf8(value.to_vec()).unwrap()))
    }

    pub async fn scan(&mut self, at: u64, scan: ScanKeys) -> Result<ScannedPage, KvError> {
        let read = StorageRead {
            id: 0,
            at,
            timeout_ms: 5_000,
            read: Some(Read::Scan(scan)),
            trace: false,
        };
        match self.one(read).await? {
            Answer::Page(page) => Ok(page),
            other => panic!("{other:?}"),
        }
    }
}

pub fn get(key: &str, at: u64) -> StorageRead {
    let keys = vec![Bytes::copy_from_slice(key.as_bytes())];
    StorageRead {
        id: 0,
        at,
        timeout_ms: 5_000,
        read: Some(Read::Get(GetKeys { keys })),
        trace: false,
    }
}

pub fn got(answer: Answer) -> GotKeys {
    match answer {
        Answer::Got(got) => got,
        other => panic!("{other:?}"),
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(10), "in vain: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// The clock's `latest`.
pub fn latest(world: &World) -> u64 {
    world.clock.now().latest.0
}
