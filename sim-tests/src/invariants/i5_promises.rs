//! I5. For every committed T and every participant P of it: P voted for that attempt, P's `lower` <= T.commit <= P's promise, and
//! P had a lease with lease_end >= promise durable when it voted.

use std::collections::{BTreeMap, BTreeSet};

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
    let mut votes: BTreeSet<(TxnId, u32, StreamId)> = BTreeSet::new();
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
        match &happened.event {
            Event::Voted(voted) => {
                votes.insert((voted.txn, voted.attempt, voted.stream));
                let lease = leases.get(&(&*happened.node, voted.stream)).copied();
                if voted.promise > lease.unwrap_or_default() {
                    violated(format!("{} promises beyond its lease", happened.node), &[index]);
                }
                if let Some((decided, commit)) = decisions.get(&(voted.txn, voted.attempt))
                    && !(voted.lower..=voted.promise).contains(commit)
                {
                    let txn = Short(voted.txn);
                    let what = format!("{txn} commits outside of the vote of {}", happened.node);
                    violated(what, &[index, *decided]);
                }
            }
            Event::Decided(decided) => {
                let has_voted =
                    |stream: &&StreamId| votes.contains(&(decided.txn, decided.attempt, **stream));
                if let Some(missing) = decided.participants.iter().find(|stream| !has_voted(stream)) {
                    let what = format!("{} is decided without the vote of {missing}", Short(decided.txn));
                    violated(what, &[index]);
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
    use crate::invariants::testing::{counted, decided, in_stream, judge, leased, opening, voted};

    /// Stream 1 votes for a transaction that commits at 10 in stream 2.
    fn history(lease_end: u64, vote: (u64, u64)) -> Vec<(&'static str, Event)> {
        let mut decision = in_stream(2, decided(1, 2, 1, 5, 10, "x"));
        if let Event::Decided(decided) = &mut decision {
            decided.participants = vec![StreamId(1)];
        }
        vec![
            ("a-2", in_stream(2, opening(1, 1, (0, 0), 0))),
            ("a-1", leased(1, lease_end)),
            ("a-1", Event::Voted(voted(1, 1, vote, "x", ""))),
            ("a-2", decision),
            ("a-2", in_stream(2, counted(1, 1, 2))),
        ]
    }

    #[test]
    fn a_commit_within_a_promise_within_a_lease_is_good() {
        assert_eq!(judge(check, history(30, (8, 20))), [""; 0]);
        assert_eq!(judge(check, history(30, (10, 10))), [""; 0]);
    }

    #[test]
    fn an_early_or_late_commit_and_a_promise_beyond_the_lease_are_found() {
        assert_eq!(judge(check, history(30, (8, 9))).len(), 1);
        assert_eq!(judge(check, history(30, (11, 20))).len(), 1);
        assert_eq!(judge(check, history(15, (8, 20))).len(), 1);
    }

    #[test]
    fn a_decision_without_a_vote_is_found() {
        let mut events = history(30, (8, 20));
        let vote = events.remove(2);
        assert_eq!(judge(check, events.clone()).len(), 1);
        events.push(vote);
        assert_eq!(judge(check, events).len(), 1, "it came too late");
    }
}
