//! Lists of unique elements: a list that was read is the order of all appends before it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Anomaly, Node, Observed, Seen};
use crate::history::{Op, Txn};

/// Who appended an element, and whether it was the transaction's last one to the list.
struct Append {
    txn: usize,
    is_last: bool,
}

/// Versions and their order; and what shows without a graph.
pub fn read(txns: &[Txn], prefix: &str) -> (Observed, Vec<Anomaly>) {
    let mut anomalies = Vec::new();
    let appends = appends(txns, prefix);
    let order = orders(txns, prefix, &mut anomalies);
    for (key, elements) in &order {
        check_elements(key, elements, txns, &appends, &mut anomalies);
    }
    let mut observed = Observed::default();
    for (key, elements) in order {
        let is_version = |element: &&String| {
            let append = appends.get(&(key.clone(), (*element).clone()));
            append.is_some_and(|append| append.is_last)
        };
        let versions = elements.iter().filter(is_version).cloned().collect();
        observed.order.insert(key, versions);
    }
    for txn in txns {
        observed
            .nodes
            .extend(node(txn, prefix, &observed.order, &appends, &mut anomalies));
    }
    (observed, anomalies)
}

fn last(list: &str) -> &str {
    list.rsplit(' ').next().unwrap_or_default()
}

fn appends(txns: &[Txn], prefix: &str) -> BTreeMap<(String, String), Append> {
    let mut appends = BTreeMap::new();
    for txn in txns {
        let last_of: BTreeMap<&str, &str> = txn.writes().map(|(key, list)| (key, last(list))).collect();
        for op in &txn.ops {
            if let Op::Write { key, value } = op
                && key.starts_with(prefix)
            {
                let element = last(value);
                let append = Append {
                    txn: txn.id,
                    is_last: last_of.get(key.as_str()) == Some(&element),
                };
                appends.insert((key.clone(), element.to_owned()), append);
            }
        }
    }
    appends
}

/// The longest list read of each key; all others must be beginnings of it.
fn orders(txns: &[Txn], prefix: &str, anomalies: &mut Vec<Anomaly>) -> BTreeMap<String, Vec<String>> {
    let mut longest: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    let reads = || {
        let each = txns
            .iter()
            .flat_map(|txn| txn.reads().map(move |(key, found)| (txn.id, key, found)));
        each.filter_map(|(id, key, found)| Some((id, key, found?.value.as_str())))
            .filter(|(_, key, _)| key.starts_with(prefix))
    };
    for (id, key, list) in reads() {
        let known = longest.entry(key).or_insert((list, id));
        if list.len() > known.0.len() {
            *known = (list, id);
        }
    }
    for (id, key, list) in reads() {
        if let Some((whole, other)) = longest.get(key)
            && !(*whole == list || whole.strip_prefix(list).is_some_and(|rest| rest.starts_with(' ')))
        {
            anomalies.push(Anomaly {
                name: "incompatible orders",
                what: format!("T{id} read {key} as [{list}], T{other} as [{whole}]"),
                txns: vec![id, *other],
            });
        }
    }
    let split = |list: &str| list.split(' ').map(str::to_owned).collect();
    longest
        .into_iter()
        .map(|(key, (list, _))| (key.to_owned(), split(list)))
        .collect()
}

fn check_elements(
    key: &str,
    elements: &[String],
    txns: &[Txn],
    appends: &BTreeMap<(String, String), Append>,
    anomalies: &mut Vec<Anomaly>,
) {
    let mut seen = BTreeSet::new();
    for element in elements {
        let mut report = |name, what: String, txns| anomalies.push(Anomaly { name, what, txns });
        let append = appends.get(&(key.to_owned(), element.clone()));
        let Some(append) = append else {
            report(
                "garbage",
                format!("nobody appended {element} to {key}"),
                Vec::new(),
            );
            continue;
        };
        if !seen.insert(element) {
            report(
                "applied twice",
                format!("{element} is twice in {key}"),
                vec![append.txn],
            );
        }
        if txns.iter().any(|txn| txn.id == append.txn && txn.is_aborted()) {
            let what = format!("{element} is in {key}, but T{} was aborted", append.txn);
            report("G1a (aborted read)", what, vec![append.txn]);
        }
    }
}

/// The transaction as the graph wants it; `None` when nothing is known of it.
fn node(
    txn: &Txn,
    prefix: &str,
    order: &BTreeMap<String, Vec<String>>,
    appends: &BTreeMap<(String, String), Append>,
    anomalies: &mut Vec<Anomaly>,
) -> Option<Node> {
    let mut reads = Vec::new();
    for (key, found, is_checked) in txn.checked_reads().filter(|(key, _, _)| key.starts_with(prefix)) {
        let version = found.map(|found| last(&found.value).to_owned());
        if let Some(version) = &version
            && let Some(append) = appends.get(&(key.to_owned(), version.clone()))
            && !append.is_last
        {
            anomalies.push(Anomaly {
                name: "G1b (intermediate read)",
                what: format!("T{} read {key} as T{} left it in between", txn.id, append.txn),
                txns: vec![txn.id, append.txn],
            });
        }
        reads.push(Seen {
            key: key.to_owned(),
            version,
            is_checked,
        });
    }
    let mut writes: Vec<(String, String)> = txn
        .writes()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, list)| (key.to_owned(), last(list).to_owned()))
        .collect();
    let is_seen =
        |(key, version): &(String, String)| order.get(key).is_some_and(|order| order.contains(version));
    // What nobody saw of a commit in doubt did not happen, as far as anybody can tell.
    if txn.is_aborted() || (!txn.is_committed() && !writes.iter().any(is_seen)) {
        writes.clear();
    }
    super::relevant(txn, reads, writes)
}
