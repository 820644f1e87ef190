//! Moving an owner's records to the journal nodes, and learning what is committed (section 7, R15, R16).

use std::time::Duration;

use meridian_protocol::EpochRuns;
use meridian_protocol::replication::{Outgoing, Reply, Standing};
use meridian_rpc::internal::append_reply::Result as Replied;
use meridian_rpc::internal::{self, AppendReply, AppendRequest, Entry, ReplicaPosition};
use meridian_types::{DiskId, Epoch, LogBase, Lsn, Position};
use tokio::time::Instant;

use super::owner::Owner;
use super::peers::{Peer, Sent};
use crate::registry::LinkMessage;

/// Entries of one append.
const MAX_BATCH_ENTRIES: usize = 1_024;
/// Batches that are measured at once.
const MAX_MEASURED: usize = 1_024;
/// A lease is not made longer than this because the journal is slow: the journal nodes would refuse it (R20).
const LONGEST_LEASE: Duration = Duration::from_secs(5);
/// How long a node that refused an append for a reason of its own is left alone.
const PAUSE: Duration = Duration::from_millis(200);

impl Owner {
    /// Hands everything to the links that there is to send and room for.
    pub(super) fn pump(&mut self, peers: &mut [Peer]) {
        let now = Instant::now();
        self.note_batch(now);
        for (replica, peer) in peers.iter_mut().enumerate() {
            while self.pump_one(replica, peer, now) {}
            if self.send_closure(peer, now) {
                peer.closure = None;
            }
        }
        self.lead.measure(&self.replication, peers, now, self.ctx.now());
        self.tail
            .trim(self.replication.lowest_needed(), self.replication.committed());
    }

    /// Sends the newest closure to a replica that was not sent it yet.
    fn send_closure(&self, peer: &Peer, now: Instant) -> bool {
        let Some(closure) = &peer.closure else {
            return false;
        };
        let Some(place) = peer.place(now) else {
            return false;
        };
        place.send(LinkMessage::Closure(closure.clone()));
        true
    }

    /// Sends one append to a replica; `false` when there is nothing to send, or no room.
    fn pump_one(&mut self, replica: usize, peer: &mut Peer, now: Instant) -> bool {
        let Some(first) = self.replication.next_entry(replica) else {
            return false;
        };
        let last = self.replication.last().lsn;
        let max_bytes = self.ctx.config.append_batch_bytes;
        let count = self.tail.count_from(first, max_bytes).min(MAX_BATCH_ENTRIES);
        if first <= last && count == 0 {
            // Too old for the tail: it is read back from another node, see `catch_up`.
            return false;
        }
        let Some(place) = peer.place(now) else {
            return false;
        };
        let Some(outgoing) = self.replication.next_to_send(replica, count) else {
            return false;
        };
        let entries = self
            .tail
            .iter_from(outgoing.first)
            .take(outgoing.count())
            .cloned()
            .collect();
        place.send(LinkMessage::Append(self.request(&outgoing, entries)));
        peer.note_sent(self.sent(&outgoing, now));
        true
    }

    /// Older entries were read for a replica: sends those that it needs next. Where nobody has them any more it begins later.
    pub(super) fn send_fetched(
        &mut self,
        replica: usize,
        peer: &mut Peer,
        entries: Vec<Entry>,
        trimmed: Option<LogBase>,
    ) {
        if let Some(base) = trimmed {
            self.begin_at(base);
        }
        let Some(next) = self.replication.next_entry(replica) else {
            return;
        };
        let wanted: Vec<Entry> = entries
            .into_iter()
            .skip_while(|entry| entry.lsn < next.0)
            .collect();
        let fits = wanted.first().is_some_and(|entry| entry.lsn == next.0);
        let now = Instant::now();
        let Some(place) = peer.place(now).filter(|_| fits) else {
            return;
        };
        let Some(outgoing) = self.replication.next_to_send(replica, wanted.len()) else {
            return;
        };
        let count = outgoing.count();
        let entries = wanted.into_iter().take(count).collect();
        place.send(LinkMessage::Append(self.request(&outgoing, entries)));
        peer.note_sent(self.sent(&outgoing, now));
    }

    fn sent(&self, outgoing: &Outgoing, at: Instant) -> Sent {
        Sent {
            epoch: self.replication.epoch(),
            prev: outgoing.prev,
            is_empty: outgoing.count() == 0,
            at,
        }
    }

    fn request(&self, outgoing: &Outgoing, entries: Vec<Entry>) -> AppendRequest {
        let acked = self.ctx.journals.iter().zip(self.replication.acked());
        AppendRequest {
            stream: self.stream.0,
            epoch: self.replication.epoch().0,
            prev: Some(outgoing.prev.into()),
            entries,
            acked: acked
                .map(|(node, lsn)| ReplicaPosition {
                    node: node.0.clone(),
                    lsn: lsn.0,
                })
                .collect(),
            rejoin_disk_id: outgoing.rejoin.map(DiskId::to_bytes).unwrap_or_default(),
            base: self
                .base
                .filter(|base| base.position == outgoing.prev)
                .map(internal::LogBase::from),
        }
    }

    /// A connection opened: what was under way on the old one is sent again, and the last closure too.
    pub(super) fn on_connection(&mut self, replica: usize, peer: &mut Peer) {
        self.replication.on_disconnected(replica);
        self.lead.skip(replica, self.replication.last().lsn);
        peer.closure.clone_from(&self.last_closure);
    }

