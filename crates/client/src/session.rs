//! One `Session` stream: many transactions multiplexed over it, writes pipelined, replies given to whoever
//! waits for them.
//!
//! Invariant: an operation's number is drawn and its place in the queue is taken under one lock, so numbers
//! rise on the wire. What may be queued is bounded in operations and in bytes; what is to be answered waits here for a place
//! ([`crate::places`]), not on the way, while the server has as much to do as it says that it takes: whoever gives up meanwhile costs
//! nobody anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use meridian_rpc::batch::Batches;
use meridian_rpc::v1::kv_client::KvClient;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{SessionHello, SessionOp, SessionReply, SessionRequest, SessionResponse};
use meridian_rpc::{FORMAT_VERSION, KvError};
use meridian_types::{Timestamp, TxnId, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::budget::Random;
use crate::options::millis;
use crate::places::{Place, Places, Purpose, Refused};
use crate::transport::Target;

/// Operations that may wait to be sent.
const QUEUE_OPS: usize = 1_024;
/// Bytes that may wait to be sent. One operation of any size always fits.
const QUEUE_BYTES: u32 = 8 << 20;
const BATCH_OPS: usize = 512;
const BATCH_BYTES: usize = 512 << 10;
/// How long the greeting may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// How much longer than the server we wait: it knows better what was missing.
const GRACE: Duration = Duration::from_millis(100);

/// Why an operation has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The stream broke. Whatever was not committed is gone; what was being committed is unknown.
    Lost(String),
    /// The deadline passed.
    Timeout,
    /// It passed before the operation was sent: nobody has seen that.
    NotSent,
    /// Too much is under way, so it was not sent: an `Overloaded`.
    Refused(KvError),
    /// The server refused.
    Kv(KvError),
}

/// Gets the replies to one operation.
pub(crate) type Answers = mpsc::Sender<Result<Reply, Failure>>;

enum Waiter {
    /// One reply.
    Once(oneshot::Sender<Result<Reply, Failure>>),
    /// Replies until the operation is forgotten. The channel has room for all that the client asked for; a
    /// server that sends more is cut off.
    Many(Answers),
}

pub(crate) struct Session {
    pub(crate) hello: SessionHello,
    pub(crate) endpoint: String,
    opened: Instant,
    queue: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    /// Operations that the server may be asked to answer beside those that it was.
    places: Arc<Places>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    lost: CancellationToken,
    /// The server has asked for another session.
    closing: CancellationToken,
}

#[derive(Default)]
struct State {
    last_op: u64,
    last_txn: u64,
    waiters: BTreeMap<u64, Waiting>,
    /// Since when those operations are waited for whose answer is due, by their number, which rises with the time.
    due: BTreeMap<u64, Instant>,
    lost: Option<String>,
}

/// Who waits for an answer, and the operation's place among those that are to be answered.
struct Waiting {
    waiter: Waiter,
    _place: Option<Place>,
}

impl State {
    fn forget(&mut self, id: u64) -> Option<Waiting> {
        self.due.remove(&id);
        self.waiters.remove(&id)
    }
}

struct Outgoing {
    op: SessionOp,
    bytes: usize,
    _room: OwnedSemaphorePermit,
}

