//! I1. For all T1, T2: if T1's commit was acknowledged before T2 fixed its start, then T2.start >= T1.commit.
//!
//! A little more than the protocol says (before T2 *began*): the start is `now.latest` when it is fixed (R1), and an
//! acknowledgement leaves after its commit's time has surely passed (R3). Snapshots that a client asked to be older are not
//! held to it. It is judged only while all clocks keep to their bounds.

use super::{Log, Violation};
use crate::events::{Event, Outcome, Seconds, Short};

const NAME: &str = "I1 recency";

/// Every start against the newest commit acknowledged before it.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut newest = None;
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        match &happened.event {
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
                if let Some((commit, told, before)) = newest
                    && commit > *start
                {
                    let what = format!(
                        "{} begins at {}, after {} was acknowledged at {}",
                        Short(*txn),
                        Seconds(*start),
                        Short(before),
                        Seconds(commit)
                    );
                    violations.push(Violation::shown(NAME, what, log.events, [told, index]));
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
    use crate::invariants::testing::{committed, judge, started, told, txn};
    use meridian_types::Timestamp;

    #[test]
    fn a_start_at_the_newest_acknowledged_commit_is_recent() {
        let good = [
            ("q-1", started(1, 5)),
            ("q-1", committed(1, 5, 10)),
            ("q-2", started(2, 10)),
            ("q-2", committed(2, 10, 20)),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn a_start_below_an_acknowledged_commit_is_stale_whoever_acknowledged() {
        let ended = [("q-1", committed(1, 5, 10)), ("q-2", started(2, 9))];
        assert_eq!(judge(check, ended).len(), 1);
        let answer = told(1, Outcome::Committed(Timestamp(10)));
        assert_eq!(judge(check, [("q-1", answer), ("q-2", started(2, 9))]).len(), 1);
    }

    #[test]
    fn an_older_snapshot_may_be_asked_for() {
        let old = Event::Started {
            txn: txn(2),
            start: Timestamp(3),
            present: false,
        };
        assert_eq!(
            judge(check, [("q-1", committed(1, 5, 10)), ("q-2", old)]),
            [""; 0]
        );
    }
}
