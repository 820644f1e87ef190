//! What clients saw, and what is left at the end, judged without knowing how the cluster works.

pub mod acknowledged;
pub mod bank_total;
pub mod convergence;
pub mod first_committer;
pub mod isolation;
pub mod promises;
pub mod recency;
pub mod snapshots;

use super::{Evidence, Violation};

/// Everything that clients were promised and did not get.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let checks = [
        bank_total::check,
        promises::check,
        acknowledged::check,
        isolation::check,
        first_committer::check,
        snapshots::check,
        recency::check,
        convergence::check,
    ];
    checks.iter().flat_map(|check| check(evidence)).collect()
}
