//! I6. For every read at snapshot s that a storage node N has answered, every key k of it, and every committed version w of k
//! with w.commit <= s: N had applied w before. So N never learns of it later.
//! R5. N had closed the range through s. R6. Of each key it returned the newest version at or below s.
//!
//! Whether N ever applies w does not matter: it is in the log, and the read has missed it.

use std::collections::BTreeMap;

use meridian_types::{Key, KeyRange, Lsn, RangeId, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::{Decided, Event, Seconds};

const NAME: &str = "I6 reads are final";

/// One storage node's process.
#[derive(Default)]
struct Node {
    applied: BTreeMap<StreamId, Lsn>,
    closed: BTreeMap<RangeId, Timestamp>,
}

/// A stream's committed transactions by commit timestamp.
type Versions<'a> = BTreeMap<StreamId, BTreeMap<Timestamp, (usize, &'a Decided)>>;

/// Every read at every storage node.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut versions: Versions<'_> = BTreeMap::new();
    for (index, decided) in log.committed() {
        let stream = versions.entry(decided.stream).or_default();
        stream.insert(decided.commit, (index, decided));
    }
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let name: &str = &happened.node;
        match &happened.event {
            Event::Restored { stream, at } => {
                let node = nodes.entry(name).or_default();
                node.applied.insert(*stream, at.lsn);
                node.closed.clear();
            }
            Event::Followed { stream, lsn } => {
                nodes.entry(name).or_default().applied.insert(*stream, *lsn);
            }
            Event::Applied { stream, at, .. } => {
                nodes.entry(name).or_default().applied.insert(*stream, at.lsn);
            }
            Event::Complete(closure) => {
                let node = nodes.entry(name).or_default();
                let closed = node.closed.entry(closure.range).or_default();
                *closed = (*closed).max(closure.x);
            }
            Event::LookedUp { at, key, .. } => {
                let keys = KeyRange::point(key.clone());
                violations.extend(judge(
                    log,
                    &versions,
                    nodes.entry(name).or_default(),
                    index,
                    *at,
                    &keys,
                ));
            }
            Event::Scanned { at, keys, .. } => {
                violations.extend(judge(
                    log,
                    &versions,
                    nodes.entry(name).or_default(),
                    index,
                    *at,
                    keys,
                ));
            }
            _ => {}
        }
    }
    violations
}

fn judge(
    log: &Log<'_>,
    versions: &Versions<'_>,
    node: &Node,
    read: usize,
    at: Timestamp,
    keys: &KeyRange,
) -> Option<Violation> {
    for (stream, versions) in versions {
        let applied = node.applied.get(stream).copied().unwrap_or_default();
        // Commits rise with the lsn (I3): what is applied is all that comes before.
        let unseen = versions
            .range(..=at)
            .rev()
            .take_while(|(_, (_, decided))| decided.at.lsn > applied);
        for (commit, (index, decided)) in unseen {
            let is_in = |key: &&Key| keys.contains(key.as_ref());
            if let Some(key) = decided.written.iter().find(is_in) {
                let (at, commit) = (Seconds(at), Seconds(*commit));
                let what = format!("{key} was read at {at} without its version of {commit}");
                let appearance = applied_at(log, *stream, decided.at.lsn, read);
                let shown_by = [*index, read].into_iter().chain(appearance);
                return Some(Violation::shown(NAME, what, log.events, shown_by));
            }
        }
    }
    let open = open_from(log, node, at, keys).filter(|_| !versions.is_empty())?;
    let what = format!(
        "a read at {} while {open} is in no range closed so far (R5)",
        Seconds(at)
    );
    Some(Violation::shown(NAME, what, log.events, [read]))
}

/// The first of the keys that is in no range that the node has closed through `at`. A range that was split or merged counts: what
/// its owner has closed stays closed, whoever orders the keys afterwards.
fn open_from(log: &Log<'_>, node: &Node, at: Timestamp, keys: &KeyRange) -> Option<Key> {
    let is_closed = |range: &RangeId| node.closed.get(range).is_some_and(|closed| *closed >= at);
    let closed = log.ranges.iter().filter(|(range, _)| is_closed(range));
    let mut closed: Vec<&KeyRange> = closed.map(|(_, (_, keys))| *keys).collect();
    closed.sort_by(|one, other| one.start.cmp(&other.start));
    let mut from = keys.start.clone();
    for range in closed {
        if range.contains(from.as_ref()) {
            from = range.end.clone()?;
        }
    }
    keys.end.as_ref().is_none_or(|end| from < *end).then_some(from)
}

/// When the node that read learns of the entry after all.
fn applied_at(log: &Log<'_>, stream: StreamId, lsn: Lsn, read: usize) -> Option<usize> {
    let node = &log.events.get(read)?.node;
    let later = log.all().skip(read);
    later
        .filter(|(_, happened)| happened.node == *node)
        .find(|(_, happened)| {
            matches!(&happened.event, Event::Applied { stream: s, at, .. } if *s == stream && at.lsn == lsn)
        })
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{
        applied, complete, counted, decided, judge, looked_up, opening, restored, scanned,
    };

    /// x was written at 10 and 20.
    fn writes() -> Vec<(&'static str, Event)> {
        vec![
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 15, 20, "x y")),
            ("a-1", counted(1, 1, 3)),
            ("s-1", restored(0, 0)),
            ("s-1", applied(1, 1, 0, "")),
            ("s-1", applied(1, 2, 10, "x")),
        ]
    }

    fn reading(more: impl IntoIterator<Item = Event>) -> Vec<String> {
        judge(
            check,
            writes()
                .into_iter()
                .chain(more.into_iter().map(|event| ("s-1", event))),
        )
    }

    #[test]
    fn a_read_below_what_is_closed_and_applied_is_final() {
        let reads = [
            complete(1, 19, 2),
            looked_up(19, "x", 10),
            scanned(19, "a", "z", 10),
            applied(1, 3, 20, "x y"),
            complete(1, 30, 3),
            scanned(30, "a", "z", 20),
        ];
        assert_eq!(reading(reads), [""; 0]);
    }

    #[test]
    fn a_version_that_appears_below_a_read_is_found() {
        let missed = [
            complete(1, 25, 2),
            scanned(25, "a", "y", 10),
            applied(1, 3, 20, "x y"),
        ];
        assert_eq!(reading(missed).len(), 1);
        let beside = [complete(1, 25, 2), scanned(25, "a", "x", 0)];
        assert_eq!(reading(beside), [""; 0], "no key of the read");
    }

    #[test]
    fn what_was_closed_counts_for_one_process_only() {
        assert_eq!(reading([looked_up(15, "q", 0)]).len(), 1, "R5");
        let restarted = [complete(1, 19, 2), restored(1, 2), looked_up(19, "q", 0)];
        assert_eq!(reading(restarted).len(), 1, "R5");
        let lost = [
            applied(1, 3, 20, "x y"),
            restored(1, 2),
            complete(1, 30, 3),
            looked_up(30, "x", 10),
        ];
        assert_eq!(reading(lost).len(), 1, "the version was lost with the process");
    }
}