impl Session {
    /// Opens a session and waits for its greeting. What begins something waits for a place for at most `patience`.
    pub(crate) async fn open(target: &Target, patience: Duration) -> Result<Self, KvError> {
        let (queue, queued) = mpsc::channel(QUEUE_OPS);
        let requests =
            Batches::new(queued, BATCH_OPS, BATCH_BYTES, |item: &Outgoing| item.bytes).map(|batch| {
                SessionRequest {
                    ops: batch.into_iter().map(|item| item.op).collect(),
                }
            });
        let mut kv = KvClient::new(target.transport())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let greeted = async {
            let mut replies = kv.session(requests).await?.into_inner();
            let first = replies.message().await?;
            Ok::<_, Status>((replies, first))
        };
        let name = &target.name;
        let (replies, first) = timeout(HELLO_TIMEOUT, greeted)
            .await
            .map_err(|_| KvError::unavailable(format!("{name} does not answer")))?
            .map_err(|status| {
                KvError::from_status(&status)
                    .unwrap_or_else(|| KvError::unavailable(format!("{name}: {}", describe(&status))))
            })?;
        let (hello, rest) = split_hello(name, first)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            lost: CancellationToken::new(),
            closing: CancellationToken::new(),
        });
        rest.into_iter().for_each(|reply| shared.dispatch(reply));
        tokio::spawn(read(replies, shared.clone()));
        let places = match usize::try_from(hello.operations) {
            Ok(places) if places > 0 => places,
            _ => usize::MAX,
        };
        Ok(Self {
            places: Places::new(places, patience),
            hello,
            endpoint: name.clone(),
            opened: Instant::now(),
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            shared,
        })
    }

    /// A lower bound of the snapshot of every transaction of this session.
    pub(crate) fn lower_bound(&self) -> Timestamp {
        Timestamp(self.hello.now)
    }

    /// A transaction id of version 7. Its time is the server's, carried on by the local monotonic clock.
    pub(crate) fn new_txn_id(&self, random: &Random) -> TxnId {
        let now = Duration::from_nanos(self.hello.now).saturating_add(self.opened.elapsed());
        let mut noise = [0; 10];
        random.with(|rng| rand::RngCore::fill_bytes(rng, &mut noise));
        TxnId(uuid::Builder::from_unix_timestamp_millis(millis(now), &noise).into_uuid())
    }

    /// The number of a new transaction within this session.
    pub(crate) fn new_txn_number(&self) -> u64 {
        let mut state = self.shared.lock();
        state.last_txn += 1;
        state.last_txn
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.shared.lost.is_cancelled()
    }

    /// Returns when the stream has broken.
    pub(crate) async fn lost(&self) {
        self.shared.lost.cancelled().await;
    }

    /// Whether the server has asked for another session: what is open in this one may end, and nothing is to begin.
    pub(crate) fn is_closing(&self) -> bool {
        self.shared.closing.is_cancelled()
    }

    /// Returns when the server asks for another session.
    pub(crate) async fn closing(&self) {
        self.shared.closing.cancelled().await;
    }

    /// For how long the oldest operation has been waited for that is to be answered at once.
    pub(crate) fn silent_for(&self) -> Duration {
        let state = self.shared.lock();
        let oldest = state.due.first_key_value();
        oldest.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// Whatever is under way on it is not waited for any more: as if the stream had broken.
    pub(crate) fn abandon(&self, why: &str) {
        self.shared.lose(why.to_owned());
    }

    /// Sends an operation and waits for its only reply.
    pub(crate) async fn call(&self, txn: u64, deadline: Instant, op: Op) -> Result<Reply, Failure> {
        self.call_numbered(txn, deadline, op).await.1
    }

    /// The same, with the operation's number; 0: it was not sent.
    pub(crate) async fn call_numbered(
        &self,
        txn: u64,
        deadline: Instant,
        op: Op,
    ) -> (u64, Result<Reply, Failure>) {
        let (sender, receiver) = oneshot::channel();
        let id = match self.send(txn, deadline, op, Some(Waiter::Once(sender))).await {
            Ok(id) => id,
            Err(failure) => return (0, Err(failure)),
        };
        let _forget = Forget {
            shared: &self.shared,
            id,
        };
        let answer = match timeout_at(deadline + GRACE, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.shared.failure()),
            Err(_) => Err(Failure::Timeout),
        };
        (id, answer)
    }

    /// Sends an operation whose only reply may be picked up later.
    pub(crate) async fn ask(
        &self,
        txn: u64,
        deadline: Instant,
        op: Op,
    ) -> Result<oneshot::Receiver<Result<Reply, Failure>>, Failure> {
        let (sender, receiver) = oneshot::channel();
        self.send(txn, deadline, op, Some(Waiter::Once(sender))).await?;
        Ok(receiver)
    }

    /// Sends an operation whose replies go to `answers` until `forget` is called.
    pub(crate) async fn stream(
        &self,
        txn: u64,
        deadline: Instant,
        op: Op,
        answers: Answers,
    ) -> Result<u64, Failure> {
        self.send(txn, deadline, op, Some(Waiter::Many(answers))).await
    }

    /// Sends an operation that is not answered by itself. Waits only while the queue is full.
    pub(crate) async fn post(&self, txn: u64, deadline: Instant, op: Op) -> Result<u64, Failure> {
        self.send(txn, deadline, op, None).await
    }

    /// Sends an operation that is not answered if there is room for it; false if there is not.
    pub(crate) fn try_post(&self, txn: u64, op: Op) -> bool {
        let bytes = size(&op);
        let Ok(room) = self.room.clone().try_acquire_many_owned(share(bytes)) else {
            return false;
        };
        let Ok(place) = self.queue.try_reserve() else {
            return false;
        };
        let outgoing = (op, bytes, room);
        self.shared.enqueue(place, txn, 0, outgoing, None).is_ok()
    }

    /// No more replies of this operation are wanted.
    pub(crate) fn forget(&self, id: u64) {
        self.shared.lock().forget(id);
    }

    async fn send(
        &self,
        txn: u64,
        deadline: Instant,
        op: Op,
        waiter: Option<Waiter>,
    ) -> Result<u64, Failure> {
        let bytes = size(&op);
        let admitted = async {
            let place = match purpose(&op) {
                Some(purpose) if waiter.is_some() => Some(self.place(purpose, deadline).await?),
                _ => None,
            };
            let waiting = waiter.map(|waiter| Waiting {
                waiter,
                _place: place,
            });
            let queued = timeout_at(deadline, async {
                let room = self.room.clone().acquire_many_owned(share(bytes)).await.ok()?;
                Some((room, self.queue.reserve().await.ok()?))
            });
            let queued = queued.await.map_err(|_| Failure::NotSent)?;
            let (room, place) = queued.ok_or_else(|| self.shared.failure())?;
            Ok((waiting, room, place))
        };
        let (waiting, room, place) = tokio::select! {
            biased;
            () = self.shared.lost.cancelled() => return Err(self.shared.failure()),
            admitted = admitted => admitted?,
        };
        let timeout_ms = millis(deadline.saturating_duration_since(Instant::now())).max(1);
        self.shared
            .enqueue(place, txn, timeout_ms, (op, bytes, room), waiting)
    }

    async fn place(&self, purpose: Purpose, deadline: Instant) -> Result<Place, Failure> {
        let refused = match self.places.take(purpose, deadline).await {
            Ok(place) => return Ok(place),
            Err(Refused::Deadline) => return Err(Failure::NotSent),
            Err(refused) => refused,
        };
        let retry_after = self.places.patience();
        Err(Failure::Refused(KvError::overloaded(
            format!(
                "{refused}, and it was not sent; do less at a time, open more sessions, or have more patience"
            ),
            retry_after,
        )))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(
        &self,
        place: mpsc::Permit<'_, Outgoing>,
        txn: u64,
        timeout_ms: u64,
        (op, bytes, room): (Op, usize, OwnedSemaphorePermit),
        waiting: Option<Waiting>,
    ) -> Result<u64, Failure> {
        let mut state = self.lock();
        if let Some(why) = &state.lost {
            return Err(Failure::Lost(why.clone()));
        }
        state.last_op += 1;
        let id = state.last_op;
        if let Some(waiting) = waiting {
            state.waiters.insert(id, waiting);
            // A scan's pages are asked for one by one.
            if !matches!(op, Op::Scan(_)) {
                state.due.insert(id, Instant::now());
            }
        }
        place.send(Outgoing {
            op: SessionOp {
                id,
                txn,
                timeout_ms,
                op: Some(op),
            },
            bytes,
            _room: room,
        });
        Ok(id)
    }

    /// Gives a reply to whoever waits for it. Replies that nobody waits for any more are dropped.
    fn dispatch(&self, reply: SessionReply) {
        let answer = match reply.reply {
            Some(Reply::Closing(_)) => return self.closing.cancel(),
            Some(Reply::Error(error)) => Err(Failure::Kv(KvError::from_proto(&error))),
            Some(reply) => Ok(reply),
            None => Err(Failure::Kv(KvError::internal(
                "a reply of a kind that this client does not know",
            ))),
        };
        let mut state = self.lock();
        // A commit is under way until its caller forgets it: its first answer is only the token.
        if let Some(Waiting {
            waiter: Waiter::Many(sender),
            ..
        }) = state.waiters.get(&reply.id)
        {
            if sender.try_send(answer).is_err() {
                state.forget(reply.id);
            }
        } else if let Some(Waiting {
            waiter: Waiter::Once(sender),
            ..
        }) = state.forget(reply.id)
        {
            let _ = sender.send(answer);
        }
    }

    /// The stream is over: everybody who waits is told.
    fn lose(&self, why: String) {
        let waiters = {
            let mut state = self.lock();
            state.lost.get_or_insert_with(|| why.clone());
            state.due.clear();
            std::mem::take(&mut state.waiters)
        };
        self.lost.cancel();
        for waiting in waiters.into_values() {
            let failure = Err(Failure::Lost(why.clone()));
            match waiting.waiter {
                Waiter::Once(sender) => drop(sender.send(failure)),
                Waiter::Many(sender) => drop(sender.try_send(failure)),
            }
        }
    }

    fn failure(&self) -> Failure {
        let why = self.lock().lost.clone();
        Failure::Lost(why.unwrap_or_else(|| "the connection is closing".to_owned()))
    }
}

