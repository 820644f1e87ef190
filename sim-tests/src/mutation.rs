//! One rule broken on purpose at a time, so that the checkers are known to fail.
//!
//! Some break the world that a service lives in (its disk, its clock): any build of this program can. The others break
//! the services' own code ([`Rule`]); they are there in builds with the feature `mutation` only. Each may bias the plan
//! of a run, so that the faults occur that the rule is there for; the checkers are always the same.

use std::fmt;
use std::str::FromStr;

use meridian_types::mutation::Rule;

mod bias;

pub use bias::Bias;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// The world around the services.
    World(World),
    /// The services.
    Rule(Rule),
}

/// What is broken around the services: the rule is then broken as if the code did not keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum World {
    /// Journal nodes acknowledge appends that are not synced: the disk's sync does nothing.
    SyncLies,
    /// R3: query processors tell of a commit without waiting until its timestamp is past.
    CommitWaitSkipped,
    /// R4: storage nodes answer without waiting until the versions' timestamps are past.
    UncertaintyWaitSkipped,
}

impl World {
    const ALL: [Self; 3] = [
        Self::SyncLies,
        Self::CommitWaitSkipped,
        Self::UncertaintyWaitSkipped,
    ];

    /// Whether this is what is broken.
    pub fn is_on(self, mutation: Option<Mutation>) -> bool {
        mutation == Some(Mutation::World(self))
    }

    fn name(self) -> &'static str {
        match self {
            Self::SyncLies => "no-sync",
            Self::CommitWaitSkipped => "no-commit-wait",
            Self::UncertaintyWaitSkipped => "no-uncertainty-wait",
        }
    }
}

impl Mutation {
    /// All of them, whether this build has them or not.
    pub fn all() -> impl Iterator<Item = Self> {
        let rules = Rule::ALL.into_iter().map(Self::Rule);
        rules.chain(World::ALL.into_iter().map(Self::World))
    }

    /// Whether this build can break it.
    pub fn is_available(self) -> bool {
        cfg!(feature = "mutation") || matches!(self, Self::World(_))
    }

    /// Breaks it in this process.
    pub fn arm(self) -> Result<(), String> {
        match self {
            Self::World(_) => Ok(()),
            #[cfg(feature = "mutation")]
            Self::Rule(rule) => {
                meridian_types::mutation::break_rule(rule);
                Ok(())
            }
            #[cfg(not(feature = "mutation"))]
            Self::Rule(rule) => Err(format!(
                "{} breaks the services' code, which this build cannot: \
                 cargo run --release -p sim-tests --features mutation -- --mutation {0}",
                rule.name()
            )),
        }
    }

    /// The rule that is broken, in the protocol's numbering, and what is broken about it.
    pub fn says(self) -> &'static str {
        match self {
            Self::World(World::SyncLies) => "7: the disk's sync does nothing",
            Self::World(World::CommitWaitSkipped) => "R3: query processors' clocks claim to be exact",
            Self::World(World::UncertaintyWaitSkipped) => "R4: storage nodes' clocks claim to be exact",
            Self::Rule(rule) => rule_says(rule),
        }
    }
}

