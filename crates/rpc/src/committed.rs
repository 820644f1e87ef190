//! What the journal has committed, as the nearest journal node knows it: one follower per process, shared by all who
//! wait for a record.
//!
//! ```text
//! journal node ──Watch──> follower task ──> positions ──> whoever waits for (stream, epoch, lsn)
//! ```
//! A record of another region's owner is known to be committed here one way after its quorum has it: earlier than its
//! owner's answer can arrive (protocol section 5, 5.4).
//!
//! The nearest node is followed while it is in step. When somebody has waited for a while and another node knows already what is
//! waited for (the nearest is cut off from the owner, or is being rebuilt), that one is followed until the nearest has come as far.
//!
//! Caveats: an answer may never come (the owner may be gone): whoever waits has another way
//! to learn, and a time after which it takes that. Positions only rise, whatever node is followed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_types::{Epoch, Lsn, NodeName, Position, StreamId, limits};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::env::Env;
use crate::internal::journal_client::JournalClient;
use crate::internal::{WatchBatch, WatchRequest};
use crate::network::Network;

/// How long a journal node may take to begin to answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the nearest node is tried again while another one is followed.
const NEAREST_AGAIN: Duration = Duration::from_secs(2);
/// Who has waited for so long lets the other nodes be asked whether they know more. Longer than most commits take.
const LONG_WAIT: Duration = Duration::from_millis(300);
/// Most streams whose positions are kept.
const MAX_STREAMS: usize = 1 << 16;

/// What is known of a record's place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The record is committed.
    Committed,
    /// Something of a later epoch is committed: ask that epoch's owner what became of the record.
    OtherEpoch,
}

/// The last committed entries of all streams, as far as this process knows. Cheap to clone: all clones share them.
#[derive(Clone, Default)]
pub struct CommittedWatch {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next_waiter: AtomicU64,
    state: Mutex<State>,
}

/// What somebody waits for; the number tells those apart who wait for the same.
type Place = (Position, u64);
type Waiters = BTreeMap<Place, Waiter>;

struct Waiter {
    since: Instant,
    answer: oneshot::Sender<Known>,
}

#[derive(Default)]
struct State {
    /// The last entry of each stream that is known to be committed.
    last: BTreeMap<StreamId, Position>,
    /// Invariant: each waits for a place after the stream's `last`; no map is empty.
    waiters: BTreeMap<StreamId, Waiters>,
}

impl CommittedWatch {
    /// Follows one of the journal nodes until `stop` is cancelled: the first, which should be the nearest, as long as
    /// it answers.
    pub fn start(env: &Env, journals: Vec<NodeName>, stop: CancellationToken) -> Self {
        let watch = Self::default();
        let follower = Follower {
            network: env.network.clone(),
            watch: watch.clone(),
            journals,
        };
        let rng = env.rng();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = follower.run(rng) => {}
            }
        });
        watch
    }

    /// Waits until the entry that the owner of `epoch` appended at `lsn` is known to be committed, or something of a
    /// later epoch is. May never end: see the module's caveats. Nothing is left behind when the future is dropped.
    pub async fn wait(&self, stream: StreamId, epoch: Epoch, lsn: Lsn) -> Known {
        let wanted = Position { epoch, lsn };
        let place = (wanted, self.shared.next_waiter.fetch_add(1, Ordering::Relaxed));
        let answered = {
            let mut state = self.shared.lock();
            if let Some(known) = state.last.get(&stream).and_then(|last| known(*last, wanted)) {
                return known;
            }
            let (answer, answered) = oneshot::channel();
            let since = Instant::now();
            let waiter = Waiter { since, answer };
            state.waiters.entry(stream).or_default().insert(place, waiter);
            answered
        };
        let _withdraw = Withdraw {
            shared: &self.shared,
            stream,
            place,
        };
        match answered.await {
            Ok(known) => known,
            // Only an answer takes a waiter out.
            Err(_) => std::future::pending().await,
        }
    }

    /// The last entry of a stream that is known to be committed.
    pub fn last(&self, stream: StreamId) -> Option<Position> {
        self.shared.lock().last.get(&stream).copied()
    }

    /// Notes that everything of the stream up to this entry is committed.
    pub fn learn(&self, stream: StreamId, position: Position) {
        let mut state = self.shared.lock();
        let is_new = match state.last.get(&stream) {
            Some(last) => *last < position,
            None => state.last.len() < MAX_STREAMS,
        };
        if !is_new {
            return;
        }
        state.last.insert(stream, position);
        let mut answered = state.waiters.remove(&stream).unwrap_or_default();
        let still_waiting = answered.split_off(&(position, u64::MAX));
        if !still_waiting.is_empty() {
            state.waiters.insert(stream, still_waiting);
        }
        drop(state);
        for ((wanted, _), waiter) in answered {
            if let Some(known) = known(position, wanted) {
                let _ = waiter.answer.send(known);
            }
        }
    }

    /// What somebody has waited for since `before`: of each stream the first such entry.
    fn awaited_since(&self, before: Instant) -> BTreeMap<StreamId, Position> {
        let state = self.shared.lock();
        let late = |waiters: &Waiters| {
            let mut late = waiters.iter().filter(|(_, waiter)| waiter.since <= before);
            late.next().map(|((wanted, _), _)| *wanted)
        };
        let streams = state.waiters.iter();
        streams
            .filter_map(|(stream, waiters)| Some((*stream, late(waiters)?)))
            .collect()
    }

    fn positions(&self) -> BTreeMap<StreamId, Position> {
        self.shared.lock().last.clone()
    }
}

