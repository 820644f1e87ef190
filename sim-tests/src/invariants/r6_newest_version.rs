//! R6. For every read of key k at snapshot s at a storage node: it finds the newest committed version of k with commit <= s.
//! A scan meets no version after s, and has met the newest one of all the keys that it looked at.
//!
//! Runs are shorter than the retention: nothing that a read should find was dropped.

use meridian_types::Timestamp;

use super::log::{newest_at, versions};
use super::{Log, Violation};
use crate::events::{Event, Seconds};

const NAME: &str = "R6 the newest version";

/// Every read at every storage node.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let versions = versions(log);
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        let (at, found, expected) = match &happened.event {
            Event::LookedUp { at, key, newest } => {
                let of_key = versions.get(key.as_ref());
                (at, newest, of_key.and_then(|of_key| newest_at(of_key, *at)))
            }
            Event::Scanned { at, keys, newest } => {
                let of_keys = versions.range::<[u8], _>(keys.bounds());
                let newest_of = of_keys.filter_map(|(_, of_key)| newest_at(of_key, *at));
                let best = newest_of.max_by_key(|(commit, _)| *commit);
                // What it met before counts as well.
                (
                    at,
                    newest,
                    best.filter(|(commit, _)| commit > newest || newest > at),
                )
            }
            _ => continue,
        };
        let is_exact = matches!(happened.event, Event::LookedUp { .. });
        let commit = expected.map_or(Timestamp::ZERO, |(commit, _)| commit);
        if found > at || (is_exact || expected.is_some()) && *found != commit {
            let (at, found, commit) = (Seconds(*at), Seconds(*found), Seconds(commit));
            let what = format!("a read at {at} finds the version of {found}, the newest is that of {commit}");
            let writer = expected.map(|(_, writer)| writer);
            violations.push(Violation::shown(
                NAME,
                what,
                log.events,
                writer.into_iter().chain([index]),
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, judge, looked_up, opening, scanned};

    /// x was written at 10 and 20, y at 20.
    fn reading(read: Event) -> Vec<String> {
        let history = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 15, 20, "x y")),
            ("a-1", counted(1, 1, 3)),
            ("s-1", read),
        ];
        judge(check, history)
    }

    #[test]
    fn the_newest_at_the_snapshot_is_right() {
        for (at, newest) in [(9, 0), (10, 10), (19, 10), (20, 20), (90, 20)] {
            assert_eq!(reading(looked_up(at, "x", newest)), [""; 0], "{at}");
            assert_eq!(reading(scanned(at, "a", "z", newest)), [""; 0], "{at}");
        }
        assert_eq!(reading(scanned(15, "y", "z", 10)), [""; 0], "met before");
        assert_eq!(reading(looked_up(15, "q", 0)), [""; 0]);
    }

    #[test]
    fn an_older_one_a_later_one_and_one_that_was_not_committed_are_wrong() {
        assert_eq!(reading(looked_up(30, "x", 10)).len(), 1);
        assert_eq!(reading(looked_up(30, "x", 0)).len(), 1);
        assert_eq!(reading(looked_up(15, "x", 20)).len(), 1);
        assert_eq!(reading(looked_up(30, "x", 25)).len(), 1);
        assert_eq!(reading(scanned(30, "a", "z", 10)).len(), 1);
        assert_eq!(reading(scanned(15, "a", "z", 20)).len(), 1);
    }
}
