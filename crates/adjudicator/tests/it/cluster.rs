//! Three journal nodes, some adjudicators, and a query processor's side of the Decide stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use meridian_adjudicator::Config;
use meridian_clock::{Clock, Interval, Timestamp};
use meridian_rpc::committed::CommittedWatch;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::*;
use meridian_rpc::v1::OwnedRangeStatus;
use meridian_rpc::{Dialer, Env, Identity, LocalNodes, Network, Started, Transport};
use meridian_types::{Attempt, ClusterId, Epoch, Key, KeyRange, NodeName, RangeMap, StreamId, TxnId};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use uuid::Uuid;

use super::fake_journal::FakeJournal;

pub const STREAM: u64 = 1;
pub const CLOCK_BOUND: Duration = Duration::from_millis(1);
/// Any time after 1970.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000_000_000);

/// Simulated time as a clock; it can stand still, as in a process that is paused.
pub struct SimClock {
    started: Instant,
    frozen: Mutex<Option<Timestamp>>,
}

impl SimClock {
    pub fn freeze(&self) {
        let now = self.reading();
        *self.frozen.lock().unwrap() = Some(now);
    }

    fn reading(&self) -> Timestamp {
        let frozen = *self.frozen.lock().unwrap();
        frozen.unwrap_or_else(|| EPOCH.saturating_add(self.started.elapsed()))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Interval {
        let reading = self.reading();
        Interval {
            earliest: reading.saturating_sub(CLOCK_BOUND),
            latest: reading.saturating_add(CLOCK_BOUND),
        }
    }

    fn max_error(&self) -> Duration {
        Duration::from_millis(250)
    }
}

struct NoDialer;

impl Dialer for NoDialer {
    fn dial(&self, _: &NodeName) -> Option<Channel> {
        None
    }
}

pub struct Adjudicator {
    pub started: Started,
    pub shutdown: CancellationToken,
    pub clock: Arc<SimClock>,
}

pub struct Cluster {
    pub local: LocalNodes,
    pub journals: Vec<FakeJournal>,
    names: Vec<NodeName>,
    started: Instant,
    map: watch::Sender<Arc<RangeMap>>,
    pub adjudicators: BTreeMap<String, Adjudicator>,
    network: Network,
    txns: u128,
    pub config: Config,
}

impl Cluster {
    /// Three journal nodes and these adjudicators.
    pub async fn start(adjudicators: &[&str]) -> Self {
        Self::start_with(adjudicators, Config::default()).await
    }

    pub async fn start_with(adjudicators: &[&str], config: Config) -> Self {
        let candidates = adjudicators.iter().map(|name| NodeName::from(*name)).collect();
        Self::start_on(RangeMap::single(candidates), adjudicators, config).await
    }

    async fn start_on(map: RangeMap, adjudicators: &[&str], config: Config) -> Self {
        let names: Vec<NodeName> = ["j1", "j2", "j3"].map(NodeName::from).to_vec();
        let journals: Vec<FakeJournal> = (0..3)
            .map(|index| FakeJournal::new(index, names.clone()))
            .collect();
        let mut cluster = Self::bare(names, adjudicators, config);
        cluster.map.send_replace(Arc::new(map));
        for journal in &journals {
            cluster.local.register(journal.name(), journal.routes());
        }
        cluster.journals = journals;
        for name in adjudicators {
            cluster.start_adjudicator(name).await;
        }
        cluster
    }

    /// Two ranges: keys before "m" are preferably owned by the first adjudicator, the others by the second.
    pub async fn start_two_ranges(adjudicators: [&str; 2], config: Config) -> Self {
        let names: Vec<NodeName> = adjudicators.map(NodeName::from).to_vec();
        let order = |range: usize| {
            let mut names = names.clone();
            names.rotate_left(range);
            names
        };
        let map = RangeMap::divided([Key::from("m")], order);
        Self::start_on(map, &adjudicators, config).await
    }

    /// Nothing runs yet.
    pub fn bare(names: Vec<NodeName>, adjudicators: &[&str], config: Config) -> Self {
        let local = LocalNodes::default();
        let candidates = adjudicators.iter().map(|name| NodeName::from(*name)).collect();
        let map = watch::Sender::new(Arc::new(RangeMap::single(candidates)));
        let network = Network::new(&identity("client"), local.clone(), Arc::new(NoDialer));
        Self {
            local,
            journals: Vec::new(),
            names,
            started: Instant::now(),
            map,
            adjudicators: BTreeMap::new(),
            network,
            txns: 0,
            config,
        }
    }

