//! The range map: which stream orders which keys.

mod changes;
mod members;

use std::collections::{BTreeMap, BTreeSet};

pub use changes::{ChangeRefused, End, MAX_CARRIED_BARS, Origin, Reshape, Reshaping, RetiredStream};
pub use members::Adjudicators;

use crate::{Key, KeyRange, NodeName, RangeId, StreamId};

/// One range of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeMapEntry {
    /// The range's name.
    pub id: RangeId,
    /// Its keys.
    pub keys: KeyRange,
    /// The stream that orders them.
    pub stream: StreamId,
    /// Adjudicators that may own it, the preferred one first. A hint: whoever fenced last owns it. While a region is
    /// drained those of other regions come first: see [`RangeMap::candidates`].
    pub candidates: Vec<NodeName>,
}

/// Which stream orders which keys. A wrong or old map costs a redirect, never safety: an owner
/// knows what it owns, a storage node knows what it has closed; and a stream orders the same keys for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeMap {
    /// Rises with every change.
    pub version: u64,
    /// Ordered by key, without gaps or overlaps.
    pub entries: Vec<RangeMapEntry>,
    /// What is left of splits and merges, and those under way.
    pub reshaping: Reshaping,
    /// Regions that operators want nothing to depend on, each with its adjudicators.
    pub drained: BTreeMap<String, BTreeSet<NodeName>>,
}

impl RangeMap {
    /// The map of a cluster with one range that holds every key.
    pub fn single(candidates: Vec<NodeName>) -> Self {
        Self::divided([], |_| candidates.clone())
    }

    /// The first map of a cluster: ranges r1, r2, … in streams s1, s2, …, a new one from each of the keys on. In
    /// whatever order the keys come, they are put in theirs; one that begins nothing new (empty, or there twice) is left out.
    /// `candidates` names those that may own the n-th range, counted from 0, as [`candidates`] orders them.
    pub fn divided(
        splits: impl IntoIterator<Item = Key>,
        mut candidates: impl FnMut(usize) -> Vec<NodeName>,
    ) -> Self {
        let mut starts: BTreeSet<Key> = splits.into_iter().collect();
        starts.insert(Key::default());
        let ends = starts.iter().skip(1).cloned().map(Some).chain([None]);
        let keys = starts.iter().zip(ends);
        let entries = (1..)
            .zip(keys)
            .enumerate()
            .map(|(index, (number, (start, end)))| RangeMapEntry {
                id: RangeId(number),
                keys: KeyRange {
                    start: start.clone(),
                    end,
                },
                stream: StreamId(number),
                candidates: candidates(index),
            });
        Self {
            version: Self::CONFIGURED,
            entries: entries.collect(),
            reshaping: Reshaping::default(),
            drained: BTreeMap::new(),
        }
    }

    /// The version of a map that stands nowhere but in the configuration: each node makes it from its own file.
    pub const CONFIGURED: u64 = 1;

    /// The range that holds the key.
    pub fn lookup(&self, key: &Key) -> Option<&RangeMapEntry> {
        let after = self.entries.partition_point(|entry| entry.keys.start <= *key);
        self.entries[..after]
            .last()
            .filter(|entry| entry.keys.contains(key.as_ref()))
    }

    /// The ranges that share a key with `keys`, in order.
    pub fn overlapping<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a RangeMapEntry> {
        let before = |entry: &RangeMapEntry| entry.keys.end.as_ref().is_some_and(|end| *end <= keys.start);
        let first = self.entries.partition_point(before);
        let from_first = self.entries.iter().skip(first);
        from_first.take_while(move |entry| entry.keys.overlaps(keys))
    }

    /// The range that a stream orders.
    pub fn by_stream(&self, stream: StreamId) -> Option<&RangeMapEntry> {
        self.entries.iter().find(|entry| entry.stream == stream)
    }

    /// All streams that hold transactions, those included that order no keys any more, in order.
    pub fn streams(&self) -> BTreeSet<StreamId> {
        let retired = self.reshaping.retired.keys().copied();
        self.entries
            .iter()
            .map(|entry| entry.stream)
            .chain(retired)
            .collect()
    }

