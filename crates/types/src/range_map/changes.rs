//! How a range map changes: other owners, splits, merges. Pure: each gives the next map.
//!
//! ```text
//! split, merge ──> pending: the sources are to be sealed ── sealed(source) … all ──> targets in their place, sources retired
//! ```
//! A stream orders the same keys for ever: a split or a merge ends its sources and begins new streams. So a request that goes by
//! an old map meets a stream that is sealed, never one that orders other keys. A retired stream stays in the map: it answers for
//! its transactions, and a new storage node reads it.

use std::collections::{BTreeMap, BTreeSet};

use super::{RangeMap, RangeMapEntry};
use crate::{Key, KeyRange, Lsn, NodeName, RangeId, StreamId, Timestamp, TxnId};

/// What is left of splits and merges, and those under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reshaping {
    /// Streams that order no keys any more.
    pub retired: BTreeMap<StreamId, RetiredStream>,
    /// For streams that took over keys from others: what they begin with.
    pub origins: BTreeMap<StreamId, Origin>,
    /// Under way. No stream is a source of two.
    pub pending: Vec<Reshape>,
}

/// A stream that is sealed: its last record of a transaction is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredStream {
    /// The range that it ordered.
    pub range: RangeId,
    /// The keys of it.
    pub keys: KeyRange,
    /// Adjudicators that answer for its transactions.
    pub candidates: Vec<NodeName>,
    /// No entry after this is a transaction's, and none ever will be: nobody needs to ask for its floor (R19).
    pub last: Lsn,
}

/// What a stream begins with that took over keys: nobody serves them with less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// At or above every commit, promise, closure and lease_end of the sources.
    pub floor: Timestamp,
    /// The last entry of each source that can hold a transaction: every closure depends on it.
    pub after: Vec<(StreamId, Lsn)>,
    /// Transactions that the sources have barred: whoever asked for their outcome without naming a home was told that no
    /// stream commits them, and these streams took the sources' place.
    pub barred: BTreeSet<TxnId>,
}

/// How a stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// At or above every commit, promise, closure and lease_end of it.
    pub floor: Timestamp,
    /// Its last entry that can hold a transaction.
    pub last: Lsn,
    /// The transactions that it has barred, of those that may still turn up.
    pub barred: BTreeSet<TxnId>,
}

/// Bars that a stream may end with, at most: until enough of them are forgotten it waits. The map holds them.
pub const MAX_CARRIED_BARS: usize = 4_096;

/// A split or merge that waits until its sources are sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// The streams that end.
    pub sources: Vec<StreamId>,
    /// What takes their place, in order of keys.
    pub targets: Vec<RangeMapEntry>,
    /// Of the sources that are sealed: how.
    pub sealed: BTreeMap<StreamId, End>,
}

/// Why a map cannot be changed as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ChangeRefused(pub String);

pub(super) fn refused<T>(why: impl Into<String>) -> Result<T, ChangeRefused> {
    Err(ChangeRefused(why.into()))
}

impl RangeMap {
    /// The node is to own the range, if it is one of its candidates. Its present owner hands over.
    pub fn moved(&self, range: RangeId, to: &NodeName) -> Result<Self, ChangeRefused> {
        if self.is_drained(to) {
            return refused(format!("{to} is in a region that is drained"));
        }
        let mut next = self.next();
        let Some(entry) = next.entries.iter_mut().find(|entry| entry.id == range) else {
            return refused(format!("there is no range {range}"));
        };
        let Some(place) = entry.candidates.iter().position(|name| name == to) else {
            return refused(format!("{to} is not an adjudicator that may own range {range}"));
        };
        entry.candidates[..=place].rotate_right(1);
        Ok(next)
    }

    /// The range that holds the key is to be split: a new one begins with it.
    pub fn split(&self, at: &Key) -> Result<Self, ChangeRefused> {
        let Some(source) = self.lookup(at) else {
            return refused("no range holds the key");
        };
        if source.keys.start == *at {
            return refused(format!("range {} begins with this key already", source.id));
        }
        let left = KeyRange {
            start: source.keys.start.clone(),
            end: Some(at.clone()),
        };
        let right = KeyRange {
            start: at.clone(),
            end: source.keys.end.clone(),
        };
        self.reshaped(&[source], vec![left, right])
    }

    /// The range that begins with the key and the one before it are to become one, owned like the one before.
    pub fn merge(&self, at: &Key) -> Result<Self, ChangeRefused> {
        let Some(place) = self
            .entries
            .iter()
            .skip(1)
            .position(|entry| entry.keys.start == *at)
        else {
            return refused("no range but the first begins with this key");
        };
        let [left, right] = &self.entries[place..place + 2] else {
            return refused("no range but the first begins with this key");
        };
        let keys = KeyRange {
            start: left.keys.start.clone(),
            end: right.keys.end.clone(),
        };
        self.reshaped(&[left, right], vec![keys])
    }

