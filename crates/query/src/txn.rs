//! One open transaction: its snapshot, its own writes, what it wants checked, and its end.
//!
//! ```text
//! Open ──commit──> Committing ──> Ended(committed | refused | unknown)
//!   └──rollback, idle, too old──> Ended(aborted)
//! ```
//! Everything that must happen in the order of the client's operations happens here, synchronously, under
//! the transaction's own lock; waiting for storage or an adjudicator happens outside of it. A read takes the
//! own writes it must see along when it is issued, so later writes may overtake it.

mod start;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meridian_protocol::events;
use meridian_rpc::error::KvResult;
use meridian_rpc::{KvError, v1};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{CommitToken, Key, KeyRange, StreamId, Timestamp, TxnId, limits};
use tokio::sync::{OnceCell, watch};
use tokio::time::Instant;

use crate::begin::Options;
use crate::budget::Reservation;
use crate::buffer::{Buffered, ENTRY_OVERHEAD, WriteBuffer, check_key, check_limit, compact};
use crate::processor::Processor;
use crate::read_set::ReadSet;
use crate::registry::OpenSlot;
use crate::scan::{Scan, ScanSpec};
use crate::trace::{Recorder, Span};

/// Most bytes of keys of one batch read: they travel in one message.
const MAX_BATCH_KEY_BYTES: usize = 8 << 20;
/// Most bytes of values of one batch read, for the same reason.
const MAX_BATCH_VALUE_BYTES: usize = 14 << 20;

/// A transaction that committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Zero when it wrote nothing.
    pub(crate) commit: Timestamp,
    pub(crate) token: CommitToken,
}

/// How a transaction ended.
pub(crate) type Ending = KvResult<Committed>;

/// A transaction that this node holds, or remembers for a while.
pub(crate) struct Txn {
    pub(crate) id: TxnId,
    pub(crate) options: Options,
    begun: Instant,
    /// `now.latest` when it began: a lower bound of its start.
    begun_at: Timestamp,
    start: OnceCell<Timestamp>,
    /// Where the keys of its first read were closed when it chose a snapshot of the past.
    closed: OnceLock<Timestamp>,
    /// The number of the last attempt to commit it.
    attempts: AtomicU32,
    /// What it waited for, if it is traced.
    recorder: Option<Arc<Recorder>>,
    state: Mutex<State>,
    ending: watch::Sender<Option<Ending>>,
}

struct State {
    phase: Phase,
    buffer: WriteBuffer,
    reads: ReadSet,
    /// The first error of a write that was not answered.
    sticky: Option<KvError>,
    home: Option<StreamId>,
    last_used: Instant,
    /// Operations under way.
    busy: usize,
    held: Reservation,
    slot: Option<OpenSlot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Committing,
    Ended,
}

/// What a transaction takes to its commit.
pub(crate) struct Work {
    pub(crate) buffer: WriteBuffer,
    pub(crate) reads: ReadSet,
}

/// What a client that asks for a commit is up to.
pub(crate) enum CommitStart {
    /// The commit begins now, with this.
    Begins(Work),
    /// It was asked for before: wait for its end.
    Waits,
}

