//! I2. For all committed T1, T2 that wrote the same key: T1.commit <= T2.start or T2.commit <= T1.start.

use std::collections::BTreeMap;

use crate::invariants::{Evidence, Violation};

/// Neighbours by commit timestamp, key by key: if they do not overlap, no two do.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut writers: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for txn in evidence.txns {
        if let (Some(commit), Some(start)) = (txn.commit(), txn.start()) {
            for (key, _) in txn.writes() {
                writers.entry(key).or_default().push((commit, start, txn.id));
            }
        }
    }
    let mut violations = Vec::new();
    for (key, mut versions) in writers {
        versions.sort();
        for pair in versions.windows(2) {
            if let [(first, _, one), (_, start, two)] = *pair
                && first > start
            {
                let what = format!("T{one} and T{two} overlap and both wrote {key}");
                violations.push(Violation::new("I2 first committer wins", what, [one, two]));
            }
        }
    }
    violations
}
