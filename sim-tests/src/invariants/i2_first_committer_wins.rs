//! I2. For all committed T1, T2 that wrote the same key: T1.commit <= T2.start or T2.commit <= T1.start.
//!
//! Over all records that were committed, acknowledged or not, with the starts that their owners judged them by.

use super::log::versions;
use super::{Log, Violation};
use crate::events::{Event, Short};

const NAME: &str = "I2 first committer wins";

/// Neighbours by commit timestamp, key by key: if they do not overlap, no two do.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, versions) in versions(log) {
        for pair in versions.windows(2) {
            let [(_, first), (_, second)] = *pair else {
                continue;
            };
            if let (Some(Event::Decided(one)), Some(Event::Decided(two))) =
                (log.event(first), log.event(second))
                && one.commit > two.start
            {
                let (one, two) = (Short(one.txn), Short(two.txn));
                let what = format!("{one} and {two} overlap and both wrote {}", key.escape_ascii());
                violations.push(Violation::shown(NAME, what, log.events, [first, second]));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, judge, opening};

    #[test]
    fn writers_that_follow_one_another_are_no_conflict() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "k l")),
            ("a-1", decided(1, 3, 2, 10, 20, "k")),
            ("a-1", decided(1, 4, 3, 5, 21, "m")),
            ("a-1", counted(1, 1, 4)),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn overlapping_writers_are_found_unless_one_was_not_committed() {
        let history = |up_to| {
            [
                ("a-1", opening(1, 1, (0, 0), 0)),
                ("a-1", decided(1, 2, 1, 5, 10, "k")),
                ("a-1", decided(1, 3, 2, 9, 20, "j k")),
                ("a-1", counted(1, 1, up_to)),
            ]
        };
        assert_eq!(judge(check, history(2)), [""; 0]);
        assert_eq!(judge(check, history(3)).len(), 1);
    }
}
