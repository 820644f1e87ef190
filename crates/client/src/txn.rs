//! The operations of an open transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::convert::range_to_bytes;
use meridian_rpc::v1;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_types::{CommitToken, Key, KeyRange, Timestamp, TxnId, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::client::Inner;
use crate::error::Result;
use crate::options::{ScanOptions, TxnOptions};
use crate::scan::{Scan, wrong_answer};
use crate::session::{Failure, Session};
use crate::trace::{Calls, Trace};

/// A value as a read found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// When it was committed; [`Timestamp::ZERO`] for the transaction's own write.
    pub timestamp: Timestamp,
}

impl Versioned {
    pub(crate) fn from_proto(response: v1::GetResponse) -> Option<Self> {
        let timestamp = Timestamp(response.timestamp);
        response.value.map(|value| Self { value, timestamp })
    }
}

/// How old what a transaction reads is that asked for the past ([`TxnOptions::at`], [`TxnOptions::max_staleness`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// It sees everything committed up to then, and nothing later.
    pub timestamp: Timestamp,
    /// How long ago that was by the server's clock, when it answered. Whole milliseconds.
    pub age: Duration,
}

/// The operations of an open transaction. It reads one snapshot, and its own writes on top of it.
///
/// Writes are pipelined: they return as soon as they are queued, and what the server has against one
/// surfaces at the next read or at the commit. All methods take `&self`, so reads may run concurrently.
/// Cheap to clone; useless once the transaction has ended.
#[derive(Clone, Debug)]
pub struct Txn {
    pub(crate) open: Arc<Open>,
}

/// The part of a transaction that its scans share.
pub(crate) struct Open {
    pub(crate) session: Arc<Session>,
    pub(crate) number: u64,
    pub(crate) read_only: bool,
    limit: Limit,
    state: Mutex<State>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// Everything ends by then.
    Until(Instant),
    /// Each call takes at most this.
    Each(Duration),
}

impl Limit {
    pub(crate) fn deadline(self) -> Instant {
        match self {
            Self::Until(deadline) => deadline,
            Self::Each(duration) => Instant::now() + duration,
        }
    }
}

pub(crate) struct State {
    pub(crate) token: CommitToken,
    snapshot: Option<Snapshot>,
    /// What it waited for, if it is traced.
    pub(crate) calls: Option<Calls>,
    began: Option<oneshot::Receiver<Result<Reply, Failure>>>,
    /// The last error after which the whole transaction may be run again.
    retryable: Option<KvError>,
    /// Why it cannot go on.
    dead: Option<KvError>,
    /// Commit or rollback was asked for.
    pub(crate) ended: bool,
}

