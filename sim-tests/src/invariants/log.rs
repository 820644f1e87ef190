//! What the journal holds, worked out from all events: which records were appended where, which log each epoch has, and
//! which entries were ever committed.
//!
//! ```text
//! epoch 1:  1 2 3 4 5 6            opening e2: adopted e1/4
//! epoch 2:         └─ 5 6 7        the log of e2 is e1/1..4, e2/5..7
//! ```
//! Committed is what an owner or a journal node counted, what an owner answered, and what a storage node applied.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{KeyRange, Lsn, Origin, Position, RangeId, RangeMap, StreamId, Timestamp};

use super::Violation;
use super::stream_log::StreamLog;
use crate::events::{Decided, Event, Happened};

/// All streams.
pub struct Log<'a> {
    /// Everything that happened, in order.
    pub events: &'a [Happened],
    /// By stream.
    pub streams: BTreeMap<StreamId, StreamLog>,
    /// The range maps that there were, by version: the first, and those that are committed in the meta stream.
    pub maps: BTreeMap<u64, &'a RangeMap>,
    /// The ranges that there ever were: each has its keys and its stream for ever.
    pub ranges: BTreeMap<RangeId, (StreamId, &'a KeyRange)>,
    /// The keys that a storage node holds, where those are not all.
    pub held: BTreeMap<String, KeyRange>,
    /// All storage nodes.
    pub storage: Vec<String>,
}

impl<'a> Log<'a> {
    /// What these events tell of a cluster that began with this map.
    pub fn new(events: &'a [Happened], map: &'a RangeMap) -> Self {
        let mut streams: BTreeMap<StreamId, StreamLog> = BTreeMap::new();
        let journals: BTreeSet<&str> = events
            .iter()
            .filter(|happened| is_mounted(&happened.event))
            .map(|h| &*h.node)
            .collect();
        let quorum = match journals.len() {
            0 => 0,
            count => meridian_protocol::quorum::majority(count),
        };
        let mut disks: BTreeMap<&str, u128> = BTreeMap::new();
        for (index, happened) in events.iter().enumerate() {
            let node: &str = &happened.node;
            match &happened.event {
                Event::Mounted { disk } => {
                    disks.insert(node, *disk);
                }
                event => {
                    if let Some(stream) = stream_of(event) {
                        let disk = disks.get(node).copied().unwrap_or_default();
                        let log = streams.entry(stream).or_insert_with(|| StreamLog::new(quorum));
                        log.take(index, node, disk, event);
                    }
                }
            }
        }
        let mut log = Self {
            events,
            streams,
            maps: BTreeMap::from([(map.version, map)]),
            ranges: BTreeMap::new(),
            held: BTreeMap::new(),
            storage: Vec::new(),
        };
        log.maps.extend(log.changes().map(|map| (map.version, map)));
        let ranges = log.maps.values().flat_map(|map| &map.entries);
        log.ranges = ranges
            .map(|range| (range.id, (range.stream, &range.keys)))
            .collect();
        log
    }

    /// The range maps that were committed.
    fn changes(&self) -> impl Iterator<Item = &'a RangeMap> + use<'a> {
        let events = self.events;
        let meta = self.streams.get(&StreamId::META);
        let entries = meta.into_iter().flat_map(|meta| {
            let committed = meta.committed.values();
            committed.filter_map(|entry| meta.records.get(&entry.at))
        });
        let records: Vec<usize> = entries.flatten().copied().collect();
        records
            .into_iter()
            .filter_map(move |index| match &events.get(index)?.event {
                Event::Mapped { map, .. } => Some(&**map),
                _ => None,
            })
    }

    /// How a stream ended that was split or merged: after which of its entries no transaction's record can be.
    pub fn retired(&self, stream: StreamId) -> Option<Lsn> {
        let mut maps = self.maps.values();
        maps.find_map(|map| Some(map.reshaping.retired.get(&stream)?.last))
    }

    /// What a stream began with that took over keys of others.
    pub fn origin(&self, stream: StreamId) -> Option<&'a Origin> {
        let mut maps = self.maps.values();
        maps.find_map(|map| map.reshaping.origins.get(&stream))
    }

    /// The decisions whose records were committed, in the order of the log, with the events.
    pub fn committed(&self) -> impl Iterator<Item = (usize, &'a Decided)> {
        self.streams.values().flat_map(|log| {
            let records = log
                .committed
                .values()
                .filter_map(|entry| log.records.get(&entry.at));
            records.flatten().filter_map(|index| match self.event(*index) {
                Some(Event::Decided(decided)) => Some((*index, decided)),
                _ => None,
            })
        })
    }

    /// The event.
    pub fn event(&self, index: usize) -> Option<&'a Event> {
        self.events.get(index).map(|happened| &happened.event)
    }

    /// The commit timestamp and keys of the transaction's record at a place.
    pub fn decided(&self, stream: StreamId, at: Position) -> Option<(usize, &'a Decided)> {
        let records = self.streams.get(&stream)?.records.get(&at)?;
        records.iter().find_map(|index| match self.event(*index) {
            Some(Event::Decided(decided)) => Some((*index, decided)),
            _ => None,
        })
    }

    /// What a check of single streams finds in all of them.
    pub fn each_stream(&self, check: impl Fn(&Self, &StreamLog) -> Vec<Violation>) -> Vec<Violation> {
        let streams = self.streams.values();
        streams.flat_map(|stream| check(self, stream)).collect()
    }

    /// Everything that happened, with its place.
    pub fn all(&self) -> impl Iterator<Item = (usize, &'a Happened)> + use<'a> {
        self.events.iter().enumerate()
    }
}

