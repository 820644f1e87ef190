//! R18. For every owner of epoch e that opens anew: its floor and window_low are at or above every closure given and every
//! lease durable in an epoch before e, and every commit in the adopted log. Where the adopted log ends with `Released`, its
//! floor stands in place of the leases. Every commit of the owner lies above its floor.
//!
//! An owner that was handed its predecessor's state instead begins where that one ended: the adopted log ends with that one's
//! `Released`, and its `window_low` is not below the one at the release. Open votes are then its own (R11, R12).
//!
//! So the leases of two epochs never meet: what a predecessor may still close or promise lies below. An owner that fences anew
//! and resumes keeps its own promises itself. And section 8: an owner that has stopped, or whose lease has run out, decides and closes nothing.

use std::collections::BTreeMap;

use meridian_types::{Epoch, Position, StreamId, Timestamp};

use super::{Log, StreamLog, Violation};
use crate::events::{Event, Happened, Seconds};

const NAME: &str = "R18 takeovers";
const STOPPED: &str = "an owner that stopped decides nothing";

#[cfg(test)]
fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = acts_after_the_end(log);
    violations.extend(openings(log));
    violations
}

/// Every opening: that needs no clock.
pub fn openings(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        if let Event::Opening {
            stream,
            at,
            adopted,
            floor,
            resumed,
            handed,
            ..
        } = &happened.event
            && let Some(entries) = log.streams.get(stream)
        {
            let opening = Opening {
                stream: *stream,
                at: *at,
                adopted: *adopted,
                resumed: *resumed,
                handed: *handed,
            };
            if opening.handed && released(log, entries, &opening).is_none() {
                let what = format!("{} goes on with a state that is not that of {adopted}", at.epoch);
                violations.push(Violation::shown(NAME, what, log.events, [index]));
            }
            let bounds = bounds(log, entries, &opening);
            let broken = bounds
                .into_iter()
                .filter(|(_, bound)| bound > floor)
                .max_by_key(|(_, bound)| *bound);
            if let Some((reason, bound)) = broken {
                let (floor, bound) = (Seconds(*floor), Seconds(bound));
                let what = format!("{} opens with floor {floor}, below {bound}", at.epoch);
                violations.push(Violation::shown(NAME, what, log.events, [reason, index]));
            }
            // The floor at the release may be above what the window reaches down to.
            let window = match released(log, entries, &opening) {
                Some((_, _, window_low)) if opening.handed => window_low,
                _ => *floor,
            };
            violations.extend(below_the_floor(log, index, &opening, (*floor, window)));
        }
    }
    violations
}

struct Opening {
    stream: StreamId,
    at: Position,
    adopted: Position,
    resumed: bool,
    handed: bool,
}

/// Where the adopted log ends with `Released`: the event, the floor that the record carries, and the window then.
fn released(log: &Log<'_>, entries: &StreamLog, opening: &Opening) -> Option<(usize, Timestamp, Timestamp)> {
    let records = entries.records.get(&opening.adopted);
    records
        .into_iter()
        .flatten()
        .find_map(|index| match log.event(*index) {
            Some(Event::Released {
                floor, window_low, ..
            }) => Some((*index, *floor, *window_low)),
            _ => None,
        })
}

/// What the floor must not be below: the events, and their timestamps.
fn bounds(log: &Log<'_>, entries: &StreamLog, opening: &Opening) -> Vec<(usize, Timestamp)> {
    let released = released(log, entries, opening).map(|(index, floor, _)| (index, floor));
    let leases_count = released.is_none() && !opening.resumed;
    let mut bounds: Vec<(usize, Timestamp)> = released.filter(|_| !opening.handed).into_iter().collect();
    for (index, happened) in log.all() {
        let bound = match &happened.event {
            Event::Closed { stream, closure } => Some((*stream, closure.epoch, closure.x)),
            event => event.durable_lease().filter(|_| leases_count),
        };
        if let Some((stream, epoch, bound)) = bound
            && stream == opening.stream
            && epoch < opening.at.epoch
        {
            bounds.push((index, bound));
        }
    }
    if !leases_count && !opening.resumed && !opening.handed {
        bounds.extend(open_votes(log, opening));
    }
    let adopted = log.committed().filter(|(_, decided)| {
        decided.stream == opening.stream
            && decided.at.lsn < opening.at.lsn
            && decided.at.epoch < opening.at.epoch
    });
    bounds.extend(adopted.map(|(index, decided)| (index, decided.commit)));
    bounds
}

