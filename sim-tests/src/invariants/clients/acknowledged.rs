//! For every transaction T and every new key or list element e that T wrote: if T was acknowledged then e is there at
//! the end, once; if T was told to be aborted then e is not (I9, and durability).

use std::collections::BTreeMap;

use crate::invariants::{Evidence, Violation};
use crate::workload::{LEDGER, LISTS};

const NAME: &str = "acknowledged writes are durable (I9)";

/// What the auditor found, against what clients were told.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let Some(audit) = evidence.audit else {
        return Vec::new();
    };
    let found: BTreeMap<&str, &str> = audit
        .reads()
        .filter_map(|(key, found)| Some((key, found?.value.as_str())))
        .collect();
    let mut violations = Vec::new();
    for txn in evidence.txns {
        for (key, value) in txn.writes() {
            let present = found.get(key).copied();
            let times = match key {
                _ if key.starts_with(LEDGER) => usize::from(present == Some(value)),
                _ if key.starts_with(LISTS) => {
                    let element = value.rsplit(' ').next().unwrap_or_default();
                    present.map_or(0, |list| {
                        list.split(' ').filter(|other| *other == element).count()
                    })
                }
                _ => continue,
            };
            let what = match times {
                0 if txn.is_committed() => format!("{key} = {value} was acknowledged and is lost"),
                1.. if txn.is_aborted() => format!("{key} = {value} was told to be aborted and is there"),
                2.. => format!("{key} = {value} is there {times} times"),
                _ => continue,
            };
            violations.push(Violation::new(NAME, what, [txn.id]));
        }
    }
    violations
}