    /// A connection closed.
    pub(super) fn on_disconnected(&mut self, replica: usize) {
        self.replication.on_disconnected(replica);
    }

    /// A journal node's replies to appends, in their order.
    pub(super) fn on_replies(&mut self, replica: usize, peer: &mut Peer, replies: Vec<AppendReply>) {
        let now = Instant::now();
        for reply in replies {
            let Some(sent) = peer.answered(now) else {
                tracing::warn!(stream = %self.stream, replica, "a reply to no append");
                continue;
            };
            if reply.epoch != sent.epoch.0 || sent.epoch != self.replication.epoch() {
                continue;
            }
            if let Some(reply) = self.read_reply(replica, peer, &sent, reply.result, now) {
                self.on_reply(replica, sent.epoch, reply);
            }
        }
    }

    fn read_reply(
        &mut self,
        replica: usize,
        peer: &mut Peer,
        sent: &Sent,
        reply: Option<Replied>,
        now: Instant,
    ) -> Option<Reply> {
        Some(match reply? {
            Replied::Matched(position) => Reply::Matched(position.into()),
            Replied::Mismatch(last) => Reply::Mismatch {
                prev: sent.prev,
                last: last.into(),
            },
            Replied::RefusedByEpoch(promised) => Reply::Refused {
                promised: Epoch(promised),
            },
            Replied::RejoinDiskId(disk) => Reply::Rejoining {
                disk: DiskId::from_slice(&disk)?,
            },
            Replied::Invalid(why) => {
                let journal = self.ctx.journals.get(replica).map(ToString::to_string);
                tracing::warn!(stream = %self.stream, journal, why, "a journal node refuses an append; it is tried again");
                self.replication.on_disconnected(replica);
                peer.paused_until = Some(now + PAUSE);
                return None;
            }
        })
    }

    fn on_reply(&mut self, replica: usize, epoch: Epoch, reply: Reply) {
        let is_bad_news = matches!(reply, Reply::Refused { .. } | Reply::Rejoining { .. });
        if let Some(committed) = self.replication.on_reply(replica, epoch, reply) {
            self.on_committed(committed);
        }
        if is_bad_news {
            self.see_standing();
        }
    }

    /// Draws the consequences when not all journal nodes accept this owner.
    pub(super) fn see_standing(&mut self) {
        let epoch = self.replication.epoch();
        match self.replication.standing() {
            Standing::Accepted => {}
            Standing::FenceAnew { above } => {
                if self.refence_at.is_none() {
                    tracing::info!(stream = %self.stream, %epoch, %above, "not accepted by all journal nodes");
                    self.refence_at = Some(Instant::now() + self.refence_pause);
                }
            }
            Standing::Deposed { by } => {
                tracing::warn!(stream = %self.stream, %epoch, %by, "deposed");
                self.deposed = true;
            }
        }
    }

    /// Notes when a batch went out, to measure how long the journal takes.
    fn note_batch(&mut self, now: Instant) {
        if self.batch_bytes > 0 && self.batches.len() < MAX_MEASURED {
            let bytes = std::mem::take(&mut self.batch_bytes);
            let last = self.replication.last().lsn;
            self.batches.push_back((last, now, bytes));
            self.lead.on_sent(last, now);
        }
    }

    /// How long it took until the batch was committed.
    pub(super) fn measure(&mut self, committed: Lsn) {
        let now = Instant::now();
        while let Some((_, at, bytes)) = self
            .batches
            .front()
            .copied()
            .filter(|(lsn, ..)| *lsn <= committed)
        {
            self.batches.pop_front();
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
            let latency = now.duration_since(at);
            self.slowest_commit = latency.max(self.slowest_commit * 15 / 16);
        }
        // At least 4 round trips to the quorum: else a lease could end before it is durable, again and again.
        let length = self.ctx.config.lease().length;
        self.lease
            .set_length(length.max((self.slowest_commit * 4).min(LONGEST_LEASE)));
    }

    /// Nobody who answers has the entries up to `base`: replicas that lack them begin there.
    pub(super) fn begin_at(&mut self, base: LogBase) {
        let mut whole = self.replication.log().clone();
        let mut forgotten = self.forgotten.clone();
        forgotten.cut_after(whole.base().lsn);
        // It does not fit where the log was read further back since: then that tells as much.
        let _ = whole.prepend(forgotten);
        if self.replication.begin_at(base.position) {
            self.forgotten = whole;
            tracing::info!(stream = %self.stream, base = %base.position, "replicas that lag behind begin here");
            self.base = Some(base);
        }
    }

    /// The positions of older entries were read, so that a replica that lags far can be matched. `trimmed`: there is nothing before them.
    pub(super) fn on_fetched_older(&mut self, positions: &[Position], trimmed: Option<LogBase>) {
        if positions.is_empty() {
            if let Some(base) = trimmed {
                self.begin_at(base);
            }
            return;
        }
        let mut older = trimmed.map_or_else(EpochRuns::new, |base| EpochRuns::after(base.position));
        for position in positions {
            if older.last() == Position::START && position.lsn > Lsn(1) && older.base() == Position::START {
                older = EpochRuns::after(*position);
            } else if older.push(*position).is_err() {
                return;
            }
        }
        match self.replication.extend_back(older) {
            Ok(()) => self.base = trimmed.or(self.base),
            Err(gap) => tracing::debug!(stream = %self.stream, %gap, "older entries do not fit"),
        }
    }
}
