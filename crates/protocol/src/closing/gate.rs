//! The subscriber's side: closures pass only after what they depend on (R14).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Lsn, RangeId, StreamId, Timestamp};

use super::Closure;

/// Closures held back per range; beyond that a new one replaces the newest held. The older ones stay, so that a stream
/// of closures, each a little ahead of what was sent, cannot starve a reader for ever.
const MAX_HELD_PER_RANGE: usize = 8;

/// R14, at a journal node, for one subscriber: holds a closure until everything in its `after` was
/// committed and sent.
///
/// The node sends entries of all streams that the subscriber's ranges depend on, in lsn order, and only committed
/// ones; it tells the gate with [`Self::on_sent`]. An entry without anything for the subscriber's ranges counts as sent when the
/// feed has passed it.
#[derive(Clone, Debug, Default)]
pub struct FeedGate {
    sent: BTreeMap<StreamId, Lsn>,
    held: BTreeMap<RangeId, VecDeque<Closure>>,
    /// The highest `x` let through, per range.
    passed: BTreeMap<RangeId, Timestamp>,
    backfilling: BTreeSet<RangeId>,
}

impl FeedGate {
    /// A gate for a subscriber that has everything up to these positions, durably or in the order of the feed.
    pub fn new(positions: impl IntoIterator<Item = (StreamId, Lsn)>) -> Self {
        Self {
            sent: positions.into_iter().collect(),
            ..Self::default()
        }
    }

    /// How far a stream was sent.
    pub fn sent(&self, stream: StreamId) -> Lsn {
        self.sent.get(&stream).copied().unwrap_or_default()
    }

    /// A closure arrived. Returns it when it may be sent at once, after everything that was sent before; otherwise
    /// it is held, or dropped when it says nothing new.
    pub fn offer(&mut self, closure: Closure) -> Option<Closure> {
        if self.passed.get(&closure.range).is_some_and(|x| closure.x <= *x) {
            return None;
        }
        if self.is_satisfied(&closure) {
            self.pass(&closure);
            return Some(closure);
        }
        let held = self.held.entry(closure.range).or_default();
        if held.contains(&closure) {
            return None;
        }
        if held.len() == MAX_HELD_PER_RANGE {
            held.pop_back();
        }
        held.push_back(closure);
        None
    }

    /// Committed entries of a stream were sent up to `lsn`. Returns the closures that may follow now, at most one per
    /// range: the highest, which implies the others.
    pub fn on_sent(&mut self, stream: StreamId, lsn: Lsn) -> Vec<Closure> {
        let sent = self.sent.entry(stream).or_default();
        if lsn <= *sent {
            return Vec::new();
        }
        *sent = lsn;
        let ranges: Vec<RangeId> = self.held.keys().copied().collect();
        ranges
            .into_iter()
            .filter_map(|range| self.release(range))
            .collect()
    }

    /// A range is newly subscribed: its closures do not count before it is backfilled.
    pub fn start_backfill(&mut self, range: RangeId) {
        self.backfilling.insert(range);
    }

    /// Everything up to the subscriber's positions was sent for the range too.
    pub fn finish_backfill(&mut self, range: RangeId) -> Option<Closure> {
        self.backfilling.remove(&range);
        self.release(range)
    }

    fn release(&mut self, range: RangeId) -> Option<Closure> {
        let satisfied = self
            .held
            .get(&range)?
            .iter()
            .filter(|held| self.is_satisfied(held));
        let best = satisfied.max_by_key(|closure| closure.x)?.clone();
        self.pass(&best);
        Some(best)
    }

    fn pass(&mut self, closure: &Closure) {
        self.passed.insert(closure.range, closure.x);
        if let Some(held) = self.held.get_mut(&closure.range) {
            held.retain(|other| other.x > closure.x);
            if held.is_empty() {
                self.held.remove(&closure.range);
            }
        }
    }

    fn is_satisfied(&self, closure: &Closure) -> bool {
        !self.backfilling.contains(&closure.range)
            && closure
                .after
                .iter()
                .all(|(stream, lsn)| self.sent(*stream) >= *lsn || is_broken(Rule::ClosureOrder))
    }
}

/// R5, at a storage node: up to when each range is complete here.
///
/// Kept in memory only: after a restart the applied positions may lie behind what a closure depended on.
#[derive(Clone, Debug, Default)]
pub struct ClosedMap {
    closed: BTreeMap<RangeId, Timestamp>,
}

impl ClosedMap {
    /// A storage node that knows no closure yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A closure arrived, after everything it depends on was applied. Returns whether the range is complete further than
    /// before.
    pub fn close(&mut self, range: RangeId, x: Timestamp) -> bool {
        let closed = self.closed.entry(range).or_default();
        let rose = x > *closed;
        *closed = (*closed).max(x);
        rose
    }

    /// Up to when the range is complete; zero when no closure arrived.
    pub fn closed(&self, range: RangeId) -> Timestamp {
        self.closed.get(&range).copied().unwrap_or_default()
    }

    /// R5: whether a read of all these ranges at `s` may be answered.
    pub fn covers(&self, ranges: impl IntoIterator<Item = RangeId>, s: Timestamp) -> bool {
        ranges.into_iter().all(|range| self.closed(range) >= s)
    }

    /// The range is not served here any more.
    pub fn forget(&mut self, range: RangeId) {
        self.closed.remove(&range);
    }
}
