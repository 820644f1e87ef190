//! Reading entries back: from memory where they are new, else from the files.

use meridian_protocol::closing::Closure;
use meridian_rpc::KvError;
use meridian_rpc::internal::Entry;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{LogBase, Lsn, Position, StreamId, Timestamp};

use super::{Journal, State};
use crate::stream::Stream;
use crate::wal::Location;
use crate::wal::format::Body;

/// What an entry takes in a message beside its payload, about.
const OVERHEAD_BYTES: usize = 64;
/// Most entries of one batch, whatever their size.
const MAX_ENTRIES: usize = 4_096;

/// What there was of what was asked for.
#[derive(Debug)]
pub enum Fetched {
    /// Entries, perhaps none.
    Entries(Vec<Entry>),
    /// The first that was asked for is gone: the log begins behind this.
    Trimmed(LogBase),
}

/// Where a read begins and ends.
pub struct Located {
    /// Its first entry.
    pub first: Lsn,
    /// Its last entry.
    pub to: Position,
    /// What the log begins behind, if it was trimmed.
    pub base: Option<LogBase>,
}

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
    pub fn read_committed(&self, stream: StreamId, after: Lsn, budget: usize) -> Result<Fetched, KvError> {
        self.fetch(stream, |state| {
            let Some(found) = state.streams.get(&stream) else {
                return Ok(Ok(Vec::new()));
            };
            if let Some(base) = found.base().filter(|base| after < base.position.lsn) {
                return Ok(Err(base));
            }
            let end = match is_broken(Rule::FeedCommitted) {
                true => found.log.last().lsn,
                false => found.log.committed(),
            };
            Ok(Ok(plan(found, after.next(), end, budget)))
        })
    }

    /// What a read that ends at `to` (the log's end when it names none) begins with, and ends at, and what the log begins behind. An error when
    /// the log does not hold exactly that entry.
    pub fn locate(
        &self,
        stream: StreamId,
        from_lsn: Lsn,
        from_timestamp: Timestamp,
        to: Option<Position>,
    ) -> Result<Located, KvError> {
        let state = self.lock();
        state.check_serving()?;
        let Some(found) = state.streams.get(&stream) else {
            return match to.filter(|to| *to != Position::START) {
                Some(to) => Err(not_held(stream, to)),
                None => Ok(Located {
                    first: Lsn(1),
                    to: Position::START,
                    base: None,
                }),
            };
        };
        let to = to.unwrap_or_else(|| found.log.last());
        check_held(stream, found, to)?;
        let first = match (from_lsn, from_timestamp) {
            (Lsn(0), Timestamp::ZERO) => Lsn(1),
            (Lsn(0), from) => found.index.first_from(from),
            (from, _) => from,
        };
        Ok(Located {
            first: first.max(found.index.base().position.lsn.next()),
            to,
            base: found.base(),
        })
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
        let fetched = self.fetch(stream, |state| {
            let found = found(state, stream, to)?;
            Ok(Ok(plan(found, from, to.lsn, budget)))
        })?;
        match fetched {
            Fetched::Entries(entries) => Ok(entries),
            Fetched::Trimmed(_) => Ok(Vec::new()),
        }
    }

    /// Entries that are to be copied, from where they were written. An error says what is wrong with the disk.
    pub fn read_back(&self, stream: StreamId, entries: &[(Position, Location)]) -> Result<Vec<Body>, String> {
        let wanted: Vec<Wanted> = entries
            .iter()
            .map(|(position, location)| Wanted::Written(*position, *location))
            .collect();
        let read = self.get(stream, &wanted);
        let read = read.map_err(|what| lost(stream, &what))?;
        Ok(read.into_iter().map(|entry| Body::Entry(stream, entry)).collect())
    }

    /// Gets what is found to be wanted; without the lock. What was trimmed meanwhile is somewhere else now, or gone: then it is looked for once more.
    fn fetch(
        &self,
        stream: StreamId,
        find: impl Fn(&State) -> Result<Result<Vec<Wanted>, LogBase>, KvError>,
    ) -> Result<Fetched, KvError> {
        loop {
            let found = {
                let state = self.lock();
                state.check_serving()?;
                find(&state)?
            };
            let wanted = match found {
                Ok(wanted) => wanted,
                Err(base) => return Ok(Fetched::Trimmed(base)),
            };
            match self.get(stream, &wanted) {
                Ok(entries) => return Ok(Fetched::Entries(entries)),
                Err(_) if self.has_moved(stream, &wanted) => {}
                Err(what) => {
                    self.fail(&lost(stream, &what));
                    let what = "the journal node stopped: its disk is damaged";
                    return Err(KvError::unavailable(what));
                }
            }
        }
    }

    /// Whether something of it is not where it was.
    fn has_moved(&self, stream: StreamId, wanted: &[Wanted]) -> bool {
        let state = self.lock();
        let Some(found) = state.streams.get(&stream) else {
            return true;
        };
        wanted.iter().any(|wanted| match wanted {
            Wanted::Held(_) => false,
            Wanted::Written(position, location) => {
                let slot = found.index.get(position.lsn);
                slot.is_none_or(|slot| slot.location != *location)
            }
        })
    }

    /// An error: a durable record is gone, or another one stands there.
    fn get(&self, stream: StreamId, wanted: &[Wanted]) -> Result<Vec<Entry>, String> {
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
            .map_err(|error| error.to_string())?;
        let mut read = read.into_iter();
        let mut entries = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            match wanted {
                Wanted::Held(entry) => entries.push(entry.clone()),
                Wanted::Written(position, _) => match read.next().map(|record| record.body) {
                    Some(Body::Entry(of, entry))
                        if of == stream && Position::new(entry.epoch, entry.lsn) == *position =>
                    {
                        entries.push(entry);
                    }
                    _ => return Err(format!("another record stands where {position} was written")),
                },
            }
        }
        Ok(entries)
    }
}

/// A durable record is gone: the node must not go on, for it would serve a log with a hole.
fn lost(stream: StreamId, what: &str) -> String {
    format!("stream {stream}: a durable record cannot be read back: {what}")
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
