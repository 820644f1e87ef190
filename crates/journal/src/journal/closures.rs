//! The newest closures, for subscribers to pick up at their own pace.

use std::collections::{BTreeMap, VecDeque};

use meridian_protocol::closing::Closure;
use meridian_types::RangeId;

/// Closures kept per range. A subscriber that falls further behind misses some, which the later ones imply.
const KEPT_PER_RANGE: usize = 16;
/// Streams that all closures together may name (64 MiB). Beyond it a range keeps fewer; one that keeps none drops new ones.
const MAX_KEPT_DEPENDENCIES: usize = 4 << 20;

/// The newest closures of each range, numbered in order of arrival.
#[derive(Default)]
pub struct Closures {
    by_range: BTreeMap<RangeId, VecDeque<(u64, Closure)>>,
    arrived: u64,
    /// How many streams the closures that are kept name.
    dependencies: usize,
}

impl Closures {
    /// A closure arrived. One of a range too many is dropped.
    pub fn push(&mut self, closure: Closure, max_ranges: usize) {
        if self.by_range.len() >= max_ranges && !self.by_range.contains_key(&closure.range) {
            return;
        }
        let kept = self.by_range.entry(closure.range).or_default();
        let room = MAX_KEPT_DEPENDENCIES.saturating_sub(closure.after.len());
        while (kept.len() >= KEPT_PER_RANGE || self.dependencies > room)
            && let Some((_, oldest)) = kept.pop_front()
        {
            self.dependencies -= oldest.after.len();
        }
        if self.dependencies > room {
            return;
        }
        self.arrived += 1;
        self.dependencies += closure.after.len();
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
