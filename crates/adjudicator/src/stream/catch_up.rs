//! Entries that a replica lacks and that are no longer in memory: read back from a node that has them.

use std::sync::Arc;

use meridian_rpc::internal::Entry;
use meridian_types::{Epoch, LogBase, Lsn, Position, StreamId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::owner::Owner;
use super::peers::Peer;
use crate::context::Context;
use crate::journals::{self, LogReader};
use crate::records::{entry_bytes, position};
use crate::registry::LinkEvent;

/// Entries that are read at once; their bytes are bounded by one append.
const MAX_ENTRIES: u64 = 1_024;
/// Positions that are read at once.
const MAX_POSITIONS: u64 = 65_536;

/// What to read, and who may have it.
struct Fetch {
    ctx: Arc<Context>,
    stream: StreamId,
    epoch: Epoch,
    /// The replica that lacks it.
    replica: usize,
    sources: Vec<usize>,
    from: Lsn,
    to: Position,
}

impl Owner {
    /// Begins to read what a connected replica needs next, where the tail does not reach back that far. The answer comes
    /// as an event.
    pub(super) fn catch_up(&mut self, peers: &mut [Peer], events: &mpsc::Sender<LinkEvent>) {
        let now = Instant::now();
        for (replica, peer) in peers.iter_mut().enumerate() {
            // One part at a time: read, send, wait for the reply.
            if peer.is_fetching || peer.is_waiting() || peer.place(now).is_none() {
                continue;
            }
            // It would be sent nothing of what was read, and so read for again, without a pause.
            if !self.replication.accepts(replica) {
                continue;
            }
            let Some(next) = self.replication.next_entry(replica) else {
                continue;
            };
            if self.replication.needs_checkpoint(replica) {
                let base = self.replication.log().base();
                if let Some(trimmed) = self.base.filter(|trimmed| trimmed.position == base) {
                    // There is nothing to be read.
                    self.begin_at(trimmed);
                    continue;
                }
                let from = Lsn(base.lsn.0.saturating_sub(MAX_POSITIONS).max(1));
                if base.lsn > Lsn(1) {
                    peer.is_fetching = true;
                    tokio::spawn(fetch_older(self.fetch(replica, from, base), events.clone()));
                }
            } else if next < self.tail.first() {
                let to = Lsn((next.0 + MAX_ENTRIES - 1).min(self.tail.first().0 - 1));
                let Some(to) = self.replication.log().position_at(to) else {
                    continue;
                };
                peer.is_fetching = true;
                tokio::spawn(fetch(self.fetch(replica, next, to), events.clone()));
            }
        }
    }

    fn fetch(&self, replica: usize, from: Lsn, to: Position) -> Fetch {
        let (adopted, adopted_end) = self.adopted;
        let acked: Vec<Lsn> = self.replication.acked().collect();
        let has_it = |source: &usize| {
            let matched = acked.get(*source).copied().unwrap_or_default();
            matched >= to.lsn || (*source == adopted && adopted_end.lsn >= to.lsn)
        };
        Fetch {
            ctx: self.ctx.clone(),
            stream: self.stream,
            epoch: self.replication.epoch(),
            replica,
            sources: (0..acked.len())
                .filter(|source| *source != replica)
                .filter(has_it)
                .collect(),
            from,
            to,
        }
    }
}

async fn fetch(fetch: Fetch, events: mpsc::Sender<LinkEvent>) {
    let max_bytes = fetch.ctx.config.append_batch_bytes;
    let mut entries = Vec::new();
    for source in fetch.sources.clone() {
        match read_some(&fetch, source, max_bytes).await {
            // Only what begins where it should: the source may have trimmed the rest.
            Ok(some) if some.first().is_some_and(|first| first.lsn == fetch.from.0) => {
                entries = some;
                break;
            }
            Ok(_) => tracing::debug!(stream = %fetch.stream, source, "catch-up: trimmed there"),
            Err(status) => tracing::debug!(stream = %fetch.stream, source, %status, "catch-up: not read"),
        }
    }
    let mut trimmed = None;
    if entries.is_empty() {
        trimmed = trimmed_everywhere(&fetch, fetch.from).await;
        tokio::time::sleep(super::FETCH_PAUSE).await;
    }
    let (replica, epoch) = (fetch.replica, fetch.epoch);
    let event = LinkEvent::Fetched {
        replica,
        epoch,
        entries,
        trimmed,
    };
    let _ = events.send(event).await;
}

async fn read_some(fetch: &Fetch, source: usize, max_bytes: usize) -> Result<Vec<Entry>, Status> {
    let mut reader = LogReader::open(&fetch.ctx, source, fetch.stream, fetch.from, fetch.to, false).await?;
    let mut entries: Vec<Entry> = Vec::new();
    let mut size = 0;
    while let Some(some) = reader.next().await? {
        for entry in some {
            size += entry_bytes(&entry);
            if size > max_bytes && !entries.is_empty() {
                return Ok(entries);
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

/// What the log of a source begins behind that cannot give the entry at `from` because it was trimmed: the one that reaches furthest back, and
/// of those that have all that is older than what this owner appends.
async fn trimmed_everywhere(fetch: &Fetch, from: Lsn) -> Option<LogBase> {
    let mut bases = Vec::new();
    for source in &fetch.sources {
        bases.extend(journals::base(&fetch.ctx, *source, fetch.stream).await);
    }
    let later = bases.into_iter().filter(|base| base.position.lsn >= from);
    later.min_by_key(|base| base.position.lsn)
}

async fn fetch_older(fetch: Fetch, events: mpsc::Sender<LinkEvent>) {
    let (mut positions, mut trimmed) = (Vec::new(), None);
    for source in fetch.sources.clone() {
        match read_positions(&fetch, source).await {
            Ok((some, base)) if !some.is_empty() || base.is_some() => {
                (positions, trimmed) = (some, base);
                break;
            }
            Ok(_) => {}
            Err(status) => tracing::debug!(stream = %fetch.stream, source, %status, "catch-up: not read"),
        }
    }
    if positions.is_empty() {
        if trimmed.is_none() {
            trimmed = trimmed_everywhere(&fetch, fetch.to.lsn).await;
        }
        tokio::time::sleep(super::FETCH_PAUSE).await;
    }
    let (replica, epoch) = (fetch.replica, fetch.epoch);
    let event = LinkEvent::FetchedOlder {
        replica,
        epoch,
        positions,
        trimmed,
    };
    let _ = events.send(event).await;
}

/// Also what the source's log begins behind, if they are the first that it has.
async fn read_positions(fetch: &Fetch, source: usize) -> Result<(Vec<Position>, Option<LogBase>), Status> {
    let mut reader = LogReader::open(&fetch.ctx, source, fetch.stream, fetch.from, fetch.to, true).await?;
    let mut positions = Vec::new();
    while let Some(some) = reader.next().await? {
        positions.extend(some.iter().map(position));
    }
    let first = positions.first().map_or(fetch.to.lsn.next(), |first| first.lsn);
    let base = reader.base().filter(|base| base.position.lsn.next() == first);
    Ok((positions, base))
}
