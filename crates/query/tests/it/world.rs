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
    Adjudication, AdjudicationLimits, CommitRequest, Decision, Opening, Refusal,
};
use meridian_rpc::KvError;
use meridian_rpc::convert::range_from_bytes;
use meridian_rpc::internal::storage_server::Storage;
use meridian_rpc::internal::{
    CheckpointPart, CheckpointRequest, ClosedAnswer, Committed, DecideRequest, GetKeys, GotKeys, Refused,
    ScanKeys, ScannedPage, StorageRead, StorageReadBatch, StorageReadReply, StorageReadReplyBatch, WriteSet,
    decision, refused::Reason, storage_read, storage_read_reply,
};
use meridian_rpc::v1::predicate::Op;
use meridian_rpc::v1::{self, GetResponse, Row};
use meridian_types::{Attempt, Epoch, Key, KeyRange, Lsn, RangeId, StreamId, Timestamp};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

/// What the adjudicator does with the next commit attempt.
#[derive(Clone, Debug)]
pub enum Script {
    /// Decides it, tells so, and then does this.
    Decided(Then),
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

/// What happens to a record that was decided.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// Its owner never says that it is committed.
    Silent,
    /// The stream breaks.
    Break,
}

/// What a range that is not the home does with the next prepare.
#[derive(Clone, Copy, Debug)]
pub enum VoteScript {
    /// Votes no, and the home is told.
    No(Reason),
    /// Refuses it, and the home is told nothing.
    Refuse(Reason),
    /// Votes, and breaks the stream instead of answering.
    LoseReply,
    /// Breaks the stream without looking at it.
    LoseRequest,
    /// Refuses it: that node is the owner by now.
    Moved(&'static str),
    /// Answers, but the vote is lost.
    LoseVote,
    /// Nothing.
    Silent,
}

/// What a range was asked to prepare.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub keys: Vec<Key>,
    pub reads: Vec<KeyRange>,
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
    /// The owner of each stream.
    pub owners: BTreeMap<StreamId, &'static str>,
    pub vote_scripts: BTreeMap<StreamId, VecDeque<VoteScript>>,
    /// What became of each prepare that a range has looked at: its part, or why not.
    pub votes: BTreeMap<(Attempt, StreamId), Result<Prepared, Refused>>,
    /// Every prepare received: the attempt, the range, and the node.
    pub prepares: Vec<(Attempt, StreamId, &'static str)>,
    /// How long a home waits for votes.
    pub vote_timeout: Duration,
    /// How long the way to a node takes, for questions about owners.
    pub delays: BTreeMap<&'static str, Duration>,
    /// Attempts that were asked about, each with how many attempts had been received by then.
    pub asked: Vec<(Attempt, usize)>,
    /// Every attempt received, with its start.
    pub attempts: Vec<(Attempt, Timestamp)>,
    /// Records applied.
    pub records: usize,
    /// The region is cut off: nothing is closed any more beyond this.
    pub cut_at: Option<Timestamp>,
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
        let mut core = self.core();
        let attempt = Attempt {
            txn: meridian_types::TxnId(Uuid::from_u128(core.records as u128 + 1)),
            number: 1,
            home: HOME,
            home_epoch: core.epoch,
        };
        let request = request(attempt, self.clock.now().latest, &[key], value);
        match core.decide(&request, &self.clock) {
            decision::Result::Committed(committed) => Timestamp(committed.commit),
            other => panic!("{other:?}"),
        }
    }
}

/// A commit of these keys in one range.
pub fn request(attempt: Attempt, start: Timestamp, keys: &[&str], value: &str) -> DecideRequest {
    let writes = keys.iter().map(|key| meridian_rpc::internal::WriteRecord {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    });
    let write_set = WriteSet {
        writes: writes.collect(),
    };
    DecideRequest {
        id: 0,
        attempt: Some(attempt.into()),
        start: start.0,
        write_set: write_set.encode_to_vec().into(),
        ..DecideRequest::default()
    }
}

