//! Which storage nodes hold which keys.
//!
//! ```text
//! st-1  ├────────────────┤                 nodes may overlap, while one takes over from another
//! st-2            ├────────────────────┤
//! parts ├─────────┼──────┼─────────────┤   in each part the same nodes hold all keys
//! ```
//! These ranges are unrelated to those of the adjudicators. A read of several parts is several reads, all at one snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_types::{Key, KeyRange, NodeName};

/// A storage node and the keys that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageNode {
    /// Its name.
    pub name: NodeName,
    /// What may be read there.
    pub keys: KeyRange,
}

impl From<NodeName> for StorageNode {
    /// A node that holds all keys.
    fn from(name: NodeName) -> Self {
        Self {
            name,
            keys: KeyRange::all(),
        }
    }
}

/// Some of the keys of a read, all of one part, and where each stood in the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) places: Vec<usize>,
    pub(crate) keys: Vec<Bytes>,
}

/// The parts of the key space.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shards {
    /// Where one part ends and the next one begins, rising.
    borders: Vec<Key>,
}

impl Shards {
    pub(crate) fn new(nodes: &[StorageNode]) -> Self {
        let starts = nodes.iter().map(|node| &node.keys.start);
        let ends = nodes.iter().filter_map(|node| node.keys.end.as_ref());
        let mut borders: Vec<Key> = starts
            .chain(ends)
            .filter(|key| !key.0.is_empty())
            .cloned()
            .collect();
        borders.sort();
        borders.dedup();
        Self { borders }
    }

    /// The keys by part, in the order of the parts.
    pub(crate) fn divide(&self, keys: Vec<Bytes>) -> Vec<Share> {
        let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
        for (place, key) in keys.into_iter().enumerate() {
            let part = self
                .borders
                .partition_point(|border| border.as_ref() <= key.as_ref());
            let share = shares.entry(part).or_default();
            share.places.push(place);
            share.keys.push(key);
        }
        shares.into_values().collect()
    }

    /// The part in which a scan of the range begins, as far as it is in the range.
    pub(crate) fn first(&self, keys: &KeyRange, reverse: bool) -> KeyRange {
        let mut part = keys.clone();
        let inside =
            |border: &&Key| **border > keys.start && keys.end.as_ref().is_none_or(|end| *border < end);
        if reverse {
            if let Some(border) = self.borders.iter().rfind(inside) {
                part.start = border.clone();
            }
        } else if let Some(border) = self.borders.iter().find(inside) {
            part.end = Some(border.clone());
        }
        part
    }

    /// The range, cut at every border.
    pub(crate) fn cut(&self, keys: &KeyRange) -> Vec<KeyRange> {
        let mut parts = Vec::new();
        let mut rest = keys.clone();
        loop {
            let part = self.first(&rest, false);
            let end = part.end.clone();
            let is_last = end == rest.end;
            parts.push(part);
            match end {
                Some(border) if !is_last => rest.start = border,
                _ => return parts,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(start: &str, end: &str) -> StorageNode {
        StorageNode {
            name: "n".into(),
            keys: KeyRange {
                start: start.into(),
                end: Some(end).filter(|end| !end.is_empty()).map(Key::from),
            },
        }
    }

    fn range(start: &str, end: &str) -> KeyRange {
        node(start, end).keys
    }

    fn overlapping() -> Shards {
        Shards::new(&[node("", "m"), node("g", "")])
    }

    #[test]
    fn keys_are_read_where_they_are_and_come_back_in_order() {
        let keys = ["x", "a", "g", "fz", "m"].map(|key| Bytes::from_static(key.as_bytes()));
        let shares = overlapping().divide(keys.to_vec());
        let places: Vec<_> = shares.iter().map(|share| share.places.clone()).collect();
        assert_eq!(places, [vec![1, 3], vec![2], vec![0, 4]]);
        assert_eq!(Shards::new(&[node("", "")]).divide(keys.to_vec()).len(), 1);
    }

    #[test]
    fn a_scan_goes_from_part_to_part_in_its_direction() {
        let shards = overlapping();
        assert_eq!(shards.first(&range("", ""), false), range("", "g"));
        assert_eq!(shards.first(&range("g", ""), false), range("g", "m"));
        assert_eq!(shards.first(&range("h", "j"), false), range("h", "j"));
        assert_eq!(shards.first(&range("", ""), true), range("m", ""));
        assert_eq!(shards.first(&range("", "m"), true), range("g", "m"));
        assert_eq!(shards.first(&range("", "g"), true), range("", "g"));
        assert_eq!(
            shards.cut(&range("", "")),
            [range("", "g"), range("g", "m"), range("m", "")]
        );
        assert_eq!(
            shards.cut(&range("b", "n")),
            [range("b", "g"), range("g", "m"), range("m", "n")]
        );
        assert_eq!(Shards::default().cut(&range("b", "n")), [range("b", "n")]);
    }
}
