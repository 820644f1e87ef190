//! A journal node in memory: the real `ReplicaLog` for every decision, and switches for what can go wrong.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{Stream, StreamExt};
use meridian_protocol::fencing::{AppendDecision, FenceRefusal, ReplicaLog};
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::journal_server::{Journal, JournalServer};
use meridian_rpc::internal::*;
use meridian_rpc::internal::{CheckpointedRequest, CheckpointedResponse};
use meridian_types::{DiskId, Epoch, Lsn, NodeName, Position, limits};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

const TOO_MANY_READS: u64 = 5_000;

#[derive(Default)]
pub struct Log {
    pub replica: ReplicaLog,
    pub entries: Vec<Entry>,
    pub owner: String,
    pub heard: Option<Instant>,
    acked: (Epoch, Vec<Lsn>),
}

struct Inner {
    disk: DiskId,
    is_rejoining: bool,
    logs: BTreeMap<u64, Log>,
    connected: BTreeMap<String, usize>,
    closures: Vec<Closure>,
    delay: Duration,
    appends: u64,
    reads: u64,
    life: CancellationToken,
}

/// Clones are the same node.
#[derive(Clone)]
pub struct FakeJournal {
    index: usize,
    names: Vec<NodeName>,
    inner: Arc<Mutex<Inner>>,
    /// Owners whose calls are held back for now.
    held: watch::Sender<Vec<String>>,
    /// Changes whenever more is committed.
    committed: watch::Sender<()>,
}

fn disk(number: u128) -> DiskId {
    DiskId(Uuid::from_u128(number))
}

impl FakeJournal {
    pub fn new(index: usize, names: Vec<NodeName>) -> Self {
        let inner = Inner {
            disk: disk(index as u128 + 1),
            is_rejoining: false,
            logs: BTreeMap::new(),
            connected: BTreeMap::new(),
            closures: Vec::new(),
            delay: Duration::ZERO,
            appends: 0,
            reads: 0,
            life: CancellationToken::new(),
        };
        Self {
            index,
            names,
            inner: Arc::new(Mutex::new(inner)),
            held: watch::Sender::new(Vec::new()),
            committed: watch::Sender::new(()),
        }
    }

    pub fn name(&self) -> NodeName {
        self.names[self.index].clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn routes(&self) -> Routes {
        let mut routes = RoutesBuilder::default();
        let server = JournalServer::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        routes.add_service(server);
        routes.routes()
    }

    /// The process dies; what it holds is on its disk.
    pub fn kill(&self) {
        let mut inner = self.lock();
        inner.life.cancel();
        inner.connected.clear();
    }

    pub fn restart(&self) {
        let mut inner = self.lock();
        inner.life = CancellationToken::new();
        for log in inner.logs.values_mut() {
            let mut replica = ReplicaLog::new();
            replica.on_recovered_promise(log.replica.promised(), None);
            for entry in &log.entries {
                replica
                    .on_recovered_entry(Position::new(entry.epoch, entry.lsn))
                    .unwrap();
            }
            log.replica = replica;
        }
    }

    /// The process comes back with an empty disk.
    pub fn restart_with_new_disk(&self) {
        let mut inner = self.lock();
        inner.life = CancellationToken::new();
        inner.disk = disk(inner.disk.0.as_u128() + 100);
        inner.is_rejoining = true;
        inner.logs.clear();
    }

    /// How long a sync takes.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// An adjudicator died: its connections end.
    pub fn forget_connections_of(&self, owner: &str) {
        self.lock().connected.remove(owner);
    }

    /// Holds back every call of this adjudicator until told otherwise.
    pub fn hold(&self, owner: &str) {
        self.held.send_modify(|held| held.push(owner.to_owned()));
    }

    pub fn let_go(&self) {
        self.held.send_modify(Vec::clear);
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries_of(1)
    }

    pub fn entries_of(&self, stream: u64) -> Vec<Entry> {
        let inner = self.lock();
        let log = inner.logs.get(&stream);
        log.map(|log| log.entries.clone()).unwrap_or_default()
    }

    /// The last closure of a range that arrived here.
    pub fn closure_of(&self, range: u64) -> Option<Closure> {
        let inner = self.lock();
        let of_range = inner.closures.iter().rev();
        of_range.clone().find(|closure| closure.range == range).cloned()
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.entries().iter().filter(|entry| entry.kind() == kind).count()
    }

    pub fn committed(&self) -> Lsn {
        self.lock()
            .logs
            .get(&1)
            .map(|log| log.replica.committed())
            .unwrap_or_default()
    }

    pub fn last(&self) -> Position {
        self.lock()
            .logs
            .get(&1)
            .map(|log| log.replica.last())
            .unwrap_or_default()
    }

    pub fn promised(&self) -> Epoch {
        self.lock()
            .logs
            .get(&1)
            .map(|log| log.replica.promised())
            .unwrap_or_default()
    }

    pub fn is_rejoining(&self) -> bool {
        self.lock().is_rejoining
    }

    pub fn closures(&self) -> Vec<Closure> {
        self.lock().closures.clone()
    }

    pub fn appends(&self) -> u64 {
        self.lock().appends
    }

    pub fn reads(&self) -> u64 {
        self.lock().reads
    }

    /// A fence that only this node hears of.
    pub fn promise(&self, epoch: u64, owner: &str) {
        let mut inner = self.lock();
        let log = inner.logs.entry(1).or_default();
        log.replica.on_fence(Epoch(epoch), owner.into()).unwrap();
        log.owner = owner.to_owned();
    }

    async fn wait_while_held(&self, owner: &str) {
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held.iter().any(|name| name == owner)).await;
    }