/// The promises that earlier owners had open when they released the range: where leases count, they are below those.
fn open_votes(log: &Log<'_>, opening: &Opening) -> Vec<(usize, Timestamp)> {
    let mut open = BTreeMap::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Voted(vote) if vote.stream == opening.stream && vote.epoch == opening.adopted.epoch => {
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
            } if *stream == opening.stream && *epoch == opening.adopted.epoch => {
                open.remove(&(*txn, *attempt, *home, *home_epoch));
            }
            Event::Released { stream, at, .. } if *stream == opening.stream && *at == opening.adopted => {
                break;
            }
            _ => {}
        }
    }
    open.into_values().collect()
}

/// Commits of this owner at or below its floor, and a window that begins below it.
fn below_the_floor(
    log: &Log<'_>,
    index: usize,
    opening: &Opening,
    (floor, window): (Timestamp, Timestamp),
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (later, happened) in log.all().skip(index) {
        let what = match &happened.event {
            Event::Decided(decided)
                if decided.stream == opening.stream
                    && decided.at.epoch == opening.at.epoch
                    && decided.commit <= floor =>
            {
                format!("{} commits at or below the floor {}", decided.at, Seconds(floor))
            }
            Event::Serving {
                stream,
                epoch,
                window_low,
                ..
            } if *stream == opening.stream
                && *epoch == opening.at.epoch
                && *window_low < window
                && !opening.resumed =>
            {
                format!(
                    "the window begins at {}, below {}",
                    Seconds(*window_low),
                    Seconds(window)
                )
            }
            _ => continue,
        };
        violations.push(Violation::shown(NAME, what, log.events, [index, later]));
    }
    violations
}

