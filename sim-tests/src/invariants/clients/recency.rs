//! I1. For all T1, T2: if T1's commit was acknowledged before T2 began, then T1.commit <= T2.start.
//!
//! Promised only as long as clocks keep their bound. Real time is the order of the history: what was recorded earlier happened earlier.

use crate::invariants::{Evidence, Violation};

/// All transactions whose snapshot is known, against the newest commit acknowledged before each.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    if evidence.plan.clocks_beyond {
        return Vec::new();
    }
    // Begins and acknowledgements, in real time.
    let mut events = Vec::new();
    for txn in evidence.txns {
        if let (Some(commit), Some(ended)) = (txn.commit(), txn.ended) {
            events.push((ended.order, true, commit, txn.id));
        }
        if let Some(start) = txn.start() {
            events.push((txn.began.order, false, start, txn.id));
        }
    }
    events.sort();
    let mut newest = None;
    let mut violations = Vec::new();
    for (_, is_end, timestamp, id) in events {
        if is_end {
            newest = newest.max(Some((timestamp, id)));
        } else if let Some((commit, acknowledged)) = newest
            && commit > timestamp
        {
            let what =
                format!("T{acknowledged} was acknowledged before T{id} began, and is not in its snapshot");
            violations.push(Violation::new("I1 recency", what, [acknowledged, id]));
        }
    }
    violations
}
