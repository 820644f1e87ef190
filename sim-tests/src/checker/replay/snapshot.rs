//! Which snapshots a transaction can have had.

use meridian_client::Timestamp;

use super::versions::Versions;
use crate::history::{Found, Op, Txn};

/// Where a transaction's snapshot is.
pub struct Snapshot {
    /// If the cluster told it.
    pub exact: Option<Timestamp>,
    /// It is not before this: the newest version it read, what the cluster told at its begin, and real time.
    pub at_least: Timestamp,
    /// Later ones that may show what the first does not: they are past a deletion.
    pub later: Vec<Timestamp>,
}

impl Snapshot {
    /// From all that is known.
    pub fn new(txn: &Txn, versions: &Versions<'_>, recent: Option<(Timestamp, usize)>) -> Self {
        let exact = txn.snapshot();
        if let Some(exact) = exact {
            return Self {
                exact: Some(exact),
                at_least: exact,
                later: Vec::new(),
            };
        }
        let newest = txn.ops.iter().map(newest).max().unwrap_or_default();
        let recent = recent.map_or(Timestamp::ZERO, |(timestamp, _)| timestamp);
        let at_least = newest.max(txn.snapshot_not_before()).max(recent);
        let read = txn.ops.iter().filter_map(|op| match op {
            Op::Read { key, found: None, .. } => Some(key),
            Op::Scan { prefix, .. } | Op::Part { prefix, .. } => Some(prefix),
            _ => None,
        });
        let mut later: Vec<Timestamp> = read
            .flat_map(|prefix| versions.deletions(prefix, at_least))
            .collect();
        later.sort_unstable();
        later.dedup();
        Self {
            exact: None,
            at_least,
            later,
        }
    }
}

fn newest(op: &Op) -> Timestamp {
    let newest = |rows: &[(String, Found)]| rows.iter().map(|(_, found)| found.timestamp).max();
    let found = match op {
        Op::Read { found, .. } => found.as_ref().map(|found| found.timestamp),
        Op::Scan { rows, .. } | Op::Part { rows, .. } => newest(rows),
        _ => None,
    };
    found.unwrap_or_default()
}

/// What each transaction must see because it was there before it began, in real time.
pub struct Recency {
    /// By the order of events: the newest timestamp that anybody was shown until then, and who.
    shown: Vec<(u64, Timestamp, usize)>,
}

impl Recency {
    /// From all acknowledgements and all reads.
    pub fn new(txns: &[Txn], versions: &Versions<'_>) -> Self {
        let mut events: Vec<(u64, Timestamp, usize)> = Vec::new();
        for txn in txns {
            let Some(ended) = txn.ended else { continue };
            let read = txn.ops.iter().map(newest).max().unwrap_or_default();
            let committed = versions.commit(txn.id).filter(|_| txn.is_committed());
            let shown = read.max(committed.unwrap_or_default());
            events.push((ended.order, shown, txn.id));
        }
        events.sort_unstable();
        let mut best = (Timestamp::ZERO, 0);
        for (_, timestamp, id) in &mut events {
            best = best.max((*timestamp, *id));
            (*timestamp, *id) = best;
        }
        Self { shown: events }
    }

    /// What was shown before that transaction began, unless it asked for the past.
    pub fn at(&self, txn: &Txn) -> Option<(Timestamp, usize)> {
        if txn.mode.past.is_some() {
            return None;
        }
        let before = self
            .shown
            .partition_point(|(order, _, _)| *order < txn.began.order);
        let (_, timestamp, id) = self.shown.get(before.checked_sub(1)?)?;
        Some((*timestamp, *id))
    }
}