    /// Whether the stream was split or merged, and orders no keys any more.
    pub fn is_retired(&self, stream: StreamId) -> bool {
        self.reshaping.retired.contains_key(&stream)
    }

    /// The keys that the stream orders, or ordered before it was retired.
    pub fn keys(&self, stream: StreamId) -> Option<&KeyRange> {
        let retired = || self.reshaping.retired.get(&stream);
        self.by_stream(stream)
            .map(|entry| &entry.keys)
            .or_else(|| retired().map(|retired| &retired.keys))
    }

    /// All that may own some stream: any of them may own the meta stream.
    pub fn adjudicators(&self) -> BTreeSet<&NodeName> {
        self.entries.iter().flat_map(|entry| &entry.candidates).collect()
    }

    /// Adjudicators that may own the stream, also when it orders no keys any more, in the order in which they are to. Those of a
    /// drained region come last: better than nobody.
    pub fn candidates(&self, stream: StreamId) -> Vec<NodeName> {
        let retired = || self.reshaping.retired.get(&stream);
        let all = self
            .by_stream(stream)
            .map(|entry| entry.candidates.as_slice())
            .or_else(|| retired().map(|retired| retired.candidates.as_slice()))
            .unwrap_or_default();
        let (drained, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|node| self.is_drained(node));
        others.into_iter().chain(drained).collect()
    }
}

/// The order in which adjudicators, each given with its region, are to own a range, the `index`th of those with the same preference: those of the preferred
/// region first, then the others. Where the order is free, each range begins at another one, so that not all lean on the same.
pub fn candidates(
    index: usize,
    preferred: Option<&str>,
    adjudicators: &[(NodeName, String)],
) -> Vec<NodeName> {
    let is_near = |region: &String| preferred.is_some_and(|preferred| preferred == region);
    let (mut near, mut far): (Vec<_>, Vec<_>) = adjudicators.iter().partition(|(_, region)| is_near(region));
    for group in [&mut near, &mut far] {
        let by = index.checked_rem(group.len()).unwrap_or_default();
        group.rotate_left(by);
    }
    near.into_iter()
        .chain(far)
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divided_map_has_no_gap_and_no_overlap() {
        let splits = ["m", "", "f", "m"].map(Key::from);
        let map = RangeMap::divided(splits, |index| vec![NodeName(format!("a{index}"))]);
        let ids: Vec<_> = map
            .entries
            .iter()
            .map(|entry| (entry.id.0, entry.stream.0))
            .collect();
        assert_eq!(ids, [(1, 1), (2, 2), (3, 3)]);
        for (key, id, owner) in [
            ("", 1, "a0"),
            ("ezz", 1, "a0"),
            ("f", 2, "a1"),
            ("m", 3, "a2"),
            ("z", 3, "a2"),
        ] {
            let entry = map.lookup(&key.into()).unwrap();
            assert_eq!((entry.id.0, entry.candidates[0].0.as_str()), (id, owner), "{key}");
            assert_eq!(map.overlapping(&KeyRange::point(key.into())).count(), 1);
        }
        assert_eq!(map.overlapping(&KeyRange::all()).count(), 3);
        assert_eq!(RangeMap::single(vec![]).entries[0].keys, KeyRange::all());
    }

    #[test]
    fn candidates_are_those_of_the_preferred_region_first_and_spread() {
        let all = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")];
        let all = all.map(|(name, region)| (name.into(), region.to_owned()));
        let order = |index, preferred| {
            let names: Vec<_> = candidates(index, preferred, &all)
                .into_iter()
                .map(|name| name.0)
                .collect();
            names.join(" ")
        };
        assert_eq!(order(0, Some("b")), "b1 b2 a1 a2");
        assert_eq!(order(1, Some("b")), "b2 b1 a2 a1");
        assert_eq!(order(2, None), "b1 b2 a1 a2");
        assert_eq!(order(0, Some("nowhere")), "a1 a2 b1 b2");
        assert!(candidates(3, None, &[]).is_empty());
    }
}
