//! Reading entries back: from memory where they are new, else from the files.

use meridian_protocol::closing::Closure;
use meridian_rpc::KvError;
use meridian_rpc::internal::Entry;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Lsn, Position, StreamId, Timestamp};

use super::{Journal, State};
use crate::stream::Stream;
use crate::wal::Location;
use crate::wal::format::Body;

/// What an entry takes in a message beside its payload, about.
const OVERHEAD_BYTES: usize = 64;
/// Most entries of one batch, whatever their size.
const MAX_ENTRIES: usize = 4_096;

/// One entry that is wanted.
enum Wanted {
    Held(Entry),
    Written(Position, Location),
}

impl Journal {
    /// The closures that arrived after number `seen`, and the newest number.
    pub fn closures_after(&self, seen: u64) -> (Vec<Closure>, u64) {
        self.lock().closures.after(seen)
    }

    /// Committed entries after `after`, about `budget` bytes of them, at least one if there is any.
    pub fn read_committed(&self, stream: StreamId, after: Lsn, budget: usize) -> Result<Vec<Entry>, KvError> {
        let wanted = {
            let state = self.lock();
            state.check_serving()?;
            match state.streams.get(&stream) {
                Some(found) => {
                    let end = match is_broken(Rule::FeedCommitted) {
                        true => found.log.last().lsn,
                        false => found.log.committed(),
                    };
                    plan(found, after.next(), end, budget)
                }
                None => Vec::new(),
            }
        };
        self.collect(stream, wanted)
    }

    /// What a read that ends at `to` (the log's end when it names none) begins with, and ends at. An error when the log does not hold exactly
    /// that entry.
    pub fn locate(
        &self,
        stream: StreamId,
        from_lsn: Lsn,
        from_timestamp: Timestamp,
        to: Option<Position>,
    ) -> Result<(Lsn, Position), KvError> {
        let state = self.lock();
        state.check_serving()?;
        let Some(found) = state.streams.get(&stream) else {
            return match to.filter(|to| *to != Position::START) {
                Some(to) => Err(not_held(stream, to)),
                None => Ok((Lsn(1), Position::START)),
            };
        };
        let to = to.unwrap_or_else(|| found.log.last());
        check_held(stream, found, to)?;
        let first = match (from_lsn, from_timestamp) {
            (Lsn(0), Timestamp::ZERO) => Lsn(1),
            (Lsn(0), from) => found.index.first_from(from),
            (from, _) => from,
        };
        Ok((first, to))
    }

    /// Entries from `from` up to `to`, committed or not, about `budget` bytes of them. An error when the log does not hold `to` any
    /// more: then what was read before is not the log that ends there either way.
    pub fn read_log(
        &self,
        stream: StreamId,
        from: Lsn,
        to: Position,
        budget: usize,
    ) -> Result<Vec<Entry>, KvError> {
        let wanted = {
            let state = self.lock();
            state.check_serving()?;
            let found = found(&state, stream, to)?;
            plan(found, from, to.lsn, budget)
        };
        self.collect(stream, wanted)
    }

    /// Gets what is wanted; without the lock.
    fn collect(&self, stream: StreamId, wanted: Vec<Wanted>) -> Result<Vec<Entry>, KvError> {
        let locations: Vec<Location> = wanted
            .iter()
            .filter_map(|wanted| match wanted {
                Wanted::Written(_, location) => Some(*location),
                Wanted::Held(_) => None,
            })
            .collect();
        let read = self
            .segments
            .read(&locations)
            .map_err(|error| self.lost(stream, &error.to_string()))?;
        let mut read = read.into_iter();
        let mut entries = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            match wanted {
                Wanted::Held(entry) => entries.push(entry),
                Wanted::Written(position, _) => match read.next().map(|record| record.body) {
                    Some(Body::Entry(of, entry))
                        if of == stream && Position::new(entry.epoch, entry.lsn) == position =>
                    {
                        entries.push(entry);
                    }
                    _ => {
                        return Err(self.lost(
                            stream,
                            &format!("another record stands where {position} was written"),
                        ));
                    }
                },
            }
        }
        Ok(entries)
    }

    /// A durable record is gone: the node must not go on, for it would serve a log with a hole.
    fn lost(&self, stream: StreamId, what: &str) -> KvError {
        self.fail(&format!(
            "stream {stream}: a durable record cannot be read back: {what}"
        ));
        KvError::unavailable("the journal node stopped: its disk is damaged")
    }
}

fn found(state: &State, stream: StreamId, to: Position) -> Result<&Stream, KvError> {
    let found = state.streams.get(&stream).ok_or_else(|| not_held(stream, to))?;
    check_held(stream, found, to)?;
    Ok(found)
}

fn check_held(stream: StreamId, found: &Stream, to: Position) -> Result<(), KvError> {
    if found.log.epoch_at(to.lsn) == Some(to.epoch) {
        Ok(())
    } else {
        Err(not_held(stream, to))
    }
}

fn not_held(stream: StreamId, to: Position) -> KvError {
    KvError::PreconditionFailed {
        key: meridian_types::Key::from(format!("stream {stream}, entry {to}: not in this log").as_str()),
        index: 0,
    }
}

fn plan(stream: &Stream, from: Lsn, to: Lsn, budget: usize) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut bytes = 0;
    for lsn in (from.0.max(1)..=to.0).take(MAX_ENTRIES) {
        let lsn = Lsn(lsn);
        if bytes >= budget {
            break;
        }
        if let Some(entry) = stream.tail.get(lsn) {
            bytes += entry.payload.len() + OVERHEAD_BYTES;
            wanted.push(Wanted::Held(entry.clone()));
            continue;
        }
        let (Some(slot), Some(position)) = (
            stream.index.get(lsn),
            stream.log.epoch_at(lsn).map(|epoch| Position { epoch, lsn }),
        ) else {
            break;
        };
        bytes += slot.location.len as usize + OVERHEAD_BYTES;
        wanted.push(Wanted::Written(position, slot.location));
    }
    wanted
}
