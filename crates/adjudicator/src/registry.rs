//! Who is there: the stream tasks and the open connections to journal nodes of this process.
//!
//! Streams may be added while connections come and go; under one lock, so that none misses the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_rpc::internal::{AppendReply, AppendRequest, Closure, Entry};
use meridian_rpc::v1::OwnedRangeStatus;
use meridian_types::{Epoch, LogBase, Position, StreamId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::exchange::PeerMessage;
use crate::request::{Budget, Control, DecideWork, KnownOwner};

/// One message of a stream's owner to a journal node.
pub(crate) enum LinkMessage {
    Append(AppendRequest),
    Closure(Closure),
}

/// A number for each connection of this process, so that what belongs to an old one is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// An open connection to a journal node.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) outgoing: mpsc::Sender<LinkMessage>,
}

/// What a stream's task learns from the journal.
pub(crate) enum LinkEvent {
    Up {
        replica: usize,
        connection: Connection,
    },
    Down {
        replica: usize,
        id: ConnectionId,
    },
    Replies {
        replica: usize,
        id: ConnectionId,
        replies: Vec<AppendReply>,
    },
    /// Older entries for a replica that lags, read from another one's log; none when that failed.
    Fetched {
        replica: usize,
        epoch: Epoch,
        entries: Vec<Entry>,
        /// Nobody who answers has them: what the logs of those begin behind.
        trimmed: Option<LogBase>,
    },
    /// The positions of entries before those that are known, oldest first.
    FetchedOlder {
        replica: usize,
        epoch: Epoch,
        positions: Vec<Position>,
        /// What the log begins behind that they were read from, if it was trimmed and they reach back that far; the same as above when
        /// there are none.
        trimmed: Option<LogBase>,
    },
}

/// How the rest of the process talks to a stream's task.
#[derive(Clone)]
pub(crate) struct StreamHandle {
    pub(crate) links: mpsc::Sender<LinkEvent>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) decides: mpsc::Sender<DecideWork>,
    /// Votes, and how attempts ended.
    pub(crate) peers: mpsc::Sender<PeerMessage>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) status: Arc<Mutex<OwnedRangeStatus>>,
    /// Who the stream was handed to just now, and until when nobody else should take it.
    pub(crate) successor: Arc<Mutex<Option<(KnownOwner, Instant)>>>,
}

/// The streams and connections of this process.
pub(crate) struct Registry {
    inner: Mutex<Inner>,
}

struct Inner {
    streams: BTreeMap<StreamId, StreamHandle>,
    connections: Vec<Option<Connection>>,
    next_id: u64,
}

impl Registry {
    pub(crate) fn new(replicas: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                streams: BTreeMap::new(),
                connections: vec![None; replicas],
                next_id: 1,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stream(&self, stream: StreamId) -> Option<StreamHandle> {
        self.lock().streams.get(&stream).cloned()
    }

    pub(crate) fn streams(&self) -> Vec<(StreamId, StreamHandle)> {
        let inner = self.lock();
        inner
            .streams
            .iter()
            .map(|(id, handle)| (*id, handle.clone()))
            .collect()
    }

    /// Adds a stream, unless it is there. Returns the connections that are open now.
    pub(crate) fn add(&self, stream: StreamId, handle: StreamHandle) -> Option<Vec<Option<Connection>>> {
        let mut inner = self.lock();
        if inner.streams.contains_key(&stream) {
            return None;
        }
        inner.streams.insert(stream, handle);
        Some(inner.connections.clone())
    }

    /// Whether the connection to a journal node is open.
    pub(crate) fn is_connected(&self, replica: usize) -> bool {
        self.lock().connections.get(replica).is_some_and(Option::is_some)
    }

    /// A number for a new connection.
    pub(crate) fn next_connection(&self) -> ConnectionId {
        let mut inner = self.lock();
        let id = ConnectionId(inner.next_id);
        inner.next_id += 1;
        id
    }

    /// Notes that a connection opened or closed. Returns the streams that have to be told.
    pub(crate) fn set_connection(&self, replica: usize, connection: Option<Connection>) -> Vec<StreamHandle> {
        let mut inner = self.lock();
        if let Some(slot) = inner.connections.get_mut(replica) {
            *slot = connection;
        }
        inner.streams.values().cloned().collect()
    }
}
