//! Section 7 and decision 28. For every journal node N that trims a stream up to an entry b:
//!
//! - every storage node of the cluster has said before, at least once, that its checkpoint holds the stream up to b or further;
//! - b is committed, as the entry that it is;
//! - N holds an `Opened` or `Lease` record after b, which a new owner needs;
//! - the stream is not the meta stream.
//!
//! That a new owner's floor is above whatever was trimmed is R18, which is judged by all that happened and not by what is left of the log.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Lsn, Position, StreamId};

use super::{Log, Violation};
use crate::events::Event;

const NAME: &str = "7 trimming";

type Place<'a> = (&'a str, StreamId);

/// What is known so far.
#[derive(Default)]
struct Seen<'a> {
    /// The highest entry of a stream that a storage node's checkpoint holds.
    checkpointed: BTreeMap<Place<'a>, Position>,
    /// The `Opened` and `Lease` records of a stream that a journal node holds.
    leases: BTreeMap<Place<'a>, BTreeSet<Lsn>>,
    /// The last entry of a stream that it holds.
    last: BTreeMap<Place<'a>, Lsn>,
}

impl<'a> Seen<'a> {
    /// The node holds this entry, and nothing after it.
    fn on_persisted(&mut self, log: &Log<'_>, place: Place<'a>, at: Position) {
        let leases = self.leases.entry(place).or_default();
        // It replaces what was there.
        leases.split_off(&at.lsn);
        if is_lease(log, place.1, at) {
            leases.insert(at.lsn);
        }
        self.last.insert(place, at.lsn);
    }

    /// The node finds that it holds the entries up to this one. It may have died before it said so of the last of them.
    fn on_recovered(&mut self, log: &Log<'_>, place: Place<'a>, last: Lsn) {
        let before = self.last.insert(place, last).unwrap_or_default();
        let leases = self.leases.entry(place).or_default();
        leases.split_off(&last.next());
        let committed = log.streams.get(&place.1).map(|stream| &stream.committed);
        let unsaid = before.0 + 1..=last.0;
        let positions = unsaid.filter_map(|lsn| committed?.get(&Lsn(lsn)).map(|entry| entry.at));
        leases.extend(
            positions
                .filter(|at| is_lease(log, place.1, *at))
                .map(|at| at.lsn),
        );
    }
}

/// Every trimming.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut seen = Seen::default();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let node = &*happened.node;
        match &happened.event {
            Event::Checkpointed { stream, at } => {
                let highest = seen.checkpointed.entry((node, *stream)).or_default();
                if at.lsn >= highest.lsn {
                    *highest = *at;
                }
            }
            Event::Persisted { stream, at, .. } => seen.on_persisted(log, (node, *stream), *at),
            Event::Recovered { stream, last, .. } => seen.on_recovered(log, (node, *stream), last.lsn),
            Event::Trimmed { stream, at } => {
                let faults = faults(log, &seen, (node, *stream), *at);
                let shown = |what| Violation::shown(NAME, format!("{node} {what}"), log.events, [index]);
                violations.extend(faults.into_iter().map(shown));
            }
            _ => {}
        }
    }
    violations
}

/// Records that owners do not log when they append them are leases.
fn is_lease(log: &Log<'_>, stream: StreamId, at: Position) -> bool {
    let Some(stream) = log.streams.get(&stream) else {
        return false;
    };
    let Some(records) = stream.records.get(&at) else {
        return true;
    };
    let is_opening = |index: &usize| matches!(log.event(*index), Some(Event::Opening { .. }));
    records.iter().any(is_opening)
}

fn faults(log: &Log<'_>, seen: &Seen<'_>, place: Place<'_>, base: Position) -> Vec<String> {
    let stream = place.1;
    let mut faults = Vec::new();
    if stream == StreamId::META {
        faults.push("trims the meta stream".to_owned());
    }
    for storage in &log.storage {
        let held = seen.checkpointed.get(&(storage.as_str(), stream)).copied();
        let held = held.unwrap_or_default();
        if held.lsn < base.lsn || (held.lsn == base.lsn && held != base) {
            faults.push(format!(
                "trims up to {base}, but the checkpoint of {storage} ends at {held}"
            ));
        }
    }
    let entries = log.streams.get(&stream);
    let committed = entries.and_then(|entries| entries.committed.get(&base.lsn));
    match committed {
        Some(committed) if committed.at == base => {}
        Some(committed) => faults.push(format!("trims {base}, but {} is committed there", committed.at)),
        None => faults.push(format!("trims {base}, which is not committed")),
    }
    let leases = seen.leases.get(&place);
    if leases
        .and_then(BTreeSet::last)
        .is_none_or(|last| *last <= base.lsn)
    {
        faults.push(format!("trims up to {base} and holds no lease after it"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{STREAM, counted, decided, judge, opening, persisted};

    fn check_with_two(log: &Log<'_>) -> Vec<Violation> {
        let mut two = Log::new(log.events, log.maps[&1]);
        two.storage = ["s-1", "s-2"].map(str::to_owned).to_vec();
        check(&two)
    }

    fn at(epoch: u64, lsn: u64) -> Position {
        Position::new(epoch, lsn)
    }

    fn checkpointed(epoch: u64, lsn: u64) -> Event {
        let at = at(epoch, lsn);
        Event::Checkpointed { stream: STREAM, at }
    }

    fn trimmed(epoch: u64, lsn: u64) -> Event {
        let at = at(epoch, lsn);
        Event::Trimmed { stream: STREAM, at }
    }

    /// Two storage nodes; commits at 2 and 3 between `Opened` and a lease at 4.
    fn judged(events: Vec<(&'static str, Event)>) -> Vec<String> {
        let mut history = vec![
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 0, 10, "k")),
            ("a-1", decided(1, 3, 2, 0, 11, "k")),
        ];
        history.extend((1..=4).map(|lsn| ("j-1", persisted(1, lsn, 0))));
        history.push(("j-1", counted(1, 1, 4)));
        history.extend(events);
        judge(check_with_two, history)
    }

    #[test]
    fn what_all_have_and_a_lease_follows_may_go() {
        let events = vec![
            ("s-1", checkpointed(1, 3)),
            ("s-2", checkpointed(1, 4)),
            ("s-2", checkpointed(1, 2)),
            ("j-1", trimmed(1, 3)),
        ];
        assert_eq!(judged(events), [""; 0]);
    }

    #[test]
    fn whatever_is_missing_is_found() {
        let both = |last| {
            vec![
                ("s-1", checkpointed(1, 4)),
                ("s-2", checkpointed(1, 4)),
                ("j-1", last),
            ]
        };
        assert_eq!(judged(both(trimmed(1, 4))).len(), 1, "no lease after it");
        assert_eq!(judged(both(trimmed(2, 3))).len(), 1, "another entry is committed");
        assert_eq!(judged(both(trimmed(1, 5))).len(), 4, "nothing is right of that");
        let one = vec![("s-1", checkpointed(1, 4)), ("j-1", trimmed(1, 3))];
        assert_eq!(judged(one).len(), 1, "one has told nothing");
        let late = vec![
            ("s-1", checkpointed(1, 4)),
            ("j-1", trimmed(1, 3)),
            ("s-2", checkpointed(1, 4)),
        ];
        assert_eq!(judged(late).len(), 1, "one tells too late");
    }
}