fn rule_says(rule: Rule) -> &'static str {
    match rule {
        Rule::StartLatest => "R1: `start` is `now.earliest`",
        Rule::StartFixed => "R1: every read takes a snapshot of its own",
        Rule::CommitAfterStart => "R2: `start + 1` is left out",
        Rule::CommitOrder => "R2, I3: `floor + 1` is left out",
        Rule::CommitWait => "R3: told committed without the wait",
        Rule::UncertaintyWait => "R4: answered without the wait",
        Rule::ClosureWait => "R5: read without waiting for the closure",
        Rule::SnapshotVersion => "R6: the newest version of all is returned",
        Rule::HeldKeys => "R6: any storage node is asked for any key, and answers",
        Rule::OwnWrites => "R7: own writes are not laid over reads of single keys",
        Rule::ConflictCheck => "4: conflicts are not looked for",
        Rule::ReadCheck => "4, I2s: reads are not checked",
        Rule::WindowLow => "4: forgetting recent writes leaves `window_low`",
        Rule::OutcomesRecovered => "5: a successor does not know the outcomes in the log",
        Rule::DurableBar => "5: told aborted before the `Barred` record is durable",
        Rule::AttemptBar => "5: an attempt told to be aborted is not refused later",
        Rule::PromisedWrites => "R11: a vote's keys may be written meanwhile",
        Rule::HeldReads => "R11: what a vote has checked may be written meanwhile",
        Rule::PrepareClosure => "R12: closures do not wait for open prepares",
        Rule::PrepareOutcome => "R12: a prepare ends without an outcome",
        Rule::HomeFloor => "5.2: the home's `floor + 1` is left out",
        Rule::HomePromise => "5.2: the home commits above a promise",
        Rule::OutcomeFloor => "5.4: an outcome does not raise the participants' floors",
        Rule::OutcomeDependency => "5.4: closures do not wait for the records learnt",
        Rule::AttemptName => "5: an outcome counts for any attempt of its transaction",
        Rule::MapVersion => "5.1: votes for homes of any version of the map",
        Rule::RaiseFloor => "R19: closes without asking the other streams",
        Rule::ClosureLease => "R13: closures reach beyond the lease",
        Rule::ClosureFloor => "R13: closures do not raise the floor",
        Rule::ClosureOrder => "R14: closures overtake what they depend on",
        Rule::FeedCommitted => "R14: uncommitted entries are fed to storage",
        Rule::TakeoverFloor => "R18: a new owner's floor ignores leases",
        Rule::TakeoverWindow => "R18: a new owner's `window_low` is zero",
        Rule::ReleaseFloor => "8: a released range is taken on without its floor",
        Rule::SealedStream => "8: a sealed stream goes on",
        Rule::OriginFloor => "8: keys are taken over without what was said of them",
        Rule::SourceDependency => "8: closures do not wait for the ends of streams",
        Rule::InheritedBars => "5: a stream that takes over keys forgets who was barred",
        Rule::HandOverWindow => "8: the window is handed over without the recent writes",
        Rule::HandOverPosition => "8: what was handed over is used at another end of the log",
        Rule::StaleAppend => "7: appends below the promised epoch are taken",
        Rule::PreviousPosition => "7: the epoch of `prev` is not looked at",
        Rule::CurrentEpoch => "7: entries of older epochs are counted as committed",
        Rule::Quorum => "7: one replica is taken for a quorum",
        Rule::LogChoice => "7: any log that answered is adopted",
        Rule::FencePromise => "7: a fence's promise is not persisted",
        Rule::SyncBeforeAck => "7: acknowledged without `fdatasync`",
        Rule::TrimEarly => "28: what storage nodes have no checkpoint of is trimmed",
        Rule::CacheNewest => "33: what is the newest at a snapshot is kept as the newest of all",
        Rule::AtomicApply => "9: the position is applied before the writes",
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::World(world) => world.name(),
            Self::Rule(rule) => rule.name(),
        })
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|mutation| mutation.to_string() == name);
        found.ok_or_else(|| {
            let names: Vec<String> = Self::all().map(|mutation| mutation.to_string()).collect();
            format!("there is no mutation {name:?}, only {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again() {
        for mutation in Mutation::all() {
            assert_eq!(mutation.to_string().parse(), Ok(mutation));
            assert!(!mutation.says().is_empty());
        }
        assert!("no-such-rule".parse::<Mutation>().is_err());
    }

    #[test]
    fn a_plan_is_only_changed_where_the_table_says_so() {
        use crate::plan::Plan;
        let shown = |mutation| {
            let mut plan = Plan::new(7, mutation);
            plan.mutation = None;
            format!("{plan:?}")
        };
        let plain = shown(None);
        let unbiased = Mutation::all().filter(|mutation| mutation.bias().is_none());
        for mutation in unbiased {
            assert_eq!(shown(Some(mutation)), plain, "{mutation}");
        }
    }
}
