//! Rules of the protocol that can be broken on purpose, one at a time, to see that the simulation notices.
//!
//! Every place that keeps such a rule asks [`is_broken`]. Without the feature `mutation` that is a constant `false`, and
//! nothing of it is left in the program; no release is built with it. A name says what is forgotten.

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rule {
    /// R1: a snapshot is `now.latest` (broken: `now.earliest`).
    StartLatest,
    /// R1: the first read fixes the snapshot (broken: every read takes another one).
    StartFixed,
    /// R2: a commit timestamp is above the transaction's start.
    CommitAfterStart,
    /// R2, I3: a commit timestamp is above the stream's floor.
    CommitOrder,
    /// R3: nobody is told "committed" before the commit timestamp is past.
    CommitWait,
    /// R4: no read is answered before the timestamps of what it consulted are past.
    UncertaintyWait,
    /// R5: a read waits until its range is closed through its snapshot.
    ClosureWait,
    /// R6: a read returns the newest version at or below its snapshot (broken: the newest of all).
    SnapshotVersion,
    /// R6: a storage node is asked for, and answers, keys that it holds (broken: any node is asked for any key).
    HeldKeys,
    /// R7: a transaction reads its own writes.
    OwnWrites,
    /// Section 4: first committer wins.
    ConflictCheck,
    /// Section 4, I2s: reads that are to be checked are checked.
    ReadCheck,
    /// Section 4: forgetting recent writes raises `window_low`.
    WindowLow,
    /// Section 5: a successor knows the outcomes in the log.
    OutcomesRecovered,
    /// Section 5: "aborted" is told only after the `Barred` record is durable.
    DurableBar,
    /// Section 5: an attempt that was told to be aborted is refused when it still arrives.
    AttemptBar,
    /// R11: a vote's keys may be written by nobody whose snapshot is older than its promise.
    PromisedWrites,
    /// R11: what a vote has checked may be written by nobody whose snapshot is older than its promise.
    HeldReads,
    /// R12: a range is not closed at or above the `lower` of an open prepare.
    PrepareClosure,
    /// R12, 5.5: a prepare is open until its outcome is known (broken: silence is taken for an abort).
    PrepareOutcome,
    /// 5.2: the commit timestamp is above the home's floor when it decides.
    HomeFloor,
    /// 5.2: the commit timestamp is not above any promise.
    HomePromise,
    /// 5.4: an outcome raises the participants' floors.
    OutcomeFloor,
    /// 5.4: closures wait for the records of the outcomes learnt.
    OutcomeDependency,
    /// Section 5, attempts: outcomes are matched by the attempt's whole name.
    AttemptName,
    /// 5.1: a vote is given only for homes of the map version that the voter's last `Opened` or `Lease` names.
    MapVersion,
    /// R19: a new owner closes nothing before the other streams' owners have raised their floors.
    RaiseFloor,
    /// R13: a closure does not reach beyond the durable lease.
    ClosureLease,
    /// R13: a closure raises the floor.
    ClosureFloor,
    /// R14: a closure is sent and believed only after everything that it depends on.
    ClosureOrder,
    /// R14: only committed entries are fed to storage.
    FeedCommitted,
    /// R18: a new owner's floor is above every lease in the log.
    TakeoverFloor,
    /// R18: a new owner's `window_low` is above every commit in the log.
    TakeoverWindow,
    /// Section 8: a released range is taken on at the floor of its last owner.
    ReleaseFloor,
    /// Section 8: a sealed stream orders nothing any more.
    SealedStream,
    /// Section 8: a stream that takes over keys begins above everything that was said of them.
    OriginFloor,
    /// Section 8: closures of a stream that took over keys wait for the last records of its sources.
    SourceDependency,
    /// Section 5: a stream that takes over keys bars what its sources have barred.
    InheritedBars,
    /// Section 8: the recent writes are handed over with the window that they belong to (broken: the window alone).
    HandOverWindow,
    /// Section 8: what was handed over is used only by whose log ends with that `Released` record.
    HandOverPosition,
    /// Section 7: an append below the promised epoch is refused.
    StaleAppend,
    /// Section 7: an append is refused whose previous position differs.
    PreviousPosition,
    /// Section 7: only entries of the current epoch are counted for commitment.
    CurrentEpoch,
    /// Section 7: an entry is committed when a quorum has it (broken: when one replica has).
    Quorum,
    /// Section 7: a new owner adopts the log with the highest last position (broken: the first that it is told of).
    LogChoice,
    /// Section 7: the promise to refuse lower epochs is durable before a fence is answered.
    FencePromise,
    /// Section 7: an append is acknowledged only after `fdatasync`.
    SyncBeforeAck,
    /// Decision 28: only what every storage node has in a checkpoint is trimmed.
    TrimEarly,
    /// Decision 33: only the newest version of all is kept in memory (broken: the newest at a snapshot, whatever was applied meanwhile).
    CacheNewest,
    /// Section 9: an entry's writes and its position are applied in one batch.
    AtomicApply,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 50] = [
        Self::StartLatest,
        Self::StartFixed,
        Self::CommitAfterStart,
        Self::CommitOrder,
        Self::CommitWait,
        Self::UncertaintyWait,
        Self::ClosureWait,
        Self::SnapshotVersion,
        Self::HeldKeys,
        Self::OwnWrites,
        Self::ConflictCheck,
        Self::ReadCheck,
        Self::WindowLow,
        Self::OutcomesRecovered,
        Self::DurableBar,
        Self::AttemptBar,
        Self::PromisedWrites,
        Self::HeldReads,
        Self::PrepareClosure,
        Self::PrepareOutcome,
        Self::HomeFloor,
        Self::HomePromise,
        Self::OutcomeFloor,
        Self::OutcomeDependency,
        Self::AttemptName,
        Self::MapVersion,
        Self::RaiseFloor,
        Self::ClosureLease,
        Self::ClosureFloor,
        Self::ClosureOrder,
        Self::FeedCommitted,
        Self::TakeoverFloor,
        Self::TakeoverWindow,
        Self::ReleaseFloor,
        Self::SealedStream,
        Self::OriginFloor,
        Self::SourceDependency,
        Self::InheritedBars,
        Self::HandOverWindow,
        Self::HandOverPosition,
        Self::StaleAppend,
        Self::PreviousPosition,
        Self::CurrentEpoch,
        Self::Quorum,
        Self::LogChoice,
        Self::FencePromise,
        Self::SyncBeforeAck,
        Self::TrimEarly,
        Self::CacheNewest,
        Self::AtomicApply,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartLatest => "start-latest",
            Self::StartFixed => "start-fixed",
            Self::CommitAfterStart => "commit-after-start",
            Self::CommitOrder => "commit-order",
            Self::CommitWait => "commit-wait",
            Self::UncertaintyWait => "uncertainty-wait",
            Self::ClosureWait => "closure-wait",
            Self::SnapshotVersion => "snapshot-version",
            Self::HeldKeys => "held-keys",
            Self::OwnWrites => "own-writes",
            Self::ConflictCheck => "conflict-check",
            Self::ReadCheck => "read-check",
            Self::WindowLow => "window-low",
            Self::OutcomesRecovered => "outcomes-recovered",
            Self::DurableBar => "durable-bar",
            Self::AttemptBar => "attempt-bar",
            Self::PromisedWrites => "promised-writes",
            Self::HeldReads => "held-reads",
            Self::PrepareClosure => "prepare-closure",
            Self::PrepareOutcome => "prepare-outcome",
            Self::HomeFloor => "home-floor",
            Self::HomePromise => "home-promise",
            Self::OutcomeFloor => "outcome-floor",
            Self::OutcomeDependency => "outcome-dependency",
            Self::AttemptName => "attempt-name",
            Self::MapVersion => "map-version",
            Self::RaiseFloor => "raise-floor",
            Self::ClosureLease => "closure-lease",
            Self::ClosureFloor => "closure-floor",
            Self::ClosureOrder => "closure-order",
            Self::FeedCommitted => "feed-committed",
            Self::TakeoverFloor => "takeover-floor",
            Self::TakeoverWindow => "takeover-window",
            Self::ReleaseFloor => "release-floor",
            Self::SealedStream => "sealed-stream",
            Self::OriginFloor => "origin-floor",
            Self::SourceDependency => "source-dependency",
            Self::InheritedBars => "inherited-bars",
            Self::HandOverWindow => "handover-window",
            Self::HandOverPosition => "handover-position",
            Self::StaleAppend => "stale-append",
            Self::PreviousPosition => "previous-position",
            Self::CurrentEpoch => "current-epoch",
            Self::Quorum => "quorum",
            Self::LogChoice => "log-choice",
            Self::FencePromise => "fence-promise",
            Self::SyncBeforeAck => "sync-before-ack",
            Self::TrimEarly => "trim-early",
            Self::CacheNewest => "cache-newest",
            Self::AtomicApply => "atomic-apply",
        }
    }
}

/// Whether this process breaks the rule.
#[cfg(not(feature = "mutation"))]
#[inline]
pub const fn is_broken(_rule: Rule) -> bool {
    false
}

#[cfg(feature = "mutation")]
pub use armed::{break_rule, is_broken};

#[cfg(feature = "mutation")]
mod armed {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Rule;

    const NONE: u8 = u8::MAX;
    static BROKEN: AtomicU8 = AtomicU8::new(NONE);

    /// From now on this process breaks the rule, and only this one.
    pub fn break_rule(rule: Rule) {
        BROKEN.store(rule as u8, Ordering::Relaxed);
    }

    /// Whether this process breaks the rule.
    #[inline]
    pub fn is_broken(rule: Rule) -> bool {
        BROKEN.load(Ordering::Relaxed) == rule as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_none_is_broken_unasked() {
        let mut names: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Rule::ALL.len());
        assert!(Rule::ALL.iter().all(|rule| !is_broken(*rule)));
        let places: Vec<usize> = Rule::ALL.iter().map(|rule| *rule as usize).collect();
        assert_eq!(places, (0..Rule::ALL.len()).collect::<Vec<_>>(), "all are listed");
    }
}