    fn reshaped(&self, sources: &[&RangeMapEntry], keys: Vec<KeyRange>) -> Result<Self, ChangeRefused> {
        for source in sources {
            if self.pending_of(source.stream).is_some() {
                return refused(format!("range {} is being split or merged already", source.id));
            }
        }
        let candidates = sources.first().map(|source| source.candidates.clone());
        let (stream, range) = self.next_ids();
        let targets = (0..).zip(keys).map(|(number, keys)| RangeMapEntry {
            id: RangeId(range + number),
            keys,
            stream: StreamId(stream + number),
            candidates: candidates.clone().unwrap_or_default(),
        });
        let mut next = self.next();
        next.reshaping.pending.push(Reshape {
            sources: sources.iter().map(|source| source.stream).collect(),
            targets: targets.collect(),
            sealed: BTreeMap::new(),
        });
        Ok(next)
    }

    /// A source of a split or merge is sealed. When all are, the targets take their place. The same map when that is known already.
    pub fn sealed(&self, stream: StreamId, end: End) -> Result<Self, ChangeRefused> {
        if self.is_retired(stream) {
            return Ok(self.clone());
        }
        let Some(place) = self.pending_place(stream) else {
            return refused(format!("stream {stream} is not to be sealed"));
        };
        let mut next = self.next();
        let pending = &mut next.reshaping.pending[place];
        if pending.sealed.contains_key(&stream) {
            return Ok(self.clone());
        }
        pending.sealed.insert(stream, end);
        if pending.sealed.len() == pending.sources.len() {
            next.finish(place);
        }
        Ok(next)
    }

    fn finish(&mut self, place: usize) {
        let done = self.reshaping.pending.remove(place);
        let floors = done.sealed.values().map(|end| end.floor);
        let barred = done.sealed.values().flat_map(|end| end.barred.iter().copied());
        let mut origin = Origin {
            floor: floors.max().unwrap_or_default(),
            after: Vec::new(),
            barred: barred.collect(),
        };
        for (stream, End { last, .. }) in &done.sealed {
            // What a source depended on, its successor's closures depend on too.
            let before = self.reshaping.origins.get(stream);
            origin
                .after
                .extend(before.into_iter().flat_map(|origin| origin.after.iter().copied()));
            origin.after.push((*stream, *last));
        }
        origin.after.sort_unstable();
        origin.after.dedup();
        for entry in self
            .entries
            .extract_if(.., |entry| done.sources.contains(&entry.stream))
        {
            self.reshaping.retired.insert(
                entry.stream,
                RetiredStream {
                    range: entry.id,
                    keys: entry.keys,
                    candidates: entry.candidates,
                    last: done
                        .sealed
                        .get(&entry.stream)
                        .map(|end| end.last)
                        .unwrap_or_default(),
                },
            );
        }
        for target in done.targets {
            self.reshaping.origins.insert(target.stream, origin.clone());
            self.entries.push(target);
        }
        self.entries.sort_by(|a, b| a.keys.start.cmp(&b.keys.start));
    }

    /// The split or merge that ends the stream, if one is under way.
    pub fn pending_of(&self, stream: StreamId) -> Option<&Reshape> {
        self.reshaping.pending.get(self.pending_place(stream)?)
    }

    fn pending_place(&self, stream: StreamId) -> Option<usize> {
        let mut pending = self.reshaping.pending.iter();
        pending.position(|reshape| reshape.sources.contains(&stream))
    }

    pub(super) fn next(&self) -> Self {
        let mut next = self.clone();
        next.version = next.version.saturating_add(1);
        next
    }

