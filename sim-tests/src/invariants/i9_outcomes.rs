//! I9. For every transaction T: nobody is told *aborted* of T if T committed, nor *committed* (at c) unless T committed (at c);
//! and T is applied at most once.
//!
//! Committed means that T's record is in the committed log, wherever the run ends. What an owner answers must be committed
//! when it answers, and so must T's `Barred` record be when somebody who asks for the outcome is told *aborted*. A `Barred` record
//! speaks for its own stream only: who does not know T's home asks all of them, and all but the home bar it for nothing. A run of a transaction that its query processor repeats by itself (another start, one id) is judged by its start.

use std::collections::BTreeMap;

use meridian_types::{Lsn, StreamId, Timestamp, TxnId};

use super::{Log, Violation};
use crate::events::{Decided, Event, Outcome, Short};

const NAME: &str = "I9 outcomes";

/// What became of each transaction.
type Commits<'a> = BTreeMap<TxnId, Vec<(usize, &'a Decided)>>;

/// Everything that anybody was told.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut commits: Commits<'_> = BTreeMap::new();
    for (index, decided) in log.committed() {
        commits.entry(decided.txn).or_default().push((index, decided));
    }
    let mut violations = Vec::new();
    for (txn, records) in commits.iter().filter(|(_, records)| records.len() > 1) {
        let what = format!("{} was committed {} times", Short(*txn), records.len());
        let shown_by = records.iter().map(|(index, _)| *index);
        violations.push(Violation::shown(NAME, what, log.events, shown_by));
    }
    let bars = bars(log);
    let mut counted: BTreeMap<(&str, StreamId), Lsn> = BTreeMap::new();
    for (index, happened) in log.all() {
        if let Event::Counted { stream, at, .. } = &happened.event {
            let known = counted.entry((&*happened.node, *stream)).or_default();
            *known = (*known).max(at.lsn);
        }
        let wrong = match &happened.event {
            Event::Answered { stream, at, commit } => {
                let known = counted
                    .get(&(&*happened.node, *stream))
                    .copied()
                    .unwrap_or_default();
                let decided = log.decided(*stream, *at);
                if at.lsn > known {
                    Some((
                        format!("{at} is answered before it is known to be committed"),
                        None,
                    ))
                } else if decided.is_none_or(|(_, decided)| decided.commit != *commit) {
                    let what = format!("{at} is answered with a timestamp that was not decided");
                    Some((what, decided.map(|(index, _)| index)))
                } else {
                    None
                }
            }
            Event::Told {
                txn,
                outcome: Outcome::Aborted,
            } if !commits.contains_key(txn) && bars.get(txn).is_none_or(|barred| *barred > index) => Some((
                format!("{} is told aborted before it is durably barred", Short(*txn)),
                None,
            )),
            event => told_wrongly(log, &commits, event),
        };
        if let Some((what, against)) = wrong {
            let shown_by = against.into_iter().chain([index]);
            violations.push(Violation::shown(NAME, what, log.events, shown_by));
        }
    }
    violations
}

/// For each transaction with a committed `Barred` record, the event from which that is known: of the first, when several
/// streams have barred it.
fn bars(log: &Log<'_>) -> BTreeMap<TxnId, usize> {
    let mut bars: BTreeMap<TxnId, usize> = BTreeMap::new();
    for stream in log.streams.values() {
        for entry in stream.committed.values() {
            let records = stream.records.get(&entry.at).into_iter().flatten();
            for event in records.filter_map(|index| log.event(*index)) {
                if let Event::Barred { txn, .. } = event {
                    let first = bars.entry(*txn).or_insert(entry.index);
                    *first = entry.index.min(*first);
                }
            }
        }
    }
    bars
}

