//! I8. For all entries x, y of one stream that were committed: x.lsn = y.lsn implies x = y. Two owners never commit different
//! entries at one lsn.
//!
//! As an entry is named by its epoch and lsn, it holds only if no two owners have one epoch, no owner appends twice at
//! one place, and all journal nodes hold the same under one name.

use std::collections::BTreeMap;

use meridian_types::{Position, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::Event;

const NAME: &str = "I8 one entry per lsn";

/// All claims of what is committed, and all records by name.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for stream in log.streams.values() {
        for (lsn, one, other) in &stream.clashes {
            let what = format!("two different entries are committed at lsn {lsn}");
            violations.push(Violation::shown(NAME, what, log.events, [*one, *other]));
        }
        for (at, records) in stream.records.iter().filter(|(_, records)| records.len() > 1) {
            let what = format!("{at} was appended more than once");
            violations.push(Violation::shown(NAME, what, log.events, records.iter().copied()));
        }
    }
    violations.extend(contents(log));
    violations
}

/// What journal nodes hold under one name.
fn contents(log: &Log<'_>) -> Vec<Violation> {
    let mut held: BTreeMap<(StreamId, Position), (Timestamp, usize)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        if let Event::Persisted {
            stream,
            at,
            timestamp,
        } = &happened.event
        {
            let (known, first) = *held.entry((*stream, *at)).or_insert((*timestamp, index));
            if known != *timestamp {
                let what = format!("journal nodes hold different entries as {at}");
                violations.push(Violation::shown(NAME, what, log.events, [first, index]));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{applied, counted, decided, judge, opening, persisted};

    #[test]
    fn all_who_know_an_entry_know_the_same_one() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("j-1", persisted(1, 1, 0)),
            ("j-2", persisted(1, 1, 0)),
            ("a-1", counted(1, 1, 1)),
            ("j-2", counted(1, 1, 1)),
            ("s-1", applied(1, 1, 0, "")),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn a_node_whose_log_differs_below_what_it_counts_is_found() {
        let bad = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-2", opening(2, 2, (1, 1), 0)),
            ("a-2", decided(2, 3, 1, 5, 10, "x")),
            ("j-1", persisted(1, 1, 0)),
            ("j-1", persisted(1, 2, 0)),
            ("j-1", persisted(2, 3, 0)),
            ("a-2", counted(2, 2, 3)),
            ("j-1", counted(2, 2, 3)),
        ];
        assert_eq!(judge(check, bad).len(), 1);
    }

    #[test]
    fn two_owners_of_one_epoch_and_two_contents_of_one_entry_are_found() {
        let owners = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-2", opening(1, 1, (0, 0), 0)),
        ];
        assert_eq!(judge(check, owners).len(), 1);
        let contents = [("j-1", persisted(1, 1, 10)), ("j-2", persisted(1, 1, 11))];
        assert_eq!(judge(check, contents).len(), 1);
    }
}