/// Decisions and closures of owners that said that they have stopped, or had no lease.
pub fn acts_after_the_end(log: &Log<'_>) -> Vec<Violation> {
    let mut stopped: BTreeMap<(&str, StreamId), (Epoch, usize)> = BTreeMap::new();
    let mut leases: BTreeMap<(&str, StreamId), (Timestamp, usize)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, Happened { node, now, event, .. }) in log.all() {
        let (stream, epoch, needs_lease) = match event {
            Event::Stopped { stream, epoch } => {
                stopped.insert((&**node, *stream), (*epoch, index));
                continue;
            }
            Event::Serving {
                stream, lease_end, ..
            }
            | Event::Leased {
                stream, lease_end, ..
            } => {
                let lease = leases.entry((&**node, *stream)).or_default();
                *lease = (*lease).max((*lease_end, index));
                continue;
            }
            Event::Decided(decided) => (decided.stream, decided.at.epoch, true),
            Event::Closed { stream, closure } => (*stream, closure.epoch, false),
            _ => continue,
        };
        if let Some((end, stop)) = stopped.get(&(&**node, stream))
            && epoch <= *end
        {
            let what = format!("{node} stopped in {end} and goes on in {epoch}");
            violations.push(Violation::shown(STOPPED, what, log.events, [*stop, index]));
        }
        let (lease_end, leased) = leases.get(&(&**node, stream)).copied().unwrap_or_default();
        if needs_lease && *now >= lease_end {
            let what = format!(
                "{node} decides at {}, its lease ended at {}",
                Seconds(*now),
                Seconds(lease_end)
            );
            violations.push(Violation::shown(STOPPED, what, log.events, [leased, index]));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{
        closed, counted, decided, handed_opening, happened_at, judge_all, leased, opening, released, serving,
        stopped,
    };

    /// The owner of epoch 1 leased up to 100, closed through 40 and committed at 30.
    fn history(more: Vec<(&'static str, Event)>) -> Vec<String> {
        let mut events = vec![
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", serving(1, 0, 50)),
            ("a-1", decided(1, 2, 1, 5, 30, "x")),
            ("a-1", leased(1, 100)),
            ("a-1", closed(1, 40, 2)),
            ("a-1", counted(1, 1, 2)),
        ];
        events.extend(more);
        judge_all(
            check,
            &happened_at(events.into_iter().map(|(node, event)| (20, node, event))),
        )
    }

    fn resumed(floor: u64) -> Event {
        match opening(2, 3, (1, 2), floor) {
            Event::Opening {
                stream,
                at,
                adopted,
                floor,
                lease_end,
                map,
                ..
            } => Event::Opening {
                stream,
                at,
                adopted,
                floor,
                lease_end,
                map,
                resumed: true,
                handed: false,
            },
            other => other,
        }
    }

    #[test]
    fn a_successor_begins_above_the_lease() {
        let good = vec![
            ("a-2", opening(2, 3, (1, 2), 100)),
            ("a-2", serving(2, 100, 200)),
            ("a-2", decided(2, 4, 2, 100, 101, "x")),
        ];
        assert_eq!(history(good), [""; 0]);
    }

    #[test]
    fn one_that_begins_below_is_found_also_if_the_lease_becomes_known_later() {
        assert_eq!(history(vec![("a-2", opening(2, 3, (1, 2), 99))]).len(), 1);
        let late = vec![("a-2", opening(2, 3, (1, 2), 100)), ("a-1", leased(1, 101))];
        assert_eq!(history(late).len(), 1);
        let low = vec![("a-2", opening(2, 3, (1, 2), 100)), ("a-2", serving(2, 99, 200))];
        assert_eq!(history(low).len(), 1, "window_low");
        let below = vec![
            ("a-2", opening(2, 3, (1, 2), 100)),
            ("a-2", serving(2, 100, 200)),
            ("a-2", decided(2, 4, 2, 90, 100, "x")),
        ];
        assert_eq!(history(below).len(), 1, "commit at the floor");
    }

    #[test]
    fn a_release_and_a_fence_anew_stand_in_place_of_the_lease_but_not_of_closures() {
        let handover = |floor| vec![("a-1", released(1, 3, 45)), ("a-2", opening(2, 4, (1, 3), floor))];
        assert_eq!(history(handover(45)), [""; 0]);
        assert_eq!(history(handover(44)).len(), 1);
        assert_eq!(history(vec![("a-1", resumed(40))]), [""; 0]);
        assert_eq!(history(vec![("a-1", resumed(39))]).len(), 1);
    }

    #[test]
    fn a_state_that_was_handed_over_belongs_to_the_release_and_keeps_its_window() {
        let handover = |adopted, floor, window| {
            let mut serving = serving(2, floor, 200);
            if let Event::Serving { window_low, .. } = &mut serving {
                *window_low = Timestamp(window);
            }
            let opening = handed_opening(2, 4, adopted, floor);
            vec![("a-1", released(1, 3, 45)), ("a-2", opening), ("a-2", serving)]
        };
        assert_eq!(
            history(handover((1, 3), 40, 45)),
            [""; 0],
            "below the floor of the record"
        );
        assert_eq!(history(handover((1, 3), 39, 45)).len(), 1, "below a closure");
        assert_eq!(history(handover((1, 3), 40, 44)).len(), 1, "below the window");
        assert_eq!(
            history(handover((1, 2), 100, 100)).len(),
            1,
            "another end of the log"
        );
    }

    #[test]
    fn nothing_is_decided_or_closed_after_the_end() {
        let end = |event| vec![("a-1", stopped(1)), ("a-1", event)];
        assert_eq!(history(end(closed(1, 40, 2))).len(), 1);
        assert_eq!(history(end(decided(1, 3, 2, 35, 41, "x"))).len(), 1);
        let lapsed = [
            (1, "a-1", serving(1, 0, 50)),
            (50, "a-1", decided(1, 2, 1, 5, 60, "x")),
        ];
        assert_eq!(judge_all(check, &happened_at(lapsed)).len(), 1);
    }
}
