//! I5. For every committed T and every participant P of it: T.commit <= P's promise, and P had a lease with
//! lease_end >= promise durable when it voted.
//!
//! Comes alive with transactions across ranges: as long as every transaction has one range, nobody votes, and there is
//! nothing to judge.

use std::collections::BTreeMap;

use meridian_types::{StreamId, Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Event, Short};

const NAME: &str = "I5 promises";

/// Every vote.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let decisions: BTreeMap<(TxnId, u32), (usize, Timestamp)> = log
        .committed()
        .map(|(index, decided)| ((decided.txn, decided.attempt), (index, decided.commit)))
        .collect();
    let mut leases: BTreeMap<(&str, StreamId), Timestamp> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let mut violated = |what: String, shown_by: &[usize]| {
            violations.push(Violation::shown(NAME, what, log.events, shown_by.iter().copied()));
        };
        if let Some((stream, _, lease_end)) = happened.event.durable_lease() {
            let lease = leases.entry((&*happened.node, stream)).or_default();
            *lease = (*lease).max(lease_end);
        }
        if let Event::Voted {
            stream,
            txn,
            attempt,
            promise,
            ..
        } = &happened.event
        {
            let lease = leases
                .get(&(&*happened.node, *stream))
                .copied()
                .unwrap_or_default();
            if *promise > lease {
                violated(format!("{} promises beyond its lease", happened.node), &[index]);
            }
            if let Some((decided, commit)) = decisions.get(&(*txn, *attempt))
                && commit > promise
            {
                let what = format!("{} commits after the promise of {}", Short(*txn), happened.node);
                violated(what, &[index, *decided]);
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, judge, leased, opening, txn};
    use meridian_types::Epoch;

    fn voted(promise: u64) -> Event {
        Event::Voted {
            stream: StreamId(2),
            epoch: Epoch(1),
            txn: txn(1),
            attempt: 1,
            lower: Timestamp(8),
            promise: Timestamp(promise),
        }
    }

    fn history(lease_end: u64, promise: u64) -> [(&'static str, Event); 5] {
        let lease = match leased(1, lease_end) {
            Event::Leased { epoch, lease_end, .. } => Event::Leased {
                stream: StreamId(2),
                epoch,
                lease_end,
            },
            other => other,
        };
        [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-2", lease),
            ("a-2", voted(promise)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", counted(1, 1, 2)),
        ]
    }

    #[test]
    fn a_commit_within_a_promise_within_a_lease_is_good() {
        assert_eq!(judge(check, history(30, 20)), [""; 0]);
    }

    #[test]
    fn a_late_commit_and_a_promise_beyond_the_lease_are_found() {
        assert_eq!(judge(check, history(30, 9)).len(), 1);
        assert_eq!(judge(check, history(15, 20)).len(), 1);
    }
}