    /// Numbers that no stream and no range ever had.
    fn next_ids(&self) -> (u64, u64) {
        let pending = self.reshaping.pending.iter().flat_map(|reshape| &reshape.targets);
        let live = self.entries.iter().chain(pending);
        let live = live.map(|entry| (entry.stream.0, entry.id.0));
        let retired = &self.reshaping.retired;
        let retired = retired
            .iter()
            .map(|(stream, retired)| (stream.0, retired.range.0));
        let (streams, ranges): (Vec<u64>, Vec<u64>) = live.chain(retired).unzip();
        let after = |ids: Vec<u64>| ids.into_iter().max().unwrap_or_default() + 1;
        (after(streams), after(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> RangeMap {
        RangeMap::divided([Key::from("m")], |_| ["a", "b", "c"].map(NodeName::from).to_vec())
    }

    fn end(floor: u64, last: u64) -> End {
        End {
            floor: Timestamp(floor),
            last: Lsn(last),
            barred: BTreeSet::new(),
        }
    }

    fn shape(map: &RangeMap) -> String {
        let entries = map.entries.iter();
        let shown = entries.map(|entry| format!("{}@{}{:?}", entry.id, entry.stream, entry.keys.start.0));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_moved_range_has_another_first_candidate() {
        let moved = map().moved(RangeId(2), &"c".into()).unwrap();
        assert_eq!((moved.version, &moved.entries[0]), (2, &map().entries[0]));
        let names: Vec<_> = moved.entries[1]
            .candidates
            .iter()
            .map(|name| name.0.as_str())
            .collect();
        assert_eq!(names, ["c", "a", "b"]);
        assert!(map().moved(RangeId(3), &"c".into()).is_err());
        assert!(map().moved(RangeId(1), &"z".into()).is_err());
    }

    #[test]
    fn a_split_takes_place_when_its_source_is_sealed() {
        let pending = map().split(&"f".into()).unwrap();
        assert_eq!(pending.entries, map().entries, "served as before until then");
        assert!(pending.split(&"g".into()).is_err(), "one at a time");
        assert!(pending.split(&"m".into()).is_err(), "nothing to split");
        let done = pending.sealed(StreamId(1), end(9, 5)).unwrap();
        assert_eq!(shape(&done), r#"r3@s3b"" r4@s4b"f" r2@s2b"m""#);
        assert_eq!(done.lookup(&"e".into()).unwrap().keys.end, Some(Key::from("f")));
        let origin = Origin {
            floor: Timestamp(9),
            after: vec![(StreamId(1), Lsn(5))],
            barred: BTreeSet::new(),
        };
        assert_eq!(done.reshaping.origins[&StreamId(4)], origin);
        assert!(done.reshaping.pending.is_empty());
        assert_eq!(done.streams().len(), 4);
        assert_eq!(
            done.candidates(StreamId(1)).len(),
            3,
            "it still answers for its transactions"
        );
        assert_eq!(
            done.sealed(StreamId(1), end(9, 5)),
            Ok(done.clone()),
            "said twice"
        );
        assert!(done.sealed(StreamId(2), end(9, 5)).is_err());
    }

    #[test]
    fn a_merge_waits_for_both_and_begins_above_both() {
        let split = map().split(&"f".into()).unwrap();
        let split = split.sealed(StreamId(1), end(30, 5)).unwrap();
        assert!(split.merge(&"".into()).is_err());
        assert!(split.merge(&"x".into()).is_err());
        let pending = split.merge(&"m".into()).unwrap();
        let half = pending.sealed(StreamId(2), end(10, 7)).unwrap();
        assert_eq!(half.entries, split.entries);
        assert_eq!(half.sealed(StreamId(2), end(10, 7)), Ok(half.clone()));
        let done = half.sealed(StreamId(4), end(40, 8)).unwrap();
        assert_eq!(shape(&done), r#"r3@s3b"" r5@s5b"f""#);
        assert_eq!(done.entries[1].keys.end, None);
        let origin = Origin {
            floor: Timestamp(40),
            after: vec![
                (StreamId(1), Lsn(5)),
                (StreamId(2), Lsn(7)),
                (StreamId(4), Lsn(8)),
            ],
            barred: BTreeSet::new(),
        };
        assert_eq!(done.reshaping.origins[&StreamId(5)], origin);
        assert_eq!(
            done.split(&"g".into()).unwrap().reshaping.pending[0].targets[0].stream,
            StreamId(6)
        );
    }

    #[test]
    fn what_a_source_has_barred_all_its_successors_bar() {
        let txn = |number| TxnId(uuid::Uuid::from_u128(number));
        let barring = |floor, last, txns: &[u128]| End {
            barred: txns.iter().copied().map(txn).collect(),
            ..end(floor, last)
        };
        let split = map().split(&"f".into()).unwrap();
        let split = split.sealed(StreamId(1), barring(30, 5, &[7])).unwrap();
        let barred = |map: &RangeMap, stream| map.reshaping.origins[&StreamId(stream)].barred.clone();
        assert_eq!(barred(&split, 3), BTreeSet::from([txn(7)]));
        assert_eq!(barred(&split, 4), BTreeSet::from([txn(7)]));
        let merge = split.merge(&"m".into()).unwrap();
        let half = merge.sealed(StreamId(2), barring(10, 7, &[8])).unwrap();
        let done = half.sealed(StreamId(4), barring(40, 8, &[7, 9])).unwrap();
        assert_eq!(barred(&done, 5), [7, 8, 9].map(txn).into());
    }
}