impl Txn {
    /// A transaction that begins now. `slot` counts it as open until it ends.
    pub(crate) fn new(
        id: TxnId,
        options: Options,
        begun_at: Timestamp,
        held: Reservation,
        slot: OpenSlot,
    ) -> Self {
        let now = Instant::now();
        let recorder = options.trace.then(Arc::default);
        Self {
            recorder,
            id,
            options,
            begun: now,
            begun_at,
            start: OnceCell::new(),
            closed: OnceLock::new(),
            attempts: AtomicU32::new(0),
            state: Mutex::new(State {
                phase: Phase::Open,
                buffer: WriteBuffer::default(),
                reads: ReadSet::default(),
                sticky: None,
                home: None,
                last_used: now,
                busy: 0,
                held,
                slot: Some(slot),
            }),
            ending: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation of it begins.
    pub(crate) fn span(&self, kind: v1::hop::Kind) -> Span {
        Span::new(self.recorder.as_ref(), kind)
    }

    /// What it waited for, if it is traced.
    pub(crate) fn trace(&self) -> Option<v1::Trace> {
        self.recorder.as_ref().map(|recorder| recorder.told())
    }

    /// What is known of the commit token so far: until the start is fixed, a lower bound of it.
    pub(crate) fn token(&self) -> CommitToken {
        CommitToken {
            txn: self.id,
            start: self.start.get().copied().unwrap_or(self.begun_at),
            home: self.lock().home,
        }
    }

    /// The number of the next attempt to commit it.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// The number of the last attempt.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// It is run again under the same id: its attempts must not be taken for those of the run before.
    pub(crate) fn skip_attempts(&self, made: u32) {
        self.attempts.store(made, Ordering::Relaxed);
    }

    /// The commit will be recorded there.
    pub(crate) fn set_home(&self, home: StreamId) {
        self.lock().home = Some(home);
    }

    fn log_ended(&self, ending: &Ending) {
        let (outcome, commit) = match ending {
            Ok(committed) => ("committed", committed.commit),
            Err(error) if error.is_definite() => ("aborted", Timestamp::ZERO),
            Err(_) => ("unknown", Timestamp::ZERO),
        };
        tracing::trace!(
            target: events::TARGET, event = "ended", txn = self.id.0.as_u128(), start = self.token().start.0, outcome,
            commit = commit.0
        );
    }

    /// Marks an operation under way until the guard is dropped; refused when the transaction is not open.
    pub(crate) fn enter(self: &Arc<Self>) -> KvResult<Busy> {
        let mut state = self.lock();
        self.check(&state)?;
        state.busy += 1;
        Ok(Busy { txn: self.clone() })
    }

    /// Whether neither its commit nor its end was asked for.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().phase == Phase::Open
    }

    /// Refuses when the transaction has ended, or can only be rolled back.
    pub(crate) fn check_open(&self) -> KvResult<()> {
        self.check(&self.lock())
    }

    fn check(&self, state: &State) -> KvResult<()> {
        match state.phase {
            Phase::Open => state.sticky.clone().map_or(Ok(()), Err),
            Phase::Committing => Err(KvError::invalid("the transaction's commit was asked for")),
            Phase::Ended => Err(self.ended_error()),
        }
    }

    /// What to say to one who still uses a transaction that has ended.
    fn ended_error(&self) -> KvError {
        match &*self.ending.borrow() {
            Some(Err(aborted @ KvError::Aborted { .. })) => aborted.clone(),
            _ => self.not_found(),
        }
    }

    /// Not known here any more.
    pub(crate) fn not_found(&self) -> KvError {
        KvError::TransactionNotFound {
            txn: self.id.to_string(),
        }
    }

    /// Buffers a write; the transaction is as before when it is refused.
    pub(crate) fn write(&self, key: Bytes, value: Option<Bytes>) -> KvResult<()> {
        WriteBuffer::check(&key, value.as_ref())?;
        self.change(|state| state.write(Key(compact(key)), value.map(compact)))
    }

    /// Opens a savepoint.
    pub(crate) fn savepoint(&self, name: String) -> KvResult<()> {
        self.change(|state| state.buffer.savepoint(name).and_then(|()| state.account(0)))
    }

    /// Undoes the writes since a savepoint.
    pub(crate) fn rollback_to(&self, name: &str) -> KvResult<()> {
        self.change(|state| state.buffer.rollback_to(name).and_then(|()| state.account(0)))
    }

    fn change(&self, change: impl FnOnce(&mut State) -> KvResult<()>) -> KvResult<()> {
        let mut state = self.lock();
        self.check(&state)?;
        if self.options.read_only {
            return Err(KvError::ReadOnly);
        }
        state.last_used = Instant::now();
        change(&mut state)
    }

    /// Remembers that a pipelined write failed: the first such error is told at the next read or at commit,
    /// and the transaction can then only be rolled back.
    pub(crate) fn poison(&self, error: KvError) {
        let mut state = self.lock();
        if state.phase == Phase::Open && state.sticky.is_none() {
            tracing::debug!(txn = %self.id, %error, "a pipelined write failed");
            state.sticky = Some(error);
        }
    }

    /// Whether reads are checked at commit.
    fn checks_reads(&self, for_update: bool) -> KvResult<bool> {
        if self.options.read_only {
            // It commits by doing nothing: there is no commit to check anything at (R7).
            return if for_update {
                Err(KvError::ReadOnly)
            } else {
                Ok(false)
            };
        }
        Ok(for_update || self.options.serializable)
    }

    /// Issues a read of single keys: from here on it is independent of later writes.
    pub(crate) fn issue_get(self: &Arc<Self>, keys: Vec<Bytes>, for_update: bool) -> KvResult<Get> {
        check_limit("keys of one batch read", keys.len(), limits::MAX_BATCH_KEYS)?;
        let key_bytes = keys.iter().map(Bytes::len).sum();
        check_limit("bytes of keys of one batch read", key_bytes, MAX_BATCH_KEY_BYTES)?;
        keys.iter().try_for_each(|key| check_key(key))?;
        let checked = self.checks_reads(for_update)?;
        let busy = self.enter()?;
        let span = self.span(v1::hop::Kind::Get);
        let mut state = self.lock();
        let own: Vec<Option<Buffered>> = keys
            .iter()
            .map(|key| {
                state
                    .buffer
                    .get(key)
                    .filter(|_| !is_broken(Rule::OwnWrites))
                    .cloned()
            })
            .collect();
        if checked {
            for (key, own) in keys.iter().zip(&own) {
                // A key that the transaction writes is checked as such, unless that write is undone later.
                if for_update || own.is_none() {
                    state.reads.add(KeyRange::point(Key(compact(key.clone()))))?;
                }
            }
            state.account(0)?;
        }
        Ok(Get {
            busy,
            keys,
            own,
            span,
        })
    }

    /// Issues a scan.
    pub(crate) fn issue_scan(self: &Arc<Self>, spec: ScanSpec, mut held: Reservation) -> KvResult<Scan> {
        let checked = self.checks_reads(spec.for_update)?;
        let own = {
            let mut state = self.lock();
            self.check(&state)?;
            state.last_used = Instant::now();
            state.buffer.slice(&spec.range)
        };
        held.resize(Scan::held_bytes(own.len()))?;
        Ok(Scan::new(self.clone(), spec, checked, own, held))
    }

    /// Adds keys that were read to those checked at commit.
    pub(crate) fn note_read(&self, range: KeyRange) -> KvResult<()> {
        let mut state = self.lock();
        self.check(&state)?;
        state.reads.add(range)?;
        state.account(0)
    }

    /// Tombstones for all of these keys, or for none.
    pub(crate) fn delete_all(&self, keys: Vec<Bytes>) -> KvResult<()> {
        self.change(|state| {
            // Undone as a whole when a limit is hit in the middle.
            state.buffer.savepoint(String::new())?;
            let deleted = keys
                .into_iter()
                .try_for_each(|key| state.write(Key(compact(key)), None));
            let undone = match &deleted {
                Ok(()) => Ok(()),
                Err(_) => state.buffer.rollback_to(""),
            };
            state.buffer.release_newest();
            let accounted = state.account(0);
            deleted.and(undone).and(accounted)
        })
    }

    /// The commit is asked for.
    pub(crate) fn begin_commit(&self) -> KvResult<CommitStart> {
        let mut state = self.lock();
        match state.phase {
            Phase::Committing => return Ok(CommitStart::Waits),
            Phase::Ended => return Ok(CommitStart::Waits),
            Phase::Open => {}
        }
        if let Some(sticky) = state.sticky.clone() {
            drop(state);
            self.end(Err(sticky.clone()));
            return Err(sticky);
        }
        state.phase = Phase::Committing;
        Ok(CommitStart::Begins(Work {
            buffer: std::mem::take(&mut state.buffer),
            reads: std::mem::take(&mut state.reads),
        }))
    }

    /// Rolls back. Repeating it is no error; a transaction whose commit was asked for is not rolled back.
    pub(crate) fn rollback(&self) -> KvResult<()> {
        let phase = self.lock().phase;
        match phase {
            Phase::Open => {
                self.abort("by its client");
                Ok(())
            }
            Phase::Committing => Err(KvError::invalid("the transaction's commit was asked for")),
            Phase::Ended => match &*self.ending.borrow() {
                Some(Err(error)) if error.is_definite() => Ok(()),
                _ => Err(self.not_found()),
            },
        }
    }

    /// Rolls back a transaction that is open; any other stays as it is.
    pub(crate) fn abort(&self, why: &str) {
        let is_open = self.lock().phase == Phase::Open;
        if is_open {
            self.end(Err(KvError::Aborted { why: why.to_owned() }));
        }
    }

    /// The transaction has ended so; what it held is given back. The first ending stays.
    pub(crate) fn end(&self, ending: Ending) {
        let released = {
            let mut state = self.lock();
            if state.phase == Phase::Ended {
                return;
            }
            state.phase = Phase::Ended;
            let _ = state.held.resize(0);
            let buffer = std::mem::take(&mut state.buffer);
            let reads = std::mem::take(&mut state.reads);
            (buffer, reads, state.slot.take())
        };
        tracing::debug!(txn = %self.id, ending = ?ending, "transaction ended");
        self.log_ended(&ending);
        self.ending.send_replace(Some(ending));
        // Freed outside of the lock; the slot tells the registry.
        drop(released);
    }

    /// How it ended, if it has.
    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.borrow().clone()
    }

