//! Checkers that see nothing find nothing: every event must be readable, and a run that came to its end must have those
//! that every such run has.

use std::collections::BTreeSet;

use super::{Evidence, Violation};
use crate::events::Happened;

const NAME: &str = "the checkers see what happens";

/// What happens in every run: clients write and are answered, everything is applied everywhere, and an auditor scans it.
const EXPECTED: [&str; 19] = [
    "booted",
    "started",
    "ended",
    "opening",
    "serving",
    "leased",
    "decided",
    "answered",
    "closed",
    "counted",
    "mounted",
    "promised",
    "accepted",
    "persisted",
    "restored",
    "applied",
    "complete",
    "scanned",
    "shown",
];

/// Unreadable events, and missing kinds.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut violations: Vec<Violation> = missing(evidence.events)
        .into_iter()
        .filter(|_| evidence.audit.is_some())
        .map(|name| Violation::new(NAME, format!("no event {name:?} in the whole run"), []))
        .collect();
    if let Some(first) = evidence.unreadable.first() {
        let count = evidence.unreadable.len();
        violations.push(Violation::new(
            NAME,
            format!("{count} events cannot be read: {first}"),
            [],
        ));
    }
    violations
}

fn missing(events: &[Happened]) -> Vec<&'static str> {
    let seen: BTreeSet<&str> = events.iter().map(|happened| happened.event.name()).collect();
    EXPECTED.into_iter().filter(|name| !seen.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, happened, scanned};

    #[test]
    fn a_run_without_events_is_not_taken_for_a_good_one() {
        assert_eq!(missing(&[]).len(), EXPECTED.len());
        let some = happened([
            ("journal-1", counted(1, 1, 2)),
            ("storage-1", scanned(7, "a", "b", 3)),
        ]);
        let missing = missing(&some);
        assert_eq!(missing.len(), EXPECTED.len() - 2);
        assert!(!missing.contains(&"counted") && !missing.contains(&"scanned"));
    }
}
