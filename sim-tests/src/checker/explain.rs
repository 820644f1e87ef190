//! Why one transaction comes before another, in words.

use super::Node;
use super::graph::Dependency;
use crate::history::tail;

/// A sentence about one step of a cycle.
pub fn reason(from: &Node, to: &Node, why: Dependency, key: &str) -> String {
    let (one, two) = (name(from), name(to));
    let written = |node: &Node| {
        let mut writes = node.writes.iter();
        let found = writes.find(|(other, _)| other == key);
        found.map_or("something".to_owned(), |(_, version)| tail(version))
    };
    match why {
        Dependency::Ww => format!(
            "{one} wrote {key} = {}, then {two} {}",
            written(from),
            written(to)
        ),
        Dependency::Wr => format!("{one} wrote {key} = {}, which {two} read", written(from)),
        Dependency::Rw | Dependency::CheckedRw => {
            let mut reads = from.reads.iter();
            let seen = reads.find(|seen| seen.key == key);
            let version = seen.and_then(|seen| seen.version.as_deref());
            let version = version.map_or("nothing".to_owned(), tail);
            format!(
                "{one} read {key} = {version}, which {two} replaced by {}",
                written(to)
            )
        }
        Dependency::RealTime => format!("{one} was over before {two} began"),
    }
}

fn name(node: &Node) -> String {
    format!("T{} ({})", node.id, node.client)
}
