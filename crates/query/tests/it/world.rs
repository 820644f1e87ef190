//! The stand-ins: one adjudicator that decides with the real protocol, storage nodes over the same versions,
//! and scripts for what goes wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_clock::SharedClock;
use meridian_protocol::adjudication::{
    Adjudication, AdjudicationLimits, CommitRequest, Decision, Opening, OutcomeAnswer as Answer, Refusal,
};
use meridian_rpc::KvError;
use meridian_rpc::internal::adjudicator_server::Adjudicator;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::storage_server::Storage;
use meridian_rpc::internal::{
    AttemptQuery, CloseThroughRequest, CloseThroughResponse, ClosedAnswer, Committed, DecideBatch,
    DecideRequest, Decision as Reply, DecisionBatch, GetKeys, GotKeys, LocateRequest, LocateResponse,
    OutcomeAnswer, OutcomeQuery, Refused, ScanKeys, ScannedPage, StorageRead, StorageReadBatch,
    StorageReadReply, StorageReadReplyBatch, Unknown, WriteSet, decision, refused::Reason, storage_read,
    storage_read_reply,
};
use meridian_rpc::v1::predicate::Op;
use meridian_rpc::v1::{self, GetResponse, Row};
use meridian_types::{Attempt, CommitToken, Epoch, Key, KeyRange, Lsn, RangeId, StreamId, Timestamp};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// What the adjudicator does with the next commit attempt.
#[derive(Clone, Debug)]
pub enum Script {
    /// Decides it, and breaks the stream instead of answering.
    LoseReply,
    /// Breaks the stream without looking at it.
    LoseRequest,
    /// Refuses it.
    Refuse(Reason),
    /// Refuses it, and then decides another copy of it.
    RefuseAndDecide(Reason),
    /// Refuses it because a new owner has opened.
    NewEpoch,
    /// Decides it, and says that it was deposed meanwhile.
    Unknown,
    /// Neither decides nor answers.
    Silent,
    /// Decides it after a while.
    Slow(Duration),
}

/// What a storage node does with the next read.
#[derive(Clone, Copy, Debug)]
pub enum ReadScript {
    Break,
    Unavailable,
    Slow(Duration),
    TooOld,
}

pub struct Core {
    pub adjudication: Adjudication,
    pub versions: BTreeMap<Key, Vec<(Timestamp, Option<Bytes>)>>,
    pub epoch: Epoch,
    pub lead: Duration,
    pub scripts: VecDeque<Script>,
    pub reads: BTreeMap<&'static str, VecDeque<ReadScript>>,
    /// How many questions about outcomes are answered "ask again" first.
    pub pending: usize,
    pub barred_attempts: BTreeSet<Attempt>,
    /// Every attempt received, with its start.
    pub attempts: Vec<(Attempt, Timestamp)>,
    /// Records applied.
    pub records: usize,
    /// Rows of a page of a scan at most.
    pub page_rows: usize,
    /// Reads answered, by node.
    pub answered: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
pub struct World {
    pub core: Arc<Mutex<Core>>,
    pub clock: SharedClock,
}

pub const HOME: StreamId = StreamId(1);

impl World {
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap()
    }

    pub fn script(&self, scripts: impl IntoIterator<Item = Script>) {
        self.core().scripts.extend(scripts);
    }

    /// Commits something beside the query processor.
    pub fn put(&self, key: &str, value: &str) -> Timestamp {
        let write_set = WriteSet {
            writes: vec![meridian_rpc::internal::WriteRecord {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Some(Bytes::copy_from_slice(value.as_bytes())),
            }],
        };
        let mut core = self.core();
        let attempt = Attempt {
            txn: meridian_types::TxnId(Uuid::from_u128(core.records as u128 + 1)),
            number: 1,
            home: HOME,
            home_epoch: core.epoch,
        };
        let start = self.clock.now().latest;
        let request = DecideRequest {
            id: 0,
            attempt: Some(attempt.into()),
            start: start.0,
            write_set: write_set.encode_to_vec().into(),
            ..DecideRequest::default()
        };
        match core.decide(&request, &self.clock) {
            decision::Result::Committed(committed) => Timestamp(committed.commit),
            other => panic!("{other:?}"),
        }
    }
}

