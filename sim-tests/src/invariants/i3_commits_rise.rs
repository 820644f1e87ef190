//! I3. For all transactions' records a, b of one stream that are in one log: a.lsn < b.lsn implies a.commit < b.commit.
//!
//! Over the committed log, and over what each owner appends whether or not it is ever committed; and R2: a commit lies above
//! its own start.

use std::collections::BTreeMap;

use meridian_types::{Epoch, StreamId};

use super::{Log, Violation};
use crate::events::{Decided, Event, Short};

const NAME: &str = "I3 commits rise with the lsn";

/// Neighbours in the committed log, and in each owner's.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let committed: Vec<(usize, &Decided)> = log.committed().collect();
    let mut violations = neighbours(log, committed.iter().copied());
    let mut owned: BTreeMap<(StreamId, Epoch), Vec<(usize, &Decided)>> = BTreeMap::new();
    for (index, happened) in log.all() {
        if let Event::Decided(decided) = &happened.event {
            let owner = (decided.stream, decided.at.epoch);
            owned.entry(owner).or_default().push((index, decided));
            if decided.commit <= decided.start {
                let what = format!("{} commits at or before its own start (R2)", Short(decided.txn));
                violations.push(Violation::shown(NAME, what, log.events, [index]));
            }
        }
    }
    for records in owned.into_values() {
        violations.extend(neighbours(log, records.into_iter()));
    }
    violations
}

fn neighbours<'a>(log: &Log<'_>, records: impl Iterator<Item = (usize, &'a Decided)>) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut before: Option<(usize, &Decided)> = None;
    for (index, decided) in records {
        if let Some((first, earlier)) = before
            && earlier.stream == decided.stream
            && (earlier.commit >= decided.commit || earlier.at.lsn >= decided.at.lsn)
        {
            let what = format!("{} follows {} and commits no later", decided.at, earlier.at);
            violations.push(Violation::shown(NAME, what, log.events, [first, index]));
        }
        before = Some((index, decided));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, judge, opening};

    #[test]
    fn rising_commits_are_good_also_over_a_takeover() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 5, 90, "y")),
            ("a-2", opening(2, 3, (1, 2), 50)),
            ("a-2", decided(2, 4, 3, 50, 60, "x")),
            ("a-2", counted(2, 2, 4)),
        ];
        assert_eq!(judge(check, good), [""; 0], "e1/3 is in another log");
    }

    #[test]
    fn a_falling_commit_is_found_within_an_epoch_and_across_two() {
        let within = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 5, 10, "y")),
        ];
        assert_eq!(judge(check, within).len(), 1);
        let across = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 90, "x")),
            ("a-2", opening(2, 3, (1, 2), 50)),
            ("a-2", decided(2, 4, 3, 50, 60, "x")),
            ("a-2", counted(2, 2, 4)),
        ];
        assert_eq!(judge(check, across).len(), 1);
        assert_eq!(
            judge(check, [("a-1", decided(1, 2, 1, 10, 10, "x"))]).len(),
            1,
            "R2"
        );
    }
}
