//! After the end of all faults and all writes, the storage nodes hold the same newest versions of the keys that they both hold, and
//! none of others.

use crate::invariants::{Content, Evidence, Violation};
use crate::plan::Shards;

const NAME: &str = "storage nodes converge";

/// All nodes against each other.
pub fn check(evidence: &Evidence<'_>) -> Vec<Violation> {
    let shards = &evidence.plan.shards;
    let mut violations = Vec::new();
    for (index, one) in evidence.stores.iter().enumerate() {
        let held = shards.of(&one.0);
        if let Some(key) = one.1.keys().find(|key| !held.contains(key.as_bytes())) {
            let what = format!("{} has a version of {key}, which is not its to hold", one.0);
            violations.push(Violation::new(NAME, what, []));
        }
        let others = evidence.stores.iter().skip(index + 1);
        violations.extend(others.filter_map(|other| difference(shards, one, other)));
    }
    violations
}

/// Whether they hold the same of what both hold.
pub fn agree(shards: &Shards, stores: &[(String, Content)]) -> bool {
    let mut pairs = stores.windows(2);
    pairs.all(|pair| matches!(pair, [one, other] if difference(shards, one, other).is_none()))
}

fn difference(
    shards: &Shards,
    (first, expected): &(String, Content),
    (name, content): &(String, Content),
) -> Option<Violation> {
    let both = shards.of(first).intersection(&shards.of(name))?;
    let mut keys = expected.keys().chain(content.keys());
    let differs = |key: &&String| both.contains(key.as_bytes()) && expected.get(*key) != content.get(*key);
    let key = keys.find(differs)?;
    let what = format!(
        "{key} is {:?} at {first} and {:?} at {name}",
        expected.get(key),
        content.get(key)
    );
    Some(Violation::new(NAME, what, []))
}