impl Core {
    /// One decision loop for all ranges: it checks and writes what the parts of the transaction add up to.
    pub fn decide(&mut self, request: &DecideRequest, clock: &SharedClock) -> decision::Result {
        let mut attempt = Attempt::try_from(request.attempt.as_ref().unwrap()).unwrap();
        if attempt.home_epoch != self.epoch {
            return self.refuse(Reason::WrongEpoch);
        }
        if self.barred_attempts.contains(&attempt) {
            return self.refuse(Reason::WrongEpoch);
        }
        let parts = self.parts(attempt, request);
        // The stand-in changes epochs without a takeover; the decisions go on. It is the home of all.
        attempt.home_epoch = self.adjudication.epoch();
        attempt.home = HOME;
        let writes = WriteSet::decode(request.write_set.clone()).unwrap().writes;
        let written: Vec<Key> = writes.iter().map(|write| Key(write.key.clone())).collect();
        let mut reads: Vec<KeyRange> = request.reads.iter().cloned().map(KeyRange::from).collect();
        for part in parts {
            assert!(part.keys.iter().all(|key| written.contains(key)), "{part:?}");
            reads.extend(part.reads);
        }
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

    /// What the other ranges have prepared.
    fn parts(&self, attempt: Attempt, request: &DecideRequest) -> Vec<Prepared> {
        let streams = request
            .participants
            .iter()
            .map(|participant| StreamId(participant.stream));
        let vote = |stream| self.votes.get(&(attempt, stream))?.clone().ok();
        streams.filter_map(vote).collect()
    }

    fn committed(&self, commit: Timestamp, lsn: Lsn) -> decision::Result {
        decision::Result::Committed(Committed {
            commit: commit.0,
            lsn: lsn.0,
            epoch: self.epoch.0,
            trace: None,
        })
    }

    pub fn refuse(&self, reason: Reason) -> decision::Result {
        decision::Result::Refused(self.refused(reason))
    }

    pub fn refused(&self, reason: Reason) -> Refused {
        Refused {
            reason: reason.into(),
            key: Bytes::from_static(b"held"),
            with: 7,
            owner: "adj".to_owned(),
            epoch: self.epoch.0,
            message: "as the script says".to_owned(),
            retry_delay_ms: 1,
        }
    }

    pub fn read(&self, key: &[u8], at: Timestamp) -> GetResponse {
        let versions = self.versions.get(key).map(Vec::as_slice).unwrap_or_default();
        match versions.iter().find(|(commit, _)| *commit <= at) {
            Some((commit, Some(value))) => GetResponse {
                value: Some(value.clone()),
                timestamp: commit.0,
                snapshot: None,
            },
            _ => GetResponse::default(),
        }
    }

    fn scan(&self, scan: ScanKeys, at: Timestamp) -> ScannedPage {
        let range = range_from_bytes(scan.start, scan.end);
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

type Stream<T> = BoxStream<'static, Result<T, Status>>;

#[derive(Clone)]
pub struct FakeStorage {
    pub world: World,
    pub name: &'static str,
    /// What it may be asked for.
    pub keys: KeyRange,
}

impl FakeStorage {
    fn check_held(&self, read: &StorageRead) {
        let asked = match read.read.as_ref().unwrap() {
            storage_read::Read::Get(get) => {
                assert!(
                    get.keys.iter().all(|key| self.keys.contains(key)),
                    "{}: {get:?}",
                    self.name
                );
                return;
            }
            storage_read::Read::Scan(scan) => (scan.start.clone(), scan.end.clone()),
            storage_read::Read::Closed(query) => (query.start.clone(), query.end.clone()),
        };
        let asked = range_from_bytes(asked.0, asked.1);
        assert_eq!(
            self.keys.intersection(&asked).as_ref(),
            Some(&asked),
            "{}",
            self.name
        );
    }

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
        let cut_at = world.core().cut_at;
        if let Some(closed) = cut_at {
            if let Some(storage_read::Read::Closed(_)) = read.read {
                return Ok(storage_read_reply::Result::Closed(ClosedAnswer {
                    closed: closed.0,
                }));
            }
            if read.at > closed.0 {
                tokio::time::sleep(Duration::from_millis(read.timeout_ms)).await;
                return refuse(KvError::DeadlineExceeded {
                    waiting_for: "the range to be closed".to_owned(),
                });
            }
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
    type CheckpointStream = Stream<CheckpointPart>;

    async fn checkpoint(
        &self,
        _: Request<CheckpointRequest>,
    ) -> Result<Response<Self::CheckpointStream>, Status> {
        Err(Status::unimplemented("this node writes no checkpoints"))
    }

    type ReadStream = Stream<StorageReadReplyBatch>;

    async fn read(
        &self,
        request: Request<Streaming<StorageReadBatch>>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let mut input = request.into_inner();
        let (sender, replies) = mpsc::channel(64);
        let (world, name) = (self.world.clone(), self.name);
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = input.message().await {
                for read in batch.reads {
                    this.check_held(&read);
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
                                        trace: None,
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
        owners: [(HOME, "adj")].into(),
        vote_scripts: BTreeMap::new(),
        votes: BTreeMap::new(),
        prepares: Vec::new(),
        vote_timeout: Duration::from_millis(300),
        delays: BTreeMap::new(),
        asked: Vec::new(),
        attempts: Vec::new(),
        records: 0,
        cut_at: None,
        page_rows: 3,
        answered: BTreeMap::new(),
    }
}
