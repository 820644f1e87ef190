//! What each workload was promised, from what its clients saw alone: see [`crate::checker::promises`].

use crate::checker::promises;
use crate::invariants::{Evidence, Violation};

/// All of them.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let found = promises::check(evidence.txns, evidence.audit).into_iter();
    found
        .map(|anomaly| Violation::new(anomaly.name, anomaly.what, anomaly.txns))
        .collect()
}
