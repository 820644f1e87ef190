//! Whether and when a transaction commits, in one range (sections 4 and 5, R2, R13, R18, R20).
//!
//! ```text
//! Commit ──> decide ──> Commit{commit, lsn} ──> record at lsn to the appender ──quorum──> wait R3 ──> "committed"
//!               │                                      (the next decision does not wait for any of this)
//!               └─> Known{commit, lsn}: a retry; wait for lsn like the first
//! ```
//! [`Adjudication`] is the whole state of one owner in one epoch. It hands out the lsns of its stream: each
//! record that it asks for must be appended, in the order of the lsns, with nothing between.
//!
//! Caveats: nothing here is durable. Every answer that names an lsn is told to nobody before that lsn is
//! committed in this epoch; if the owner is deposed first, it is *unknown*.

mod attempts;
mod floors;
mod home;
mod participant;
mod refusal;

use std::time::Duration;

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{
    Attempt, CommitToken, Epoch, Interval, Key, KeyRange, Lsn, Position, RangeId, StreamId, Timestamp, TxnId,
};

pub use attempts::AttemptAnswer;
pub use floors::RaiseAnswer;
pub use home::{HomeRequest, HomeStep};
pub use participant::{AttemptEnd, OpenPrepare, PrepareRequest, PrepareTerms, Vote};
pub use refusal::{ReadLimit, Refusal};

use crate::clock_rules::is_too_far_ahead;
use crate::closing::{Closure, Dependencies, OwnCommits};
use crate::conflict::{Collision, Recent, RecentWrites};
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
    /// Attempts across ranges that may be open at a time: those voted on, and as many again that wait for votes.
    pub open_attempts: usize,
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

/// A transaction that wants to commit.
#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    /// The attempt's whole name.
    pub attempt: Attempt,
    /// Its snapshot.
    pub start: Timestamp,
    /// The keys it writes.
    pub written: &'a [Key],
    /// What it read and wants checked: keys read for update, everything a serializable transaction read.
    pub reads: &'a [KeyRange],
}

/// What becomes of a [`CommitRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It commits: append its record, with all the writes, at `lsn`.
    Commit {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record goes.
        lsn: Lsn,
    },
    /// It was decided before, with this record; the answer is the same.
    Known {
        /// Its commit timestamp.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// It does not commit by this request.
    Refused(Refusal),
}

