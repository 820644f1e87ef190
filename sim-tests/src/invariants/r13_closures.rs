//! R13. For every closure (x, after): x <= lease_end, durable when it leaves; and every committed record with commit <= x, of the
//! range's own stream or of any stream if it writes a key of the range, lies at or before its `after`. That holds for the ranges that
//! were split or merged as for those that took their place, against the records of both.
//! R14. For every closure that a storage node takes: somebody gave it, and the node has had everything in its `after`. And a
//! storage node is fed only entries that an owner or a journal node has counted as committed.

use std::collections::{BTreeMap, BTreeSet};

use meridian_protocol::closing::Closure;
use meridian_types::{Key, Lsn, RangeId, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::{Decided, Event, Happened, Seconds};

const GIVEN: &str = "R13 closures";
const FED: &str = "R14 only what is committed is fed";
const TAKEN: &str = "R14 closures come after what they name";

/// Every closure, where it is given and where it is taken.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let commits = commits(log);
    let mut leases: BTreeMap<(&str, StreamId), (Timestamp, usize)> = BTreeMap::new();
    let mut violations = taken(log);
    for (index, happened) in log.all() {
        if let Some((stream, _, lease_end)) = happened.event.durable_lease() {
            let lease = leases.entry((&*happened.node, stream)).or_default();
            *lease = (*lease).max((lease_end, index));
        }
        if let Event::Closed { stream, closure } = &happened.event {
            let (lease_end, leased) = leases
                .get(&(&*happened.node, *stream))
                .copied()
                .unwrap_or_default();
            if closure.x > lease_end {
                let (x, lease_end) = (Seconds(closure.x), Seconds(lease_end));
                let what = format!("closed through {x}, but the lease ends at {lease_end}");
                violations.push(Violation::shown(GIVEN, what, log.events, [leased, index]));
            }
            for (of, commits) in commits.get(&closure.range).into_iter().flatten() {
                let below = commits.range(..=closure.x).next_back();
                if let Some((commit, (decided, last))) = below
                    && last.at.lsn > lsn_of(closure, *of)
                {
                    let (x, commit) = (Seconds(closure.x), Seconds(*commit));
                    let what = format!("closed through {x}, but {} of {of} commits at {commit}", last.at);
                    violations.push(Violation::shown(GIVEN, what, log.events, [index, *decided]));
                }
            }
        }
    }
    violations
}

/// What the closures of each range have to name, by stream and commit timestamp.
type Commits<'a> = BTreeMap<RangeId, BTreeMap<StreamId, BTreeMap<Timestamp, (usize, &'a Decided)>>>;

fn commits<'a>(log: &Log<'a>) -> Commits<'a> {
    let mut commits: Commits<'_> = BTreeMap::new();
    for (index, decided) in log.committed() {
        for (range, (ordered_by, keys)) in &log.ranges {
            let is_in = |key: &Key| keys.contains(key.as_ref());
            if decided.stream == *ordered_by || decided.written.iter().any(is_in) {
                let streams = commits.entry(*range).or_default();
                let stream = streams.entry(decided.stream).or_default();
                stream.insert(decided.commit, (index, decided));
            }
        }
    }
    commits
}

fn lsn_of(closure: &Closure, stream: StreamId) -> Lsn {
    let own = closure.after.iter().find(|(after, _)| *after == stream);
    own.map_or(Lsn(0), |(_, lsn)| *lsn)
}