    /// The world of a node with a clock of its own.
    pub fn env(&self, name: &str) -> (Env, Arc<SimClock>) {
        let clock = Arc::new(SimClock {
            started: self.started,
            frozen: Mutex::default(),
        });
        let network = Network::new(&identity(name), self.local.clone(), Arc::new(NoDialer));
        let seed = name.bytes().map(u64::from).sum();
        (
            Env::new(name.into(), "r1".to_owned(), clock.clone(), network, seed),
            clock,
        )
    }

    pub async fn start_adjudicator(&mut self, name: &str) {
        let (env, clock) = self.env(name);
        let shutdown = CancellationToken::new();
        let (map, journals) = (self.map.subscribe(), self.names.clone());
        let committed = CommittedWatch::start(&env, journals.clone(), shutdown.clone());
        let config = self.config.clone();
        let started = meridian_adjudicator::start(config, env, map, journals, committed, shutdown.clone())
            .await
            .unwrap();
        let mut routes = RoutesBuilder::default();
        started.service.register(&mut routes);
        self.local.register(name.into(), routes.routes());
        self.adjudicators.insert(
            name.to_owned(),
            Adjudicator {
                started,
                shutdown,
                clock,
            },
        );
        // Time for the connections to the journal.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// What may happen to the journal in a run of random faults, by a number below 5: a node holds up what `name` sends, all are let go, one
    /// dies unless one is `down`, or that one comes back. Whether anything was to happen.
    pub fn journal_fault(&self, fault: u32, journal: usize, name: &str, down: &mut Option<usize>) -> bool {
        match fault {
            0 => self.journals[journal].hold(name),
            1 | 2 => self.journals.iter().for_each(|journal| journal.let_go()),
            3 if down.is_none() => {
                self.journals[journal].kill();
                *down = Some(journal);
            }
            4 => {
                if let Some(journal) = down.take() {
                    self.journals[journal].restart();
                }
            }
            _ => return false,
        }
        true
    }

    /// kill -9: no handover, and its connections break.
    pub async fn kill(&mut self, name: &str) {
        let adjudicator = self.adjudicators.remove(name).unwrap();
        self.local.remove(&name.into());
        adjudicator.started.stopped.abort();
        for journal in &self.journals {
            journal.forget_connections_of(name);
        }
    }

    /// A clean end.
    pub async fn stop(&mut self, name: &str) {
        let adjudicator = self.adjudicators.remove(name).unwrap();
        adjudicator.shutdown.cancel();
        adjudicator.started.stopped.await.unwrap().unwrap();
        self.local.remove(&name.into());
    }

    pub fn client(&self, name: &str) -> AdjudicatorClient<Transport> {
        AdjudicatorClient::new(self.network.transport(&name.into()))
    }

    /// From now on the adjudicators see the range map of the meta stream.
    pub fn follow_map(&self) {
        let (env, _) = self.env("follower");
        meridian_rpc::meta::follow(&env, &self.names, &self.map, &CancellationToken::new());
    }

    /// As if no newer version of the range map had arrived.
    pub fn set_map_version(&self, version: u64) {
        self.map.send_modify(|map| Arc::make_mut(map).version = version);
    }

    /// The range map that the adjudicators see.
    pub fn map(&self) -> Arc<RangeMap> {
        self.map.borrow().clone()
    }

    pub fn journal(&self, name: &str) -> journal_client::JournalClient<Transport> {
        journal_client::JournalClient::new(self.network.transport(&name.into()))
    }

    /// Asks a node to change the range map.
    pub async fn change_once(&self, name: &str, request: ChangeRequest) -> ChangeResponse {
        let mut client = meta_client::MetaClient::new(self.network.transport(&name.into()));
        client.change(request).await.unwrap().into_inner()
    }

    /// Asks a node to change the range map, until it says something.
    pub async fn change(&self, name: &str, change: change_request::Change) -> ChangeResponse {
        let request = ChangeRequest {
            change: Some(change),
            ..ChangeRequest::default()
        };
        for _ in 0..100 {
            let answer = self.change_once(name, request.clone()).await;
            if answer != ChangeResponse::default() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} does not change the map");
    }

    /// The range map that the adjudicators see from now on.
    pub fn keep_only_keys_before(&self, end: &str) {
        self.map.send_modify(|map| {
            let mut smaller = RangeMap::clone(map);
            smaller.version += 1;
            smaller.entries[0].keys = KeyRange::new(Key::default(), Key::from(end));
            *map = Arc::new(smaller);
        });
    }

    pub fn now(&self) -> Timestamp {
        EPOCH
            .saturating_add(self.started.elapsed())
            .saturating_add(CLOCK_BOUND)
    }

    pub fn new_txn(&mut self) -> TxnId {
        self.txns += 1;
        TxnId(Uuid::from_u128(self.txns))
    }

    /// The owner by `name`'s word, asking until there is one.
    pub async fn locate(&self, name: &str) -> (String, u64) {
        self.locate_stream(name, STREAM).await
    }

    pub async fn locate_stream(&self, name: &str, stream: u64) -> (String, u64) {
        for _ in 0..100 {
            let request = LocateRequest {
                stream,
                passive: false,
            };
            let answer = self.client(name).locate(request).await.unwrap().into_inner();
            if !answer.owner.is_empty() {
                return (answer.owner, answer.epoch);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name} finds no owner");
    }

    /// Locates at `name`, which must become (or be) the owner, and opens a Decide stream to it.
    pub async fn decider(&self, name: &str) -> Decider {
        let (owner, epoch) = self.locate(name).await;
        assert_eq!(owner, name);
        self.open(name, epoch).await
    }

    /// A Decide stream to an owner that is known.
    pub async fn open(&self, name: &str, epoch: u64) -> Decider {
        Decider::open(self.client(name), epoch, self.started).await
    }

    /// Like [`Self::decider`], for another stream than the first.
    pub async fn decider_of(&self, name: &str, stream: u64) -> Decider {
        let (owner, epoch) = self.locate_stream(name, stream).await;
        assert_eq!(owner, name, "the owner of stream {stream}");
        self.open(name, epoch).await
    }

    pub async fn outcome(&self, name: &str, txn: TxnId, start: Timestamp) -> OutcomeAnswer {
        let query = OutcomeQuery {
            txn: txn.to_bytes(),
            start: start.0,
            stream: STREAM,
            home_unknown: false,
        };
        for _ in 0..100 {
            let answer = self
                .client(name)
                .outcome(query.clone())
                .await
                .unwrap()
                .into_inner();
            if answer.outcome() != Outcome::Pending {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the outcome stays pending");
    }

    pub async fn close_through(&self, name: &str, timestamp: Timestamp) -> CloseThroughResponse {
        self.close_for_reader(name, timestamp, "j1").await
    }

    /// A reader that follows this journal node's feed asks.
    pub async fn close_for_reader(
        &self,
        name: &str,
        timestamp: Timestamp,
        journal: &str,
    ) -> CloseThroughResponse {
        let request = CloseThroughRequest {
            stream: STREAM,
            timestamp: timestamp.0,
            journal: journal.to_owned(),
        };
        self.close(name, request).await
    }

    pub async fn close(&self, name: &str, request: CloseThroughRequest) -> CloseThroughResponse {
        self.client(name)
            .close_through(request)
            .await
            .unwrap()
            .into_inner()
    }

    pub fn status(&self, name: &str) -> OwnedRangeStatus {
        self.adjudicators[name].started.service.status().ranges.remove(0)
    }

    /// Waits (in simulated time) until it is so.
    pub async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came to be that {what}");
    }
}

pub const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(7));

fn identity(name: &str) -> Identity {
    Identity {
        cluster: CLUSTER,
        node: name.into(),
    }
}

/// A transaction to commit.
#[derive(Clone)]
pub struct Txn {
    pub id: TxnId,
    pub number: u32,
    pub start: Timestamp,
    pub writes: Vec<(&'static str, Bytes)>,
    pub reads: Vec<KeyRange>,
    pub timeout_ms: u64,
    /// The stream of its range.
    pub home: u64,
}

impl Txn {
    pub fn writing(id: TxnId, start: Timestamp, key: &'static str) -> Self {
        Self {
            id,
            number: 1,
            start,
            writes: vec![(key, Bytes::from_static(b"value"))],
            reads: Vec::new(),
            timeout_ms: 0,
            home: STREAM,
        }
    }

    pub fn reading(mut self, key: &str) -> Self {
        self.reads.push(KeyRange::point(Key::from(key)));
        self
    }

    pub fn attempt(&self, epoch: u64) -> Attempt {
        Attempt {
            txn: self.id,
            number: self.number,
            home: StreamId(self.home),
            home_epoch: Epoch(epoch),
        }
    }
}

/// A query processor's Decide stream to one adjudicator.
pub struct Decider {
    pub epoch: u64,
    requests: mpsc::Sender<DecideBatch>,
    answers: Streaming<DecisionBatch>,
    ready: BTreeMap<u64, decision::Result>,
    /// What was told to be decided before it was committed.
    pub decided: BTreeMap<u64, Decided>,
    next: u64,
    started: Instant,
}

impl Decider {
    async fn open(mut client: AdjudicatorClient<Transport>, epoch: u64, started: Instant) -> Self {
        let (requests, queue) = mpsc::channel(64);
        let answers = client
            .decide(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        Self {
            epoch,
            requests,
            answers,
            ready: BTreeMap::new(),
            decided: BTreeMap::new(),
            next: 0,
            started,
        }
    }

    pub async fn send(&mut self, txn: &Txn) -> u64 {
        self.next += 1;
        let record = |(key, value): &(&'static str, Bytes)| WriteRecord {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(value.clone()),
        };
        let writes = WriteSet {
            writes: txn.writes.iter().map(record).collect(),
        };
        let request = DecideRequest {
            id: self.next,
            attempt: Some(txn.attempt(self.epoch).into()),
            start: txn.start.0,
            write_set: writes.encode_to_vec().into(),
            reads: txn.reads.iter().cloned().map(Into::into).collect(),
            timeout_ms: txn.timeout_ms,
            participants: Vec::new(),
            trace: false,
        };
        let requests = vec![request];
        self.requests
            .send(DecideBatch {
                requests,
                ..DecideBatch::default()
            })
            .await
            .unwrap();
        self.next
    }

    pub async fn answer(&mut self, id: u64) -> decision::Result {
        loop {
            if let Some(result) = self.ready.remove(&id) {
                if let decision::Result::Committed(committed) = &result {
                    self.wait_until_past(committed.commit).await;
                }
                return result;
            }
            let batch = self.answers.message().await.unwrap().expect("the stream ended");
            self.take(batch);
        }
    }

    fn take(&mut self, batch: DecisionBatch) {
        for decision in batch.decisions {
            match decision.result.unwrap() {
                decision::Result::Decided(decided) => drop(self.decided.insert(decision.id, decided)),
                result => drop(self.ready.insert(decision.id, result)),
            }
        }
    }

    /// Sends a part of an attempt across ranges.
    pub async fn send_part(&mut self, batch: impl FnOnce(u64) -> DecideBatch) -> u64 {
        self.next += 1;
        self.requests.send(batch(self.next)).await.unwrap();
        self.next
    }

    /// R3, the query processor's part.
    async fn wait_until_past(&self, commit: u64) {
        let past = Timestamp(commit).saturating_add(CLOCK_BOUND).since(EPOCH);
        tokio::time::sleep_until(self.started + past + Duration::from_millis(1)).await;
    }

    /// `None`: the connection ended first.
    pub async fn try_decide(&mut self, txn: &Txn) -> Option<decision::Result> {
        let id = self.send(txn).await;
        self.try_answer(id).await
    }

    /// `None`: the connection ended first.
    pub async fn try_answer(&mut self, id: u64) -> Option<decision::Result> {
        loop {
            if let Some(result) = self.ready.remove(&id) {
                return Some(result);
            }
            let batch = self.answers.message().await.ok()??;
            self.take(batch);
        }
    }

    pub async fn decide(&mut self, txn: &Txn) -> decision::Result {
        let id = self.send(txn).await;
        self.answer(id).await
    }

    pub async fn commit(&mut self, txn: &Txn) -> Committed {
        match self.decide(txn).await {
            decision::Result::Committed(committed) => committed,
            other => panic!("not committed: {other:?}"),
        }
    }

    pub async fn refusal(&mut self, txn: &Txn) -> (Reason, Refused) {
        match self.decide(txn).await {
            decision::Result::Refused(refused) => (refused.reason(), refused),
            other => panic!("not refused: {other:?}"),
        }
    }
}