/// What a stream's last committed entry says of an entry. The entries of one epoch below it are those that the epoch's
/// owner appended; one of an earlier epoch may be another.
fn known(last: Position, wanted: Position) -> Option<Known> {
    if last < wanted {
        None
    } else if last.epoch == wanted.epoch {
        Some(Known::Committed)
    } else {
        Some(Known::OtherEpoch)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a waiter out whose caller has gone.
struct Withdraw<'a> {
    shared: &'a Shared,
    stream: StreamId,
    place: Place,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(waiters) = state.waiters.get_mut(&self.stream) {
            waiters.remove(&self.place);
            if waiters.is_empty() {
                state.waiters.remove(&self.stream);
            }
        }
    }
}

struct Follower {
    network: Network,
    watch: CommittedWatch,
    journals: Vec<NodeName>,
}

/// Why a node is not followed any more.
enum Ended {
    Broke(String),
    /// Another node is to be followed: the nearest is in step again, or this one is not. Its place in the list.
    Changed(usize, Box<Streaming<WatchBatch>>),
}

impl Follower {
    async fn run(self, mut rng: StdRng) {
        let mut pause = FIRST_PAUSE;
        loop {
            for (index, node) in self.journals.iter().enumerate() {
                match self.open(node).await {
                    Ok(stream) => {
                        pause = FIRST_PAUSE;
                        self.follow(index, stream, &mut rng).await;
                        // The nearest is tried first again.
                        break;
                    }
                    Err(status) => tracing::debug!(journal = %node, %status, "what is committed is not told"),
                }
            }
            tokio::time::sleep(pause.mul_f64(rng.random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn open(&self, node: &NodeName) -> Result<Streaming<WatchBatch>, Status> {
        let mut client = JournalClient::new(self.network.transport(node))
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
        let call = client.watch(WatchRequest::default());
        match tokio::time::timeout(OPEN_TIMEOUT, call).await {
            Ok(opened) => Ok(opened?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("it did not answer in time")),
        }
    }

    /// Follows a node until its stream breaks; changes to another one that knows more, and back to the nearest.
    async fn follow(&self, index: usize, stream: Streaming<WatchBatch>, rng: &mut StdRng) {
        let (mut index, mut stream) = (index, stream);
        loop {
            let node = self.journals.get(index).cloned().unwrap_or_default();
            tracing::debug!(journal = %node, "what is committed is followed");
            match self.take(index, stream, rng).await {
                Ended::Broke(why) => {
                    tracing::debug!(journal = %node, %why, "what is committed is not told any more");
                    return;
                }
                Ended::Changed(other, opened) => (index, stream) = (other, *opened),
            }
        }
    }

    async fn take(&self, index: usize, mut stream: Streaming<WatchBatch>, rng: &mut StdRng) -> Ended {
        let nearest = self.nearest(index, rng.clone());
        let ahead = self.ahead(index, rng);
        tokio::pin!(nearest, ahead);
        loop {
            tokio::select! {
                biased;
                stream = &mut nearest => return Ended::Changed(0, Box::new(stream)),
                (other, stream) = &mut ahead => return Ended::Changed(other, Box::new(stream)),
                batch = stream.message() => match batch {
                    Ok(Some(batch)) => self.note(&batch),
                    Ok(None) => return Ended::Broke("it ended the stream".to_owned()),
                    Err(status) => return Ended::Broke(status.to_string()),
                },
            }
        }
    }

    /// The nearest node's stream, once it tells as much of what advances as is known here; never when that is the one followed.
    async fn nearest(&self, index: usize, mut rng: StdRng) -> Streaming<WatchBatch> {
        let Some(nearest) = self.journals.first().filter(|_| index > 0) else {
            return std::future::pending().await;
        };
        let mut before = None;
        loop {
            tokio::time::sleep(NEAREST_AGAIN.mul_f64(rng.random_range(0.5..=1.0))).await;
            let mut wanted = self.watch.positions();
            // A stream that nobody uses may be further here than where its owner was last heard of.
            let before = before.get_or_insert_with(|| wanted.clone());
            wanted.retain(|stream, last| before.get(stream) != Some(last));
            if let Ok(mut stream) = self.open(nearest).await
                && self.tells(&mut stream, wanted).await
            {
                return stream;
            }
        }
    }

    /// Another node's place and stream, once it tells what somebody has waited for in vain.
    async fn ahead(&self, index: usize, rng: &mut StdRng) -> (usize, Streaming<WatchBatch>) {
        loop {
            tokio::time::sleep(LONG_WAIT).await;
            let awaited = || self.watch.awaited_since(Instant::now() - LONG_WAIT);
            if awaited().is_empty() {
                continue;
            }
            let others = self.journals.iter().enumerate();
            for (other, node) in others.filter(|(other, _)| *other != index) {
                if let Ok(mut stream) = self.open(node).await
                    && let wanted = awaited()
                    && !wanted.is_empty()
                    && self.tells_some(&mut stream, &wanted).await
                {
                    return (other, stream);
                }
            }
            // They know no more: the owner is slow, or gone.
            tokio::time::sleep(NEAREST_AGAIN.mul_f64(rng.random_range(0.5..=1.0))).await;
        }
    }

    /// Whether a node tells in time of everything that is wanted; what it tells counts in any case.
    async fn tells(
        &self,
        stream: &mut Streaming<WatchBatch>,
        mut wanted: BTreeMap<StreamId, Position>,
    ) -> bool {
        let told = async {
            while !wanted.is_empty() {
                let Ok(Some(batch)) = stream.message().await else {
                    return false;
                };
                self.note(&batch);
                wanted.retain(|stream, wanted| !is_told(&batch, *stream, *wanted));
            }
            true
        };
        tokio::time::timeout(OPEN_TIMEOUT, told).await.unwrap_or(false)
    }

    /// Whether a node's first batch, which holds all that it knows, tells of something that is wanted.
    async fn tells_some(
        &self,
        stream: &mut Streaming<WatchBatch>,
        wanted: &BTreeMap<StreamId, Position>,
    ) -> bool {
        let Ok(Ok(Some(batch))) = tokio::time::timeout(OPEN_TIMEOUT, stream.message()).await else {
            return false;
        };
        let is_told = wanted
            .iter()
            .any(|(stream, wanted)| is_told(&batch, *stream, *wanted));
        self.note(&batch);
        is_told
    }

    fn note(&self, batch: &WatchBatch) {
        for committed in &batch.committed {
            if let Some(position) = &committed.position {
                self.watch.learn(StreamId(committed.stream), (*position).into());
            }
        }
    }
}

/// Whether the batch says that the stream is committed up to there.
fn is_told(batch: &WatchBatch, stream: StreamId, wanted: Position) -> bool {
    batch.committed.iter().any(|told| {
        let position = told.position.map(Position::from);
        told.stream == stream.0 && position.is_some_and(|position| position >= wanted)
    })
}

#[cfg(test)]
mod tests;
