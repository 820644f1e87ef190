//! One rule broken on purpose at a time, so that the checkers are known to fail.
//!
//! These break the world that a service lives in (its disk, its clock), not its code: the rule is then broken exactly
//! as if the code did not keep it.

use std::fmt;
use std::str::FromStr;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Journal nodes acknowledge appends that are not synced: the disk's sync does nothing.
    SyncLies,
    /// R3: query processors tell of a commit without waiting until its timestamp is past.
    CommitWaitSkipped,
    /// R4: storage nodes answer without waiting until the versions' timestamps are past.
    UncertaintyWaitSkipped,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::SyncLies,
        Self::CommitWaitSkipped,
        Self::UncertaintyWaitSkipped,
    ];
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SyncLies => "no-sync",
            Self::CommitWaitSkipped => "no-commit-wait",
            Self::UncertaintyWaitSkipped => "no-uncertainty-wait",
        })
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL
            .into_iter()
            .find(|mutation| mutation.to_string() == name);
        found.ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("there is no mutation {name:?}, only {}", names.join(", "))
        })
    }
}