impl Core {
    fn decide(&mut self, request: &DecideRequest, clock: &SharedClock) -> decision::Result {
        let mut attempt = Attempt::try_from(request.attempt.as_ref().unwrap()).unwrap();
        if attempt.home_epoch != self.epoch {
            return self.refuse(Reason::WrongEpoch);
        }
        if self.barred_attempts.contains(&attempt) {
            return self.refuse(Reason::WrongEpoch);
        }
        // The stand-in changes epochs without a takeover; the decisions go on.
        attempt.home_epoch = self.adjudication.epoch();
        let writes = WriteSet::decode(request.write_set.clone()).unwrap().writes;
        let written: Vec<Key> = writes.iter().map(|write| Key(write.key.clone())).collect();
        let reads: Vec<KeyRange> = request.reads.iter().cloned().map(KeyRange::from).collect();
        let commit_request = CommitRequest {
            attempt,
            start: Timestamp(request.start),
            written: &written,
            reads: &reads,
        };
        match self.adjudication.decide(&commit_request, clock.now(), self.lead) {
            Decision::Commit { commit, lsn } => {
                self.records += 1;
                for write in writes {
                    self.versions
                        .entry(Key(write.key))
                        .or_default()
                        .insert(0, (commit, write.value));
                }
                self.committed(commit, lsn)
            }
            Decision::Known { commit, lsn } => self.committed(commit, lsn),
            Decision::Refused(Refusal::Conflict { key, with, .. }) => decision::Result::Refused(Refused {
                reason: Reason::Conflict.into(),
                key: key.0,
                with: with.0,
                ..Refused::default()
            }),
            Decision::Refused(Refusal::Barred { .. }) => self.refuse(Reason::Barred),
            Decision::Refused(Refusal::SnapshotTooOld { window_low }) => decision::Result::Refused(Refused {
                reason: Reason::SnapshotTooOld.into(),
                with: window_low.0,
                ..Refused::default()
            }),
            Decision::Refused(other) => panic!("{other:?}"),
        }
    }

    fn committed(&self, commit: Timestamp, lsn: Lsn) -> decision::Result {
        decision::Result::Committed(Committed {
            commit: commit.0,
            lsn: lsn.0,
            epoch: self.epoch.0,
        })
    }

    fn refuse(&self, reason: Reason) -> decision::Result {
        decision::Result::Refused(Refused {
            reason: reason.into(),
            key: Bytes::from_static(b"held"),
            with: 7,
            owner: "adj".to_owned(),
            epoch: self.epoch.0,
            message: "as the script says".to_owned(),
            retry_delay_ms: 1,
        })
    }

    pub fn read(&self, key: &[u8], at: Timestamp) -> GetResponse {
        let versions = self.versions.get(key).map(Vec::as_slice).unwrap_or_default();
        match versions.iter().find(|(commit, _)| *commit <= at) {
            Some((commit, Some(value))) => GetResponse {
                value: Some(value.clone()),
                timestamp: commit.0,
            },
            _ => GetResponse::default(),
        }
    }

    fn scan(&self, scan: ScanKeys, at: Timestamp) -> ScannedPage {
        let range = meridian_rpc::convert::range_from_bytes(scan.start, scan.end);
        let keys = self.versions.range::<[u8], _>(range.bounds()).map(|(key, _)| key);
        let keys: Vec<&Key> = if scan.reverse {
            keys.rev().collect()
        } else {
            keys.collect()
        };
        let mut page = ScannedPage::default();
        let most = match scan.limit {
            0 => self.page_rows,
            limit => self.page_rows.min(usize::try_from(limit).unwrap()),
        };
        for (looked_at, key) in keys.iter().enumerate() {
            // A page is bounded by what it looks at as well, so that pages without rows occur.
            if page.count as usize >= most || looked_at >= 2 * self.page_rows {
                page.more = true;
                page.resume = if scan.reverse {
                    keys[looked_at - 1].0.clone()
                } else {
                    key.0.clone()
                };
                break;
            }
            let got = self.read(&key.0, at);
            let Some(value) = got.value else { continue };
            if !scan.predicates.iter().all(|predicate| holds(predicate, &value)) {
                continue;
            }
            page.count += 1;
            if !scan.count_only {
                page.rows.push(Row {
                    key: key.0.clone(),
                    value: if scan.keys_only { Bytes::new() } else { value },
                    timestamp: got.timestamp,
                });
            }
        }
        page
    }
}

/// Plainly, for the stand-in and for the model of the tests.
pub fn holds(predicate: &v1::Predicate, value: &[u8]) -> bool {
    match predicate.op() {
        Op::Prefix => value.starts_with(&predicate.operand),
        Op::Less => value < &predicate.operand[..],
        Op::NotEqual => value != &predicate.operand[..],
        other => panic!("{other:?} is not used here"),
    }
}

pub struct FakeAdjudicator(pub World);