/// R14.
fn taken(log: &Log<'_>) -> Vec<Violation> {
    let mut applied: BTreeMap<(&str, StreamId), Lsn> = BTreeMap::new();
    let mut given: BTreeSet<(RangeId, Timestamp)> = BTreeSet::new();
    let mut counted: BTreeMap<StreamId, Lsn> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, Happened { node, event, .. }) in log.all() {
        match event {
            Event::Closed { closure, .. } => {
                given.insert((closure.range, closure.x));
            }
            Event::Counted { stream, at, .. } => {
                let known = counted.entry(*stream).or_default();
                *known = (*known).max(at.lsn);
            }
            Event::Restored { stream, at } => {
                applied.insert((&**node, *stream), at.lsn);
            }
            Event::Followed { stream, lsn } => {
                applied.insert((&**node, *stream), *lsn);
            }
            Event::Applied { stream, at, .. } => {
                applied.insert((&**node, *stream), at.lsn);
                if counted.get(stream).is_none_or(|counted| *counted < at.lsn) {
                    let what = format!("{node} is fed {at}, which nobody has counted as committed");
                    violations.push(Violation::shown(FED, what, log.events, [index]));
                }
            }
            Event::Complete(closure) => {
                let has = |stream: StreamId| applied.get(&(&**node, stream)).copied().unwrap_or_default();
                let missing = closure.after.iter().find(|(stream, lsn)| has(*stream) < *lsn);
                if let Some((stream, lsn)) = missing {
                    let what = format!(
                        "{node} has {stream} up to {}, the closure names {lsn}",
                        has(*stream)
                    );
                    violations.push(Violation::shown(TAKEN, what, log.events, [index]));
                } else if !given.contains(&(closure.range, closure.x)) {
                    let what = format!("{node} takes a closure that nobody gave");
                    violations.push(Violation::shown(TAKEN, what, log.events, [index]));
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
    use crate::invariants::testing::{
        applied, closed, closed_after, complete, counted, decided, happened, in_stream, judge, judge_in,
        leased, opening, restored, serving,
    };
    use meridian_types::RangeMap;

    fn history(more: impl IntoIterator<Item = (&'static str, Event)>) -> Vec<String> {
        let events = vec![
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", serving(1, 0, 20)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 5, 15, "y")),
            ("a-1", counted(1, 1, 3)),
            ("s-1", restored(0, 0)),
        ];
        judge(check, events.into_iter().chain(more))
    }

    #[test]
    fn closures_within_the_lease_after_all_that_they_cover_are_good() {
        let good = [
            ("a-1", closed(1, 14, 2)),
            ("s-1", applied(1, 1, 0, "")),
            ("s-1", applied(1, 2, 10, "x")),
            ("s-1", complete(1, 14, 2)),
            ("a-1", leased(1, 40)),
            ("a-1", closed(1, 30, 3)),
        ];
        assert_eq!(history(good), [""; 0]);
    }

    #[test]
    fn a_closure_beyond_the_lease_or_without_a_record_below_it_is_found() {
        assert_eq!(history([("a-1", closed(1, 21, 3))]).len(), 1);
        assert_eq!(history([("a-1", closed(1, 15, 2))]).len(), 1);
        let later = [
            ("a-1", closed(1, 18, 3)),
            ("a-1", decided(1, 4, 3, 5, 18, "y")),
            ("a-1", counted(1, 1, 4)),
        ];
        assert_eq!(history(later).len(), 1, "decided below a closure that was given");
    }

    #[test]
    fn a_record_of_another_stream_that_writes_the_range_is_to_be_named() {
        let map = RangeMap::divided([Key::from("m")], |_| vec![]);
        let home = |event| in_stream(2, event);
        let closing = |after: Vec<(StreamId, Lsn)>| {
            let events = vec![
                ("a-1", opening(1, 1, (0, 0), 0)),
                ("a-1", serving(1, 0, 20)),
                ("a-2", home(opening(1, 1, (0, 0), 0))),
                ("a-2", home(decided(1, 2, 1, 5, 10, "a z"))),
                ("a-2", home(decided(1, 3, 2, 5, 11, "z"))),
                ("a-2", home(counted(1, 1, 3))),
                ("a-1", closed_after(1, 14, after)),
            ];
            judge_in(check, &map, &happened(events)).len()
        };
        assert_eq!(closing(vec![(StreamId(1), Lsn(1)), (StreamId(2), Lsn(2))]), 0);
        assert_eq!(closing(vec![(StreamId(1), Lsn(1)), (StreamId(2), Lsn(1))]), 1);
        assert_eq!(closing(vec![(StreamId(1), Lsn(1))]), 1);
    }

    #[test]
    fn an_entry_that_is_fed_before_it_is_committed_is_found() {
        let early = |up_to| [("a-1", counted(1, 1, up_to)), ("s-1", applied(1, 4, 18, "y"))];
        assert_eq!(history(early(3)).len(), 1);
        assert_eq!(history(early(4)), [""; 0]);
    }

    #[test]
    fn a_closure_that_comes_too_early_or_from_nowhere_is_found() {
        let early = [("a-1", closed(1, 14, 2)), ("s-1", complete(1, 14, 2))];
        assert_eq!(history(early).len(), 1);
        assert_eq!(history([("s-1", complete(1, 14, 0))]).len(), 1);
    }
}
