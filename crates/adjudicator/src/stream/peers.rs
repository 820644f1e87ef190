//! The journal nodes as one stream's task sees them: the open connections and what is under way on each.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_rpc::internal::Closure;
use meridian_types::{Epoch, Position};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::registry::{Connection, ConnectionId, LinkMessage};

/// An append that was handed to a link. Replies come in the order of the appends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) epoch: Epoch,
    /// The entry before those that were sent.
    pub(crate) prev: Position,
    /// It carried no entries: its reply takes a round trip and no sync.
    pub(crate) is_empty: bool,
    pub(crate) at: Instant,
}

/// One journal node.
#[derive(Default)]
pub(crate) struct Peer {
    connection: Option<Connection>,
    sent: VecDeque<Sent>,
    /// The newest closure that this node was not sent yet.
    pub(crate) closure: Option<Closure>,
    /// It refused an append for a reason of its own (a full disk, a clock): nothing is sent before this.
    pub(crate) paused_until: Option<Instant>,
    /// About how long an empty append takes to be answered; until there was one, how long the first of all took.
    round_trip: Option<Duration>,
    /// Older entries are being read for it.
    pub(crate) is_fetching: bool,
}

impl Peer {
    /// A connection opened. `false` when it is the one that is known.
    pub(crate) fn up(&mut self, connection: Connection) -> bool {
        if self.id() == Some(connection.id) {
            return false;
        }
        self.sent.clear();
        self.connection = Some(connection);
        true
    }

    /// A connection closed. `false` when it is not the current one.
    pub(crate) fn down(&mut self, id: ConnectionId) -> bool {
        let is_current = self.id() == Some(id);
        if is_current {
            self.connection = None;
            self.sent.clear();
        }
        is_current
    }

    pub(crate) fn id(&self) -> Option<ConnectionId> {
        self.connection.as_ref().map(|connection| connection.id)
    }

    /// A place in the connection's queue, if it is open and has one.
    pub(crate) fn place(&self, now: Instant) -> Option<mpsc::Permit<'_, LinkMessage>> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.connection.as_ref()?.outgoing.try_reserve().ok()
    }

    /// Whether an append is under way.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.sent.is_empty()
    }

    pub(crate) fn note_sent(&mut self, sent: Sent) {
        self.sent.push_back(sent);
    }

    /// The append that the next reply answers.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<Sent> {
        let sent = self.sent.pop_front()?;
        if sent.is_empty || self.round_trip.is_none() {
            let took = now.duration_since(sent.at);
            // A moving average: one slow answer must not count for ever.
            self.round_trip = Some(self.round_trip.map_or(took, |before| (before * 7 + took) / 8));
        }
        Some(sent)
    }

    /// Replies to appends of an owner that is gone.
    pub(crate) fn skip(&mut self, replies: usize) {
        self.sent.drain(..replies.min(self.sent.len()));
    }

    /// About how long a message takes to this node, once that is known.
    pub(crate) fn one_way(&self) -> Option<Duration> {
        self.round_trip.map(|round_trip| round_trip / 2)
    }
}
