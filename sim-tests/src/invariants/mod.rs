//! What must hold of a run, one file each, headed by its formal statement.

pub mod acknowledged;
pub mod bank_total;
pub mod clients;
pub mod convergence;
pub mod first_committer;
pub mod isolation;
pub mod recency;
pub mod snapshots;

use std::collections::BTreeMap;

use crate::history::Txn;
use crate::plan::Plan;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// How.
    pub what: String,
    /// The transactions that show it.
    pub txns: Vec<usize>,
}

impl Violation {
    /// A broken promise.
    pub fn new(
        invariant: &'static str,
        what: impl Into<String>,
        txns: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self {
            invariant,
            what: what.into(),
            txns: txns.into_iter().collect(),
        }
    }
}

/// The newest value of each key at a storage node, with its timestamp.
pub type Content = BTreeMap<String, (u64, String)>;

/// What is known of a run after its end.
pub struct Evidence<'a> {
    /// What the seed chose.
    pub plan: &'a Plan,
    /// What clients saw.
    pub txns: &'a [Txn],
    /// What the auditor found at the very end; `None` when the run did not come so far.
    pub audit: Option<&'a Txn>,
    /// What the storage nodes hold.
    pub stores: &'a [(String, Content)],
}

/// Everything that was broken.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let checks = [
        bank_total::check,
        clients::check,
        acknowledged::check,
        isolation::check,
        first_committer::check,
        snapshots::check,
        recency::check,
        convergence::check,
    ];
    checks.iter().flat_map(|check| check(evidence)).collect()
}
