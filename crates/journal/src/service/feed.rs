//! One subscriber's feed: committed entries of its streams and closures, merged (R14).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_protocol::closing::{Closure, FeedGate};
use meridian_rpc::KvError;
use meridian_rpc::internal::feed_event::Event;
use meridian_rpc::internal::{self, Entry, FeedBatch, FeedEntry, FeedEvent, FeedRequest, StreamLsn};
use meridian_types::{LogBase, Lsn, StreamId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::push::{Next, QUEUE, push};
use crate::journal::{Fetched, Journal};

/// What an event takes beside its payload, about.
const OVERHEAD_BYTES: usize = 64;
/// What one stream that a closure depends on takes, about.
const DEPENDENCY_BYTES: usize = 16;

/// How far one subscriber has come.
struct Subscriber {
    name: String,
    journal: Arc<Journal>,
    gate: FeedGate,
    streams: Vec<StreamId>,
    /// Which stream is served first in the next batch, so that a busy one does not hold up the others.
    turn: usize,
    closures_seen: u64,
    /// Closures that may be sent, at most one per range: everything that they depend on was sent.
    ready: VecDeque<Closure>,
}

/// Events from the positions asked for on, for as long as the subscriber listens.
pub fn serve(
    journal: Arc<Journal>,
    request: &FeedRequest,
) -> Result<BoxStream<'static, Result<FeedBatch, Status>>, KvError> {
    let limit = journal.config().max_streams;
    if request.streams.len() > limit {
        return Err(KvError::LimitExceeded {
            limit: "streams of a feed".to_owned(),
            allowed: limit as u64,
            got: request.streams.len() as u64,
        });
    }
    let starts: BTreeMap<StreamId, Lsn> = request
        .streams
        .iter()
        .map(|start| (StreamId(start.stream), Lsn(start.after_lsn)))
        .collect();
    let subscriber = Subscriber {
        name: request.subscriber.clone(),
        journal,
        streams: starts.keys().copied().collect(),
        gate: FeedGate::new(starts),
        turn: 0,
        closures_seen: 0,
        ready: VecDeque::new(),
    };
    let (batches, output) = mpsc::channel(QUEUE);
    tokio::spawn(send(subscriber, batches));
    Ok(ReceiverStream::new(output).boxed())
}

async fn send(mut subscriber: Subscriber, batches: mpsc::Sender<Result<FeedBatch, Status>>) {
    tracing::info!(subscriber = subscriber.name, "feed begins");
    let journal = subscriber.journal.clone();
    push(&journal, batches, || {
        let batch = subscriber.next_batch()?;
        Ok(match batch.events.last().and_then(|last| last.event.as_ref()) {
            None => Next::Nothing,
            Some(Event::Trimmed(_)) => Next::Last(batch),
            Some(_) => Next::Message(batch),
        })
    })
    .await;
    tracing::info!(subscriber = subscriber.name, "feed ends");
}

impl Subscriber {
    /// What there is to be sent now, within bounds; empty when there is nothing. A stream of which the next entry is gone ends it.
    fn next_batch(&mut self) -> Result<FeedBatch, KvError> {
        let mut events = Vec::new();
        let (closures, seen) = self.journal.closures_after(self.closures_seen);
        self.closures_seen = seen;
        for closure in closures {
            if let Some(closure) = self.gate.offer(closure) {
                self.make_ready(closure);
            }
        }
        let mut budget = self.journal.config().batch_bytes;
        self.take_ready(&mut events, &mut budget);
        let count = self.streams.len();
        for index in 0..count {
            if budget == 0 {
                self.turn = (self.turn + index) % count;
                break;
            }
            let Some(stream) = self.streams.get((self.turn + index) % count).copied() else {
                continue;
            };
            let fetched = self
                .journal
                .read_committed(stream, self.gate.sent(stream), budget)?;
            let entries = match fetched {
                Fetched::Entries(entries) => entries,
                Fetched::Trimmed(base) => {
                    tracing::info!(subscriber = self.name, %stream, base = %base.position, "feed refused: trimmed");
                    events.push(trimmed_event(stream, base));
                    break;
                }
            };
            let Some(last) = entries.last().map(|entry| Lsn(entry.lsn)) else {
                continue;
            };
            budget = budget.saturating_sub(entries.iter().map(size).sum());
            events.extend(entries.into_iter().map(|entry| entry_event(stream, entry)));
            for closure in self.gate.on_sent(stream, last) {
                self.make_ready(closure);
            }
            self.take_ready(&mut events, &mut budget);
        }
        Ok(FeedBatch { events })
    }

    /// A closure may be sent; it implies an earlier one of its range, whose turn it takes.
    fn make_ready(&mut self, closure: Closure) {
        match self.ready.iter_mut().find(|ready| ready.range == closure.range) {
            Some(earlier) => *earlier = closure,
            None => self.ready.push_back(closure),
        }
    }

    /// Sends the closures that may be, as far as there is room.
    fn take_ready(&mut self, events: &mut Vec<FeedEvent>, budget: &mut usize) {
        while *budget > 0
            && let Some(closure) = self.ready.pop_front()
        {
            *budget = budget.saturating_sub(OVERHEAD_BYTES + closure.after.len() * DEPENDENCY_BYTES);
            events.push(closure_event(closure));
        }
    }
}

fn size(entry: &Entry) -> usize {
    entry.payload.len() + OVERHEAD_BYTES
}

fn entry_event(stream: StreamId, entry: Entry) -> FeedEvent {
    FeedEvent {
        event: Some(Event::Entry(FeedEntry {
            stream: stream.0,
            entry: Some(entry),
        })),
    }
}

fn trimmed_event(stream: StreamId, base: LogBase) -> FeedEvent {
    FeedEvent {
        event: Some(Event::Trimmed(internal::Trimmed {
            stream: stream.0,
            base: Some(base.into()),
        })),
    }
}

fn closure_event(closure: Closure) -> FeedEvent {
    let after = closure.after.into_iter().map(|(stream, lsn)| StreamLsn {
        stream: stream.0,
        lsn: lsn.0,
    });
    FeedEvent {
        event: Some(Event::Closure(internal::Closure {
            range: closure.range.0,
            epoch: closure.epoch.0,
            closed: closure.x.0,
            after: after.collect(),
        })),
    }
}
