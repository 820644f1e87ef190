//! Section 5, 5.4. A participant applies an outcome to the attempt that it names and that is open there, and to no other: for every
//! `prepare_ended` of (attempt's whole name) by an owner, that owner has voted on it before, or was handed the vote with the stream,
//! and has not ended it since.
//! And with the commit of one at c its floor is at or above c: whatever its owner decides or votes for afterwards lies above.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Epoch, StreamId, Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Event, Outcome, Seconds, Short};

const NAMES: &str = "5.4 outcomes end what they name";
const FLOOR: &str = "5.4 outcomes raise the floor";

/// An attempt's whole name.
type Name = (TxnId, u32, StreamId, Epoch);

/// What an owner has voted for in one epoch, and what it was handed with its stream.
#[derive(Clone, Default)]
struct Voter {
    open: BTreeSet<Name>,
    voted: BTreeSet<Name>,
    /// The highest outcome that it has applied, with the event.
    floor: (Timestamp, usize),
}

/// Every outcome that is applied, and what is decided and voted for afterwards.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut voters: BTreeMap<(StreamId, Epoch), Voter> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let node: &str = &happened.node;
        let (stream, epoch, least) = match &happened.event {
            Event::Opening {
                stream,
                at,
                adopted,
                resumed,
                handed,
                ..
            } => {
                // Who was handed the state, or kept its own, goes on where the owner before it was.
                let before = voters
                    .get(&(*stream, adopted.epoch))
                    .filter(|_| *resumed || *handed);
                let before = before.cloned().unwrap_or_default();
                voters.insert((*stream, at.epoch), before);
                continue;
            }
            Event::Voted(voted) => {
                let name = (voted.txn, voted.attempt, voted.home, voted.home_epoch);
                let voter = voters.entry((voted.stream, voted.epoch)).or_default();
                // Said again it is the same vote.
                if !voter.voted.insert(name) {
                    continue;
                }
                voter.open.insert(name);
                (voted.stream, voted.epoch, voted.lower)
            }
            Event::Decided(decided) => (decided.stream, decided.at.epoch, decided.commit),
            Event::PrepareEnded {
                stream,
                epoch,
                txn,
                attempt,
                home,
                home_epoch,
                outcome,
                ..
            } => {
                let voter = voters.entry((*stream, *epoch)).or_default();
                if !voter.open.remove(&(*txn, *attempt, *home, *home_epoch)) {
                    let what = format!(
                        "{node} ends attempt {attempt} of {}, which is not open",
                        Short(*txn)
                    );
                    violations.push(Violation::shown(NAMES, what, log.events, [index]));
                }
                if let Outcome::Committed(commit) = outcome {
                    voter.floor = voter.floor.max((*commit, index));
                }
                continue;
            }
            _ => continue,
        };
        if let Some(voter) = voters.get(&(stream, epoch))
            && least <= voter.floor.0
        {
            let (floor, ended) = voter.floor;
            let (least, floor) = (Seconds(least), Seconds(floor));
            let what = format!("{stream} goes on at {least}, below the outcome {floor} that it has applied");
            violations.push(Violation::shown(FLOOR, what, log.events, [ended, index]));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{decided, handed_opening, judge, opening, prepare_ended, voted};

    fn after_vote(more: Vec<Event>) -> usize {
        let vote = vec![
            opening(1, 1, (0, 0), 0),
            Event::Voted(voted(1, 1, (10, 30), "x", "y")),
        ];
        judge(check, vote.into_iter().chain(more).map(|event| ("a-1", event))).len()
    }

    #[test]
    fn an_outcome_ends_the_attempt_that_it_names_once() {
        let ended = || prepare_ended(1, 1, Outcome::Aborted);
        assert_eq!(after_vote(vec![ended()]), 0);
        assert_eq!(after_vote(vec![ended(), ended()]), 1);
        assert_eq!(after_vote(vec![prepare_ended(1, 2, Outcome::Aborted)]), 1);
        let again = Event::Voted(voted(1, 1, (10, 30), "x", "y"));
        assert_eq!(after_vote(vec![again, ended()]), 0);
    }

    #[test]
    fn a_vote_is_ended_by_whoever_was_handed_it() {
        let ended_in = |epoch: u64, openings: Vec<Event>| {
            let ended = match prepare_ended(1, 1, Outcome::Aborted) {
                Event::PrepareEnded {
                    stream,
                    txn,
                    attempt,
                    home,
                    home_epoch,
                    outcome,
                    ..
                } => Event::PrepareEnded {
                    stream,
                    epoch: Epoch(epoch),
                    txn,
                    attempt,
                    home,
                    home_epoch,
                    outcome,
                },
                other => other,
            };
            after_vote(openings.into_iter().chain([ended]).collect())
        };
        assert_eq!(ended_in(2, vec![handed_opening(2, 4, (1, 3), 0)]), 0);
        assert_eq!(
            ended_in(2, vec![opening(2, 4, (1, 3), 0)]),
            1,
            "a takeover knows no votes"
        );
    }

    #[test]
    fn what_follows_an_outcome_lies_above_it() {
        let ended = || prepare_ended(1, 1, Outcome::Committed(Timestamp(12)));
        assert_eq!(after_vote(vec![ended(), decided(1, 2, 2, 5, 13, "z")]), 0);
        assert_eq!(after_vote(vec![ended(), decided(1, 2, 2, 5, 12, "z")]), 1);
        assert_eq!(after_vote(vec![decided(1, 2, 2, 5, 11, "z"), ended()]), 0);
        let vote = |lower| Event::Voted(voted(1, 2, (lower, 30), "z", ""));
        assert_eq!(after_vote(vec![ended(), vote(12)]), 1);
        assert_eq!(after_vote(vec![ended(), vote(13)]), 0);
    }
}
