//! Strong snapshot isolation, from what clients saw alone. Of the committed transactions, with the dependencies
//!
//! - ww: T2 wrote the version of a key that follows T1's,
//! - wr: T2 read T1's version,
//! - rw: T2 wrote the version that follows the one T1 read,
//! - rt: T1 was over before T2 began,
//!
//! it holds that: nothing aborted (G1a), intermediate (G1b) or never written was read; ww has no cycle (G0); nor have
//! ww and wr (G1c); nor have all four together, unless two rw follow one another in it (G-SI); nor have ww, wr, rt and those
//! rw whose read was checked at commit (for update, or by a serializable transaction), whatever follows what (G2).
//!
//! The last is the characterisation of snapshot isolation by Cerone and Gotsman, with real time as the order of
//! sessions. The order of versions is read off the lists; of registers, it is that of the timestamps which the
//! cluster tells, so that a lie about them shows as a cycle.

use crate::checker::{self, Anomaly, Observed, lists, registers, replay};
use crate::invariants::{Evidence, Violation};
use crate::workload::LISTS;

/// Lists by what they hold, everything by its timestamps, and all of it replayed.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    // A clock beyond its bound costs recency, nothing else.
    let is_strong = !evidence.plan.clocks_beyond;
    let mut found = Vec::new();
    for (prefix, read) in [
        (LISTS, lists::read as fn(_, _) -> _),
        ("", registers::read as fn(_, _) -> _),
    ] {
        let (observed, anomalies): (Observed, Vec<Anomaly>) = read(evidence.txns, prefix);
        found.extend(anomalies);
        found.extend(checker::check(&observed, is_strong));
    }
    let named =
        |name: &'static str| move |anomaly: Anomaly| Violation::new(name, anomaly.to_string(), anomaly.txns);
    let replayed = replay::check(evidence.txns, is_strong).into_iter();
    found
        .into_iter()
        .map(named("strong snapshot isolation"))
        .chain(replayed.map(named("replay by timestamps")))
        .collect()
}