/// Forgets an operation when its caller is gone, answered or not.
struct Forget<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.lock().forget(self.id);
    }
}

/// Reads replies until the stream ends. Ends by itself once the session is dropped: the server closes its
/// side when ours is closed.
async fn read(mut replies: Streaming<SessionResponse>, shared: Arc<Shared>) {
    let why = loop {
        match replies.message().await {
            Ok(Some(batch)) => batch.replies.into_iter().for_each(|reply| shared.dispatch(reply)),
            Ok(None) => break "the server closed the session".to_owned(),
            Err(status) => break describe(&status),
        }
    };
    tracing::debug!(%why, "session ended");
    shared.lose(why);
}

fn split_hello(
    name: &str,
    first: Option<SessionResponse>,
) -> Result<(SessionHello, Vec<SessionReply>), KvError> {
    let mut replies = first.map(|batch| batch.replies).unwrap_or_default().into_iter();
    match replies.next().and_then(|reply| reply.reply) {
        Some(Reply::Hello(hello)) if hello.format == FORMAT_VERSION => Ok((hello, replies.collect())),
        Some(Reply::Hello(hello)) => Err(KvError::UnsupportedFormat {
            node: hello.node,
            ours: hello.format,
            theirs: FORMAT_VERSION.to_string(),
        }),
        Some(Reply::Error(error)) => Err(KvError::from_proto(&error)),
        _ => Err(KvError::unavailable(format!(
            "{name} closed the session without a greeting"
        ))),
    }
}

