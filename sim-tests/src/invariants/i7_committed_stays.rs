//! I7. For every entry x that was ever committed, in the log of an owner of epoch e, and every owner of a later epoch: x is in
//! its log, at the same lsn. And no journal node replaces an entry that it has counted as committed.

use super::{Log, StreamLog, Violation};

const NAME: &str = "I7 what is committed stays";

/// Every committed entry in the log of every later owner.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    log.each_stream(check_stream)
}

fn check_stream(log: &Log<'_>, stream: &StreamLog) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (epoch, opening) in &stream.openings {
        let lost = stream.committed.values().find(|entry| {
            entry.by.is_some_and(|(by, _)| by < *epoch)
                && stream.entry(*epoch, entry.at.lsn) != Some(entry.at)
        });
        if let Some(lost) = lost {
            let what = format!(
                "{} was committed and is not in the log that {epoch} adopted",
                lost.at
            );
            let records = stream.records.get(&lost.at).cloned().unwrap_or_default();
            let by = lost.by.map(|(_, index)| index);
            let shown_by = records.into_iter().chain(by).chain([opening.index]);
            violations.push(Violation::shown(NAME, what, log.events, shown_by));
        }
    }
    for (lsn, index) in &stream.replaced {
        let what = format!("a journal node replaced the entry {lsn} that it had counted as committed");
        violations.push(Violation::shown(NAME, what, log.events, [*index]));
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, judge, opening, persisted};

    #[test]
    fn what_was_not_committed_may_go() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", decided(1, 3, 2, 5, 11, "x")),
            ("a-1", counted(1, 1, 2)),
            ("a-2", opening(2, 3, (1, 2), 50)),
            ("a-2", counted(2, 2, 3)),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn a_candidate_that_came_to_nothing_may_have_missed_what_a_later_owner_commits() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-2", opening(2, 2, (1, 1), 50)),
            ("a-1", opening(3, 3, (1, 2), 50)),
            ("a-1", counted(3, 3, 3)),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn a_committed_entry_that_is_not_adopted_is_found_also_when_it_is_learnt_late() {
        let bad = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-2", opening(2, 2, (1, 1), 50)),
            ("a-1", counted(1, 1, 2)),
        ];
        assert_eq!(judge(check, bad).len(), 1);
    }

    #[test]
    fn a_journal_node_keeps_what_it_counted() {
        let history = |counted_to| {
            [
                ("j-1", persisted(1, 1, 0)),
                ("j-1", persisted(1, 2, 0)),
                ("j-1", counted(1, 1, counted_to)),
                ("j-1", persisted(2, 2, 0)),
            ]
        };
        assert_eq!(judge(check, history(1)), [""; 0]);
        assert_eq!(judge(check, history(2)).len(), 1);
    }
}
