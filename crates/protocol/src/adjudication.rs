//! Whether and when a transaction commits (sections 4 and 5, R2, R11 to R13, R18 to R20).
//!
//! ```text
//! Commit ──> decide ──> Commit{commit, lsn} ──> record at lsn to the appender ──quorum──> wait R3 ──> "committed"
//!               │                                      (the next decision does not wait for any of this)
//!               └─> Known{commit, lsn}: a retry; wait for lsn like the first
//! ```
//! That is a transaction of one range. One of several is decided by the owner of one of them, its home, when the others have
//! voted: `home` collects the votes, `participant` gives them and applies outcomes, `attempts` says what became of
//! an attempt, `floors` closes the range (R12, R19).
//!
//! [`Adjudication`] is the whole state of one owner in one epoch. It hands out the lsns of its stream: each
//! record that it asks for must be appended, in the order of the lsns, with nothing between.
//!
//! Caveats: nothing here is durable. Every answer that names an lsn is told to nobody before that lsn is
//! committed in this epoch; if the owner is deposed first, it is *unknown*.

mod attempts;
mod decide;
mod floors;
mod hand_over;
mod home;
mod participant;
mod prepares;
mod refusal;
mod votes;

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Epoch, Interval, Lsn, Position, RangeId, StreamId, Timestamp, TxnId};

pub use attempts::{AttemptAnswer, OutcomeAnswer};
pub use decide::{CommitRequest, Decision};
pub use floors::RaiseAnswer;
pub use hand_over::{HandedOver, HandedVote};
pub use home::{HomeRequest, HomeStep};
pub use participant::{AttemptEnd, OpenPrepare, PrepareRequest, PrepareTerms, Vote};
pub use refusal::{ReadLimit, Refusal};

use attempts::BarredAttempts;
use floors::RaiseGate;
use prepares::Prepares;
use votes::Homes;

use crate::closing::{Dependencies, OwnCommits};
use crate::conflict::RecentWrites;
use crate::outcomes::{Outcome, Outcomes};

/// What an owner is configured with. `max_clock_error` must be the same in all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdjudicationLimits {
    /// Bytes of recent writes to remember. More of them allow older transactions to commit.
    pub recent_writes_bytes: usize,
    /// Outcomes to remember, about 100 bytes each. Full, commits are refused: it should hold those of
    /// [`meridian_types::limits::OUTCOME_RETENTION`].
    pub outcomes: usize,
    /// Most key ranges that one transaction may have checked.
    pub checked_reads: usize,
    /// R20: the widest clock bound in the cluster.
    pub max_clock_error: Duration,
    /// Own commits to remember for closures.
    pub recent_commits: usize,
    /// Attempts across ranges that may be open at a time: those voted on, and as many again that wait for votes. Also the
    /// votes kept for attempts that have not arrived; and twice as many ends of attempts are remembered.
    pub open_attempts: usize,
    /// Bytes of what the attempts voted on have written and read, and as many again for those that wait.
    pub open_bytes: usize,
    /// Attempts given up to remember, about 150 bytes each. Beyond, `window_low` rises above the oldest of them.
    pub barred_attempts: usize,
}

impl Default for AdjudicationLimits {
    fn default() -> Self {
        Self {
            recent_writes_bytes: 128 << 20,
            outcomes: 4_000_000,
            checked_reads: meridian_types::limits::MAX_TXN_READS,
            max_clock_error: Duration::from_millis(500),
            recent_commits: 65_536,
            open_attempts: 10_000,
            open_bytes: 64 << 20,
            barred_attempts: 262_144,
        }
    }
}

/// What a new owner knows after recovery, when its `Opened` record is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The range.
    pub range: RangeId,
    /// Its stream.
    pub stream: StreamId,
    /// The owner's epoch.
    pub epoch: Epoch,
    /// R18: [`crate::takeover::RecoveredLog::floor`] of the adopted log.
    pub floor: Timestamp,
    /// The `lease_end` of its own `Opened` record.
    pub lease_end: Timestamp,
    /// Where its `Opened` record is.
    pub opened: Lsn,
    /// The highest commit timestamp that was trimmed from the log; zero when it was read from the first entry.
    pub outcome_low: Timestamp,
}

