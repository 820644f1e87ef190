//! I2s. For every committed T and every key k that T had checked: no committed W of another transaction in k with
//! T.start < W.commit < T.commit. T saw the newest version at T.start, and so the newest before T.commit.
//!
//! Checked are all reads of a serializable transaction and those *for update* of any other.

use std::collections::BTreeMap;

use meridian_types::{KeyRange, Timestamp, TxnId};

use super::log::versions;
use super::{Log, Violation};
use crate::events::{Event, Short};

const NAME: &str = "I2s serializable";

/// Every checked range of every committed transaction against the versions in it.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let versions = versions(log);
    // What was checked at other ranges stands in their votes.
    let mut elsewhere: BTreeMap<(TxnId, u32), Vec<&KeyRange>> = BTreeMap::new();
    for (_, happened) in log.all() {
        if let Event::Voted(voted) = &happened.event {
            let checked = elsewhere.entry((voted.txn, voted.attempt)).or_default();
            checked.extend(&voted.checked);
        }
    }
    let mut violations = Vec::new();
    for (index, decided) in log.committed() {
        let is_during = |commit: Timestamp| decided.start < commit && commit < decided.commit;
        let voted = elsewhere
            .get(&(decided.txn, decided.attempt))
            .into_iter()
            .flatten();
        let checked = decided
            .checked
            .iter()
            .chain(voted.copied())
            .flat_map(|range| versions.range::<[u8], _>(range.bounds()));
        for (key, versions) in checked {
            if let Some((_, writer)) = versions.iter().find(|(commit, _)| is_during(*commit)) {
                let what = format!(
                    "{} read {}, which another transaction wrote before it committed",
                    Short(decided.txn),
                    key.escape_ascii()
                );
                violations.push(Violation::shown(NAME, what, log.events, [*writer, index]));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{checking, counted, decided, in_stream, judge, opening, voted};

    #[test]
    fn what_was_read_may_change_before_and_after() {
        let good = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 1, 5, 10, "x")),
            ("a-1", checking(1, 3, 2, 10, 20, "y", "x y")),
            ("a-1", decided(1, 4, 3, 15, 30, "x")),
            ("a-1", counted(1, 1, 4)),
        ];
        assert_eq!(judge(check, good), [""; 0]);
    }

    #[test]
    fn what_another_range_checked_counts_as_well() {
        let skew = |checked| {
            [
                ("a-2", in_stream(2, opening(1, 1, (0, 0), 0))),
                ("a-1", Event::Voted(voted(1, 2, (8, 30), "", checked))),
                ("a-2", in_stream(2, decided(1, 2, 1, 5, 10, "x"))),
                ("a-2", in_stream(2, decided(1, 3, 2, 5, 20, "y"))),
                ("a-2", in_stream(2, counted(1, 1, 3))),
            ]
        };
        assert_eq!(judge(check, skew("z")), [""; 0]);
        assert_eq!(judge(check, skew("x")).len(), 1);
    }

    #[test]
    fn write_skew_is_found() {
        let bad = [
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", checking(1, 2, 1, 5, 10, "x", "x y")),
            ("a-1", checking(1, 3, 2, 6, 20, "y", "x y")),
            ("a-1", counted(1, 1, 3)),
        ];
        let found = judge(check, bad);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(" read x,"), "{found:?}");
    }
}
