//! What a transaction read and wants checked at commit (section 4): ranges, merged where they touch.

use std::collections::BTreeMap;

use meridian_rpc::error::KvResult;
use meridian_types::{Key, KeyRange, limits};

use crate::buffer::check_limit;

/// A set of keys as disjoint ranges.
///
/// Invariants: no two ranges overlap or touch; `bytes` is the sum of the lengths of their bounds.
#[derive(Debug, Default)]
pub(crate) struct ReadSet {
    /// First key to first key after; `None`: without end.
    ranges: BTreeMap<Key, Option<Key>>,
    bytes: usize,
}

fn size(start: &Key, end: Option<&Key>) -> usize {
    start.0.len() + end.map_or(0, |end| end.0.len())
}

impl ReadSet {
    /// Adds a range, unless the set would outgrow a limit: then it is as if nothing was added that was not
    /// in it, and the read must not be answered.
    pub(crate) fn add(&mut self, range: KeyRange) -> KvResult<()> {
        if range.is_empty() {
            return Ok(());
        }
        let KeyRange { mut start, mut end } = range;
        let before = self.ranges.range(..=start.clone()).next_back();
        let first = match before {
            Some((other, other_end)) if reaches(other_end.as_ref(), &start) => other.clone(),
            _ => start.clone(),
        };
        let touched: Vec<(Key, Option<Key>)> = self
            .ranges
            .range(first..)
            .take_while(|(other, _)| end.as_ref().is_none_or(|end| *other <= end))
            .map(|(other, other_end)| (other.clone(), other_end.clone()))
            .collect();
        let mut bytes = self.bytes;
        for (other, other_end) in &touched {
            bytes -= size(other, other_end.as_ref());
            start = start.min(other.clone());
            end = match (end, other_end) {
                (Some(a), Some(b)) => Some(a.max(b.clone())),
                _ => None,
            };
        }
        bytes += size(&start, end.as_ref());
        let count = self.ranges.len() - touched.len() + 1;
        // Merging may only make it smaller, or grow it by the new bounds.
        if count > self.ranges.len() || bytes > self.bytes {
            check_limit("keys and ranges to check at commit", count, limits::MAX_TXN_READS)?;
            check_limit(
                "bytes of keys to check at commit",
                bytes,
                limits::MAX_TXN_READ_BYTES,
            )?;
        }
        for (other, _) in &touched {
            self.ranges.remove(other);
        }
        self.bytes = bytes;
        self.ranges.insert(start, end);
        Ok(())
    }

    /// Bytes of all bounds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges in order.
    pub(crate) fn into_ranges(self) -> Vec<KeyRange> {
        self.ranges
            .into_iter()
            .map(|(start, end)| KeyRange { start, end })
            .collect()
    }
}

/// Whether a range that ends at `end` overlaps or touches one that begins at `start`.
fn reaches(end: Option<&Key>, start: &Key) -> bool {
    end.is_none_or(|end| end >= start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u8, end: Option<u8>) -> KeyRange {
        KeyRange {
            start: Key::from(&[start][..]),
            end: end.map(|end| Key::from(&[end][..])),
        }
    }

    proptest! {
        #[test]
        fn holds_exactly_the_keys_added_and_stays_merged(
            added in prop::collection::vec((0..60u8, prop::option::weighted(0.95, 0..60u8)), 0..25)
        ) {
            let mut set = ReadSet::default();
            for (start, end) in &added {
                set.add(range(*start, *end)).unwrap();
            }
            let bytes = set.bytes();
            let ranges = set.into_ranges();
            prop_assert_eq!(bytes, ranges.iter().map(|r| size(&r.start, r.end.as_ref())).sum::<usize>());
            for key in 0..70u8 {
                let wanted = added.iter().any(|(start, end)| range(*start, *end).contains(&[key]));
                prop_assert_eq!(ranges.iter().any(|range| range.contains(&[key])), wanted, "key {}", key);
            }
            for pair in ranges.windows(2) {
                let end = pair[0].end.as_ref().expect("only the last has no end");
                prop_assert!(end < &pair[1].start);
            }
        }
    }

    #[test]
    fn too_many_are_refused_but_what_is_known_is_not() {
        let mut set = ReadSet::default();
        let point = |n: usize| KeyRange::point(Key::from(format!("{n:06}").as_str()));
        for n in 0..limits::MAX_TXN_READS {
            set.add(point(2 * n)).unwrap();
        }
        assert!(set.add(point(1_000_001)).is_err());
        set.add(point(0)).unwrap();
        assert_eq!(set.len(), limits::MAX_TXN_READS);
        set.add(KeyRange::prefix(Key::from("0"))).unwrap();
        assert_eq!(set.len(), 1);
    }
}
