//! The state's side of trimming (decision 28): what may go, what has to be copied, and what is true once it was.
//!
//! One stream at a time is looked at under the lock, so that it is held for short; what was found is looked at again before it is used.

use std::collections::BTreeMap;

use meridian_protocol::events;
use meridian_types::{LogBase, Lsn, Position, StreamId, Timestamp};

use super::{Journal, State};
use crate::stream::{Durable, Moved, Stream};
use crate::trim::{self, Known, Segments};
use crate::wal::Location;

/// What a base file says of one stream.
pub struct Kept {
    /// Where its log begins.
    pub base: LogBase,
    /// Its promise, and whether it was rebuilt.
    pub durable: Durable,
    /// The entries to be copied, in order.
    pub entries: Vec<(Position, Location)>,
}

impl Journal {
    /// All streams.
    pub fn stream_ids(&self) -> Vec<StreamId> {
        self.lock().streams.keys().copied().collect()
    }

    /// The segment that is written to: nothing of it, or after it, is trimmed.
    pub fn active_segment(&self) -> u32 {
        self.lock().active_segment
    }

    /// Adds to `segments` what has to stay of the stream; up to where it may go.
    pub fn consider(&self, id: StreamId, horizon: Timestamp, segments: &mut Segments) -> Lsn {
        let state = self.lock();
        let Some(stream) = state.streams.get(&id) else {
            return Lsn(0);
        };
        let may_go = trim::may_go(&known(&state, id, stream, horizon)).max(stream.index.base().position.lsn);
        segments.spans.extend(stream.replaced.spans(&stream.index));
        let last = segments.first_kept().saturating_sub(1);
        for (_, slot) in stream.index.from(may_go.next()) {
            if !slot.location.is_up_to(last) {
                break;
            }
            let is_copy = slot.location.segment & Location::IN_BASE != 0;
            let segment = if is_copy { 0 } else { slot.location.segment };
            *segments.needed.entry(segment).or_default() += u64::from(slot.location.len);
        }
        may_go
    }

    /// What a base file for the segments up to `last` has to say of the stream, of which the entries up to `may_go` may go. `None` when
    /// that may not be any more: something was replaced meanwhile.
    pub fn keep(&self, id: StreamId, may_go: Lsn, last: u32) -> Option<Kept> {
        let state = self.lock();
        let stream = state.streams.get(&id)?;
        let mut spans = stream.replaced.spans(&stream.index);
        if spans.any(|(first, by)| first <= last && last < by) {
            return None;
        }
        let index = &stream.index;
        let before = index.base();
        let lsn = may_go.min(index.last_up_to(last)).max(before.position.lsn);
        let base = match index.summary_at(lsn)? {
            _ if lsn == before.position.lsn => before,
            summary => LogBase {
                position: Position {
                    epoch: stream.log.epoch_at(lsn)?,
                    lsn,
                },
                last_commit: summary.last_commit,
                // A release that nothing followed up to there counts like a lease: an `Opened` follows it after the base.
                lease_end: summary.lease_end.max(summary.released.unwrap_or_default()),
            },
        };
        let kept = index
            .from(lsn.next())
            .take_while(|(_, slot)| slot.location.is_up_to(last));
        let entries = kept.map(|(lsn, slot)| Some((stream.log.position_at(lsn)?, slot.location)));
        Some(Kept {
            base,
            durable: stream.durable.clone(),
            entries: entries.collect::<Option<_>>()?,
        })
    }

    /// The base file is durable that stands for the segments up to `last` and says this of the stream. The segments are still there.
    pub fn trimmed(&self, id: StreamId, base: LogBase, moved: &[Moved], last: u32) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(stream) = state.streams.get_mut(&id) else {
            return;
        };
        let decisions = state
            .pending
            .iter_mut()
            .flat_map(|pending| &mut pending.decisions);
        let undos = decisions
            .filter(|decision| decision.stream == id)
            .map(|decision| &mut decision.undo);
        let before = stream.index.base().position;
        stream.trim(base, last, moved, undos);
        let position = stream.index.base().position;
        if position != before {
            tracing::trace!(
                target: events::TARGET, event = "trimmed", stream = id.0, epoch = position.epoch.0, lsn = position.lsn.0
            );
        }
        if base.position.lsn > before.lsn {
            // It may not have been known here that so much is committed.
            state.commits.note(id);
        }
    }

    /// What the log takes on the disk, in bytes.
    pub fn note_log_bytes(&self, bytes: u64) {
        self.lock().figures.log_bytes = bytes;
    }
}

fn known(state: &State, id: StreamId, stream: &Stream, horizon: Timestamp) -> Known {
    let index = &stream.index;
    let committed = stream
        .log
        .committed()
        .max(state.checkpoints.highest(id))
        .min(index.last());
    let last_old_commit = Lsn(index.first_from(horizon).0 - 1);
    Known {
        is_meta: id == StreamId::META,
        committed,
        checkpointed: state.checkpoints.of_all(id),
        // Uncommitted ones may be replaced by others, with other timestamps.
        last_old_commit: if last_old_commit <= committed {
            last_old_commit
        } else {
            Lsn(0)
        },
        newest_lease: index.newest_lease(committed),
        sealed: index.sealed(),
    }
}

/// The streams of which a base file says something, with how far each may go.
pub type Plan = BTreeMap<StreamId, Lsn>;
