//! What a read at a timestamp sees, and which versions nobody can see any more (R4, R6, section 9).

use std::time::Duration;

use meridian_types::{Interval, Timestamp};

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<V> {
    /// The commit timestamp of the transaction that wrote it.
    pub timestamp: Timestamp,
    /// The value; `None` is a tombstone: the key was deleted.
    pub value: Option<V>,
}

/// R6: the newest version with `timestamp <= s`. `versions` are one key's, the newest first. A tombstone is
/// returned like any other version: it hides what is older, and counts for R4.
pub fn visible_at<V>(versions: impl IntoIterator<Item = Version<V>>, s: Timestamp) -> Option<Version<V>> {
    versions.into_iter().find(|version| version.timestamp <= s)
}

/// R4: what a read consulted, and so when it may be answered.
///
/// Every visible version counts, returned or not: tombstones, and versions that a pushed-down predicate rejected,
/// tell the reader something too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consulted {
    newest: Timestamp,
}

impl Consulted {
    /// Nothing yet: may be answered at any time.
    pub fn new() -> Self {
        Self::default()
    }

    /// A visible version was looked at.
    pub fn note(&mut self, timestamp: Timestamp) {
        self.newest = self.newest.max(timestamp);
    }

    /// Another read was part of this one.
    pub fn merge(&mut self, other: Self) {
        self.note(other.newest);
    }

    /// The read is not answered before `now.earliest >=` this.
    pub fn answer_not_before(&self) -> Timestamp {
        self.newest
    }

    /// Whether it may be answered now.
    pub fn may_answer(&self, now: Interval) -> bool {
        crate::clock_rules::may_answer_read(now, self.newest)
    }
}

/// A read older than the retention horizon: versions that it should see may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot {at} is older than the retention horizon {horizon}")]
pub struct SnapshotTooOld {
    /// The timestamp asked for.
    pub at: Timestamp,
    /// The oldest that can still be read.
    pub horizon: Timestamp,
}

/// The oldest timestamp that can still be read at one storage node. It never moves backwards: what was
/// dropped under it stays dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    at: Timestamp,
}

impl Horizon {
    /// A horizon that was reached before (a storage node keeps it with its versions).
    pub fn new(at: Timestamp) -> Self {
        Self { at }
    }

    /// The oldest readable timestamp.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Moves to `retention` before now. Versions may be dropped under the new horizon only after it is
    /// in force for reads: reads under way at older timestamps must end or be refused first.
    pub fn advance(&mut self, now: Interval, retention: Duration) {
        self.at = self.at.max(now.earliest.saturating_sub(retention));
    }

    /// R6: whether a read at `s` is refused, never answered wrongly.
    pub fn admit(&self, s: Timestamp) -> Result<(), SnapshotTooOld> {
        if s < self.at {
            return Err(SnapshotTooOld {
                at: s,
                horizon: self.at,
            });
        }
        Ok(())
    }
}

/// How many of one key's versions, the newest first, must be kept when nobody reads below `horizon`: those newer than it
/// and the one visible at it. The rest may be dropped.
///
/// `versions` are (timestamp, is tombstone). When the one visible at the horizon is a tombstone it
/// may go as well, together with everything older: both are read as "no such key".
pub fn versions_to_keep(versions: impl IntoIterator<Item = (Timestamp, bool)>, horizon: Timestamp) -> usize {
    let mut newer = 0;
    for (timestamp, is_tombstone) in versions {
        if timestamp <= horizon {
            return newer + usize::from(!is_tombstone);
        }
        newer += 1;
    }
    newer
}
