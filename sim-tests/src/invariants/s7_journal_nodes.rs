//! Section 7, for every journal node N and stream:
//!
//! - durability: what N has synced, and so may have acknowledged, it finds again when it starts, entries and promises,
//!   whatever it died of;
//! - fencing: N accepts no append of an epoch below one that it has promised;
//! - and an owner opens epoch e only after a majority of the journal nodes have promised e, durably;
//! - commitment: what an owner or a journal node counts as committed, a majority of the journal nodes hold; and an owner counts
//!   no entry of an epoch before its own, but for being below one of its own;
//! - matching: an entry of epoch e follows, in N's log, the entry that it follows in the log of the owner of e.
//!
//! These are what I7 and I8 rest on. A disk that replaces a lost one has promised and synced nothing.

use super::{Log, StreamLog, Violation};

const DURABILITY: &str = "7 durability";
const FENCING: &str = "7 fencing";
const COMMITMENT: &str = "7 commitment";
const MATCHING: &str = "7 log matching";

/// Every start, append and entry of every journal node.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    log.each_stream(check_stream)
}

fn check_stream(log: &Log<'_>, stream: &StreamLog) -> Vec<Violation> {
    let node = |index: usize| {
        log.events
            .get(index)
            .map(|happened| happened.node.to_string())
            .unwrap_or_default()
    };
    let mut violations = Vec::new();
    for (index, what) in &stream.forgotten {
        let what = format!("{} {what}", node(*index));
        violations.push(Violation::shown(DURABILITY, what, log.events, [*index]));
    }
    for (index, promised) in &stream.stale {
        let what = format!("{} had promised {promised}", node(*index));
        violations.push(Violation::shown(FENCING, what, log.events, [*index]));
    }
    for (index, promised) in &stream.unfenced {
        let what = format!(
            "{} opens, but only {promised} journal nodes have promised",
            node(*index)
        );
        violations.push(Violation::shown(FENCING, what, log.events, [*index]));
    }
    for (index, holding) in &stream.uncommitted {
        let what = format!("{} counts what only {holding} journal nodes hold", node(*index));
        violations.push(Violation::shown(COMMITMENT, what, log.events, [*index]));
    }
    for index in &stream.premature {
        let what = format!("{} counts an entry of an earlier epoch", node(*index));
        violations.push(Violation::shown(COMMITMENT, what, log.events, [*index]));
    }
    for (index, held, expected) in &stream.mismatched {
        let what = format!(
            "{} appends after {held} what its owner appended after {expected}",
            node(*index)
        );
        violations.push(Violation::shown(MATCHING, what, log.events, [*index]));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::invariants::testing::{accepted, counted, judge, opening, persisted, promised, recovered};

    fn after(last: Event) -> Vec<String> {
        let history = [
            ("j-1", promised(2)),
            ("j-1", persisted(1, 1, 0)),
            ("j-1", persisted(1, 2, 9)),
            ("j-1", promised(3)),
            ("j-1", last),
        ];
        judge(check, history)
    }

    #[test]
    fn all_that_was_synced_is_there_and_perhaps_more() {
        assert_eq!(after(recovered(3, (1, 2))), [""; 0]);
        assert_eq!(after(recovered(4, (1, 4))), [""; 0]);
        assert_eq!(
            after(recovered(3, (3, 2))),
            [""; 0],
            "replaced by what was not acknowledged yet"
        );
    }

    #[test]
    fn a_lost_entry_and_a_lost_promise_are_found() {
        assert_eq!(after(recovered(3, (1, 1))).len(), 1);
        assert_eq!(after(recovered(2, (1, 2))).len(), 1);
        let replaced = [
            ("j-1", persisted(1, 1, 0)),
            ("j-1", Event::Mounted { disk: 7 }),
            ("j-1", recovered(0, (0, 0))),
        ];
        assert_eq!(judge(check, replaced), [""; 0]);
    }

    #[test]
    fn an_owner_that_was_fenced_is_refused() {
        assert_eq!(after(accepted(3, (1, 2))), [""; 0]);
        assert_eq!(after(accepted(2, (1, 2))).len(), 1);
    }

    /// Three journal nodes.
    fn cluster(events: Vec<(&'static str, Event)>) -> Vec<String> {
        let mounted = [1, 2, 3].map(|disk| {
            (
                ["j-1", "j-2", "j-3"][disk - 1],
                Event::Mounted { disk: disk as u128 },
            )
        });
        judge(check, mounted.into_iter().chain(events))
    }

    #[test]
    fn an_owner_needs_the_promises_of_a_majority() {
        let one = vec![
            ("j-1", promised(2)),
            ("j-2", promised(1)),
            ("a-1", opening(2, 1, (0, 0), 0)),
        ];
        assert_eq!(cluster(one).len(), 1);
        let two = vec![
            ("j-1", promised(2)),
            ("j-2", promised(3)),
            ("a-1", opening(2, 1, (0, 0), 0)),
        ];
        assert_eq!(cluster(two), [""; 0]);
    }

    #[test]
    fn what_is_counted_a_majority_holds_and_its_owner_appended_it() {
        let history = |second, count| {
            vec![
                ("j-1", promised(1)),
                ("j-2", promised(1)),
                ("a-1", opening(1, 1, (0, 0), 0)),
                ("j-1", persisted(1, 1, 0)),
                ("j-2", second),
                ("a-1", count),
            ]
        };
        assert_eq!(cluster(history(persisted(1, 1, 0), counted(1, 1, 1))), [""; 0]);
        assert_eq!(
            cluster(history(recovered(1, (1, 1)), counted(1, 1, 1))),
            [""; 0],
            "it may hold it"
        );
        assert_eq!(
            cluster(history(promised(1), counted(1, 1, 1))).len(),
            1,
            "one holds it"
        );
        assert_eq!(
            cluster(history(persisted(1, 1, 0), counted(2, 1, 1))).len(),
            1,
            "an older epoch"
        );
    }

    #[test]
    fn an_entry_after_another_one_than_its_owners_is_found() {
        let history = |second| {
            [
                ("a-1", opening(1, 1, (0, 0), 0)),
                ("a-2", opening(2, 2, (1, 1), 0)),
                ("j-1", persisted(1, 1, 0)),
                ("j-1", second),
                ("j-1", persisted(2, 3, 0)),
            ]
        };
        assert_eq!(judge(check, history(persisted(2, 2, 0))), [""; 0]);
        assert_eq!(judge(check, history(persisted(1, 2, 0))).len(), 1);
    }
}
