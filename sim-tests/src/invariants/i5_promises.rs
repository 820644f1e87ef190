//! I5. For every committed T and every participant P of it: P voted for that attempt, P's `lower` <= T.commit <= P's promise, and
//! P had a lease with lease_end >= promise durable when it voted.
//!
//! Only votes from before the decision can have led to it. One that comes later is the answer to a late copy of the request, by an owner
//! that was handed the stream and not how the attempts of the past had ended: its bounds mean nothing, the home knows the outcome. (Seed
//! 70272: a copy 6 s late, after two planned moves.) When a participant's owner changed while the home waited, there may be two votes, and
//! the home goes by one of them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use meridian_types::{StreamId, Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Event, Short};

const NAME: &str = "I5 promises";

/// The event, and from when to when it allows the attempt to commit.
type Vote = (usize, RangeInclusive<Timestamp>);

/// Every vote.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut votes: BTreeMap<(TxnId, u32, StreamId), Vec<Vote>> = BTreeMap::new();
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
                let name = (voted.txn, voted.attempt, voted.stream);
                let bounds = voted.lower..=voted.promise;
                votes.entry(name).or_default().push((index, bounds));
                let lease = leases.get(&(&*happened.node, voted.stream)).copied();
                if voted.promise > lease.unwrap_or_default() {
                    violated(format!("{} promises beyond its lease", happened.node), &[index]);
                }
            }
            Event::Decided(decided) => {
                let txn = Short(decided.txn);
                for participant in &decided.participants {
                    let name = (decided.txn, decided.attempt, *participant);
                    let cast = votes.get(&name).map_or(&[][..], Vec::as_slice);
                    if cast.is_empty() {
                        let what = format!("{txn} is decided without the vote of {participant}");
                        violated(what, &[index]);
                    } else if !cast.iter().any(|(_, bounds)| bounds.contains(&decided.commit)) {
                        let what = format!("{txn} is decided outside of the vote of {participant}");
                        let shown_by: Vec<_> = cast.iter().map(|(vote, _)| *vote).chain([index]).collect();
                        violated(what, &shown_by);
                    }
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

    #[test]
    fn the_decision_goes_by_one_of_the_votes_before_it() {
        let mut events = history(30, (8, 20));
        events.push(("a-1", Event::Voted(voted(1, 1, (12, 25), "x", ""))));
        assert_eq!(judge(check, events.clone()), [""; 0], "a late copy");
        events.swap(3, 5);
        assert_eq!(judge(check, events), [""; 0], "the owner changed");
        let mut events = history(30, (8, 9));
        events.insert(3, ("a-1", Event::Voted(voted(1, 1, (12, 25), "x", ""))));
        assert_eq!(judge(check, events).len(), 1, "neither allows it");
    }
}
