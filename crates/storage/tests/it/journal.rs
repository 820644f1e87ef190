//! A journal that is told what to feed.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use meridian_protocol::closing::{Closure, FeedGate};
use meridian_rpc::internal::feed_event::Event;
use meridian_rpc::internal::journal_server::Journal;
use meridian_rpc::internal::{
    AppendBatch, AppendReplyBatch, CheckpointedRequest, CheckpointedResponse, Closure as ClosureMessage,
    Entry, FeedBatch, FeedEntry, FeedEvent, FeedRequest, FenceRequest, FenceResponse, LogBase, Position,
    ReadRequest, ReadResponse, StateRequest, StateResponse, StreamLsn, StreamState, Trimmed, WatchBatch,
    WatchRequest,
};
use meridian_types::{Epoch, Lsn, RangeId, StreamId, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One thing that happened, in order: entries are of stream 1.
#[derive(Clone)]
pub enum Fact {
    Entry(Entry),
    Closed { range: u64, x: u64, after: u64 },
}

/// What all nodes of the journal hold.
#[derive(Clone, Default)]
pub struct Log {
    facts: Arc<Mutex<Vec<Fact>>>,
    length: Arc<watch::Sender<usize>>,
}

impl Log {
    pub fn push(&self, fact: Fact) {
        let mut facts = self.facts.lock().unwrap();
        facts.push(fact);
        self.length.send_replace(facts.len());
    }

    pub fn last_lsn(&self) -> u64 {
        let facts = self.facts.lock().unwrap();
        let lsns = facts.iter().map(|fact| match fact {
            Fact::Entry(entry) => entry.lsn,
            Fact::Closed { .. } => 0,
        });
        lsns.max().unwrap_or(0)
    }

    fn get(&self, index: usize) -> Option<Fact> {
        self.facts.lock().unwrap().get(index).cloned()
    }
}

/// What a node does to its subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Feeds nothing, without a word.
    Silent,
    /// Feeds nothing of use, again and again, and is behind the others: other streams go on there.
    Behind,
    /// Is filled again after its disk was lost; feeds nothing.
    Rebuilt,
    /// Refuses, and ends what is open.
    Down,
    /// Leaves the entry with this lsn out.
    Skips(u64),
}

/// One journal node.
#[derive(Clone)]
pub struct FakeJournal {
    pub log: Log,
    pub mood: Arc<watch::Sender<Mood>>,
    /// What subscribers asked for: their `after_lsn`.
    pub subscriptions: Arc<Mutex<Vec<u64>>>,
    /// What storage nodes told of their checkpoints.
    pub told: Arc<Mutex<Vec<CheckpointedRequest>>>,
    /// Entries up to here are gone; 0: none.
    pub base: Arc<watch::Sender<u64>>,
}

impl FakeJournal {
    pub fn new(log: Log) -> Self {
        Self {
            log,
            mood: Arc::new(watch::Sender::new(Mood::Well)),
            subscriptions: Arc::default(),
            told: Arc::default(),
            base: Arc::new(watch::Sender::new(0)),
        }
    }

    pub fn subscriptions(&self) -> Vec<u64> {
        self.subscriptions.lock().unwrap().clone()
    }

    async fn feed_to(self, after: u64, out: mpsc::Sender<Result<FeedBatch, Status>>) {
        let mut gate = FeedGate::new([(StreamId(1), Lsn(after))]);
        let mut length = self.log.length.subscribe();
        let mut mood = self.mood.subscribe();
        let mut next = 0;
        loop {
            let current = *mood.borrow_and_update();
            if current == Mood::Down {
                let _ = out.send(Err(Status::unavailable("journal node goes down"))).await;
                return;
            }
            length.borrow_and_update();
            let mut events = Vec::new();
            while !matches!(current, Mood::Silent | Mood::Behind | Mood::Rebuilt)
                && let Some(fact) = self.log.get(next)
            {
                next += 1;
                events.extend(pass(&mut gate, fact, after, current));
            }
            let chatters = current == Mood::Behind;
            if (chatters || !events.is_empty()) && out.send(Ok(FeedBatch { events })).await.is_err() {
                return;
            }
            tokio::select! {
                _ = length.changed() => {}
                _ = mood.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(10)), if chatters => {}
                () = out.closed() => return,
            }
        }
    }
}

