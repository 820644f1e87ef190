//! Registers with unique values: the order of versions is that of the timestamps which the cluster tells, so that a lie
//! about them shows as a cycle. A deletion is a version too, but what reads nothing after one may have read what was
//! before the first write as well: such reads are left to the replay.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use meridian_client::Timestamp;

use super::{Anomaly, Node, Observed, Seen};
use crate::history::{Buffer, Found, Op, Txn};

/// Who wrote a value, and whether it was what the transaction left behind.
struct Write<'a> {
    txn: &'a Txn,
    is_last: bool,
}

/// What is known of the keys.
struct Keys<'a> {
    prefix: &'a str,
    writes: BTreeMap<(&'a str, &'a str), Write<'a>>,
    timestamps: Timestamps<'a>,
    /// Keys with a value at any time.
    known: BTreeSet<&'a str>,
    /// Keys that were deleted at any time, perhaps.
    deleted: BTreeSet<&'a str>,
}

/// Versions and their order; and what shows without a graph.
pub fn read(txns: &[Txn], prefix: &str) -> (Observed, Vec<Anomaly>) {
    let mut anomalies = Vec::new();
    let timestamps = timestamps(txns, prefix, &mut anomalies);
    let mut observed = Observed {
        order: orders(&timestamps, txns, prefix, &mut anomalies),
        nodes: Vec::new(),
    };
    let is_deletion = |op: &'_ Op| matches!(op, Op::Delete { .. });
    let deletions = txns
        .iter()
        .flat_map(|txn| txn.ops.iter().filter(|op| is_deletion(op)));
    let keys = Keys {
        prefix,
        writes: writes(txns, prefix),
        known: timestamps.keys().map(|(key, _)| *key).collect(),
        timestamps,
        deleted: deletions
            .filter_map(|op| match op {
                Op::Delete { key } => Some(key.as_str()),
                _ => None,
            })
            .collect(),
    };
    for txn in txns {
        observed.nodes.extend(keys.node(txn, &mut anomalies));
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

fn orders(
    timestamps: &Timestamps<'_>,
    txns: &[Txn],
    prefix: &str,
    anomalies: &mut Vec<Anomaly>,
) -> BTreeMap<String, Vec<String>> {
    let mut by_key: BTreeMap<&str, BTreeMap<Timestamp, String>> = BTreeMap::new();
    let mut add = |key, value: String, timestamp: Timestamp| {
        let versions = by_key.entry(key).or_default();
        if let Some(other) = versions.insert(timestamp, value.clone()) {
            anomalies.push(Anomaly {
                name: "one timestamp, two values",
                what: format!("{key} is both {other} and {value} at {}", timestamp.0),
                txns: Vec::new(),
            });
        }
    };
    for ((key, value), timestamp) in timestamps {
        add(key, (*value).to_owned(), *timestamp);
    }
    for txn in txns {
        for key in txn.commit().iter().flat_map(|_| deletions(txn, prefix)) {
            add(key, deletion(txn), txn.commit().unwrap_or_default());
        }
    }
    let values = |versions: BTreeMap<Timestamp, String>| versions.into_values().collect();
    by_key
        .into_iter()
        .map(|(key, versions)| (key.to_owned(), values(versions)))
        .collect()
}

fn deletions<'a>(txn: &'a Txn, prefix: &str) -> Vec<&'a str> {
    let effects = txn.effects().into_iter();
    effects
        .filter_map(|(key, value)| (value.is_none() && key.starts_with(prefix)).then_some(key))
        .collect()
}

/// The version that a deletion leaves.
fn deletion(txn: &Txn) -> String {
    format!("(deleted by T{})", txn.id)
}

impl Keys<'_> {
    fn node(&self, txn: &Txn, anomalies: &mut Vec<Anomaly>) -> Option<Node> {
        let mut reads = Vec::new();
        for (key, found, is_checked) in txn.checked_reads() {
            if !key.starts_with(self.prefix) || (found.is_none() && self.deleted.contains(key)) {
                continue;
            }
            if let Some(found) = found {
                anomalies.extend(self.wrong(txn, key, found));
            }
            reads.push(Seen {
                key: key.to_owned(),
                version: found.map(|found| found.value.clone()),
                is_checked,
            });
        }
        reads.extend(self.absent(txn));
        let own: Vec<(&str, &str)> = txn
            .writes()
            .filter(|(key, _)| key.starts_with(self.prefix))
            .collect();
        let is_seen = own.iter().any(|version| self.timestamps.contains_key(version));
        let mut writes: Vec<(String, String)> = own
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let deletions = deletions(txn, self.prefix).into_iter();
        writes.extend(deletions.map(|key| (key.to_owned(), deletion(txn))));
        if txn.is_aborted() || !(txn.is_committed() || is_seen) {
            writes.clear();
        }
        super::relevant(txn, reads, writes)
    }

    /// A value that the transaction must not have read.
    fn wrong(&self, txn: &Txn, key: &str, found: &Found) -> Option<Anomaly> {
        let (name, how, other) = match self.writes.get(&(key, found.value.as_str())) {
            None => ("garbage", "which nobody wrote", None),
            Some(write) if write.txn.is_aborted() => {
                let how = "of an aborted transaction";
                ("G1a (aborted read)", how, Some(write.txn.id))
            }
            Some(write) if !write.is_last => {
                let how = "which its own transaction replaced or took back";
                ("G1b (intermediate read)", how, Some(write.txn.id))
            }
            Some(_) => return None,
        };
        let txns: Vec<usize> = std::iter::once(txn.id).chain(other).collect();
        let who = other.map_or(String::new(), |other| format!(" (T{other})"));
        Some(Anomaly {
            name,
            what: format!("T{} read {key} = {}, {how}{who}", txn.id, found.value),
            txns,
        })
    }

    /// Keys that a scan did not show: it read that they had no value yet.
    fn absent(&self, txn: &Txn) -> Vec<Seen> {
        let mut own = Buffer::default();
        let mut absent = Vec::new();
        for op in &txn.ops {
            own.apply(op);
            let Op::Scan {
                prefix,
                rows,
                for_update,
            } = op
            else {
                continue;
            };
            let shown: BTreeSet<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            let known = self.known.range::<str, _>(from);
            let missing = known
                .take_while(|key| key.starts_with(prefix.as_str()))
                .filter(|key| {
                    let is_of_others = own.get(key).is_none() && !self.deleted.contains(*key);
                    key.starts_with(self.prefix) && is_of_others && !shown.contains(*key)
                });
            absent.extend(missing.map(|key| Seen {
                key: (*key).to_owned(),
                version: None,
                is_checked: *for_update || txn.mode.serializable,
            }));
        }
        absent
    }
}
