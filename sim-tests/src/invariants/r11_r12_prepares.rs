//! R11. While a vote of attempt A at (stream, epoch) is open, no other transaction with start < A's promise is decided or
//! voted for there that writes a key which A writes or has checked. R12. And while it is open and A writes, the range is closed
//! only below A's `lower`.
//!
//! A vote is open until its voter applies an outcome, or the owner to which it was handed over; what any other owner does is bound
//! by R18.

use std::collections::BTreeMap;

use meridian_types::{Epoch, Key, StreamId, Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Event, Seconds, Short, Voted};

const HELD: &str = "R11 promises hold";
const CLOSED: &str = "R12 closures wait for votes";

/// The open votes of an owner, by attempt, with the events.
type Open<'a> = BTreeMap<(TxnId, u32, StreamId, Epoch), (usize, &'a Voted)>;

/// Every decision, vote and closure against the votes that are open where it is made.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut owners: BTreeMap<(StreamId, Epoch), Open<'_>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Decided(decided) => {
                if let Some(open) = owners.get(&(decided.stream, decided.at.epoch)) {
                    let written = (decided.txn, decided.start, decided.written.as_slice());
                    violations.extend(overrun(log, open, index, written));
                }
            }
            Event::Voted(voted) => {
                let open = owners.entry((voted.stream, voted.epoch)).or_default();
                violations.extend(overrun(
                    log,
                    open,
                    index,
                    (voted.txn, voted.start, &voted.written),
                ));
                let name = (voted.txn, voted.attempt, voted.home, voted.home_epoch);
                open.entry(name).or_insert((index, voted));
            }
            Event::Opening {
                stream,
                at,
                adopted,
                resumed,
                handed,
                ..
            } if *resumed || *handed => {
                if let Some(open) = owners.get(&(*stream, adopted.epoch)).cloned() {
                    owners.insert((*stream, at.epoch), open);
                }
            }
            Event::PrepareEnded {
                stream,
                epoch,
                txn,
                attempt,
                home,
                home_epoch,
                ..
            } => {
                if let Some(open) = owners.get_mut(&(*stream, *epoch)) {
                    open.remove(&(*txn, *attempt, *home, *home_epoch));
                }
            }
            Event::Closed { stream, closure } => {
                let open = owners.get(&(*stream, closure.epoch)).into_iter().flatten();
                let reached = open
                    .map(|(_, vote)| vote)
                    .find(|(_, vote)| !vote.written.is_empty() && vote.lower <= closure.x);
                if let Some((vote, voted)) = reached {
                    let (x, lower) = (Seconds(closure.x), Seconds(voted.lower));
                    let what = format!(
                        "closed through {x} while {} may commit from {lower} on",
                        Short(voted.txn)
                    );
                    violations.push(Violation::shown(CLOSED, what, log.events, [*vote, index]));
                }
            }
            _ => {}
        }
    }
    violations
}

/// Somebody writes what is held for another.
fn overrun(
    log: &Log<'_>,
    open: &Open<'_>,
    index: usize,
    (txn, start, written): (TxnId, Timestamp, &[Key]),
) -> Option<Violation> {
    let holds = |vote: &Voted, key: &Key| {
        vote.written.contains(key) || vote.checked.iter().any(|range| range.contains(key.as_ref()))
    };
    let others = open
        .values()
        .filter(|(_, vote)| vote.txn != txn && start < vote.promise);
    let mut overrun = others.filter_map(|(vote, voted)| {
        let key = written.iter().find(|key| holds(voted, key))?;
        Some((*vote, voted, key))
    });
    let (vote, voted, key) = overrun.next()?;
    let what = format!(
        "{} writes {key}, which is promised to {}",
        Short(txn),
        Short(voted.txn)
    );
    Some(Violation::shown(HELD, what, log.events, [vote, index]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Outcome;
    use crate::invariants::testing::{closed, decided, handed_opening, judge, opening, prepare_ended, voted};

    /// A vote from 10 to 30 for a transaction that writes x and has y checked.
    fn after_vote(more: Vec<Event>) -> usize {
        let vote = vec![
            opening(1, 1, (0, 0), 0),
            Event::Voted(voted(1, 1, (10, 30), "x", "y")),
        ];
        judge(check, vote.into_iter().chain(more).map(|event| ("a-1", event))).len()
    }

    #[test]
    fn others_write_other_keys_or_begin_after_the_promise() {
        assert_eq!(after_vote(vec![decided(1, 2, 2, 5, 11, "z")]), 0);
        assert_eq!(after_vote(vec![decided(1, 2, 2, 30, 31, "x y")]), 0);
        let ended = prepare_ended(1, 1, Outcome::Aborted);
        assert_eq!(after_vote(vec![ended, decided(1, 2, 2, 5, 11, "x")]), 0);
        assert_eq!(
            after_vote(vec![decided(2, 2, 2, 5, 11, "x")]),
            0,
            "another owner's"
        );
    }

    #[test]
    fn a_write_of_what_is_held_is_found_decided_or_voted_for() {
        assert_eq!(after_vote(vec![decided(1, 2, 2, 29, 31, "x")]), 1);
        assert_eq!(after_vote(vec![decided(1, 2, 2, 5, 11, "y")]), 1);
        assert_eq!(after_vote(vec![Event::Voted(voted(1, 2, (12, 30), "y", ""))]), 1);
        assert_eq!(after_vote(vec![Event::Voted(voted(1, 2, (12, 30), "z", "y"))]), 0);
    }

    #[test]
    fn a_vote_that_was_handed_over_stays_open() {
        let after_move = |event| after_vote(vec![handed_opening(2, 4, (1, 3), 0), event]);
        assert_eq!(after_move(decided(2, 5, 2, 5, 11, "x")), 1);
        assert_eq!(after_move(closed(2, 10, 1)), 1);
        assert_eq!(after_move(decided(2, 5, 2, 5, 11, "z")), 0);
    }

    #[test]
    fn a_closure_reaches_an_open_vote_only_after_its_end() {
        assert_eq!(after_vote(vec![closed(1, 9, 1)]), 0);
        assert_eq!(after_vote(vec![closed(1, 10, 1)]), 1);
        let ended = prepare_ended(1, 1, Outcome::Committed(Timestamp(12)));
        assert_eq!(after_vote(vec![ended, closed(1, 10, 1)]), 0);
    }
}