    fn check_alive(&self) -> Result<CancellationToken, Status> {
        let life = self.lock().life.clone();
        if life.is_cancelled() {
            return Err(Status::unavailable("killed"));
        }
        Ok(life)
    }

    fn append_one(&self, owner: &str, append: AppendRequest) -> AppendReply {
        let mut inner = self.lock();
        inner.appends += 1;
        let (disk, is_rejoining) = (inner.disk, inner.is_rejoining);
        let log = inner.logs.entry(append.stream).or_insert_with(|| Log {
            replica: if is_rejoining {
                ReplicaLog::rejoining(disk)
            } else {
                ReplicaLog::new()
            },
            ..Log::default()
        });
        let epoch = Epoch(append.epoch);
        let positions: Vec<Position> = append
            .entries
            .iter()
            .map(|entry| Position::new(entry.epoch, entry.lsn))
            .collect();
        let prev = append.prev.map_or(Position::START, Position::from);
        let rejoin = DiskId::from_slice(&append.rejoin_disk_id);
        let mut rejoined_now = false;
        let result = match log.replica.on_append(epoch, prev, &positions, rejoin) {
            AppendDecision::Refused { promised } => Reply::RefusedByEpoch(promised.0),
            AppendDecision::Mismatch { last } => Reply::Mismatch(last.into()),
            AppendDecision::Rejoining { disk } => Reply::RejoinDiskId(disk.to_bytes()),
            AppendDecision::Malformed => panic!("a malformed append: {positions:?} after {prev}"),
            AppendDecision::CutsCommitted { committed, at } => panic!("I7: {at} cuts {committed}"),
            AppendDecision::Accepted {
                skip,
                cut_to,
                matched,
                rejoined,
                ..
            } => {
                if let Some(lsn) = cut_to {
                    log.entries.truncate(lsn.0 as usize);
                }
                log.entries.extend(append.entries.into_iter().skip(skip));
                assert_eq!(log.entries.len() as u64, log.replica.last().lsn.0);
                log.owner = owner.to_owned();
                log.heard = Some(Instant::now());
                let of = |name: &NodeName| append.acked.iter().find(|acked| acked.node == name.0);
                let acked = self
                    .names
                    .iter()
                    .map(|name| Lsn(of(name).map_or(0, |acked| acked.lsn)))
                    .collect();
                log.acked = (epoch, acked);
                log.replica.on_persisted(epoch, matched);
                log.replica
                    .on_acked(epoch, &log.acked.1, self.index, self.names.len() / 2 + 1);
                rejoined_now = rejoined;
                Reply::Matched(matched.into())
            }
        };
        if rejoined_now {
            inner.is_rejoining = false;
        }
        AppendReply {
            stream: append.stream,
            epoch: append.epoch,
            result: Some(result),
        }
    }

