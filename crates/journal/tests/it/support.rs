//! Journal nodes in this process, and a small owner that appends to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::ManualClock;
use meridian_journal::files::{Files, MemoryFiles};
use meridian_journal::{Config, DiskIdentity, StartError, Writer, disk, start};
use meridian_rpc::guard::{Identity, guarded};
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::feed_event::Event;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::{
    AppendBatch, AppendReply, AppendReplyBatch, AppendRequest, Closure, Entry, FeedBatch, FeedRequest,
    FeedStart, FenceRequest, FenceResponse, Position, ReadRequest, ReplicaPosition, StateRequest,
    StreamState,
};
use meridian_rpc::{Env, LocalNodes, Network, Started, TcpDialer, Transport};
use meridian_types::{ClusterId, DiskId, NodeName, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::{Status, Streaming};
use uuid::Uuid;

pub const NOW: u64 = 1_000_000_000_000;
pub const STREAM: u64 = 1;

pub fn cluster_id() -> ClusterId {
    ClusterId(Uuid::from_u128(7))
}

pub fn disk_id(number: u128) -> DiskId {
    DiskId(Uuid::from_u128(number))
}

pub fn names() -> Vec<NodeName> {
    ["j1", "j2", "j3"].map(NodeName::from).to_vec()
}

pub fn small_config() -> Config {
    Config {
        segment_bytes: 16 << 10,
        writer: Writer::Task,
        ..Config::default()
    }
}

pub fn identity(node: &str, disk: u128) -> DiskIdentity {
    DiskIdentity {
        cluster: cluster_id(),
        node: node.into(),
        disk_id: disk_id(disk),
        rejoining: false,
    }
}

/// Memory files that are registered for a node.
pub fn registered(node: &str, disk: u128) -> MemoryFiles {
    let files = MemoryFiles::new();
    disk::initialise_in(&files, &identity(node, disk)).unwrap();
    files
}

/// The world that a test runs in: nodes call one another in process.
#[derive(Clone, Default)]
pub struct World {
    pub local: LocalNodes,
}

pub struct Node {
    pub started: Started,
    pub shutdown: CancellationToken,
}

impl World {
    pub fn env(&self, node: &str) -> Env {
        let identity = Identity {
            cluster: cluster_id(),
            node: node.into(),
        };
        let dialer = Arc::new(TcpDialer::new(BTreeMap::new()));
        let network = Network::new(&identity, self.local.clone(), dialer);
        let clock = Arc::new(ManualClock::new(Timestamp(NOW), Duration::from_millis(1)));
        Env::new(node.into(), "r1".to_owned(), clock, network, 1)
    }

    pub async fn try_start(
        &self,
        config: Config,
        node: &str,
        files: Arc<dyn Files>,
    ) -> Result<Node, StartError> {
        let shutdown = CancellationToken::new();
        let found = disk::load_from(&*files)?;
        let started = start(config, self.env(node), found, names(), files, shutdown.clone()).await?;
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        let identity = Identity {
            cluster: cluster_id(),
            node: node.into(),
        };
        self.local
            .register(node.into(), guarded(routes.routes(), identity));
        Ok(Node { started, shutdown })
    }

    pub async fn start(&self, node: &str, files: &MemoryFiles) -> Node {
        self.try_start(small_config(), node, Arc::new(files.clone()))
            .await
            .unwrap()
    }

    pub fn client(&self, node: &str) -> JournalClient<Transport> {
        JournalClient::new(self.env("owner").network.transport(&node.into()))
    }

    pub async fn fence(&self, node: &str, epoch: u64, owner: &str) -> FenceResponse {
        self.try_fence(node, epoch, owner).await.unwrap()
    }

    pub async fn try_fence(&self, node: &str, epoch: u64, owner: &str) -> Result<FenceResponse, Status> {
        let request = FenceRequest {
            stream: STREAM,
            epoch,
            owner: owner.to_owned(),
        };
        Ok(self.client(node).fence(request).await?.into_inner())
    }

    pub async fn state(&self, node: &str) -> StreamState {
        let request = StateRequest {
            streams: vec![STREAM],
        };
        self.client(node)
            .state(request)
            .await
            .unwrap()
            .into_inner()
            .streams
            .remove(0)
    }

    pub async fn read(&self, node: &str, request: ReadRequest) -> Result<Vec<Entry>, Status> {
        let mut stream = self.client(node).read(request).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(batch) = stream.message().await? {
            entries.extend(batch.entries);
        }
        Ok(entries)
    }

    pub async fn read_all(&self, node: &str) -> Vec<Entry> {
        let request = ReadRequest {
            stream: STREAM,
            ..ReadRequest::default()
        };
        self.read(node, request).await.unwrap()
    }

    pub async fn feed(&self, node: &str, after_lsn: u64) -> Feed {
        let stream = FeedStart {
            stream: STREAM,
            after_lsn,
        };
        let request = FeedRequest {
            subscriber: "s1".to_owned(),
            streams: vec![stream],
        };
        Feed {
            batches: self.client(node).feed(request).await.unwrap().into_inner(),
            events: Vec::new(),
        }
    }
}

impl Node {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.started.stopped.await.unwrap().unwrap();
    }
}

