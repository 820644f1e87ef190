//! R19. For every answer (floor y, lsn) to `RaiseFloor` whose lsn its owner had committed: no committed record of that stream beyond
//! the lsn has a commit timestamp at or below y, in whatever epoch.
//! And for every closure x of an owner that opened anew with floor F: the owner of every other stream of the map version that its
//! `Opened` names has promised min(x, F) since the opening, and the closure names the lsn of such a promise; or that stream has ended, and
//! the closure names its last record, as it does for every stream that had ended before. The `meta` stream holds no keys and is exempt.

use std::collections::BTreeMap;

use meridian_protocol::closing::Closure;
use meridian_types::{Epoch, Lsn, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::{Event, Seconds};

const RAISED: &str = "R19 raised floors stay";
const ASKED: &str = "R19 closures wait for raised floors";

/// An owner that opened anew: the event, its floor, and the version of the range map that its record names.
type Opened = (usize, Timestamp, u64);
/// A floor that was promised: by which event, how high, and up to which lsn others count.
type Raise = (usize, Timestamp, Lsn);

/// Every closure against the promises before it.
pub fn asked(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut opened: BTreeMap<(StreamId, Epoch), Opened> = BTreeMap::new();
    let mut raised: BTreeMap<StreamId, Vec<Raise>> = BTreeMap::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Opening {
                stream,
                at,
                floor,
                map,
                resumed,
                handed,
                adopted,
                ..
            } if *stream != StreamId::META => {
                // Who was handed the state, or kept its own, goes on where the owner before it was.
                let goes_on = *resumed || *handed;
                let before = opened.get(&(*stream, adopted.epoch)).filter(|_| goes_on).copied();
                opened.insert((*stream, at.epoch), before.unwrap_or((index, *floor, *map)));
            }
            Event::Raised {
                stream, floor, lsn, ..
            } => {
                raised.entry(*stream).or_default().push((index, *floor, *lsn));
            }
            Event::Closed { stream, closure } => {
                if let Some(opening @ (opened, floor, _)) = opened.get(&(*stream, closure.epoch)) {
                    let missing = unasked(log, &raised, (*stream, closure), *opening);
                    violations.extend(missing.map(|other| {
                        let (x, floor) = (Seconds(closure.x), Seconds(*floor));
                        let what = format!(
                            "{stream} closes through {x}, opened with floor {floor}, without a promise of {other}"
                        );
                        Violation::shown(ASKED, what, log.events, [*opened, index])
                    }));
                }
            }
            _ => {}
        }
    }
    violations
}

/// A stream that did not promise what the closure needs of it.
fn unasked(
    log: &Log<'_>,
    raised: &BTreeMap<StreamId, Vec<Raise>>,
    (stream, closure): (StreamId, &Closure),
    (opening, floor, version): Opened,
) -> Option<StreamId> {
    let needed = closure.x.min(floor);
    if needed == Timestamp::ZERO {
        return None;
    }
    let named = |other: StreamId| {
        let after = closure.after.iter().find(|(after, _)| *after == other);
        after.map_or(Lsn(0), |(_, lsn)| *lsn)
    };
    let is_asked = |other: StreamId| {
        let raises = raised.get(&other).into_iter().flatten();
        let mut fit =
            raises.filter(|(index, y, lsn)| *index > opening && *y >= needed && *lsn <= named(other));
        fit.next().is_some()
    };
    // One that has ended needs no promise: its last record is named, or the promise that it gave before.
    let has_ended = |other: StreamId| log.retired(other).is_some_and(|last| last <= named(other));
    let map = log.maps.get(&version)?;
    let mut live = map.entries.iter().map(|range| range.stream);
    let mut retired = map.reshaping.retired.keys().copied();
    let missing = live.find(|other| *other != stream && !is_asked(*other) && !has_ended(*other));
    missing.or_else(|| retired.find(|other| *other != stream && !has_ended(*other)))
}

/// Every promise against the records after it.
pub fn kept(log: &Log<'_>) -> Vec<Violation> {
    let mut counted: BTreeMap<(StreamId, Epoch), Lsn> = BTreeMap::new();
    for (_, happened) in log.all() {
        if let Event::Counted { stream, owner, at } = &happened.event {
            let known = counted.entry((*stream, *owner)).or_default();
            *known = (*known).max(at.lsn);
        }
    }
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let Event::Raised {
            stream,
            epoch,
            floor,
            lsn,
        } = &happened.event
        else {
            continue;
        };
        if counted.get(&(*stream, *epoch)).is_none_or(|known| known < lsn) {
            // It was never answered.
            continue;
        }
        let broken = log.committed().find(|(_, decided)| {
            decided.stream == *stream && decided.at.lsn > *lsn && decided.commit <= *floor
        });
        if let Some((record, decided)) = broken {
            let what = format!(
                "{} commits at or below {}, which was promised not to",
                decided.at,
                Seconds(*floor)
            );
            violations.push(Violation::shown(RAISED, what, log.events, [index, record]));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use meridian_types::{Key, RangeMap};

    use super::*;
    use crate::invariants::testing::{
        closed_after, counted, decided, happened, in_stream, judge_in, opening,
    };

    fn raised(floor: u64, lsn: u64) -> Event {
        Event::Raised {
            stream: StreamId(2),
            epoch: Epoch(1),
            floor: Timestamp(floor),
            lsn: Lsn(lsn),
        }
    }

    fn judged(events: Vec<Event>) -> usize {
        let map = RangeMap::divided([Key::from("m")], |_| vec![]);
        let events = happened(events.into_iter().map(|event| ("a-1", event)));
        [asked, kept]
            .map(|check| judge_in(check, &map, &events).len())
            .iter()
            .sum()
    }

    /// Stream 2 decides at 10 and 20; its promise comes between the two.
    fn promise(floor: u64, lsn: u64, committed: u64) -> usize {
        judged(vec![
            in_stream(2, opening(1, 1, (0, 0), 0)),
            in_stream(2, decided(1, 2, 1, 5, 10, "x")),
            raised(floor, lsn),
            in_stream(2, decided(1, 3, 2, 15, 20, "x")),
            in_stream(2, counted(1, 1, committed)),
        ])
    }

    #[test]
    fn a_record_below_a_promise_is_found_unless_the_promise_names_it() {
        assert_eq!(promise(19, 2, 3), 0);
        assert_eq!(promise(20, 2, 3), 1);
        assert_eq!(promise(20, 3, 3), 0);
        assert_eq!(promise(20, 3, 2), 0, "nobody was told");
    }

    /// Stream 1 opens with floor 50 and closes through `x`, after a promise of stream 2.
    fn closing(x: u64, promise: (u64, u64), named: u64) -> usize {
        judged(vec![
            in_stream(2, opening(1, 1, (0, 0), 0)),
            opening(2, 3, (1, 2), 50),
            raised(promise.0, promise.1),
            closed_after(2, x, vec![(StreamId(1), Lsn(3)), (StreamId(2), Lsn(named))]),
        ])
    }

    #[test]
    fn closures_below_the_opening_floor_need_a_promise_as_high_and_name_its_lsn() {
        assert_eq!(closing(40, (40, 7), 7), 0);
        assert_eq!(closing(40, (39, 7), 7), 1);
        assert_eq!(closing(40, (40, 7), 6), 1);
        assert_eq!(closing(90, (50, 7), 7), 0, "above it no more is needed");
        assert_eq!(closing(90, (49, 7), 7), 1);
    }
}