/// The state of one range's owner in one epoch.
///
/// Invariants: `floor` is at least every commit timestamp handed out, every closure and `window_low` at the opening, and
/// never decreases; lsns are handed out without gaps.
#[derive(Clone, Debug)]
pub struct Adjudication {
    opening: Opening,
    limits: AdjudicationLimits,
    floor: Timestamp,
    /// The highest `lease_end` that is durable.
    lease_end: Timestamp,
    last_lsn: Lsn,
    recent: RecentWrites,
    outcomes: Outcomes,
    own_commits: OwnCommits,
    dependencies: Dependencies,
    prepares: Prepares,
    homes: Homes,
    barred: BarredAttempts,
    /// The streams whose attempts are voted on.
    known_homes: BTreeSet<StreamId>,
    gate: RaiseGate,
    closed: Timestamp,
    stopped: bool,
    /// The stream is sealed: other streams order its keys.
    ended: bool,
}

impl Adjudication {
    /// The owner after its `Opened` record was committed; it serves nothing before. Tell it of the outcomes in the log
    /// ([`Self::recover_commit`], [`Self::recover_barred`]) before the first decision.
    pub fn open(mut opening: Opening, limits: AdjudicationLimits) -> Self {
        // Trimmed commits bound the floor like those in the log; no lease needs to reach that far.
        opening.floor = opening.floor.max(opening.outcome_low);
        let window_low = match is_broken(Rule::TakeoverWindow) {
            true => Timestamp::ZERO,
            false => opening.floor,
        };
        Self {
            opening,
            limits,
            floor: opening.floor,
            lease_end: opening.lease_end,
            last_lsn: opening.opened,
            recent: RecentWrites::new(limits.recent_writes_bytes, window_low),
            outcomes: Outcomes::new(limits.outcomes, opening.outcome_low),
            own_commits: OwnCommits::new(opening.floor, opening.opened, limits.recent_commits),
            dependencies: Dependencies::default(),
            prepares: Prepares::default(),
            homes: Homes::default(),
            barred: BarredAttempts::default(),
            known_homes: BTreeSet::new(),
            gate: RaiseGate::default(),
            closed: Timestamp::ZERO,
            stopped: false,
            ended: false,
        }
    }

    /// A transaction's record in the adopted log, in order of lsn.
    pub fn recover_commit(&mut self, txn: TxnId, commit: Timestamp, lsn: Lsn) {
        self.outcomes
            .insert(txn, Outcome::Committed { commit, lsn }, commit);
    }

    /// A `Barred` record in the adopted log, in order of lsn among the commits.
    pub fn recover_barred(&mut self, txn: TxnId, lsn: Lsn) {
        // When it was barred is not known; counting from the opening keeps it longer than needed. The floor would not
        // do: that of a range that was idle for long lies in the past.
        let opened_at = self.opening.floor.max(self.opening.lease_end);
        self.outcomes.insert(txn, Outcome::Barred { lsn }, opened_at);
    }

    /// A transaction that a stream has barred which ordered these keys before: it commits here no more than there (section 5). To be
    /// told before the outcomes in the adopted log.
    pub fn inherit_barred(&mut self, txn: TxnId) {
        if !is_broken(Rule::InheritedBars) {
            // Durable in the range map, which everybody has who may ask for this stream.
            self.recover_barred(txn, Lsn(0));
        }
    }

    /// The range.
    pub fn range(&self) -> RangeId {
        self.opening.range
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.opening.stream
    }

    /// The owner's epoch.
    pub fn epoch(&self) -> Epoch {
        self.opening.epoch
    }