    /// Waits for its end; `None` when the deadline comes first.
    pub(crate) async fn wait_for_end(&self, deadline: Instant) -> Option<Ending> {
        let mut ending = self.ending.subscribe();
        let ended = tokio::time::timeout_at(deadline, ending.wait_for(Option::is_some)).await;
        match ended {
            Ok(Ok(ending)) => ending.clone(),
            _ => None,
        }
    }

    /// Rolls the transaction back when it is too old, or unused for too long.
    pub(crate) fn reap(&self, max_age: Duration) {
        let now = Instant::now();
        let why = {
            let state = self.lock();
            let idle = now.duration_since(state.last_used);
            if state.phase != Phase::Open {
                return;
            } else if now.duration_since(self.begun) > max_age {
                format!("it was open for more than {max_age:?}; begin again")
            } else if state.busy == 0 && idle > self.options.idle_timeout {
                format!("nobody used it for {:?}; begin again", self.options.idle_timeout)
            } else {
                return;
            }
        };
        tracing::info!(txn = %self.id, %why, "transaction rolled back");
        self.abort(&why);
    }
}

impl State {
    fn write(&mut self, key: Key, value: Buffered) -> KvResult<()> {
        let growth = self.buffer.growth(&key, &value);
        self.account(growth)?;
        let written = self.buffer.write(key, value);
        self.account(0)?;
        written
    }