pub struct Feed {
    batches: Streaming<FeedBatch>,
    events: Vec<Event>,
}

impl Feed {
    pub async fn next(&mut self) -> Event {
        while self.events.is_empty() {
            let batch = tokio::time::timeout(Duration::from_secs(10), self.batches.message());
            let batch = batch
                .await
                .expect("the feed is silent")
                .unwrap()
                .expect("the feed ended");
            self.events = batch
                .events
                .into_iter()
                .map(|event| event.event.unwrap())
                .collect();
            self.events.reverse();
        }
        self.events.pop().unwrap()
    }

    pub async fn next_lsn(&mut self) -> u64 {
        match self.next().await {
            Event::Entry(entry) => entry.entry.unwrap().lsn,
            other => panic!("{other:?} before an entry"),
        }
    }

    pub async fn next_closure(&mut self) -> Closure {
        match self.next().await {
            Event::Closure(closure) => closure,
            other => panic!("{other:?} before a closure"),
        }
    }

    /// Whether nothing more will come.
    pub async fn is_over(&mut self) -> bool {
        let message = tokio::time::timeout(Duration::from_secs(10), self.batches.message());
        self.events.is_empty() && message.await.expect("the feed goes on").unwrap().is_none()
    }

    pub async fn is_silent(&mut self) -> bool {
        self.events.is_empty()
            && tokio::time::timeout(Duration::from_millis(30), self.batches.message())
                .await
                .is_err()
    }
}

/// One owner's append stream to one node.
pub struct Link {
    pub sender: mpsc::Sender<AppendBatch>,
    pub replies: Streaming<AppendReplyBatch>,
    owner: String,
}

impl Link {
    pub async fn open(mut client: JournalClient<Transport>, owner: &str) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let replies = client
            .append(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let owner = owner.to_owned();
        Self {
            sender,
            replies,
            owner,
        }
    }

    pub async fn send(&self, appends: Vec<AppendRequest>, closures: Vec<Closure>) {
        let batch = AppendBatch {
            owner: self.owner.clone(),
            appends,
            closures,
        };
        self.sender.send(batch).await.unwrap();
    }

    pub async fn replies(&mut self) -> Result<Vec<AppendReply>, Status> {
        let message = tokio::time::timeout(Duration::from_secs(10), self.replies.message());
        let message = message.await.expect("no reply");
        message.map(|batch| batch.map(|batch| batch.replies).unwrap_or_default())
    }

    pub async fn reply(&mut self) -> Reply {
        let mut replies = self.replies().await.unwrap();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0).result.unwrap()
    }

    pub async fn append(&mut self, append: AppendRequest) -> Reply {
        self.send(vec![append], Vec::new()).await;
        self.reply().await
    }
}

pub fn position(epoch: u64, lsn: u64) -> Position {
    Position { epoch, lsn }
}

pub fn matched(epoch: u64, lsn: u64) -> Reply {
    Reply::Matched(position(epoch, lsn))
}

pub fn commit(epoch: u64, lsn: u64, payload: &[u8]) -> Entry {
    Entry {
        epoch,
        lsn,
        kind: Kind::Commit.into(),
        timestamp: NOW + lsn,
        txn: Bytes::from(vec![u8::try_from(lsn % 256).unwrap(); 16]),
        payload: Bytes::copy_from_slice(payload),
    }
}

pub fn opened(epoch: u64, lsn: u64) -> Entry {
    Entry {
        epoch,
        lsn,
        kind: Kind::Opened.into(),
        timestamp: NOW + 1_000_000,
        txn: Bytes::new(),
        payload: Bytes::from_static(b"lease"),
    }
}

/// An append of these entries, which follow `prev`; all replicas have acknowledged up to `acked`.
pub fn append(epoch: u64, prev: (u64, u64), entries: Vec<Entry>, acked: u64) -> AppendRequest {
    let acked = names().into_iter().map(|name| ReplicaPosition {
        node: name.0,
        lsn: acked,
    });
    AppendRequest {
        base: None,
        stream: STREAM,
        epoch,
        prev: Some(position(prev.0, prev.1)),
        entries,
        acked: acked.collect(),
        ..AppendRequest::default()
    }
}

pub fn closure(x: u64, after_lsn: u64) -> Closure {
    Closure {
        range: 1,
        epoch: 1,
        closed: x,
        after: vec![meridian_rpc::internal::StreamLsn {
            stream: STREAM,
            lsn: after_lsn,
        }],
    }
}
