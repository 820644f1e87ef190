//! The range map: which stream orders which keys.

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
    /// Adjudicators that may own it, the preferred one first. A hint: whoever fenced last owns it.
    pub candidates: Vec<NodeName>,
}

/// Which stream orders which keys. A wrong or old map costs a redirect, never safety: an owner
/// knows what it owns, a storage node knows what it has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeMap {
    /// Rises with every change.
    pub version: u64,
    /// Ordered by key, without gaps or overlaps.
    pub entries: Vec<RangeMapEntry>,
}

impl RangeMap {
    /// The map of a cluster with one range that holds every key.
    pub fn single(candidates: Vec<NodeName>) -> Self {
        let entry = RangeMapEntry {
            id: RangeId(1),
            keys: KeyRange::all(),
            stream: StreamId(1),
            candidates,
        };
        Self {
            version: 1,
            entries: vec![entry],
        }
    }

    /// The range that holds the key.
    pub fn lookup(&self, key: &Key) -> Option<&RangeMapEntry> {
        let after = self.entries.partition_point(|entry| entry.keys.start <= *key);
        self.entries[..after]
            .last()
            .filter(|entry| entry.keys.contains(key.as_ref()))
    }

    /// The ranges that share a key with `keys`, in order.
    pub fn overlapping<'a>(&'a self, keys: &'a KeyRange) -> impl Iterator<Item = &'a RangeMapEntry> {
        self.entries.iter().filter(move |entry| entry.keys.overlaps(keys))
    }

    /// The range that a stream orders.
    pub fn by_stream(&self, stream: StreamId) -> Option<&RangeMapEntry> {
        self.entries.iter().find(|entry| entry.stream == stream)
    }
}
