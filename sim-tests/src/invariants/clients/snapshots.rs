//! R6, I6. For every transaction T with snapshot s, every read of T that found version v of key k, and every committed
//! version w of k: v <= s, and not v < w <= s.
//!
//! Where s is not known, the newest version that T saw stands for it: s is not below that (R5).

use std::collections::BTreeMap;

use meridian_client::Timestamp;

use crate::history::Txn;
use crate::invariants::{Evidence, Violation};

const NAME: &str = "R6 reads see the snapshot";

/// Of each key and timestamp: who wrote it, and whether it was a value.
type Versions<'a> = BTreeMap<&'a str, BTreeMap<Timestamp, (usize, bool)>>;

/// Every read of every transaction.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut versions = Versions::new();
    for txn in evidence.txns {
        if let Some(commit) = txn.commit() {
            for (key, value) in txn.effects() {
                let version = (txn.id, value.is_some());
                versions.entry(key).or_default().insert(commit, version);
            }
        }
    }
    evidence
        .txns
        .iter()
        .flat_map(|txn| check_one(txn, &versions))
        .collect()
}

fn check_one(txn: &Txn, versions: &Versions<'_>) -> Vec<Violation> {
    let found_at =
        |found: Option<&crate::history::Found>| found.map_or(Timestamp::ZERO, |found| found.timestamp);
    let newest = txn
        .reads()
        .map(|(_, found)| found_at(found))
        .max()
        .unwrap_or_default();
    let snapshot = txn.start().unwrap_or(newest);
    let mut violations = Vec::new();
    for (key, found) in txn.reads() {
        let at = found_at(found);
        if at > snapshot {
            let what = format!(
                "T{} read {key} at {}, after its snapshot {}",
                txn.id, at.0, snapshot.0
            );
            violations.push(Violation::new(NAME, what, [txn.id]));
        }
        let after = Timestamp(at.0 + 1);
        let missed = versions
            .get(key)
            .filter(|_| after <= snapshot)
            .and_then(|versions| versions.range(after..=snapshot).next_back());
        // Nothing is what a deletion leaves; one after the newest version that T saw may still lie before s.
        let missed = missed.filter(|(_, (_, has_value))| found.is_some() || *has_value);
        let may_be_deleted = found.is_none() && txn.start().is_none() && {
            let later = versions
                .get(key)
                .into_iter()
                .flat_map(|versions| versions.range(snapshot..));
            later.into_iter().any(|(_, (_, has_value))| !has_value)
        };
        let missed = missed.filter(|_| !may_be_deleted);
        if let Some((missed, (writer, _))) = missed {
            let what = format!(
                "T{} read {key} at {} and missed T{writer}'s version at {}, its snapshot is {}",
                txn.id, at.0, missed.0, snapshot.0
            );
            violations.push(Violation::new(NAME, what, [*writer, txn.id]));
        }
    }
    violations
}