    /// Holds what the transaction holds and `more`.
    fn account(&mut self, more: usize) -> KvResult<()> {
        let reads = self.reads.bytes() + self.reads.len() * ENTRY_OVERHEAD;
        self.held.resize(self.buffer.held_bytes() + reads + more)
    }
}

/// An operation under way: meanwhile the transaction is not idle.
pub(crate) struct Busy {
    txn: Arc<Txn>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.txn.lock();
        state.busy -= 1;
        state.last_used = Instant::now();
    }
}

/// A read of single keys that was issued.
pub(crate) struct Get {
    busy: Busy,
    keys: Vec<Bytes>,
    own: Vec<Option<Buffered>>,
    span: Span,
}

/// The keys from the first to the last.
fn span(keys: &[Bytes]) -> KeyRange {
    let bounds = keys.iter().min().zip(keys.iter().max());
    bounds.map_or_else(KeyRange::all, |(first, last)| KeyRange {
        start: Key(first.clone()),
        end: Some(Key(last.clone()).successor()),
    })
}

impl Get {
    /// The client's number for it.
    pub(crate) fn numbered(mut self, operation: u64) -> Self {
        self.span.number(operation);
        self
    }

    /// Reads the one key.
    pub(crate) async fn run_one(self, processor: &Processor, deadline: Instant) -> KvResult<v1::GetResponse> {
        let txn = self.busy.txn.clone();
        let mut values = self.run(processor, deadline).await?;
        Ok(v1::GetResponse {
            snapshot: txn.snapshot(processor),
            ..values.pop().unwrap_or_default()
        })
    }

    /// Reads all, as one answer.
    pub(crate) async fn run_batch(
        self,
        processor: &Processor,
        deadline: Instant,
    ) -> KvResult<v1::BatchGetResponse> {
        let txn = self.busy.txn.clone();
        let values = self.run(processor, deadline).await?;
        Ok(v1::BatchGetResponse {
            values,
            snapshot: txn.snapshot(processor),
        })
    }

    /// Reads, in the order of the keys.
    pub(crate) async fn run(
        self,
        processor: &Processor,
        deadline: Instant,
    ) -> KvResult<Vec<v1::GetResponse>> {
        let txn = self.busy.txn.clone();
        let keys = span(&self.keys);
        let stored: Vec<Bytes> = self
            .keys
            .iter()
            .zip(&self.own)
            .filter(|(_, own)| own.is_none())
            .map(|(key, _)| key.clone())
            .collect();
        // Also when every key is the transaction's own: its first read fixes the snapshot (R1).
        let at = txn.start(processor, &keys, deadline, &self.span).await?;
        let mut values = if stored.is_empty() {
            Vec::new()
        } else {
            let got = processor.storage.get(at, stored, deadline, &self.span).await;
            got.map_err(|error| txn.too_fresh(error))?
        }
        .into_iter();
        txn.check_not_ended()?;
        let merged: Vec<_> = self
            .own
            .into_iter()
            .map(|own| match own {
                Some(value) => v1::GetResponse {
                    value,
                    ..v1::GetResponse::default()
                },
                None => values.next().unwrap_or_default(),
            })
            .collect();
        let bytes = merged
            .iter()
            .map(|got| got.value.as_ref().map_or(0, Bytes::len))
            .sum();
        check_limit("bytes of values of one batch read", bytes, MAX_BATCH_VALUE_BYTES)?;
        Ok(merged)
    }
}

impl Txn {
    /// A read that was issued before the commit may still be answered during it, not after a rollback.
    fn check_not_ended(&self) -> KvResult<()> {
        match self.lock().phase {
            Phase::Open | Phase::Committing => Ok(()),
            Phase::Ended => Err(self.ended_error()),
        }
    }
}