    async fn receive(
        self,
        mut input: Streaming<AppendBatch>,
        replies: mpsc::Sender<Result<AppendReplyBatch, Status>>,
        life: CancellationToken,
    ) {
        let mut owner = String::new();
        loop {
            let message = tokio::select! {
                biased;
                () = life.cancelled() => break,
                () = replies.closed() => break,
                message = input.message() => message,
            };
            let Ok(Some(batch)) = message else { break };
            if owner.is_empty() {
                owner.clone_from(&batch.owner);
                *self.lock().connected.entry(owner.clone()).or_default() += 1;
            }
            let delay = self.lock().delay;
            tokio::select! {
                biased;
                () = life.cancelled() => break,
                () = async {
                    self.wait_while_held(&owner).await;
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                } => {}
            }
            let answers: Vec<AppendReply> = batch
                .appends
                .into_iter()
                .map(|append| self.append_one(&owner, append))
                .collect();
            self.lock().closures.extend(batch.closures);
            self.committed.send_replace(());
            if !answers.is_empty()
                && replies
                    .send(Ok(AppendReplyBatch { replies: answers }))
                    .await
                    .is_err()
            {
                break;
            }
        }
        if let Some(count) = self.lock().connected.get_mut(&owner) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whenever more is committed, all of what is.
    async fn tell_committed(self, news: mpsc::Sender<Result<WatchBatch, Status>>, life: CancellationToken) {
        let mut changes = self.committed.subscribe();
        loop {
            let committed = self.committed_positions();
            if news.send(Ok(WatchBatch { committed })).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                () = life.cancelled() => return,
                () = news.closed() => return,
                changed = changes.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    fn committed_positions(&self) -> Vec<CommittedPosition> {
        let inner = self.lock();
        let position = |(stream, log): (&u64, &Log)| {
            let lsn = log.replica.committed().0;
            let entry = log.entries.get(usize::try_from(lsn).unwrap().checked_sub(1)?)?;
            Some(CommittedPosition {
                stream: *stream,
                position: Some(Position::new(entry.epoch, lsn).into()),
            })
        };
        inner.logs.iter().filter_map(position).collect()
    }

    fn stream_state(inner: &Inner, stream: u64) -> StreamState {
        let unseen = Log::default();
        let log = inner.logs.get(&stream).unwrap_or(&unseen);
        let (lease_end, last_commit, released_floor) = summary(&log.entries);
        let connected = inner.connected.get(&log.owner).is_some_and(|count| *count > 0);
        let silent = log.heard.map_or(u64::MAX, |at| at.elapsed().as_millis() as u64);
        StreamState {
            stream,
            promised: log.replica.promised().0,
            owner: log.owner.clone(),
            last: Some(log.replica.last().into()),
            committed_lsn: log.replica.committed().0,
            lease_end,
            last_commit,
            released_floor,
            owner_connected: connected,
            owner_silent_ms: silent,
            ..StreamState::default()
        }
    }
}

/// The highest lease_end, the highest commit, and the floor of a `Released` at the end.
fn summary(entries: &[Entry]) -> (u64, u64, u64) {
    let highest = |kinds: &[Kind]| {
        let of = entries.iter().filter(|entry| kinds.contains(&entry.kind()));
        of.map(|entry| entry.timestamp).max().unwrap_or_default()
    };
    let released = entries.last().filter(|entry| entry.kind() == Kind::Released);
    (
        highest(&[Kind::Lease, Kind::Opened]),
        highest(&[Kind::Commit]),
        released.map_or(0, |entry| entry.timestamp),
    )
}

#[tonic::async_trait]
impl Journal for FakeJournal {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<AppendReplyBatch, Status>> + Send>>;
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;
    type FeedStream = Pin<Box<dyn Stream<Item = Result<FeedBatch, Status>> + Send>>;

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        self.check_alive()?;
        let request = request.into_inner();
        self.wait_while_held(&request.owner).await;
        let mut inner = self.lock();
        let disk_id = inner.disk.to_bytes();
        if inner.is_rejoining {
            return Ok(Response::new(FenceResponse {
                rejoining: true,
                disk_id,
                ..FenceResponse::default()
            }));
        }
        let log = inner.logs.entry(request.stream).or_default();
        let (lease_end, last_commit, released_floor) = summary(&log.entries);
        Ok(Response::new(
            match log
                .replica
                .on_fence(Epoch(request.epoch), NodeName(request.owner.clone()))
            {
                Err(FenceRefusal::Promised { promised }) => FenceResponse {
                    refused_by_epoch: promised.0,
                    disk_id,
                    ..FenceResponse::default()
                },
                Err(FenceRefusal::Rejoining { .. }) => unreachable!("handled above"),
                Ok(answer) => {
                    log.owner = request.owner;
                    log.heard = Some(Instant::now());
                    FenceResponse {
                        disk_id,
                        last: Some(answer.last.into()),
                        committed_lsn: answer.committed.0,
                        last_commit,
                        lease_end,
                        released_floor,
                        ..FenceResponse::default()
                    }
                }
            },
        ))
    }

    async fn state(&self, request: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        self.check_alive()?;
        let inner = self.lock();
        let streams = request.into_inner().streams;
        Ok(Response::new(StateResponse {
            disk_id: inner.disk.to_bytes(),
            rejoining: inner.is_rejoining,
            streams: streams
                .into_iter()
                .map(|stream| Self::stream_state(&inner, stream))
                .collect(),
            ..StateResponse::default()
        }))
    }

    async fn append(
        &self,
        request: Request<Streaming<AppendBatch>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let life = self.check_alive()?;
        let (replies, output) = mpsc::channel(1_024);
        tokio::spawn(self.clone().receive(request.into_inner(), replies, life));
        Ok(Response::new(Box::pin(ReceiverStream::new(output))))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.check_alive()?;
        let request = request.into_inner();
        let mut inner = self.lock();
        inner.reads += 1;
        if inner.reads > TOO_MANY_READS {
            // Whoever reads without a pause would keep simulated time from passing.
            return Err(Status::unavailable("read far too often"));
        }
        let entries = inner
            .logs
            .get(&request.stream)
            .map(|log| log.entries.as_slice())
            .unwrap_or_default();
        let to = request.to.unwrap_or_default();
        if entries
            .get(to.lsn as usize - 1)
            .is_none_or(|entry| entry.epoch != to.epoch)
        {
            return Err(Status::failed_precondition("the log does not hold that entry"));
        }
        let wanted = &entries[request.from_lsn as usize - 1..to.lsn as usize];
        let strip = |entry: &Entry| {
            let mut entry = entry.clone();
            if request.headers_only {
                entry.payload.clear();
            }
            entry
        };
        let messages: Vec<_> = wanted
            .chunks(100)
            .map(|chunk| {
                Ok(ReadResponse {
                    entries: chunk.iter().map(strip).collect(),
                    base: None,
                })
            })
            .collect();
        Ok(Response::new(futures::stream::iter(messages).boxed()))
    }

    async fn feed(&self, _: Request<FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        Err(Status::unimplemented("nobody subscribes here"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBatch, Status>> + Send>>;

    async fn checkpointed(
        &self,
        _: Request<CheckpointedRequest>,
    ) -> Result<Response<CheckpointedResponse>, Status> {
        Err(Status::unimplemented("not trimmed"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let life = self.check_alive()?;
        let (news, output) = mpsc::channel(16);
        tokio::spawn(self.clone().tell_committed(news, life));
        Ok(Response::new(Box::pin(ReceiverStream::new(output))))
    }
}