/// What the owner says to "what became of this transaction?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeAnswer {
    /// It committed: say so once `lsn` is committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// It is barred now: append a `Barred` record at `lsn`; say *aborted* once that is committed.
    Bar {
        /// Where the record goes.
        lsn: Lsn,
    },
    /// It was barred before: say *aborted* once `lsn` is committed.
    Aborted {
        /// Where the `Barred` record is.
        lsn: Lsn,
    },
    /// It is too long ago to tell. Never to be taken for *aborted*.
    Forgotten,
    /// No memory for another bar, or not the owner any more: ask again.
    Unavailable,
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
    closed: Timestamp,
    stopped: bool,
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
            closed: Timestamp::ZERO,
            stopped: false,
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

    /// Decides a transaction that writes in this range only, in one step (section 4).
    ///
    /// `lead` is how far ahead of the present it commits at least (R2).
    pub fn decide(&mut self, request: &CommitRequest<'_>, now: Interval, lead: Duration) -> Decision {
        let txn = request.attempt.txn;
        match self.outcomes.get(txn) {
            Some(Outcome::Committed { commit, lsn }) => return Decision::Known { commit, lsn },
            Some(Outcome::Barred { lsn }) => return Decision::Refused(Refusal::Barred { lsn }),
            None => {}
        }
        let decided = self
            .admit(request, now)
            .and_then(|()| self.commit_timestamp(request, now, lead));
        let commit = match decided {
            Ok(commit) => commit,
            Err(refusal) => return Decision::Refused(refusal),
        };
        debug_assert!(commit > self.floor && commit > request.start, "R2, I3");
        self.floor = commit;
        self.recent.commit(request.written, commit);
        let lsn = self.take_lsn();
        self.own_commits.push(commit, lsn);
        self.outcomes
            .insert(txn, Outcome::Committed { commit, lsn }, commit);
        Decision::Commit { commit, lsn }
    }

    /// Every reason not to commit a transaction that is not among the outcomes. The order matters:
    /// *forgotten* comes before anything that could be taken for *aborted*, and what says something about the
    /// attempt (a wrong epoch) before what says something about this owner.
    fn admit(&self, request: &CommitRequest<'_>, now: Interval) -> Result<(), Refusal> {
        let start = request.start;
        if start < self.outcomes.outcome_low() {
            return Err(Refusal::Forgotten);
        }
        if request.attempt.home != self.stream() {
            return Err(Refusal::WrongStream {
                stream: self.stream(),
            });
        }
        if request.attempt.home_epoch != self.epoch() {
            return Err(Refusal::WrongEpoch {
                current: self.epoch(),
            });
        }
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        // A start at or past `lease_end` is refused as well: every successor begins above it (R18), so
        // that what is refused for good here can commit nowhere else, not even by a retry.
        if now.latest >= self.lease_end || start >= self.lease_end {
            return Err(Refusal::LeaseExpired {
                lease_end: self.lease_end,
            });
        }
        if is_too_far_ahead(start, now, self.limits.max_clock_error) {
            return Err(Refusal::StartTooFarAhead { latest: now.latest });
        }
        if start < self.recent.window_low() {
            return Err(Refusal::SnapshotTooOld {
                window_low: self.recent.window_low(),
            });
        }
        if request.reads.len() > self.limits.checked_reads {
            return Err(Refusal::ReadsTooLarge {
                limit: ReadLimit::Ranges(self.limits.checked_reads),
            });
        }
        if self.outcomes.is_full() {
            return Err(Refusal::Overloaded);
        }
        let reads = if is_broken(Rule::ReadCheck) {
            &[]
        } else {
            request.reads
        };
        match self
            .recent
            .check(request.attempt.txn, start, request.written, reads)
            .filter(|_| !is_broken(Rule::ConflictCheck))
        {
            None => Ok(()),
            Some(Collision::SameTxn) => Err(Refusal::AskHome),
            Some(Collision::With { key, with }) => Err(Refusal::Conflict {
                key,
                with: with.timestamp(),
                is_final: matches!(with, Recent::Committed(_)),
            }),
        }
    }

    /// R2: `max(floor + 1, start + 1, now.latest + lead)`.
    fn commit_timestamp(
        &self,
        request: &CommitRequest<'_>,
        now: Interval,
        lead: Duration,
    ) -> Result<Timestamp, Refusal> {
        let after_floor = self.floor.next().map_err(|_| Refusal::OutOfTime)?;
        let after_start = request.start.next().map_err(|_| Refusal::OutOfTime)?;
        let after_floor = after_floor.min(unless_broken(Rule::CommitOrder));
        let after_start = after_start.min(unless_broken(Rule::CommitAfterStart));
        Ok(after_floor.max(after_start).max(now.latest.saturating_add(lead)))
    }

    /// What became of a transaction whose home is this stream (R1, section 5). It bars a transaction
    /// that it does not know: from this moment on no attempt of it commits.
    pub fn outcome(&mut self, token: &CommitToken, now: Interval) -> OutcomeAnswer {
        match self.outcomes.get(token.txn) {
            Some(Outcome::Committed { commit, lsn }) => return OutcomeAnswer::Committed { commit, lsn },
            Some(Outcome::Barred { lsn }) => return OutcomeAnswer::Aborted { lsn },
            None => {}
        }
        if token.start < self.outcomes.outcome_low() {
            return OutcomeAnswer::Forgotten;
        }
        if self.stopped || self.outcomes.is_full() {
            return OutcomeAnswer::Unavailable;
        }
        let lsn = self.take_lsn();
        // A start may lie ahead of this node's clock (R20); when the bar is forgotten, `window_low` must pass it.
        let barred_at = now.latest.saturating_add(self.limits.max_clock_error);
        self.outcomes
            .insert(token.txn, Outcome::Barred { lsn }, barred_at);
        OutcomeAnswer::Bar { lsn }
    }

    /// Forgets outcomes that came to be before `cutoff`, which is to be
    /// [`meridian_types::limits::OUTCOME_RETENTION`] before `now.earliest`. Returns how many.
    pub fn forget_outcomes_before(&mut self, cutoff: Timestamp) -> usize {
        let forgotten = self.outcomes.forget_before(cutoff);
        if forgotten.any_barred {
            self.recent.raise_window_low(cutoff);
        }
        forgotten.count
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
        // What was refused here as too old is refused by the successor as well.
        self.raise_floor(self.recent.window_low());
        let floor = if is_broken(Rule::ReleaseFloor) {
            Timestamp(1)
        } else {
            self.floor
        };
        (floor, self.take_lsn())
    }

    /// The same owner has fenced anew (some replicas had promised a higher epoch) and its new `Opened` record is committed at
    /// `opened`. It keeps what it knows, provided that nobody else opened in between and that nothing it handed
    /// out was lost: `adopted`, the end of the log that it adopted, must be the last record that it handed out.
    /// Otherwise nothing is changed, `false` is returned, and it has to open like any other.
    #[must_use]
    pub fn reopen(&mut self, epoch: Epoch, adopted: Position, opened: Lsn, lease_end: Timestamp) -> bool {
        let own_last = Position {
            epoch: self.epoch(),
            lsn: self.last_lsn,
        };
        if self.stopped || adopted != own_last || epoch <= self.epoch() || opened != own_last.lsn.next() {
            return false;
        }
        self.opening.epoch = epoch;
        self.last_lsn = opened;
        self.on_lease_durable(lease_end);
        true
    }

    /// Promises that no further record of this stream commits at or below `y`.
    pub fn raise_floor(&mut self, y: Timestamp) {
        self.floor = self.floor.max(y);
    }

    /// Refuses every snapshot older than this from now on (section 5: a barred attempt is forgotten only after
    /// this rose above its start).
    pub fn raise_window_low(&mut self, to: Timestamp) {
        self.recent.raise_window_low(to);
    }

    /// Notes an entry of another stream that closures have to wait for (5.4, R19).
    pub fn note_dependency(&mut self, stream: StreamId, lsn: Lsn) {
        self.dependencies.note(stream, lsn);
    }

    /// R13: closes the range as far as it may be closed now, and raises the floor so that it stays
    /// closed. It stays below every open prepare (R12) and within what other streams' owners answered (R19).
    ///
    /// `None` when it cannot be closed at all: the owner was stopped. When the result's `x` is below what a read
    /// wants, try again after the lease was renewed or the clock has moved.
    pub fn close(&mut self, now: Interval, lead: Duration) -> Option<Closure> {
        if self.stopped {
            return None;
        }
        let mut x = now.latest.saturating_add(lead);
        if !is_broken(Rule::ClosureLease) {
            x = x.min(self.lease_end);
        }
        if let Some(lower) = self.lowest_open() {
            x = x.min(Timestamp(lower.0.saturating_sub(1)));
        }
        // A closure once given stays true; repeating it costs nothing and may reach who missed it.
        let x = x.max(self.closed);
        self.closed = x;
        if !is_broken(Rule::ClosureFloor) {
            self.raise_floor(x);
        }
        let own = self.own_commits.last_at_or_below(x);
        let after = self.dependencies.after(self.stream(), own);
        Some(Closure {
            range: self.range(),
            epoch: self.epoch(),
            x,
            after,
        })
    }
}