/// What is wrong with it, and the decision that it contradicts.
fn told_wrongly(log: &Log<'_>, commits: &Commits<'_>, event: &Event) -> Option<(String, Option<usize>)> {
    let txn = event.txn()?;
    let records = commits.get(&txn).map(Vec::as_slice).unwrap_or_default();
    let find = |holds: &dyn Fn(&Decided) -> bool| records.iter().find(|(_, decided)| holds(decided));
    let against = match event {
        Event::Ended {
            outcome: Outcome::Committed(commit),
            ..
        }
        | Event::Told {
            outcome: Outcome::Committed(commit),
            ..
        } => {
            let is_true = *commit == Timestamp::ZERO || find(&|decided| decided.commit == *commit).is_some();
            let other = records.first().map(|(index, _)| *index);
            return (!is_true).then(|| (format!("{} is told committed and is not", Short(txn)), other));
        }
        Event::Ended {
            outcome: Outcome::Aborted,
            start,
            ..
        } => find(&|decided| decided.start == *start),
        Event::Told {
            outcome: Outcome::Aborted,
            ..
        } => records.first(),
        Event::GivenUp {
            stream,
            attempt,
            home_epoch,
            ..
        } => find(&|decided| {
            decided.stream == *stream && decided.attempt == *attempt && decided.at.epoch == *home_epoch
        }),
        Event::PrepareEnded {
            attempt,
            home,
            home_epoch,
            outcome: Outcome::Aborted,
            ..
        } => find(&|decided| {
            decided.stream == *home && decided.attempt == *attempt && decided.at.epoch == *home_epoch
        }),
        Event::Barred { stream, at, .. } => {
            let committed = log.streams.get(stream)?.committed.get(&at.lsn)?;
            find(&|decided| decided.stream == *stream).filter(|_| committed.at == *at)
        }
        _ => None,
    };
    against.map(|(index, _)| {
        (
            format!("{} is told aborted and is committed", Short(txn)),
            Some(*index),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{
        answered, barred, committed, counted, decided, ended, given_up, in_stream, judge, opening, told,
    };

    /// T1 is committed at 10, T2 is decided and not committed.
    fn history(more: impl IntoIterator<Item = (&'static str, Event)>) -> Vec<String> {
        let events = vec![
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 5, 11, "y")),
            ("a-1", counted(1, 1, 2)),
            ("a-2", opening(2, 3, (1, 2), 50)),
        ];
        judge(check, events.into_iter().chain(more))
    }

    #[test]
    fn the_truth_is_good() {
        let truth = [
            ("a-1", answered(1, 2, 10)),
            ("q-1", committed(1, 5, 10)),
            ("q-2", told(1, Outcome::Committed(Timestamp(10)))),
            ("q-1", ended(2, 5, Outcome::Unknown)),
            ("a-2", given_up(2, 2, 1)),
            ("a-2", barred(2, 4, 2)),
            ("a-2", counted(2, 2, 4)),
            ("q-2", told(2, Outcome::Aborted)),
            ("q-2", committed(3, 5, 0)),
            ("q-2", ended(1, 4, Outcome::Aborted)),
        ];
        assert_eq!(history(truth), [""; 0]);
    }

    #[test]
    fn aborted_of_a_committed_one_is_found_whoever_says_it() {
        assert_eq!(history([("q-1", ended(1, 5, Outcome::Aborted))]).len(), 1);
        assert_eq!(history([("q-1", told(1, Outcome::Aborted))]).len(), 1);
        assert_eq!(history([("a-2", given_up(2, 1, 1))]).len(), 1);
        let bar = [("a-2", barred(2, 4, 1)), ("a-2", counted(2, 2, 4))];
        assert_eq!(history(bar).len(), 1);
    }

    #[test]
    fn a_bar_in_another_stream_than_the_one_that_committed_it_says_nothing() {
        let elsewhere = [
            ("a-3", in_stream(2, opening(1, 1, (0, 0), 0))),
            ("a-3", in_stream(2, barred(1, 2, 1))),
            ("a-3", in_stream(2, counted(1, 1, 2))),
            ("q-2", told(1, Outcome::Committed(Timestamp(10)))),
        ];
        assert_eq!(history(elsewhere), [""; 0]);
    }

    #[test]
    fn the_first_of_several_bars_counts() {
        let events = [
            ("a-3", in_stream(2, opening(1, 1, (0, 0), 0))),
            ("a-3", in_stream(2, barred(1, 2, 2))),
            ("a-3", in_stream(2, counted(1, 1, 2))),
            ("q-1", told(2, Outcome::Aborted)),
            ("a-2", barred(2, 4, 2)),
            ("a-2", counted(2, 2, 4)),
        ];
        assert_eq!(history(events), [""; 0]);
    }

    #[test]
    fn aborted_is_told_only_after_the_bar_is_committed() {
        let bar = |told_at: usize| {
            let mut events = vec![("a-2", barred(2, 4, 2)), ("a-2", counted(2, 2, 4))];
            events.insert(told_at, ("q-1", told(2, Outcome::Aborted)));
            events
        };
        assert_eq!(history(bar(2)), [""; 0]);
        assert_eq!(history(bar(1)).len(), 1);
    }

    #[test]
    fn committed_of_one_that_is_not_or_at_another_time_or_too_early_is_found() {
        assert_eq!(history([("q-1", committed(2, 5, 11))]).len(), 1);
        assert_eq!(history([("q-1", committed(1, 5, 12))]).len(), 1);
        assert_eq!(history([("a-1", answered(1, 2, 11))]).len(), 1);
        assert_eq!(
            history([("a-2", answered(1, 2, 10))]).len(),
            1,
            "a-2 has not counted it"
        );
    }

    #[test]
    fn a_transaction_committed_twice_is_found() {
        let again = [("a-2", decided(2, 4, 1, 5, 60, "x")), ("a-2", counted(2, 2, 4))];
        assert_eq!(history(again).len(), 1);
    }
}