fn is_mounted(event: &Event) -> bool {
    matches!(event, Event::Mounted { .. })
}

fn stream_of(event: &Event) -> Option<StreamId> {
    match event {
        Event::Opening { stream, .. }
        | Event::Decided(Decided { stream, .. })
        | Event::Barred { stream, .. }
        | Event::Released { stream, .. }
        | Event::Mapped { stream, .. }
        | Event::Answered { stream, .. }
        | Event::Counted { stream, .. }
        | Event::Recovered { stream, .. }
        | Event::Promised { stream, .. }
        | Event::Accepted { stream, .. }
        | Event::Persisted { stream, .. }
        | Event::Begun { stream, .. }
        | Event::Applied { stream, .. } => Some(*stream),
        _ => None,
    }
}

/// The committed versions of each key of all streams, ordered by commit timestamp, with the events that decided them.
pub(super) fn versions<'a>(log: &Log<'a>) -> BTreeMap<&'a [u8], Vec<(Timestamp, usize)>> {
    let mut versions: BTreeMap<&[u8], Vec<(Timestamp, usize)>> = BTreeMap::new();
    for (index, decided) in log.committed() {
        for key in &decided.written {
            versions
                .entry(key.as_ref())
                .or_default()
                .push((decided.commit, index));
        }
    }
    // Two streams may have decided the same timestamp: both stay.
    versions.values_mut().for_each(|of_key| of_key.sort_unstable());
    versions
}

/// The newest of them at or below a timestamp.
pub(super) fn newest_at(versions: &[(Timestamp, usize)], at: Timestamp) -> Option<(Timestamp, usize)> {
    let after = versions.partition_point(|(commit, _)| *commit <= at);
    versions.get(..after)?.last().copied()
}

#[cfg(test)]
mod tests {
    use meridian_types::Epoch;

    use super::*;
    use crate::invariants::testing::{counted, decided, happened, opening, persisted, promised, recovered};

    #[test]
    fn the_log_of_an_epoch_is_the_adopted_one_and_its_own_entries() {
        let events = happened([
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 7, 5, 10, "k")),
            ("a-1", decided(1, 3, 8, 5, 11, "k")),
            ("a-2", opening(2, 3, (1, 2), 50)),
            ("a-2", counted(2, 2, 3)),
        ]);
        let map = RangeMap::single(vec![]);
        let log = Log::new(&events, &map);
        let stream = &log.streams[&StreamId(1)];
        let entry = |epoch, lsn| stream.entry(Epoch(epoch), Lsn(lsn));
        assert_eq!(entry(2, 2), Some(Position::new(1, 2)));
        assert_eq!(entry(2, 3), Some(Position::new(2, 3)));
        assert_eq!(entry(1, 3), Some(Position::new(1, 3)));
        assert_eq!(entry(3, 3), None);
        let txns: Vec<u128> = log
            .committed()
            .map(|(_, decided)| decided.txn.0.as_u128())
            .collect();
        assert_eq!(txns, [7], "what was not adopted is not committed");
        assert!(stream.clashes.is_empty());
    }

    #[test]
    fn a_journal_nodes_own_entries_are_what_it_counts() {
        let events = happened([
            ("j-1", promised(1)),
            ("j-1", persisted(1, 1, 0)),
            ("j-1", persisted(1, 2, 9)),
            ("j-1", persisted(2, 2, 0)),
            ("j-1", counted(2, 2, 2)),
            ("j-1", recovered(2, (2, 2))),
        ]);
        let map = RangeMap::single(vec![]);
        let log = Log::new(&events, &map);
        let stream = &log.streams[&StreamId(1)];
        assert_eq!(stream.committed[&Lsn(1)].at, Position::new(1, 1));
        assert_eq!(stream.committed[&Lsn(2)].at, Position::new(2, 2));
        assert_eq!(stream.committed[&Lsn(2)].by.map(|by| by.0), Some(Epoch(2)));
        assert!(stream.forgotten.is_empty() && stream.replaced.is_empty());
    }
}