    /// Every later commit timestamp is above this.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Snapshots older than this are refused.
    pub fn window_low(&self) -> Timestamp {
        self.recent.window_low()
    }

    /// See [`Outcomes::outcome_low`].
    pub fn outcome_low(&self) -> Timestamp {
        self.outcomes.outcome_low()
    }

    /// The highest durable `lease_end`.
    pub fn lease_end(&self) -> Timestamp {
        self.lease_end
    }

    /// The last lsn that was handed out.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The recent writes (for measurement).
    pub fn recent(&self) -> &RecentWrites {
        &self.recent
    }

    /// The outcomes (for measurement).
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Hands out the lsn of a record that is not a transaction's: a `Lease`.
    pub fn take_lsn(&mut self) -> Lsn {
        self.last_lsn = self.last_lsn.next();
        self.last_lsn
    }

    /// A `Lease` record with this `lease_end` is committed: it may be relied upon from now on.
    pub fn on_lease_durable(&mut self, lease_end: Timestamp) {
        self.lease_end = self.lease_end.max(lease_end);
    }

    /// Whether it decides nothing now because its lease has run out or it was stopped.
    pub fn is_deciding(&self, now: Interval) -> bool {
        !self.stopped && now.latest < self.lease_end
    }

    /// A higher epoch exists: it decides nothing any more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// A planned move: the last act in this epoch. Append a `Released` record with the returned floor at the returned
    /// lsn; nothing is decided, closed or barred afterwards.
    pub fn release(&mut self) -> (Timestamp, Lsn) {
        self.stopped = true;
        // For a successor that knows nothing else: what was refused here as too old is refused by it as well, and the
        // attempts that were voted on are not known to it. One that was handed the state goes on from the floor itself.
        let promised = self.prepares.highest_promise();
        let floor = match is_broken(Rule::ReleaseFloor) {
            true => Timestamp(1),
            false => self.floor.max(self.recent.window_low()).max(promised),
        };
        (floor, self.take_lsn())
    }

    /// The same owner has fenced anew (some replicas had promised a higher epoch) and its new `Opened` record is committed at
    /// `opened`. It keeps what it knows, provided that nobody else opened in between and that nothing it handed
    /// out was lost: `adopted`, the end of the log that it adopted, must be the last record that it handed out.
    /// Otherwise nothing is changed, `false` is returned, and it has to open like any other.
    ///
    /// What waited for votes is given up without further words: the log does not hold it, and its epoch is over.
    #[must_use]
    pub fn reopen(&mut self, epoch: Epoch, adopted: Position, opened: Lsn, lease_end: Timestamp) -> bool {
        let own_last = Position {
            epoch: self.epoch(),
            lsn: self.last_lsn,
        };
        if self.stopped || adopted != own_last || epoch <= self.epoch() || opened != own_last.lsn.next() {
            return false;
        }
        self.drop_homes();
        self.barred = BarredAttempts::default();
        self.opening.epoch = epoch;
        self.last_lsn = opened;
        self.on_lease_durable(lease_end);
        true
    }

    /// The adopted log holds a `Sealed` record: other streams order its keys from then on. This owner answers for its
    /// transactions, and orders and closes nothing (section 8). What still comes is refused for good: no retry of it can
    /// commit anywhere, for its home stays this stream.
    pub fn end_stream(&mut self) {
        self.ended = true;
    }

    /// Promises that no further record of this stream commits at or below `y`.
    pub fn raise_floor(&mut self, y: Timestamp) {
        self.floor = self.floor.max(y);
    }

    /// Refuses every snapshot older than this from now on.
    pub fn raise_window_low(&mut self, to: Timestamp) {
        self.recent.raise_window_low(to);
    }

    /// Notes an entry of another stream that closures have to wait for (5.4, R19).
    pub fn note_dependency(&mut self, stream: StreamId, lsn: Lsn) {
        self.dependencies.note(stream, lsn);
    }
}

#[cfg(test)]
mod tests;
