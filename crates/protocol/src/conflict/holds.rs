//! R11: what an open attempt has read is held against writers whose snapshot is older than its promise.

use std::collections::BTreeMap;

use meridian_types::{Attempt, Key, KeyRange, Timestamp, TxnId};

use super::{Collision, Recent};

/// The reads of open attempts. They are never forgotten before the attempt ends; how many there may be is
/// for the caller to bound.
///
/// Invariant: `points` and `ranges` hold reads of the attempts in `promises`, and of no others.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    promises: BTreeMap<Attempt, Timestamp>,
    /// Single keys, by far the most: found by the key that is to be written.
    points: BTreeMap<Key, Vec<Attempt>>,
    /// Everything else.
    ranges: BTreeMap<Attempt, Vec<KeyRange>>,
    /// No hold reaches beyond it.
    newest: Timestamp,
}

impl Holds {
    pub(super) fn hold(&mut self, reads: &[KeyRange], attempt: Attempt, promise: Timestamp) {
        if reads.is_empty() {
            return;
        }
        self.promises.insert(attempt, promise);
        self.newest = self.newest.max(promise);
        for read in reads {
            if is_point(read) {
                self.points.entry(read.start.clone()).or_default().push(attempt);
            } else {
                self.ranges.entry(attempt).or_default().push(read.clone());
            }
        }
    }

    /// The attempt ended; `reads` as they were held.
    pub(super) fn release(&mut self, attempt: &Attempt, reads: &[KeyRange]) {
        if self.promises.remove(attempt).is_none() {
            return;
        }
        self.ranges.remove(attempt);
        for read in reads.iter().filter(|read| is_point(read)) {
            if let Some(attempts) = self.points.get_mut(&read.start) {
                attempts.retain(|other| other != attempt);
                if attempts.is_empty() {
                    self.points.remove(&read.start);
                }
            }
        }
        if self.promises.is_empty() {
            self.newest = Timestamp::ZERO;
        }
    }

    /// Whether a hold reaches beyond a snapshot at all.
    pub(super) fn reach_beyond(&self, start: Timestamp) -> bool {
        self.newest > start
    }

    /// Some hold that these writes collide with, if there is one.
    pub(super) fn check(&self, txn: TxnId, start: Timestamp, written: &[Key]) -> Option<Collision> {
        if !self.reach_beyond(start) {
            return None;
        }
        let of_points = written.iter().find_map(|key| {
            let attempts = self.points.get(key)?.iter();
            attempts
                .filter_map(|attempt| self.collision(txn, start, key, attempt))
                .max_by_key(Collision::rank)
        });
        of_points.or_else(|| self.check_ranges(txn, start, written))
    }

    fn check_ranges(&self, txn: TxnId, start: Timestamp, written: &[Key]) -> Option<Collision> {
        if self.ranges.is_empty() {
            return None;
        }
        let mut sorted: Vec<&Key> = written.iter().collect();
        sorted.sort_unstable();
        self.ranges.iter().find_map(|(attempt, ranges)| {
            let key = ranges.iter().find_map(|range| {
                let first = sorted.partition_point(|key| **key < range.start);
                sorted.get(first).filter(|key| range.contains(key.as_ref()))
            })?;
            self.collision(txn, start, key, attempt)
        })
    }

    fn collision(&self, txn: TxnId, start: Timestamp, key: &Key, attempt: &Attempt) -> Option<Collision> {
        let (attempt, promise) = (*attempt, *self.promises.get(attempt)?);
        (promise > start).then(|| Collision::new(txn, key, Recent::Promised { attempt, promise }))
    }
}

fn is_point(range: &KeyRange) -> bool {
    range
        .end
        .as_ref()
        .is_some_and(|end| end.0.len() == range.start.0.len() + 1 && *end == range.start.successor())
}
