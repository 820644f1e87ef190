//! I2s. For every committed T and every key k that T had checked: no committed W of another transaction in k with
//! T.start < W.commit < T.commit. T saw the newest version at T.start, and so the newest before T.commit.
//!
//! Checked are all reads of a serializable transaction and those *for update* of any other.

use meridian_types::Timestamp;

use super::log::versions;
use super::{Log, Violation};
use crate::events::Short;

const NAME: &str = "I2s serializable";

/// Every checked range of every committed transaction against the versions in it.
pub fn check(log: &Log<'_>) -> Vec<Violation> {
    let versions = versions(log);
    let mut violations = Vec::new();
    for (index, decided) in log.committed() {
        let is_during = |commit: Timestamp| decided.start < commit && commit < decided.commit;
        let checked = decided
            .checked
            .iter()
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
    use crate::invariants::testing::{checking, counted, decided, judge, opening};

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