fn pass(gate: &mut FeedGate, fact: Fact, after: u64, mood: Mood) -> Vec<FeedEvent> {
    let passed = match fact {
        Fact::Entry(entry) if entry.lsn <= after || mood == Mood::Skips(entry.lsn) => return vec![],
        Fact::Entry(entry) => {
            let lsn = Lsn(entry.lsn);
            let event = Event::Entry(FeedEntry {
                stream: 1,
                entry: Some(entry),
            });
            let closures = gate.on_sent(StreamId(1), lsn).into_iter().map(closure_event);
            return std::iter::once(FeedEvent { event: Some(event) })
                .chain(closures)
                .collect();
        }
        Fact::Closed { range, x, after } => gate.offer(Closure {
            range: RangeId(range),
            epoch: Epoch(1),
            x: Timestamp(x),
            after: vec![(StreamId(1), Lsn(after))],
        }),
    };
    passed.into_iter().map(closure_event).collect()
}

fn closure_event(closure: Closure) -> FeedEvent {
    let after = closure.after.iter().map(|(stream, lsn)| StreamLsn {
        stream: stream.0,
        lsn: lsn.0,
    });
    let closure = ClosureMessage {
        range: closure.range.0,
        epoch: closure.epoch.0,
        closed: closure.x.0,
        after: after.collect(),
    };
    FeedEvent {
        event: Some(Event::Closure(closure)),
    }
}

fn trimmed(base: u64) -> FeedEvent {
    let base = LogBase {
        position: Some(Position { epoch: 1, lsn: base }),
        ..LogBase::default()
    };
    FeedEvent {
        event: Some(Event::Trimmed(Trimmed {
            stream: 1,
            base: Some(base),
        })),
    }
}

/// A feed that says this and ends.
fn once<T>(what: T) -> mpsc::Receiver<T> {
    let (out, feed) = mpsc::channel(1);
    let _ = out.try_send(what);
    feed
}

fn not_played<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not played in these tests"))
}

#[tonic::async_trait]
impl Journal for FakeJournal {
    type AppendStream = Messages<AppendReplyBatch>;
    type ReadStream = Messages<ReadResponse>;
    type FeedStream = ReceiverStream<Result<FeedBatch, Status>>;

    async fn feed(&self, request: Request<FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        let after = request
            .into_inner()
            .streams
            .iter()
            .find(|start| start.stream == 1)
            .unwrap()
            .after_lsn;
        if *self.mood.borrow() == Mood::Down {
            return Err(Status::unavailable("journal node is down"));
        }
        self.subscriptions.lock().unwrap().push(after);
        let base = *self.base.borrow();
        if after < base {
            let events = vec![trimmed(base)];
            return Ok(Response::new(ReceiverStream::new(once(Ok(FeedBatch { events })))));
        }
        let (out, feed) = mpsc::channel(16);
        tokio::spawn(self.clone().feed_to(after, out));
        Ok(Response::new(ReceiverStream::new(feed)))
    }

    async fn fence(&self, _: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        not_played()
    }

    /// A node that is not well has not come as far as the others.
    async fn state(&self, request: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        let mood = *self.mood.borrow();
        let is_well = mood == Mood::Well;
        let state = |stream| StreamState {
            stream,
            committed_lsn: if is_well { self.log.last_lsn() } else { 0 },
            ..StreamState::default()
        };
        Ok(Response::new(StateResponse {
            streams: request.into_inner().streams.into_iter().map(state).collect(),
            rejoining: mood == Mood::Rebuilt,
            ..StateResponse::default()
        }))
    }

    async fn checkpointed(
        &self,
        request: Request<CheckpointedRequest>,
    ) -> Result<Response<CheckpointedResponse>, Status> {
        self.told.lock().unwrap().push(request.into_inner());
        Ok(Response::new(CheckpointedResponse {}))
    }

    async fn append(
        &self,
        _: Request<Streaming<AppendBatch>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        not_played()
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        not_played()
    }

    type WatchStream = Messages<WatchBatch>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not watched by storage nodes"))
    }
}
