//! I4. For every transaction T and every storage node N: N applies all of T's writes, of the keys that it holds, at T.commit, in one
//! step, or none.
//!
//! So every entry that a storage node takes is the one that was decided, with all its keys, and no entry is left out: the next
//! one follows the last.

use std::collections::BTreeMap;

use meridian_types::{Key, Lsn, StreamId, Timestamp};

use super::{Log, Violation};
use crate::events::Event;

const NAME: &str = "I4 atomicity";

/// Every entry at every storage node.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut last: BTreeMap<(&str, StreamId), (Lsn, usize)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (index, happened) in log.all() {
        match &happened.event {
            Event::Restored { stream, at } => {
                last.insert((&*happened.node, *stream), (at.lsn, index));
            }
            Event::Followed { stream, lsn } => {
                last.insert((&*happened.node, *stream), (*lsn, index));
            }
            Event::Applied {
                stream,
                at,
                commit,
                written,
            } => {
                let before = last.insert((&*happened.node, *stream), (at.lsn, index));
                let (before, shown_by) = before.unwrap_or((Lsn(0), index));
                if before.next() != at.lsn {
                    let what = format!("{} takes {at} after lsn {before}", happened.node);
                    violations.push(Violation::shown(NAME, what, log.events, [shown_by, index]));
                }
                let decided = log.decided(*stream, *at);
                let held = log.held.get(&*happened.node);
                let expected = decided.map_or((Timestamp::ZERO, Vec::new()), |(_, decided)| {
                    let mut written = sorted(&decided.written);
                    written.retain(|key| held.is_none_or(|held| held.contains(key.as_ref())));
                    (decided.commit, written)
                });
                if (*commit, sorted(written)) != expected {
                    let what = format!("{} takes {at} with other writes than were decided", happened.node);
                    let shown_by = decided.map(|(index, _)| index).into_iter().chain([index]);
                    violations.push(Violation::shown(NAME, what, log.events, shown_by));
                }
            }
            _ => {}
        }
    }
    violations
}

fn sorted(keys: &[Key]) -> Vec<&Key> {
    let mut keys: Vec<&Key> = keys.iter().collect();
    keys.sort();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{applied, decided, judge, opening, restored};

    #[test]
    fn all_writes_at_the_commit_timestamp_in_the_order_of_the_log_again_after_a_restart() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x y")),
            ("s-1", restored(0, 0)),
            ("s-1", applied(1, 1, 0, "")),
            ("s-1", applied(1, 2, 10, "y x")),
            ("s-1", restored(1, 1)),
            ("s-1", applied(1, 2, 10, "x y")),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn a_part_of_the_writes_another_timestamp_and_a_gap_are_found() {
        let taken = |entry| {
            [
                ("a-1", decided(1, 1, 1, 5, 10, "x y")),
                ("a-1", decided(1, 2, 2, 5, 11, "x")),
                ("s-1", entry),
            ]
        };
        assert_eq!(judge(check, taken(applied(1, 1, 10, "x y"))), [""; 0]);
        assert_eq!(judge(check, taken(applied(1, 1, 10, "x"))).len(), 1, "a part");
        assert_eq!(
            judge(check, taken(applied(1, 1, 11, "x y"))).len(),
            1,
            "another timestamp"
        );
        assert_eq!(judge(check, taken(applied(1, 2, 11, "x"))).len(), 1, "gap");
        assert_eq!(
            judge(check, taken(applied(2, 1, 10, "x"))).len(),
            1,
            "nobody decided it"
        );
    }
}
