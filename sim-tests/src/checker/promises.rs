//! What follows for single workloads, without any graph: who comes second does not insert, every increment counts once,
//! a guarded pair is never dark, and an answer stays the same when it is asked for again.

use std::collections::{BTreeMap, BTreeSet};

use super::Anomaly;
use crate::history::{Op, Outcome, Txn};
use crate::workload::{COUNTERS, Guard, INSERTS, PAIRS, ROOM, is_on_at, number_of, shelf};

/// Everything that was promised and did not hold. `audit` read everything at the very end.
pub fn check(txns: &[Txn], audit: Option<&Txn>) -> Vec<Anomaly> {
    let mut anomalies = inserts(txns);
    let shapes = dark_pairs(txns).into_iter().chain(overfull(txns));
    let guarded = shapes.filter(|(guard, _)| *guard != Guard::None);
    anomalies.extend(guarded.map(|(_, anomaly)| anomaly));
    anomalies.extend(answers(txns));
    if let Some(audit) = audit {
        anomalies.extend(counters(txns, audit));
    }
    anomalies
}

/// How often something was seen that has to occur in some runs, by its name: if it never does, the workloads show nothing.
/// Write skew and phantoms are those that snapshot isolation allows.
pub fn sights(txns: &[Txn]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    let mut count = |name| *counts.entry(name).or_default() += 1;
    for (guard, anomaly) in dark_pairs(txns).into_iter().chain(overfull(txns)) {
        if guard == Guard::None {
            count(anomaly.name);
        }
    }
    for txn in txns.iter().filter(|txn| txn.is_committed()) {
        for op in &txn.ops {
            match op {
                Op::RollbackTo { .. } => count("rollback to a savepoint"),
                Op::Delete { .. } => count("deletion"),
                Op::Part { .. } => count("partial scan"),
                Op::Read { for_update: true, .. } | Op::Scan { for_update: true, .. } => {
                    count("read for update")
                }
                _ => {}
            }
        }
        let sights = [
            (
                "serializable commit",
                txn.mode.serializable && txn.commit().is_some(),
            ),
            ("read of the past", txn.mode.past.is_some()),
            ("outcome asked for again", !txn.asked.is_empty()),
        ];
        sights
            .into_iter()
            .filter(|(_, is_so)| *is_so)
            .for_each(|(name, _)| count(name));
    }
    counts
}

/// For every key: at most one acknowledged transaction inserted it.
fn inserts(txns: &[Txn]) -> Vec<Anomaly> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for txn in txns.iter().filter(|txn| txn.is_committed()) {
        for (key, _) in txn.writes().filter(|(key, _)| key.starts_with(INSERTS)) {
            by_key.entry(key).or_default().push(txn.id);
        }
    }
    let twice = by_key.into_iter().filter(|(_, txns)| txns.len() > 1);
    twice
        .map(|(key, txns)| Anomaly {
            name: "unique insert",
            what: format!(
                "{} found {key} without a value, and each inserted it",
                all_of(&txns)
            ),
            txns,
        })
        .collect()
}

/// For every counter: its number at the end is that of the acknowledged increments, and at most those in doubt more.
fn counters(txns: &[Txn], audit: &Txn) -> Vec<Anomaly> {
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for txn in txns {
        for (key, _) in txn.writes().filter(|(key, _)| key.starts_with(COUNTERS)) {
            let (acknowledged, in_doubt) = counts.entry(key).or_default();
            *acknowledged += u64::from(txn.is_committed());
            *in_doubt += u64::from(txn.outcome == Outcome::Unknown);
        }
    }
    let found: BTreeMap<&str, u64> = audit
        .reads()
        .filter_map(|(key, found)| Some((key, number_of(&found?.value)?)))
        .collect();
    let wrong = counts.into_iter().filter_map(|(key, (acknowledged, in_doubt))| {
        let number = found.get(key).copied().unwrap_or_default();
        let is_right = (acknowledged..=acknowledged + in_doubt).contains(&number);
        (!is_right).then(|| Anomaly {
            name: "counters",
            what: format!(
                "{key} is {number}, after {acknowledged} acknowledged increments and {in_doubt} in doubt"
            ),
            txns: vec![audit.id],
        })
    });
    wrong.collect()
}

/// Every time somebody found both switches of a pair turned off.
fn dark_pairs(txns: &[Txn]) -> Vec<(Guard, Anomaly)> {
    let mut dark = Vec::new();
    for txn in txns {
        let mut off: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, found) in txn.reads().filter(|(key, _)| key.starts_with(PAIRS)) {
            if let (Some((pair, side)), Some(found)) = (key.rsplit_once('/'), found)
                && !is_on_at(&found.value)
            {
                off.entry(pair).or_default().insert(side);
            }
        }
        for (pair, _) in off.into_iter().filter(|(_, sides)| sides.len() > 1) {
            let guard = Guard::ALL
                .into_iter()
                .find(|guard| pair.starts_with(&guard.prefix()));
            let anomaly = Anomaly {
                name: "write skew",
                what: format!("T{} finds both switches of {pair} off", txn.id),
                txns: vec![txn.id],
            };
            dark.extend(guard.map(|guard| (guard, anomaly)));
        }
    }
    dark
}

/// Every time somebody found too much on a shelf.
fn overfull(txns: &[Txn]) -> Vec<(Guard, Anomaly)> {
    let mut overfull = Vec::new();
    for txn in txns {
        for op in &txn.ops {
            let Op::Scan { prefix, rows, .. } = op else {
                continue;
            };
            for guard in Guard::ALL {
                let shelf = shelf(guard);
                let count = rows.iter().filter(|(key, _)| key.starts_with(&shelf)).count();
                if shelf.starts_with(prefix.as_str()) && count > ROOM {
                    let anomaly = Anomaly {
                        name: "phantom",
                        what: format!(
                            "T{} finds {count} rows in {shelf}, which has room for {ROOM}",
                            txn.id
                        ),
                        txns: vec![txn.id],
                    };
                    overfull.push((guard, anomaly));
                }
            }
        }
    }
    overfull
}

/// Whoever asks what became of a transaction gets the answer that its client got.
fn answers(txns: &[Txn]) -> impl Iterator<Item = Anomaly> {
    txns.iter().filter_map(|txn| {
        let told = &txn.outcome;
        let differs = |said: &&Outcome| match (told, said) {
            (Outcome::Committed(told), Outcome::Committed(said)) => told != said,
            (Outcome::Committed(_), Outcome::Aborted(_)) | (Outcome::Aborted(_), Outcome::Committed(_)) => {
                true
            }
            _ => false,
        };
        let said = txn.asked.iter().find(differs)?;
        Some(Anomaly {
            name: "outcomes stay the same (I9)",
            what: format!("T{} was told {told:?}, and {said:?} when it asked", txn.id),
            txns: vec![txn.id],
        })
    })
}

/// `T1 and T2`.
pub(super) fn all_of(txns: &[usize]) -> String {
    let names: BTreeSet<String> = txns.iter().map(|txn| format!("T{txn}")).collect();
    names.into_iter().collect::<Vec<_>>().join(" and ")
}
