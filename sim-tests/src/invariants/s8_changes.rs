//! Section 8, splits and merges. For every stream S whose `Sealed` record stands in a log at lsn l:
//! - no owner of that log decides a transaction after l, gives a closure, or votes.
//!
//! For every stream T with an `Origin` (it took over keys), and every source S of it:
//! - T opens with a floor at or above the floor of S's `Sealed`, every commit of S, every closure given for it, and every promise that was
//!   open there when it was sealed. (R18 says the same of T's `window_low`, and of S's own floor and the leases before.)
//! - Every closure of T names an entry of S at or after its `Sealed`.
//!
//! And 5.1: a vote is given only for a home that holds keys in the version of the range map that the last durable `Opened` or `Lease` of
//! the voter's stream names; and each version so named is committed.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Epoch, Lsn, Position, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::{Event, Seconds, Short};

const SEALED: &str = "8 a sealed stream orders nothing";
const ORIGIN: &str = "8 streams begin above their sources";
const SOURCES: &str = "8 closures wait for their sources";
const HOMES: &str = "5.1 votes for known homes";

/// All of it.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let sealed = sealed(log);
    let mut violations = acts_after(log, &sealed);
    violations.extend(openings(log, &sealed));
    violations.extend(closures(log));
    violations.extend(votes(log));
    violations
}

/// A `Sealed` record that was appended.
#[derive(Clone, Copy)]
struct Sealed {
    index: usize,
    at: Position,
    floor: Timestamp,
}

/// Those of each stream, committed or not.
type AllSealed = BTreeMap<StreamId, Vec<Sealed>>;

fn sealed(log: &Log<'_>) -> AllSealed {
    let mut all = AllSealed::new();
    for (index, happened) in log.all() {
        if let Event::Released {
            stream,
            at,
            floor,
            sealed: true,
            ..
        } = &happened.event
        {
            let (at, floor) = (*at, *floor);
            all.entry(*stream).or_default().push(Sealed { index, at, floor });
        }
    }
    all
}

/// Whatever an owner does whose log holds a `Sealed` record.
fn acts_after(log: &Log<'_>, sealed: &AllSealed) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let (stream, epoch, what) = match &happened.event {
            Event::Decided(decided) => (decided.stream, decided.at.epoch, "decides"),
            Event::Voted(voted) => (voted.stream, voted.epoch, "votes"),
            Event::Closed { stream, closure } => (*stream, closure.epoch, "closes"),
            _ => continue,
        };
        let Some(entries) = log.streams.get(&stream) else {
            continue;
        };
        let mut before = sealed.get(&stream).into_iter().flatten();
        let holds = |seal: &&Sealed| seal.index < index && entries.entry(epoch, seal.at.lsn) == Some(seal.at);
        if let Some(seal) = before.find(holds) {
            let what = format!("{stream} was sealed at {}, and {epoch} {what}", seal.at);
            violations.push(Violation::shown(SEALED, what, log.events, [seal.index, index]));
        }
    }
    violations
}

/// Every opening of a stream that took over keys.
fn openings(log: &Log<'_>, sealed: &AllSealed) -> Vec<Violation> {
    let mut bounds: BTreeMap<StreamId, Option<(usize, Timestamp)>> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let Event::Opening { stream, floor, .. } = &happened.event else {
            continue;
        };
        let Some(origin) = log.origin(*stream) else {
            continue;
        };
        let bound = *bounds.entry(*stream).or_insert_with(|| {
            let sources = origin.after.iter();
            let of_each = sources.filter_map(|(source, last)| highest(log, sealed, *source, *last));
            of_each.max_by_key(|(_, bound)| *bound)
        });
        if let Some((reason, bound)) = bound
            && *floor < bound
        {
            let (floor, bound) = (Seconds(*floor), Seconds(bound));
            let what = format!("{stream} opens with floor {floor}, its sources reach {bound}");
            violations.push(Violation::shown(ORIGIN, what, log.events, [reason, index]));
        }
    }
    violations
}

