//! Which ranges a commit touches, and which of them becomes its home (section 5).

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::ReadRange;
use meridian_types::{Key, KeyRange, RangeMap, StreamId};

/// What a transaction does in one range.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Part {
    /// The keys it writes there.
    pub(crate) written: Vec<Key>,
    /// What it wants checked there.
    pub(crate) reads: Vec<ReadRange>,
}

/// A transaction's keys by the stream that orders them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Of the map that it follows.
    pub(crate) map_version: u64,
    parts: BTreeMap<StreamId, Part>,
}

impl Plan {
    /// Groups keys and ranges as the map has them.
    pub(crate) fn new(map: &RangeMap, written: &[Key], reads: &[KeyRange]) -> KvResult<Self> {
        let mut parts: BTreeMap<StreamId, Part> = BTreeMap::new();
        for key in written {
            let entry = map.lookup(key);
            let entry = entry.ok_or_else(|| KvError::unavailable(format!("no range holds key {key}")))?;
            parts.entry(entry.stream).or_default().written.push(key.clone());
        }
        for range in reads {
            for entry in map.overlapping(range) {
                if let Some(read) = entry.keys.intersection(range) {
                    parts.entry(entry.stream).or_default().reads.push(read.into());
                }
            }
        }
        Ok(Self {
            map_version: map.version,
            parts,
        })
    }

    /// The streams that it touches.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.parts.keys().copied()
    }

    /// Whether the home's owner decides it alone.
    pub(crate) fn is_alone(&self, home: StreamId) -> bool {
        self.others(home).next().is_none()
    }

    /// What it does in one of them.
    pub(crate) fn part(&self, stream: StreamId) -> Option<&Part> {
        self.parts.get(&stream)
    }

    /// What it does beside its home.
    pub(crate) fn others(&self, home: StreamId) -> impl Iterator<Item = (StreamId, &Part)> {
        let others = self.parts.iter().filter(move |(stream, _)| **stream != home);
        others.map(|(stream, part)| (*stream, part))
    }

    /// The farthest of the ranges that are written, so that the other votes are there when the request is; of those that
    /// are about equally far, the one with most writes.
    pub(crate) fn choose_home(&self, round_trip: impl Fn(StreamId) -> Duration) -> KvResult<StreamId> {
        let written = self.parts.iter().filter(|(_, part)| !part.written.is_empty());
        let candidates: Vec<_> = written
            .map(|(stream, part)| (*stream, round_trip(*stream), part.written.len()))
            .collect();
        let farthest = candidates.iter().map(|(_, delay, _)| *delay).max();
        let farthest = farthest.unwrap_or_default();
        let is_far = |delay: Duration| delay + delay / 4 + Duration::from_millis(1) >= farthest;
        let far = candidates.iter().filter(|(_, delay, _)| is_far(*delay));
        let chosen = far.max_by_key(|(stream, _, writes)| (*writes, std::cmp::Reverse(*stream)));
        match chosen {
            Some((stream, ..)) => Ok(*stream),
            None => Err(KvError::internal("a commit without writes has no home")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> RangeMap {
        RangeMap::divided(["g", "p"].map(Key::from), |_| Vec::new())
    }

    fn keys(keys: &[&str]) -> Vec<Key> {
        keys.iter().map(|key| Key::from(*key)).collect()
    }

    fn range(start: &str, end: Option<&str>) -> KeyRange {
        KeyRange {
            start: start.into(),
            end: end.map(Key::from),
        }
    }

    #[test]
    fn keys_and_ranges_are_cut_where_the_map_cuts() {
        let reads = [range("b", Some("c")), range("f", Some("p")), range("x", None)];
        let plan = Plan::new(&map(), &keys(&["a", "fz", "g", "o"]), &reads).unwrap();
        let part = |stream| plan.part(StreamId(stream)).unwrap();
        let read = |start, end| ReadRange::from(range(start, end));
        assert_eq!(part(1).written, keys(&["a", "fz"]));
        assert_eq!(part(1).reads, [read("b", Some("c")), read("f", Some("g"))]);
        assert_eq!(part(2).written, keys(&["g", "o"]));
        assert_eq!(part(2).reads, [read("g", Some("p"))]);
        assert_eq!(part(3).written, []);
        assert_eq!(part(3).reads, [read("x", None)]);
        let others: Vec<u64> = plan.others(StreamId(2)).map(|(stream, _)| stream.0).collect();
        assert_eq!(others, [1, 3]);
    }

    #[test]
    fn the_home_is_far_and_written() {
        let reads = [range("x", None)];
        let plan = Plan::new(&map(), &keys(&["a", "g", "h"]), &reads).unwrap();
        let home = |delays: [u64; 3]| {
            let delay = |stream: StreamId| {
                let index = usize::try_from(stream.0).unwrap() - 1;
                Duration::from_millis(delays[index])
            };
            plan.choose_home(delay).unwrap().0
        };
        // What is only read is no home, however far.
        assert_eq!(home([60, 1, 90]), 1);
        assert_eq!(home([1, 60, 90]), 2);
        // About equally far: the one with most writes.
        assert_eq!(home([60, 55, 0]), 2);
        assert_eq!(home([0, 0, 0]), 2);
        let even = Plan::new(&map(), &keys(&["a", "z"]), &[]).unwrap();
        assert_eq!(even.choose_home(|_| Duration::ZERO).unwrap(), StreamId(1));
        assert!(Plan::default().choose_home(|_| Duration::ZERO).is_err());
    }
}
