//! The newest closures, for subscribers to pick up at their own pace.

use std::collections::{BTreeMap, VecDeque};

use meridian_protocol::closing::Closure;
use meridian_types::RangeId;

/// Closures kept per range. A subscriber that falls further behind misses some, which the later ones imply.
const KEPT_PER_RANGE: usize = 16;

/// The newest closures of each range, numbered in order of arrival.
#[derive(Default)]
pub struct Closures {
    by_range: BTreeMap<RangeId, VecDeque<(u64, Closure)>>,
    arrived: u64,
}

impl Closures {
    /// A closure arrived. One of a range too many is dropped.
    pub fn push(&mut self, closure: Closure, max_ranges: usize) {
        if self.by_range.len() >= max_ranges && !self.by_range.contains_key(&closure.range) {
            return;
        }
        self.arrived += 1;
        let kept = self.by_range.entry(closure.range).or_default();
        if kept.len() == KEPT_PER_RANGE {
            kept.pop_front();
        }
        kept.push_back((self.arrived, closure));
    }

    /// Those that arrived after number `seen`, and the newest number.
    pub fn after(&self, seen: u64) -> (Vec<Closure>, u64) {
        if seen == self.arrived {
            return (Vec::new(), seen);
        }
        let mut newer: Vec<&(u64, Closure)> = self
            .by_range
            .values()
            .flatten()
            .filter(|(number, _)| *number > seen)
            .collect();
        newer.sort_unstable_by_key(|(number, _)| *number);
        (
            newer.into_iter().map(|(_, closure)| closure.clone()).collect(),
            self.arrived,
        )
    }
}