/// What a source's successors must not go below: the event that reaches highest.
fn highest(log: &Log<'_>, sealed: &AllSealed, source: StreamId, last: Lsn) -> Option<(usize, Timestamp)> {
    let is_committed = |seal: &&Sealed| {
        let entries = log.streams.get(&source);
        let committed = entries.and_then(|entries| entries.committed.get(&seal.at.lsn));
        seal.at.lsn == last && committed.is_some_and(|committed| committed.at == seal.at)
    };
    let seal = sealed.get(&source)?.iter().find(is_committed)?;
    let mut bounds = vec![(seal.index, seal.floor)];
    let mut open = BTreeMap::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Closed { stream, closure } if *stream == source => bounds.push((index, closure.x)),
            // What became of votes of earlier epochs, R18 answers for: the opening after them.
            Event::Voted(vote) if vote.stream == source && vote.epoch == seal.at.epoch => {
                let name = (vote.txn, vote.attempt, vote.home, vote.home_epoch);
                open.insert(name, (index, vote.promise));
            }
            Event::PrepareEnded {
                stream,
                epoch,
                txn,
                attempt,
                home,
                home_epoch,
                ..
            } if *stream == source && *epoch == seal.at.epoch => {
                open.remove(&(*txn, *attempt, *home, *home_epoch));
            }
            Event::Opening {
                stream, at, floor, ..
            } if *stream == source && at.epoch <= seal.at.epoch => {
                let entries = log.streams.get(&source);
                let is_in_log =
                    entries.is_some_and(|entries| entries.entry(seal.at.epoch, at.lsn) == Some(*at));
                bounds.extend(is_in_log.then_some((index, *floor)));
            }
            _ => {}
        }
    }
    bounds.extend(open.into_values());
    let commits = log.committed().filter(|(_, decided)| decided.stream == source);
    bounds.extend(commits.map(|(index, decided)| (index, decided.commit)));
    bounds.into_iter().max_by_key(|(_, bound)| *bound)
}

/// Every closure of a stream that took over keys.
fn closures(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let Event::Closed { stream, closure } = &happened.event else {
            continue;
        };
        let Some(origin) = log.origin(*stream) else {
            continue;
        };
        let names = |source: StreamId, last: Lsn| {
            let mut after = closure.after.iter();
            after.any(|(stream, lsn)| *stream == source && *lsn >= last)
        };
        let mut sources = origin.after.iter();
        if let Some((source, last)) = sources.find(|(source, last)| !names(*source, *last)) {
            let what = format!("{stream} closes without naming the end of {source} at {last}");
            violations.push(Violation::shown(SOURCES, what, log.events, [index]));
        }
    }
    violations
}