impl Open {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.limit.deadline()
    }

    /// Refuses to go on with a transaction that is dead, and looks whether `begin` was answered.
    pub(crate) fn check(&self) -> Result<()> {
        let answer = {
            let mut state = self.lock();
            if let Some(error) = &state.dead {
                return Err(error.clone().into());
            }
            if state.ended {
                return Err(KvError::invalid("the transaction has ended").into());
            }
            let answer = state.began.as_mut().and_then(|began| began.try_recv().ok());
            if let Some(Ok(Reply::Began(began))) = &answer {
                state.learn(began.token.as_ref());
            }
            if answer.is_some() {
                state.began = None;
            }
            answer
        };
        match answer {
            Some(Err(failure)) => {
                let error = self.failed(failure, "beginning the transaction");
                // Whatever the reason is, a transaction that did not begin is none.
                self.lock().dead = error.kv().cloned();
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Turns a failure before commit into an error, and remembers what it means for the transaction.
    pub(crate) fn failed(&self, failure: Failure, doing: &str) -> crate::Error {
        let error = match failure {
            // A session does not survive its query processor, and its transactions do not survive it (R1).
            Failure::Lost(why) => KvError::Aborted {
                why: format!("the connection to {} was lost: {why}", self.session.endpoint),
            },
            Failure::Timeout | Failure::NotSent => KvError::DeadlineExceeded {
                waiting_for: doing.to_owned(),
            },
            // Its commit was not asked for yet, so it is certain that it is gone.
            Failure::Kv(KvError::TransactionNotFound { txn }) => KvError::Aborted {
                why: format!("the server does not know transaction {txn} any more (idle or too old)"),
            },
            // Nothing has happened to the transaction. Running it again would only add to what is too much.
            Failure::Refused(error) => {
                self.lock().retryable = None;
                return crate::Error::Refused(error);
            }
            Failure::Kv(error) => error,
        };
        let mut state = self.lock();
        if error.is_retryable() {
            state.retryable = Some(error.clone());
        }
        if error.code() == tonic::Code::Aborted {
            state.dead = Some(error.clone());
        }
        error.into()
    }
}

impl Open {
    /// Notes how old what was read is.
    pub(crate) fn note_snapshot(&self, told: Option<&v1::Snapshot>) {
        if let Some(told) = told {
            self.lock().snapshot = Some(Snapshot {
                timestamp: Timestamp(told.timestamp),
                age: Duration::from_millis(told.age_ms),
            });
        }
    }
}

impl State {
    /// Takes over what the server told of the token; it only ever gets more exact.
    pub(crate) fn learn(&mut self, token: Option<&v1::CommitToken>) {
        let Some(Ok(told)) = token.map(CommitToken::try_from) else {
            return;
        };
        if told.txn == self.token.txn {
            self.token.start = self.token.start.max(told.start);
            self.token.home = told.home.or(self.token.home);
        }
    }
}

impl Open {
    pub(crate) async fn begin(client: &Inner, options: TxnOptions, limit: Limit) -> Result<Self> {
        let deadline = limit.deadline();
        let session = client.pool.session(deadline).await?;
        let txn = session.new_txn_id(&client.random);
        let number = session.new_txn_number();
        let begin = Op::Begin(options.to_begin(txn.to_bytes()));
        let token = CommitToken {
            txn,
            start: session.lower_bound(),
            home: None,
        };
        let state = State {
            token,
            snapshot: None,
            calls: options.trace.then(Calls::default),
            began: None,
            retryable: None,
            dead: None,
            ended: false,
        };
        let open = Open {
            session,
            number,
            read_only: options.read_only,
            limit,
            state: Mutex::new(state),
        };
        let began = open
            .session
            .ask(number, deadline, begin)
            .await
            .map_err(|failure| open.failed(failure, "beginning a transaction"))?;
        open.lock().began = Some(began);
        Ok(open)
    }
}

impl Txn {
    /// The transaction's id.
    pub fn id(&self) -> TxnId {
        self.open.lock().token.txn
    }

    /// What is known of the commit token so far. Enough to ask for the outcome at any time.
    pub fn token(&self) -> CommitToken {
        self.open.lock().token
    }

    /// How old what it read last is; `None` before that, and for a transaction at the present.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.open.lock().snapshot
    }

    /// Where its time went, if it was begun with [`TxnOptions::trace`]: each of its calls, and once its commit was answered what the
    /// nodes did for it. Keep a clone of the `Txn` to ask after the commit.
    ///
    /// Every duration was measured by the monotonic clock of one node; what remains between an outer and the inner ones is the
    /// network's.
    pub fn trace(&self) -> Option<Trace> {
        self.open.lock().calls.as_ref().map(Calls::trace)
    }

    /// Why the transaction cannot go on, if it cannot: it has to be run again.
    pub fn failure(&self) -> Option<KvError> {
        self.open.lock().dead.clone()
    }

    /// The last error after which the whole may be run again.
    pub(crate) fn retryable(&self) -> Option<KvError> {
        self.open.lock().retryable.clone()
    }

    /// The value of a key; `None` when it has none.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Bytes>> {
        Ok(self.read(key.into(), false).await?.map(|found| found.value))
    }

    /// The same, checked at commit: nobody else may have written the key since the snapshot.
    pub async fn get_for_update(&self, key: impl Into<Key>) -> Result<Option<Bytes>> {
        Ok(self.read(key.into(), true).await?.map(|found| found.value))
    }

    /// The value of a key and when it was committed.
    pub async fn get_versioned(&self, key: impl Into<Key>) -> Result<Option<Versioned>> {
        self.read(key.into(), false).await
    }

    async fn read(&self, key: Key, for_update: bool) -> Result<Option<Versioned>> {
        check_key(&key)?;
        let get = Op::Get(v1::GetRequest {
            transaction: Bytes::new(),
            key: key.0,
            for_update,
        });
        match self.call(get, "reading a key").await? {
            Reply::Value(value) => {
                self.open.note_snapshot(value.snapshot.as_ref());
                Ok(Versioned::from_proto(value))
            }
            _ => Err(wrong_answer("a read")),
        }
    }

    /// The values of several keys, in the order of the keys. At most `limits::MAX_BATCH_KEYS` of them.
    pub async fn batch_get<K: Into<Key>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let mut wanted = Vec::new();
        for key in keys {
            let key = key.into();
            check_key(&key)?;
            wanted.push(key.0);
        }
        check_limit("keys of a batch read", wanted.len(), limits::MAX_BATCH_KEYS)?;
        let count = wanted.len();
        let get = Op::BatchGet(v1::BatchGetRequest {
            transaction: Bytes::new(),
            keys: wanted,
            for_update: false,
        });
        match self.call(get, "reading a batch of keys").await? {
            Reply::Values(found) if found.values.len() == count => {
                self.open.note_snapshot(found.snapshot.as_ref());
                Ok(found.values.into_iter().map(|one| one.value).collect())
            }
            _ => Err(wrong_answer("a batch read")),
        }
    }

    /// The rows of a range, streamed.
    pub async fn scan(&self, range: KeyRange, options: ScanOptions) -> Result<Scan> {
        let (start, end) = range_to_wire(range);
        Scan::start(self.open.clone(), options.to_request(start, end)).await
    }

    /// How many keys of the range have a value.
    pub async fn count(&self, range: KeyRange) -> Result<u64> {
        let (start, end) = range_to_wire(range);
        let mut request = ScanOptions::default().keys_only().to_request(start, end);
        request.count_only = true;
        Scan::start(self.open.clone(), request).await?.into_count().await
    }

    /// Sets a key. Waits only while too much is queued to be sent.
    pub async fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Result<()> {
        let (key, value) = (key.into(), value.into());
        self.check_write(&key, value.len())?;
        let put = v1::PutRequest {
            transaction: Bytes::new(),
            key: key.0,
            value,
        };
        self.post(Op::Put(put), "sending a write").await
    }

    /// Deletes a key. Waits only while too much is queued to be sent.
    pub async fn delete(&self, key: impl Into<Key>) -> Result<()> {
        let key = key.into();
        self.check_write(&key, 0)?;
        let delete = v1::DeleteRequest {
            transaction: Bytes::new(),
            key: key.0,
        };
        self.post(Op::Delete(delete), "sending a delete").await
    }

    /// Deletes every key of the range that the transaction sees; returns how many.
    pub async fn delete_range(&self, range: KeyRange) -> Result<u64> {
        self.check_writable()?;
        let (start, end) = range_to_wire(range);
        let delete = Op::DeleteRange(v1::DeleteRangeRequest {
            transaction: Bytes::new(),
            start,
            end,
        });
        match self.call(delete, "deleting a range").await? {
            Reply::Deleted(deleted) => Ok(deleted.deleted),
            _ => Err(wrong_answer("deleting a range")),
        }
    }

    /// Marks a place to which the writes can be rolled back. A name that is used again moves.
    pub async fn savepoint(&self, name: impl Into<String>) -> Result<()> {
        let request = v1::SavepointRequest {
            transaction: Bytes::new(),
            name: name.into(),
        };
        self.post(Op::Savepoint(request), "sending a savepoint").await
    }

    /// Takes back every write since the savepoint. An unknown name surfaces at the next read or at commit.
    pub async fn rollback_to(&self, name: impl Into<String>) -> Result<()> {
        let request = v1::SavepointRequest {
            transaction: Bytes::new(),
            name: name.into(),
        };
        self.post(Op::RollbackTo(request), "sending a rollback to a savepoint")
            .await
    }

    async fn call(&self, op: Op, doing: &str) -> Result<Reply> {
        self.open.check()?;
        let began = Instant::now();
        let (operation, answer) = self
            .open
            .session
            .call_numbered(self.open.number, self.open.deadline(), op)
            .await;
        if let Some(calls) = &mut self.open.lock().calls {
            calls.note(operation, began);
        }
        answer.map_err(|failure| self.open.failed(failure, doing))
    }

    async fn post(&self, op: Op, doing: &str) -> Result<()> {
        self.open.check()?;
        self.open
            .session
            .post(self.open.number, self.open.deadline(), op)
            .await
            .map(|_| ())
            .map_err(|failure| self.open.failed(failure, doing))
    }

    fn check_write(&self, key: &Key, value_bytes: usize) -> Result<()> {
        self.check_writable()?;
        check_key(key)?;
        check_limit("value length in bytes", value_bytes, limits::MAX_VALUE_BYTES)
    }

    fn check_writable(&self) -> Result<()> {
        if self.open.read_only {
            return Err(KvError::ReadOnly.into());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Open")
            .field("txn", &state.token.txn)
            .field("dead", &state.dead)
            .finish_non_exhaustive()
    }
}

/// An empty end means "without end" on the wire, so a range without keys must not travel as it is.
fn range_to_wire(range: KeyRange) -> (Bytes, Bytes) {
    if range.is_empty() {
        let nothing = Bytes::from_static(&[0]);
        return (nothing.clone(), nothing);
    }
    range_to_bytes(range)
}

pub(crate) fn check_key(key: &Key) -> Result<()> {
    if key.0.is_empty() {
        return Err(KvError::invalid("a key has at least one byte").into());
    }
    check_limit("key length in bytes", key.0.len(), limits::MAX_KEY_BYTES)
}

pub(crate) fn check_limit(limit: &str, got: usize, allowed: usize) -> Result<()> {
    if got <= allowed {
        return Ok(());
    }
    Err(KvError::LimitExceeded {
        limit: limit.to_owned(),
        allowed: allowed as u64,
        got: got as u64,
    }
    .into())
}