type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl FakeAdjudicator {
    /// `None`: no answer. An error breaks the stream.
    async fn decide_one(world: &World, request: &DecideRequest) -> Result<Option<decision::Result>, Status> {
        let script = {
            let mut core = world.core();
            let attempt = Attempt::try_from(request.attempt.as_ref().unwrap()).unwrap();
            core.attempts.push((attempt, Timestamp(request.start)));
            core.scripts.pop_front()
        };
        if let Some(Script::Slow(pause)) = script {
            tokio::time::sleep(pause).await;
        }
        let mut core = world.core();
        match script {
            None | Some(Script::Slow(_)) => Ok(Some(core.decide(request, &world.clock))),
            Some(Script::LoseReply) => {
                core.decide(request, &world.clock);
                Err(Status::internal("broken by the script"))
            }
            Some(Script::LoseRequest) => Err(Status::internal("broken by the script")),
            Some(Script::Refuse(reason)) => Ok(Some(core.refuse(reason))),
            Some(Script::RefuseAndDecide(reason)) => {
                core.decide(request, &world.clock);
                Ok(Some(core.refuse(reason)))
            }
            Some(Script::NewEpoch) => {
                core.epoch = core.epoch.next();
                Ok(Some(core.refuse(Reason::WrongEpoch)))
            }
            Some(Script::Unknown) => {
                core.decide(request, &world.clock);
                Ok(Some(decision::Result::Unknown(Unknown {})))
            }
            Some(Script::Silent) => Ok(None),
        }
    }

    fn take_pending(core: &mut Core) -> Option<Response<OutcomeAnswer>> {
        core.pending = core.pending.checked_sub(1)?;
        Some(Response::new(OutcomeAnswer {
            outcome: Outcome::Pending.into(),
            ..OutcomeAnswer::default()
        }))
    }
}

#[tonic::async_trait]
impl Adjudicator for FakeAdjudicator {
    type DecideStream = Stream<DecisionBatch>;

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        Ok(Response::new(LocateResponse {
            stream: request.get_ref().stream,
            owner: "adj".to_owned(),
            epoch: self.0.core().epoch.0,
        }))
    }

    async fn decide(
        &self,
        request: Request<Streaming<DecideBatch>>,
    ) -> Result<Response<Self::DecideStream>, Status> {
        let mut input = request.into_inner();
        let (sender, replies) = mpsc::channel(64);
        let world = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = input.message().await {
                for request in batch.requests {
                    let (world, sender) = (world.clone(), sender.clone());
                    tokio::spawn(async move {
                        let result = Self::decide_one(&world, &request).await;
                        let reply = match result {
                            Ok(None) => return,
                            Ok(result) => Ok(DecisionBatch {
                                decisions: vec![Reply {
                                    id: request.id,
                                    result,
                                }],
                            }),
                            Err(status) => Err(status),
                        };
                        let _ = sender.send(reply).await;
                    });
                }
            }
        });
        // An error ends the stream, as a broken connection does.
        let broken = futures::stream::unfold(
            (ReceiverStream::new(replies), false),
            |(mut stream, ended)| async move {
                if ended {
                    return None;
                }
                let next = stream.next().await?;
                let ended = next.is_err();
                Some((next, (stream, ended)))
            },
        );
        Ok(Response::new(broken.boxed()))
    }

    async fn close_through(
        &self,
        _: Request<CloseThroughRequest>,
    ) -> Result<Response<CloseThroughResponse>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }

    async fn outcome(&self, request: Request<OutcomeQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        let query = request.into_inner();
        let mut core = self.0.core();
        if let Some(pending) = Self::take_pending(&mut core) {
            return Ok(pending);
        }
        let token = CommitToken {
            txn: meridian_types::TxnId::from_slice(&query.txn).unwrap(),
            start: Timestamp(query.start),
            home: Some(StreamId(query.stream)),
        };
        let (outcome, commit) = match core.adjudication.outcome(&token, self.0.clock.now()) {
            Answer::Committed { commit, .. } => (Outcome::Committed, commit.0),
            Answer::Bar { .. } | Answer::Aborted { .. } => (Outcome::Aborted, 0),
            Answer::Forgotten => (Outcome::Forgotten, 0),
            Answer::Unavailable => (Outcome::Pending, 0),
        };
        Ok(Response::new(OutcomeAnswer {
            outcome: outcome.into(),
            commit,
            ..OutcomeAnswer::default()
        }))
    }

    async fn attempt_outcome(
        &self,
        request: Request<AttemptQuery>,
    ) -> Result<Response<OutcomeAnswer>, Status> {
        let attempt = Attempt::try_from(request.get_ref().attempt.as_ref().unwrap()).unwrap();
        let mut core = self.0.core();
        if let Some(pending) = Self::take_pending(&mut core) {
            return Ok(pending);
        }
        let known = core.adjudication.outcomes().get(attempt.txn);
        let answer = match known {
            Some(meridian_protocol::outcomes::Outcome::Committed { commit, .. }) => OutcomeAnswer {
                outcome: Outcome::Committed.into(),
                commit: commit.0,
                ..OutcomeAnswer::default()
            },
            _ => {
                core.barred_attempts.insert(attempt);
                OutcomeAnswer {
                    outcome: Outcome::Aborted.into(),
                    ..OutcomeAnswer::default()
                }
            }
        };
        Ok(Response::new(answer))
    }
    async fn exchange(
        &self,
        _: Request<Streaming<meridian_rpc::internal::ExchangeBatch>>,
    ) -> Result<Response<meridian_rpc::internal::ExchangeEnd>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }

    async fn raise_floor(
        &self,
        _: Request<meridian_rpc::internal::RaiseFloorRequest>,
    ) -> Result<Response<meridian_rpc::internal::RaiseFloorResponse>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }
}