/// Every vote, the first time that it is given: later it is only said again.
fn votes(log: &Log<'_>) -> Vec<Violation> {
    let mut named: BTreeMap<(StreamId, Epoch), (usize, u64)> = BTreeMap::new();
    let mut given = BTreeSet::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Opening { stream, at, map, .. } => {
                named.insert((*stream, at.epoch), (index, *map));
                if !log.maps.contains_key(map) {
                    let what = format!(
                        "{} of {stream} names version {map}, which is not committed",
                        at.epoch
                    );
                    violations.push(Violation::shown(HOMES, what, log.events, [index]));
                }
            }
            Event::Named { stream, epoch, map } => {
                named.insert((*stream, *epoch), (index, *map));
            }
            Event::Voted(voted) => {
                if !given.insert((
                    voted.stream,
                    voted.txn,
                    voted.attempt,
                    voted.home,
                    voted.home_epoch,
                )) {
                    continue;
                }
                let Some((by, version)) = named.get(&(voted.stream, voted.epoch)) else {
                    continue;
                };
                let is_known = |home: StreamId| {
                    let map = log.maps.get(version);
                    map.is_some_and(|map| map.by_stream(home).is_some())
                };
                if !is_known(voted.home) {
                    let (txn, home, stream) = (Short(voted.txn), voted.home, voted.stream);
                    let what =
                        format!("{stream} votes for {txn} of {home}, which version {version} does not know");
                    violations.push(Violation::shown(HOMES, what, log.events, [*by, index]));
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use meridian_types::{End, Key, RangeMap};

    use super::*;
    use crate::events::Happened;
    use crate::invariants::testing::{
        closed_after, counted, decided, happened, in_stream, judge_in, mapped, opening, sealed, voted,
    };

    /// A cluster with streams 1 and 2; the map is changed, and stream 1, split at "f", ends at lsn 3 with floor 50.
    fn history(more: Vec<Event>) -> Vec<String> {
        let first = RangeMap::divided([Key::from("m")], |_| vec![]);
        let pending = first.split(&"f".into()).unwrap();
        let end = End {
            floor: Timestamp(50),
            last: Lsn(3),
            ..End::default()
        };
        let split = pending.sealed(StreamId(1), end).unwrap();
        let mut events = vec![
            in_stream(0, opening(1, 1, (0, 0), 0)),
            mapped(2, &pending),
            opening(1, 1, (0, 0), 0),
            decided(1, 2, 1, 5, 30, "x"),
            sealed(1, 3, 50),
            counted(1, 1, 3),
            mapped(3, &split),
            in_stream(0, counted(1, 1, 3)),
        ];
        events.extend(more);
        let events: Vec<Happened> = happened(events.into_iter().map(|event| ("a-1", event)));
        judge_in(check, &first, &events)
    }

    fn target(floor: u64) -> Event {
        in_stream(3, opening(1, 1, (0, 0), floor))
    }

    #[test]
    fn a_split_stream_ends_and_its_successors_begin_above_it() {
        let after = vec![(StreamId(1), Lsn(3)), (StreamId(3), Lsn(1))];
        let good = vec![target(50), in_stream(3, closed_after(1, 60, after))];
        assert_eq!(history(good), [""; 0]);
        assert_eq!(history(vec![target(49)]).len(), 1);
        let after = vec![(StreamId(1), Lsn(2))];
        assert_eq!(
            history(vec![target(50), in_stream(3, closed_after(1, 60, after))]).len(),
            1
        );
    }

    #[test]
    fn what_a_source_has_closed_or_promised_bounds_its_successors() {
        assert_eq!(
            history(vec![closed_after(1, 51, vec![]), target(50)]).len(),
            2,
            "and it has ended"
        );
        let late = vec![
            in_stream(1, Event::Voted(voted(1, 7, (40, 70), "x", ""))),
            target(50),
        ];
        assert_eq!(history(late).len(), 2, "and it has ended");
    }

    #[test]
    fn nothing_is_ordered_in_a_log_that_holds_the_end_of_its_stream() {
        assert_eq!(history(vec![decided(1, 4, 2, 55, 60, "x")]).len(), 1);
        let again = vec![opening(2, 4, (1, 3), 50), decided(2, 5, 2, 55, 60, "x")];
        assert_eq!(history(again).len(), 1);
        let elsewhere = vec![opening(2, 3, (1, 2), 50), decided(2, 4, 2, 55, 60, "x")];
        assert_eq!(history(elsewhere), [""; 0], "a log that does not hold it");
    }

    #[test]
    fn a_vote_is_for_a_home_of_the_version_that_is_named() {
        let vote = |home: u64| {
            let mut vote = voted(2, 7, (60, 70), "x", "");
            (vote.stream, vote.home) = (StreamId(2), StreamId(home));
            Event::Voted(vote)
        };
        let open = in_stream(2, opening(2, 1, (0, 0), 0));
        let named = |map| Event::Named {
            stream: StreamId(2),
            epoch: Epoch(2),
            map,
        };
        assert_eq!(history(vec![open.clone(), vote(1)]), [""; 0]);
        assert_eq!(history(vec![open.clone(), vote(3)]).len(), 1);
        assert_eq!(history(vec![open.clone(), named(3), vote(3)]), [""; 0]);
        assert_eq!(history(vec![open.clone(), named(3), vote(1)]).len(), 1);
        let twice = vec![open, vote(1), named(3), vote(1)];
        assert_eq!(history(twice), [""; 0], "said again");
    }
}
