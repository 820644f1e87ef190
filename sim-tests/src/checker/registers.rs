//! Registers with unique values: the order of versions is that of the timestamps which the cluster tells.

use std::collections::BTreeMap;

use meridian_client::Timestamp;

use super::{Anomaly, Node, Observed};
use crate::history::{Op, Txn};

/// Who wrote a value, and whether it was the transaction's last one to the key.
struct Write<'a> {
    txn: &'a Txn,
    is_last: bool,
}

/// Versions and their order; and what shows without a graph.
pub fn read(txns: &[Txn], prefix: &str) -> (Observed, Vec<Anomaly>) {
    let mut anomalies = Vec::new();
    let writes = writes(txns, prefix);
    let timestamps = timestamps(txns, prefix, &mut anomalies);
    let mut observed = Observed {
        order: orders(&timestamps, &mut anomalies),
        nodes: Vec::new(),
    };
    for txn in txns {
        observed
            .nodes
            .extend(node(txn, prefix, &timestamps, &writes, &mut anomalies));
    }
    (observed, anomalies)
}

fn writes<'a>(txns: &'a [Txn], prefix: &str) -> BTreeMap<(&'a str, &'a str), Write<'a>> {
    let mut writes = BTreeMap::new();
    for txn in txns {
        let last: BTreeMap<&str, &str> = txn.writes().collect();
        for op in &txn.ops {
            if let Op::Write { key, value } = op
                && key.starts_with(prefix)
            {
                let is_last = last.get(key.as_str()) == Some(&value.as_str());
                writes.insert((key.as_str(), value.as_str()), Write { txn, is_last });
            }
        }
    }
    writes
}

type Timestamps<'a> = BTreeMap<(&'a str, &'a str), Timestamp>;

/// When each value that anybody saw was committed: all who tell must tell the same.
fn timestamps<'a>(txns: &'a [Txn], prefix: &str, anomalies: &mut Vec<Anomaly>) -> Timestamps<'a> {
    let mut known: BTreeMap<(&str, &str), (Timestamp, usize)> = BTreeMap::new();
    for txn in txns {
        let read = txn
            .reads()
            .filter_map(|(key, found)| found.map(|found| (key, found.value.as_str(), found.timestamp)));
        let written = txn
            .commit()
            .into_iter()
            .flat_map(|commit| txn.writes().map(move |(key, value)| (key, value, commit)));
        for (key, value, timestamp) in read.chain(written).filter(|(key, _, _)| key.starts_with(prefix)) {
            let (first, by) = *known.entry((key, value)).or_insert((timestamp, txn.id));
            if first != timestamp {
                anomalies.push(Anomaly {
                    name: "two timestamps",
                    what: format!(
                        "{key} = {value} is of {} to T{by} and of {} to T{}",
                        first.0, timestamp.0, txn.id
                    ),
                    txns: vec![by, txn.id],
                });
            }
        }
    }
    known
        .into_iter()
        .map(|(version, (timestamp, _))| (version, timestamp))
        .collect()
}

fn orders(timestamps: &Timestamps<'_>, anomalies: &mut Vec<Anomaly>) -> BTreeMap<String, Vec<String>> {
    let mut by_key: BTreeMap<&str, BTreeMap<Timestamp, &str>> = BTreeMap::new();
    for ((key, value), timestamp) in timestamps {
        if let Some(other) = by_key.entry(key).or_default().insert(*timestamp, value) {
            anomalies.push(Anomaly {
                name: "one timestamp, two values",
                what: format!("{key} is both {other} and {value} at {}", timestamp.0),
                txns: Vec::new(),
            });
        }
    }
    let values = |versions: BTreeMap<Timestamp, &str>| versions.into_values().map(str::to_owned).collect();
    by_key
        .into_iter()
        .map(|(key, versions)| (key.to_owned(), values(versions)))
        .collect()
}

fn node(
    txn: &Txn,
    prefix: &str,
    timestamps: &Timestamps<'_>,
    writes: &BTreeMap<(&str, &str), Write<'_>>,
    anomalies: &mut Vec<Anomaly>,
) -> Option<Node> {
    let mut reads = Vec::new();
    for (key, found) in txn.reads().filter(|(key, _)| key.starts_with(prefix)) {
        if let Some(found) = found {
            let mut report = |name, how: &str, txns| {
                let what = format!("T{} read {key} = {}, {how}", txn.id, found.value);
                anomalies.push(Anomaly { name, what, txns });
            };
            match writes.get(&(key, found.value.as_str())) {
                None => report("garbage", "which nobody wrote", vec![txn.id]),
                Some(write) if write.txn.is_aborted() => {
                    report(
                        "G1a (aborted read)",
                        "of an aborted transaction",
                        vec![txn.id, write.txn.id],
                    );
                }
                Some(write) if !write.is_last => {
                    report(
                        "G1b (intermediate read)",
                        "overwritten by its own transaction",
                        vec![txn.id, write.txn.id],
                    );
                }
                Some(_) => {}
            }
        }
        reads.push((key.to_owned(), found.map(|found| found.value.clone())));
    }
    let own: Vec<(&str, &str)> = txn.writes().filter(|(key, _)| key.starts_with(prefix)).collect();
    let happened = txn.is_committed() || own.iter().any(|version| timestamps.contains_key(version));
    let mut own: Vec<(String, String)> = own
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    if txn.is_aborted() || !happened {
        own.clear();
    }
    super::relevant(txn, reads, own)
}
