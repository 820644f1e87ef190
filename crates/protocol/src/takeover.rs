//! Taking over a stream (R17, R18, section 7).
//!
//! ```text
//! candidate: ask a majority "is the owner gone?" ── fence a majority ── choose the log ── read it to
//! exactly that position ── copy to a quorum, then `Opened` ── committed ── serve
//! ```
//! Nothing is served before `Opened` is committed. Fencing early is always safe; asking first only
//! keeps a half-connected candidate from deposing a healthy owner.

mod fence_round;

pub use fence_round::{FenceOutcome, FenceRound, Fenced};

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Interval, Lsn, Position, Timestamp};

/// What one journal node says of a stream's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerView {
    /// Whether the owner of the highest epoch that the node promised is connected to it.
    pub connected: bool,
    /// The highest `lease_end` of an `Opened` or `Lease` record that the node holds.
    pub lease_end: Timestamp,
}

/// R17: whether the owner of a stream is gone, by the answers of different journal nodes.
///
/// It needs a quorum of answers. The owner is gone when `now.earliest` has passed the latest
/// `lease_end` that anybody reported, or when a quorum has lost its connection to it.
pub fn is_owner_gone(answers: &[OwnerView], now: Interval, quorum: usize) -> bool {
    if answers.len() < quorum {
        return false;
    }
    let lapsed = answers.iter().all(|view| now.earliest > view.lease_end);
    let disconnected = answers.iter().filter(|view| !view.connected).count();
    lapsed || disconnected >= quorum
}

/// The replica whose log the new owner adopts: the one with the highest last `(epoch, lsn)` among the
/// fence answers, read to exactly that position. The lowest index among equals. `None` without
/// answers of a quorum of different replicas.
///
/// The epoch is compared first: a longer log of an older epoch may end in entries that were never committed
/// and that the shorter one has replaced.
pub fn choose_log(answers: &[(usize, Position)], quorum: usize) -> Option<usize> {
    let mut replicas: Vec<usize> = answers.iter().map(|(replica, _)| *replica).collect();
    replicas.sort_unstable();
    replicas.dedup();
    if replicas.len() < quorum {
        return None;
    }
    if is_broken(Rule::LogChoice) {
        return replicas.first().copied();
    }
    let best = answers.iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)))?;
    Some(best.0)
}

/// R18: where the new owner's `floor` and `window_low` begin. It honours every promise and closure that
/// a predecessor can have made, without knowing them.
///
/// `released` is the floor of a `Released` record when that is the last word of the predecessor; it
/// then stands in place of the lease.
pub fn recovered_floor(
    lease_end: Timestamp,
    last_commit: Timestamp,
    released: Option<Timestamp>,
) -> Timestamp {
    let leased = match is_broken(Rule::TakeoverFloor) {
        true => Timestamp::ZERO,
        false => lease_end,
    };
    released.unwrap_or(leased).max(last_commit)
}

/// Gathers what R18 needs while the adopted log is read in order of lsn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredLog {
    /// The highest `lease_end` seen in `Opened` and `Lease` records.
    pub lease_end: Timestamp,
    /// The highest commit timestamp seen.
    pub last_commit: Timestamp,
    /// The floor of a `Released` record that nothing has followed yet.
    pub released: Option<Timestamp>,
    /// The last lsn that was read.
    pub last: Lsn,
}

impl RecoveredLog {
    /// An `Opened` or `Lease` record. It ends the effect of an earlier `Released`: a new owner has made
    /// promises since.
    pub fn on_lease(&mut self, lsn: Lsn, lease_end: Timestamp) {
        // The owner that opened after a release began at its floor, which may be above the lease.
        self.lease_end = self
            .lease_end
            .max(lease_end)
            .max(self.released.unwrap_or_default());
        self.released = None;
        self.last = lsn;
    }

    /// A transaction's record.
    pub fn on_commit(&mut self, lsn: Lsn, commit: Timestamp) {
        self.last_commit = self.last_commit.max(commit);
        self.last = lsn;
    }

    /// A `Released` record: the last act of its owner in its epoch.
    pub fn on_released(&mut self, lsn: Lsn, floor: Timestamp) {
        self.released = Some(floor);
        self.last = lsn;
    }

    /// Any other record.
    pub fn on_other(&mut self, lsn: Lsn) {
        self.last = lsn;
    }

    /// R18 over what was read.
    pub fn floor(&self) -> Timestamp {
        recovered_floor(self.lease_end, self.last_commit, self.released)
    }
}