/// A transport's error in one line, with the cause that tonic keeps behind "transport error".
pub(crate) fn describe(status: &Status) -> String {
    if let Some(error) = KvError::from_status(status) {
        return error.to_string();
    }
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if text.is_empty() {
        text = status.code().to_string();
    }
    text
}

/// What an operation needs a place for, if it does.
fn purpose(op: &Op) -> Option<Purpose> {
    match op {
        // An open scan does nothing between its pages.
        Op::Scan(_) | Op::ScanNext(_) => None,
        Op::Begin(_) | Op::Execute(_) => Some(Purpose::Begin),
        _ => Some(Purpose::GoOn),
    }
}

/// About how many bytes an operation takes on the wire.
fn size(op: &Op) -> usize {
    let payload = match op {
        Op::Get(get) => get.key.len(),
        Op::BatchGet(get) => get.keys.iter().map(|key| key.len() + 4).sum(),
        Op::Scan(scan) => scan.start.len() + scan.end.len(),
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Delete(delete) => delete.key.len(),
        Op::DeleteRange(delete) => delete.start.len() + delete.end.len(),
        Op::Savepoint(savepoint) | Op::RollbackTo(savepoint) => savepoint.name.len(),
        Op::Execute(execute) => {
            let writes: usize = execute
                .mutations
                .iter()
                .map(|write| write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len) + 8)
                .sum();
            let reads: usize = execute.reads.iter().map(|key| key.len() + 4).sum();
            writes + reads
        }
        Op::Begin(_) | Op::ScanNext(_) | Op::Commit(_) | Op::Rollback(_) | Op::Outcome(_) => 0,
    };
    payload + 32
}

/// The part of the queue's bytes that an operation takes.
fn share(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES)
}
