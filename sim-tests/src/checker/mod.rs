//! Finds anomalies in what clients saw, knowing nothing of how the cluster works.

#[cfg(test)]
mod cases;
mod explain;
pub mod graph;
pub mod lists;
pub mod promises;
pub mod registers;
pub mod replay;
mod tarjan;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Txn, tail};
use graph::{Dependency, Graph, Rules};

/// One version as a transaction read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The key.
    pub key: String,
    /// `None`: the key had no value.
    pub version: Option<String>,
    /// Whoever writes the next version comes after this transaction, whatever the isolation: the read was checked at
    /// commit, or the transaction wrote nothing and stands where its snapshot is.
    pub is_checked: bool,
}

/// A transaction, reduced to versions.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its place in the history.
    pub id: usize,
    /// Who ran it.
    pub client: String,
    /// When it began, in the order of the history. `None`: it asked for the past, and need not see what was there.
    pub began: Option<u64>,
    /// When its end was known, if it was.
    pub ended: Option<u64>,
    /// What it read of others.
    pub reads: Vec<Seen>,
    /// Key and version. Empty for a transaction that was not applied.
    pub writes: Vec<(String, String)>,
}

/// What was seen of one kind of keys.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Transactions that were applied, or only read.
    pub nodes: Vec<Node>,
    /// The versions of each key, oldest first.
    pub order: BTreeMap<String, Vec<String>>,
}

/// What is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name in the literature, where it has one.
    pub name: &'static str,
    /// What happened.
    pub what: String,
    /// To whom.
    pub txns: Vec<usize>,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

/// Which cycles there must not be, the worst first.
const CYCLES: [(&str, Rules); 7] = {
    use Dependency::{CheckedRw, RealTime, Rw, Wr, Ww};
    [
        ("G0 (dirty write)", Rules::any(&[Ww])),
        ("G1c (circular information flow)", Rules::any(&[Ww, Wr])),
        ("G-SI (not a snapshot)", Rules::snapshot(&[Ww, Wr, Rw, CheckedRw])),
        ("G2 (not serializable)", Rules::any(&[Ww, Wr, CheckedRw])),
        ("G1c in real time", Rules::any(&[Ww, Wr, RealTime])),
        (
            "G-SI in real time (stale read)",
            Rules::snapshot(&[Ww, Wr, Rw, CheckedRw, RealTime]),
        ),
        ("G2 in real time", Rules::any(&[Ww, Wr, CheckedRw, RealTime])),
    ]
};

/// Lost updates, and the worst kind of cycle that there is. `real_time`: clocks keep within their bounds.
pub fn check(observed: &Observed, real_time: bool) -> Vec<Anomaly> {
    let mut anomalies = lost_updates(observed);
    let graph = Graph::new(observed);
    let allowed = CYCLES
        .iter()
        .filter(|(_, rules)| real_time || !rules.allowed.contains(&Dependency::RealTime));
    for (name, rules) in allowed {
        if let Some(cycle) = graph.cycle(rules) {
            anomalies.push(Anomaly {
                name,
                what: graph.describe(&cycle),
                txns: graph.txns(&cycle),
            });
            break;
        }
    }
    anomalies
}

/// Two transactions that read the same version of a key and both wrote the next one.
fn lost_updates(observed: &Observed) -> Vec<Anomaly> {
    let mut updates: BTreeMap<(&str, Option<&str>), BTreeMap<usize, &str>> = BTreeMap::new();
    for node in &observed.nodes {
        for seen in &node.reads {
            let mut writes = node.writes.iter();
            if let Some((_, written)) = writes.find(|(written, _)| *written == seen.key) {
                let read = (seen.key.as_str(), seen.version.as_deref());
                updates.entry(read).or_default().insert(node.id, written);
            }
        }
    }
    let lost = updates.into_iter().filter(|(_, txns)| txns.len() > 1);
    lost.map(|((key, version), txns)| {
        let each: Vec<String> = txns
            .iter()
            .map(|(txn, written)| format!("T{txn} wrote {}", tail(written)))
            .collect();
        Anomaly {
            name: "lost update",
            what: format!(
                "all of them read {key} as {}: {}",
                version.map_or("nothing".to_owned(), tail),
                each.join(", ")
            ),
            txns: txns.into_keys().collect(),
        }
    })
    .collect()
}

/// The transaction as the graph wants it; `None` when it shows nothing.
fn relevant(txn: &Txn, mut reads: Vec<Seen>, writes: Vec<(String, String)>) -> Option<Node> {
    // What was not applied only read its snapshot.
    if txn.is_aborted() || (txn.is_committed() && txn.effects().is_empty()) {
        reads.iter_mut().for_each(|seen| seen.is_checked = true);
    }
    (!reads.is_empty() || !writes.is_empty()).then(|| Node {
        id: txn.id,
        client: txn.client.clone(),
        began: txn.mode.past.is_none().then_some(txn.began.order),
        ended: txn.ended.map(|ended| ended.order),
        reads,
        writes,
    })
}
