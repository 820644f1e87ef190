//! When to renew a lease, and when to let it lapse (section 8).
//!
//! A lease is counted in timestamps; it is relied upon only once its record is durable. Its safety needs no clock:
//! the next owner begins above every `lease_end` in the log (R18).

use std::time::Duration;

use meridian_types::{Interval, Timestamp};

/// What the owner of a range chooses about its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasePolicy {
    /// How far a lease reaches ahead of `now.latest` when it is asked for. At least 4 round trips to
    /// the quorum.
    pub length: Duration,
    /// A range unused for this long lets its lease lapse.
    pub idle_after: Duration,
}

/// The lease of one range's owner in one epoch.
///
/// Invariant: `durable_end <= requested_end`; both never decrease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    policy: LeasePolicy,
    durable_end: Timestamp,
    requested_end: Timestamp,
    /// `now.latest` of the last renewal that was begun.
    renewed_at: Timestamp,
    last_use: Timestamp,
}

impl Lease {
    /// The lease of an owner whose `Opened` record carries `lease_end`, handed to the appender at `now`. It counts after
    /// [`Self::on_durable`].
    pub fn new(policy: LeasePolicy, lease_end: Timestamp, now: Interval) -> Self {
        Self {
            policy,
            durable_end: Timestamp::ZERO,
            requested_end: lease_end,
            renewed_at: now.latest,
            last_use: now.latest,
        }
    }

    /// The `lease_end` to put into an `Opened` record: a full length ahead, and never below the highest that the
    /// log carries, nor below the floor it was opened with.
    pub fn opening_end(policy: LeasePolicy, floor: Timestamp, now: Interval) -> Timestamp {
        now.latest.saturating_add(policy.length).max(floor)
    }

    /// How far the next renewals reach: the length must stay well above what a renewal takes to become durable.
    pub fn set_length(&mut self, length: Duration) {
        self.policy.length = length;
    }

    /// The range was used (a commit, a read that asked to close).
    pub fn on_use(&mut self, now: Interval) {
        self.last_use = self.last_use.max(now.latest);
    }

    /// When the lease should be renewed now: the `lease_end` of the `Lease` record to append. Calling it
    /// counts as asking: it returns `None` until another third of the length has passed.
    pub fn renew(&mut self, now: Interval) -> Option<Timestamp> {
        if now.latest < self.due_at()? {
            return None;
        }
        // Also when nothing is gained (an opening lease far ahead): the caller sleeps until `due_at`.
        self.renewed_at = now.latest;
        let end = now.latest.saturating_add(self.policy.length);
        if end <= self.requested_end {
            return None;
        }
        self.requested_end = end;
        Some(end)
    }

    /// R19: a lease that reaches at least to `end` is needed now: the `lease_end` of the `Lease` record to append. `None` when
    /// one was asked for already.
    pub fn extend(&mut self, end: Timestamp, now: Interval) -> Option<Timestamp> {
        if end <= self.requested_end {
            return None;
        }
        self.renewed_at = now.latest;
        self.requested_end = end.max(now.latest.saturating_add(self.policy.length));
        Some(self.requested_end)
    }

    /// When `now.latest` reaches this, [`Self::renew`] wants to be called: a third of the length after the last
    /// renewal. `None` while the range is idle: no timer, no sync; the next use opens it again.
    pub fn due_at(&self) -> Option<Timestamp> {
        let due = self.renewed_at.saturating_add(self.policy.length / 3);
        (due <= self.last_use.saturating_add(self.policy.idle_after)).then_some(due)
    }

    /// A record with this `lease_end` is committed.
    pub fn on_durable(&mut self, lease_end: Timestamp) {
        self.durable_end = self.durable_end.max(lease_end.min(self.requested_end));
    }

    /// The highest `lease_end` that may be relied on; zero before the first is durable.
    pub fn durable_end(&self) -> Timestamp {
        self.durable_end
    }

    /// The highest `lease_end` that was asked for, durable or not.
    pub fn requested_end(&self) -> Timestamp {
        self.requested_end
    }

    /// Whether the lease has run out: the owner stops deciding at once.
    pub fn has_run_out(&self, now: Interval) -> bool {
        now.latest >= self.durable_end
    }
}
