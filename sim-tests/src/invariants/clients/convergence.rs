//! After the end of all faults and all writes, the storage nodes hold the same newest versions.

use crate::invariants::{Evidence, Violation};

/// All nodes against the first.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let Some(((first, expected), others)) = evidence.stores.split_first() else {
        return Vec::new();
    };
    let mut violations = Vec::new();
    for (name, content) in others {
        let keys = expected.keys().chain(content.keys());
        let differing = keys.filter(|key| expected.get(*key) != content.get(*key));
        for key in differing.take(1) {
            let what = format!(
                "{key} is {:?} at {first} and {:?} at {name}",
                expected.get(key),
                content.get(key)
            );
            violations.push(Violation::new("storage nodes converge", what, []));
        }
    }
    violations
}