/// The highest timestamp there is, or the lowest.
fn unless_broken(rule: Rule) -> Timestamp {
    match is_broken(rule) {
        true => Timestamp::ZERO,
        false => Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_barred_transaction_whose_start_was_ahead_of_the_clock_never_commits() {
        let second = Duration::from_secs(1);
        let begun = Timestamp::ZERO.saturating_add(second * 10_000);
        let at = |reading: Timestamp| Interval {
            earliest: reading,
            latest: reading,
        };
        let opening = Opening {
            range: RangeId(1),
            stream: StreamId(1),
            epoch: Epoch(1),
            floor: Timestamp::ZERO,
            lease_end: Timestamp::MAX,
            opened: Lsn(1),
            outcome_low: Timestamp::ZERO,
        };
        let limits = AdjudicationLimits::default();
        let mut owner = Adjudication::open(opening, limits);
        let attempt = Attempt {
            txn: TxnId(Uuid::from_u128(1)),
            number: 1,
            home: StreamId(1),
            home_epoch: Epoch(1),
        };
        let token = CommitToken {
            txn: attempt.txn,
            start: begun.saturating_add(limits.max_clock_error),
            home: Some(StreamId(1)),
        };
        assert_eq!(
            owner.outcome(&token, at(begun)),
            OutcomeAnswer::Bar { lsn: Lsn(2) }
        );
        let key = Key::from("k");
        let request = CommitRequest {
            attempt,
            start: token.start,
            written: std::slice::from_ref(&key),
            reads: &[],
        };
        for later in 0..4 {
            let cutoff = begun.saturating_add(limits.max_clock_error / 2 * later + Duration::from_nanos(1));
            owner.forget_outcomes_before(cutoff);
            let now = at(cutoff.saturating_add(meridian_types::limits::OUTCOME_RETENTION));
            let decision = owner.decide(&request, now, Duration::ZERO);
            assert!(matches!(decision, Decision::Refused(_)), "{later}: {decision:?}");
        }
        assert!(owner.outcomes().is_empty(), "it is forgotten in the end");
    }

    #[test]
    fn a_bar_found_in_the_log_of_an_idle_range_is_kept_for_the_whole_retention() {
        const SECOND: u64 = 1_000_000_000;
        let now = 10_000 * SECOND;
        let opening = Opening {
            range: RangeId(1),
            stream: StreamId(1),
            epoch: Epoch(2),
            floor: Timestamp(1_000 * SECOND),
            lease_end: Timestamp(now + SECOND),
            opened: Lsn(3),
            outcome_low: Timestamp::ZERO,
        };
        let mut owner = Adjudication::open(opening, AdjudicationLimits::default());
        let txn = TxnId(Uuid::from_u128(1));
        owner.recover_barred(txn, Lsn(2));
        assert_eq!(owner.forget_outcomes_before(Timestamp(now - 600 * SECOND)), 0);
        assert_eq!(owner.outcomes().get(txn), Some(Outcome::Barred { lsn: Lsn(2) }));
    }
}
