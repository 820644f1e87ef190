//! Finds anomalies in what clients saw, knowing nothing of how the cluster works.

pub mod graph;
pub mod lists;
pub mod promises;
pub mod registers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use graph::{Dependency, Graph};

/// A transaction, reduced to versions.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its place in the history.
    pub id: usize,
    /// When it began, in the order of the history.
    pub began: u64,
    /// When its end was known, if it was.
    pub ended: Option<u64>,
    /// Key and version; `None`: the key had none.
    pub reads: Vec<(String, Option<String>)>,
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

/// What snapshot isolation does not allow.
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

/// Which dependencies a cycle may consist of, the worst first.
const CYCLES: [(&str, &[Dependency]); 5] = {
    use Dependency::{RealTime, Rw, Wr, Ww};
    [
        ("G0 (dirty write)", &[Ww]),
        ("G1c (circular information flow)", &[Ww, Wr]),
        ("G-SI (not a snapshot)", &[Ww, Wr, Rw]),
        ("G1c in real time", &[Ww, Wr, RealTime]),
        ("G-SI in real time (stale read)", &[Ww, Wr, Rw, RealTime]),
    ]
};

/// Lost updates, and the worst kind of cycle that there is.
pub fn check(observed: &Observed) -> Vec<Anomaly> {
    let mut anomalies = lost_updates(observed);
    let graph = Graph::new(observed);
    for (name, allowed) in CYCLES {
        if let Some(cycle) = graph.cycle(allowed) {
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
    let mut updates: BTreeMap<(&String, &Option<String>), BTreeSet<usize>> = BTreeMap::new();
    for node in &observed.nodes {
        for (key, version) in &node.reads {
            if node.writes.iter().any(|(written, _)| written == key) {
                updates.entry((key, version)).or_default().insert(node.id);
            }
        }
    }
    let lost = updates.into_iter().filter(|(_, txns)| txns.len() > 1);
    lost.map(|((key, version), txns)| Anomaly {
        name: "lost update",
        what: format!(
            "{} read {key} as {} and wrote it",
            txns.iter()
                .map(|txn| format!("T{txn}"))
                .collect::<Vec<_>>()
                .join(" and "),
            version.as_deref().unwrap_or("nothing")
        ),
        txns: txns.into_iter().collect(),
    })
    .collect()
}

/// The transaction as the graph wants it; `None` when it shows nothing.
fn relevant(
    txn: &crate::history::Txn,
    reads: Vec<(String, Option<String>)>,
    writes: Vec<(String, String)>,
) -> Option<Node> {
    (!reads.is_empty() || !writes.is_empty()).then(|| Node {
        id: txn.id,
        began: txn.began.order,
        ended: txn.ended.map(|ended| ended.order),
        reads,
        writes,
    })
}
