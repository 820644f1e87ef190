//! I1. For all T1, T2: if T1's commit was acknowledged before T2 fixed its start, then T2.start >= T1.commit.
//! R1. For every T: its start is not before the true time at which it was fixed, and it is fixed once.
//!
//! I1 is a little more than the protocol says (before T2 *began*): the start is `now.latest` when it is fixed, and an
//! acknowledgement leaves after its commit's time has surely passed (R3). Snapshots that a client asked to be older are not
//! held to it.

use std::collections::BTreeMap;

use meridian_types::{Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Event, Happened, Outcome, Seconds, Short};

const NAME: &str = "I1 recency";
const START: &str = "R1 starts";

/// Every start against the newest commit acknowledged before it, the true time, and earlier ones of the same transaction.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut newest: Option<(Timestamp, usize, TxnId)> = None;
    let mut violations = fixed_once(log);
    for (index, Happened { now, event, .. }) in log.all() {
        match event {
            Event::Ended { txn, outcome, .. } | Event::Told { txn, outcome } => {
                if let Outcome::Committed(commit) = outcome {
                    newest = newest.max(Some((*commit, index, *txn)));
                }
            }
            Event::Started {
                txn,
                start,
                present: true,
            } => {
                let (shown, at) = (Short(*txn), Seconds(*start));
                if let Some((commit, told, before)) = newest
                    && commit > *start
                {
                    let (before, commit) = (Short(before), Seconds(commit));
                    let what = format!("{shown} begins at {at}, after {before} was acknowledged at {commit}");
                    violations.push(Violation::shown(NAME, what, log.events, [told, index]));
                }
                if start < now {
                    let what = format!("{shown} begins at {at}, when it is {} already", Seconds(*now));
                    violations.push(Violation::shown(START, what, log.events, [index]));
                }
            }
            _ => {}
        }
    }
    violations
}

/// A transaction that its query processor has not ended keeps its start.
fn fixed_once(log: &Log<'_>) -> Vec<Violation> {
    let mut open: BTreeMap<(&str, TxnId), usize> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, Happened { node, event, .. }) in log.all() {
        match event {
            Event::Booted => open.retain(|(other, _), _| **other != **node),
            Event::Ended { txn, .. } => {
                open.remove(&(&**node, *txn));
            }
            Event::Started { txn, .. } => {
                if let Some(first) = open.insert((&**node, *txn), index) {
                    let what = format!("{} takes a second start", Short(*txn));
                    violations.push(Violation::shown(START, what, log.events, [first, index]));
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{committed, happened_at, judge_all, started, told, txn};

    fn judge<'a>(events: impl IntoIterator<Item = (&'a str, Event)>) -> Vec<String> {
        judge_all(
            check,
            &happened_at(events.into_iter().map(|(node, event)| (4, node, event))),
        )
    }

    #[test]
    fn a_start_at_the_newest_acknowledged_commit_is_recent() {
        let good = [
            ("q-1", started(1, 5)),
            ("q-1", committed(1, 5, 10)),
            ("q-2", started(2, 10)),
            ("q-2", committed(2, 10, 20)),
        ];
        assert_eq!(judge(good), [""; 0]);
    }

    #[test]
    fn a_start_below_an_acknowledged_commit_is_stale_whoever_acknowledged() {
        let ended = [("q-1", committed(1, 5, 10)), ("q-2", started(2, 9))];
        assert_eq!(judge(ended).len(), 1);
        let answer = told(1, Outcome::Committed(Timestamp(10)));
        assert_eq!(judge([("q-1", answer), ("q-2", started(2, 9))]).len(), 1);
    }

    #[test]
    fn an_older_snapshot_may_be_asked_for() {
        let old = Event::Started {
            txn: txn(2),
            start: Timestamp(3),
            present: false,
        };
        assert_eq!(judge([("q-1", committed(1, 5, 10)), ("q-2", old)]), [""; 0]);
    }

    #[test]
    fn a_start_in_the_past_and_a_second_one_are_found() {
        assert_eq!(judge([("q-1", started(1, 4))]), [""; 0]);
        assert_eq!(judge([("q-1", started(1, 3))]).len(), 1);
        let twice = |between| judge([("q-1", started(1, 5)), ("q-1", between), ("q-1", started(1, 6))]);
        assert_eq!(twice(started(2, 5)).len(), 1);
        assert_eq!(twice(committed(1, 5, 0)), [""; 0], "it is run again");
        assert_eq!(twice(Event::Booted), [""; 0], "the first is forgotten");
    }
}
