//! Strong snapshot isolation, from what clients saw alone. Of the committed transactions, with the dependencies
//!
//! - ww: T2 wrote the version of a key that follows T1's,
//! - wr: T2 read T1's version,
//! - rw: T2 wrote the version that follows the one T1 read,
//! - rt: T1 was over before T2 began,
//!
//! it holds that: nothing aborted (G1a), intermediate (G1b) or never written was read; ww has no cycle (G0); nor have
//! ww and wr (G1c); nor have all four together, unless two rw follow one another in it (G-SI).
//!
//! The last is the characterisation of snapshot isolation by Cerone and Gotsman, with real time as the order of
//! sessions. The order of versions is read off the lists; of registers, it is that of the timestamps which the
//! cluster tells, so that a lie about them shows as a cycle.

use crate::checker::{self, lists, registers};
use crate::invariants::{Evidence, Violation};
use crate::workload::{LISTS, REGISTERS};

/// Lists and registers.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (prefix, read) in [
        (LISTS, lists::read as fn(_, _) -> _),
        (REGISTERS, registers::read as fn(_, _) -> _),
    ] {
        let (observed, anomalies): (checker::Observed, Vec<checker::Anomaly>) = read(evidence.txns, prefix);
        found.extend(anomalies);
        found.extend(checker::check(&observed));
    }
    found
        .into_iter()
        .map(|anomaly| Violation::new("strong snapshot isolation", anomaly.to_string(), anomaly.txns))
        .collect()
}
