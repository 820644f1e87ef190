//! Reads that wait: for a range to be closed (R5), or for the time at which they may be answered (R4).

use std::collections::{BTreeMap, BTreeSet};

use meridian_protocol::visibility::Consulted;
use meridian_rpc::internal::StorageReadReply;
use meridian_types::{RangeId, Timestamp};
use tokio::time::Instant;

use super::connection::Reading;

/// The waiting reads of one connection, in the order in which they can go on.
///
/// Invariant: each place in `on_range`, `on_time` and `deadlines` names an entry of `reads`, and the other
/// way round.
#[derive(Default)]
pub(super) struct Parked {
    next: u64,
    reads: BTreeMap<u64, Entry>,
    on_range: BTreeSet<(RangeId, Timestamp, u64)>,
    on_time: BTreeSet<(Timestamp, u64)>,
    deadlines: BTreeSet<(Instant, u64)>,
    held_bytes: usize,
}

struct Entry {
    deadline: Instant,
    wait: Wait,
}

/// What a read waits for, and itself.
pub(super) enum Wait {
    /// R5: until the range is closed through the read's timestamp.
    ForClosure(RangeId, Reading),
    /// R4: evaluated; until `now.earliest >=` this.
    ForTime(Timestamp, Held),
}

/// An answer that may not be given yet.
pub(super) struct Held {
    pub reading: Reading,
    pub reply: StorageReadReply,
    pub bytes: usize,
    pub consulted: Consulted,
}

impl Parked {
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// Bytes of answers that wait.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Parks a read until what it waits for comes, or its deadline.
    pub fn park(&mut self, deadline: Instant, wait: Wait) {
        let number = self.next;
        self.next += 1;
        match &wait {
            Wait::ForClosure(range, reading) => {
                self.on_range.insert((*range, reading.at, number));
            }
            Wait::ForTime(timestamp, held) => {
                self.on_time.insert((*timestamp, number));
                self.held_bytes += held.bytes;
            }
        }
        self.deadlines.insert((deadline, number));
        self.reads.insert(number, Entry { deadline, wait });
    }

    /// The ranges that reads wait for.
    pub fn ranges(&self) -> Vec<RangeId> {
        let mut ranges: Vec<_> = self.on_range.iter().map(|(range, _, _)| *range).collect();
        ranges.dedup();
        ranges
    }

    /// Takes the reads that waited for the range to be closed through `closed`, the oldest timestamp first.
    pub fn take_closed(&mut self, range: RangeId, closed: Timestamp) -> Vec<Reading> {
        let due = self
            .on_range
            .range((range, Timestamp::ZERO, 0)..=(range, closed, u64::MAX));
        let numbers: Vec<u64> = due.map(|(_, _, number)| *number).collect();
        let readings = numbers
            .into_iter()
            .filter_map(|number| match self.remove(number) {
                Some(Wait::ForClosure(_, reading)) => Some(reading),
                _ => None,
            });
        readings.collect()
    }

    /// Takes one answer that may be given now that `now.earliest` is this.
    pub fn take_timely(&mut self, earliest: Timestamp) -> Option<Held> {
        let (timestamp, number) = self.on_time.first().copied()?;
        if timestamp > earliest {
            return None;
        }
        match self.remove(number)? {
            Wait::ForTime(_, held) => Some(held),
            Wait::ForClosure(..) => None,
        }
    }

    /// Takes one read whose deadline has passed.
    pub fn take_expired(&mut self, now: Instant) -> Option<Wait> {
        let (deadline, number) = self.deadlines.first().copied()?;
        if deadline > now {
            return None;
        }
        self.remove(number)
    }

    /// The next deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// When the next answer may be given, by the clock.
    pub fn next_time(&self) -> Option<Timestamp> {
        self.on_time.first().map(|(timestamp, _)| *timestamp)
    }

    fn remove(&mut self, number: u64) -> Option<Wait> {
        let entry = self.reads.remove(&number)?;
        self.deadlines.remove(&(entry.deadline, number));
        match &entry.wait {
            Wait::ForClosure(range, reading) => {
                self.on_range.remove(&(*range, reading.at, number));
            }
            Wait::ForTime(timestamp, held) => {
                self.on_time.remove(&(*timestamp, number));
                self.held_bytes = self.held_bytes.saturating_sub(held.bytes);
            }
        }
        Some(entry.wait)
    }
}
