//! Where each entry of a stream is, and its timestamp.

use meridian_protocol::takeover::RecoveredLog;
use meridian_rpc::internal::entry::Kind;
use meridian_types::{Lsn, Timestamp};

use crate::wal::Location;

/// One entry.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Where it was written, if it was.
    pub location: Location,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// Its kind.
    pub kind: Kind,
}

/// All entries of a stream, from lsn 1 on.
#[derive(Default)]
pub struct Index {
    slots: Vec<Slot>,
    bytes: u64,
}

impl Index {
    /// How many entries there are; also the last one's lsn.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The entry at `lsn`.
    pub fn get(&self, lsn: Lsn) -> Option<&Slot> {
        self.slots.get(usize::try_from(lsn.0.checked_sub(1)?).ok()?)
    }

    /// Bytes of the records that were written, in the files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry at `lsn` was written.
    pub fn place(&mut self, lsn: Lsn, location: Location) {
        let index = lsn.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            self.bytes -= u64::from(slot.location.len);
            self.bytes += u64::from(location.len);
            slot.location = location;
        }
    }

    /// Adds the next entry.
    pub fn push(&mut self, slot: Slot) {
        self.bytes += u64::from(slot.location.len);
        self.slots.push(slot);
    }

    /// Removes every entry after `lsn`, and returns them.
    pub fn cut_after(&mut self, lsn: Lsn) -> Vec<Slot> {
        let keep = usize::try_from(lsn.0).unwrap_or(usize::MAX).min(self.slots.len());
        let removed = self.slots.split_off(keep);
        self.bytes -= removed
            .iter()
            .map(|slot| u64::from(slot.location.len))
            .sum::<u64>();
        removed
    }

    /// What R18 needs of the whole log. A scan: for after a cut, which is rare.
    pub fn summarise(&self) -> RecoveredLog {
        let mut summary = RecoveredLog::default();
        for (lsn, slot) in (1..).zip(&self.slots) {
            fold(&mut summary, Lsn(lsn), slot);
        }
        summary
    }

    /// The lsn after the last commit with a timestamp below `from`: every entry that was appended when the stream's commits had reached
    /// `from` lies there or later (I3: commit timestamps increase with the lsn).
    pub fn first_from(&self, from: Timestamp) -> Lsn {
        let (mut low, mut high) = (0, self.slots.len());
        // Everything before `low` is known to belong before `from`; nothing from `high` on is.
        while low < high {
            let middle = low + (high - low) / 2;
            let commits = self.slots.get(middle..high).unwrap_or_default();
            match commits.iter().position(|slot| slot.kind == Kind::Commit) {
                Some(skip) if commits.get(skip).is_some_and(|slot| slot.timestamp < from) => {
                    low = middle + skip + 1;
                }
                _ => high = middle,
            }
        }
        Lsn(low as u64 + 1)
    }
}

/// Adds one entry to a summary.
pub fn fold(summary: &mut RecoveredLog, lsn: Lsn, slot: &Slot) {
    match slot.kind {
        Kind::Commit => summary.on_commit(lsn, slot.timestamp),
        Kind::Lease | Kind::Opened => summary.on_lease(lsn, slot.timestamp),
        Kind::Released | Kind::Sealed => summary.on_released(lsn, slot.timestamp),
        Kind::Barred | Kind::Map | Kind::Unspecified => summary.on_other(lsn),
    }
}