pub struct FakeStorage {
    pub world: World,
    pub name: &'static str,
}

impl FakeStorage {
    async fn answer(
        world: &World,
        name: &'static str,
        read: StorageRead,
    ) -> Result<storage_read_reply::Result, Status> {
        let script = world.core().reads.get_mut(name).and_then(VecDeque::pop_front);
        let refuse = |error: KvError| Ok(storage_read_reply::Result::Error(error.to_proto()));
        match script {
            Some(ReadScript::Break) => return Err(Status::internal("broken by the script")),
            Some(ReadScript::Unavailable) => return refuse(KvError::unavailable("by the script")),
            Some(ReadScript::TooOld) => {
                return refuse(KvError::SnapshotTooOld {
                    min_start: Timestamp(9),
                });
            }
            Some(ReadScript::Slow(pause)) => tokio::time::sleep(pause).await,
            None => {}
        }
        let mut core = world.core();
        *core.answered.entry(name).or_default() += 1;
        // R5: nothing at or below the snapshot commits any more.
        let closed = core
            .adjudication
            .close(world.clock.now(), Duration::ZERO)
            .unwrap()
            .x;
        assert!(read.at <= closed.0, "a snapshot from the future");
        let at = Timestamp(read.at);
        Ok(match read.read.unwrap() {
            storage_read::Read::Get(GetKeys { keys }) => storage_read_reply::Result::Got(GotKeys {
                values: keys.iter().map(|key| core.read(key, at)).collect(),
            }),
            storage_read::Read::Scan(scan) => storage_read_reply::Result::Page(core.scan(scan, at)),
            storage_read::Read::Closed(_) => {
                storage_read_reply::Result::Closed(ClosedAnswer { closed: closed.0 })
            }
        })
    }
}

#[tonic::async_trait]
impl Storage for FakeStorage {
    type ReadStream = Stream<StorageReadReplyBatch>;

    async fn read(
        &self,
        request: Request<Streaming<StorageReadBatch>>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let mut input = request.into_inner();
        let (sender, replies) = mpsc::channel(64);
        let (world, name) = (self.world.clone(), self.name);
        tokio::spawn(async move {
            while let Ok(Some(batch)) = input.message().await {
                for read in batch.reads {
                    let (world, sender) = (world.clone(), sender.clone());
                    tokio::spawn(async move {
                        let id = read.id;
                        let reply =
                            Self::answer(&world, name, read)
                                .await
                                .map(|result| StorageReadReplyBatch {
                                    replies: vec![StorageReadReply {
                                        id,
                                        result: Some(result),
                                    }],
                                });
                        let _ = sender.send(reply).await;
                    });
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies).boxed()))
    }
}

pub fn new_core() -> Core {
    let opening = Opening {
        range: RangeId(1),
        stream: HOME,
        epoch: Epoch(1),
        floor: Timestamp::ZERO,
        lease_end: Timestamp::MAX,
        opened: Lsn(1),
        outcome_low: Timestamp::ZERO,
    };
    Core {
        adjudication: Adjudication::open(opening, AdjudicationLimits::default()),
        versions: BTreeMap::new(),
        epoch: Epoch(1),
        lead: Duration::ZERO,
        scripts: VecDeque::new(),
        reads: BTreeMap::new(),
        pending: 0,
        barred_attempts: BTreeSet::new(),
        attempts: Vec::new(),
        records: 0,
        page_rows: 3,
        answered: BTreeMap::new(),
    }
}
