//! Where each entry of a stream is, and its timestamp.

use std::collections::VecDeque;

use meridian_protocol::takeover::RecoveredLog;
use meridian_rpc::internal::entry::Kind;
use meridian_types::{LogBase, Lsn, Timestamp};

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

/// All entries of a stream, from the one after its base on.
///
/// Invariant: of the entries that were written, a later one lies in the same segment or a later one.
#[derive(Default)]
pub struct Index {
    base: LogBase,
    slots: VecDeque<Slot>,
    bytes: u64,
    /// The first `Sealed` record.
    sealed: Option<Lsn>,
}

impl Index {
    /// An index that begins after `base`.
    pub fn after(base: LogBase) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    /// What it begins behind.
    pub fn base(&self) -> LogBase {
        self.base
    }

    /// The last entry's lsn; the base's when there is none.
    pub fn last(&self) -> Lsn {
        Lsn(self.base.position.lsn.0 + self.slots.len() as u64)
    }

    /// The entry at `lsn`.
    pub fn get(&self, lsn: Lsn) -> Option<&Slot> {
        self.slots.get(self.place_of(lsn)?)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, lsn: Lsn) -> Option<&mut Slot> {
        self.slots.get_mut(self.place_of(lsn)?)
    }

    /// The entries from `lsn` on, in order.
    pub fn from(&self, lsn: Lsn) -> impl DoubleEndedIterator<Item = (Lsn, &Slot)> {
        let first = self.base.position.lsn.0 + 1;
        let skip = usize::try_from(lsn.0.saturating_sub(first)).unwrap_or(usize::MAX);
        let skip = skip.min(self.slots.len());
        let number = move |(offset, slot)| (Lsn(first + (skip + offset) as u64), slot);
        self.slots.range(skip..).enumerate().map(number)
    }

    /// The first `Sealed` record.
    pub fn sealed(&self) -> Option<Lsn> {
        self.sealed
    }

    /// The newest `Opened` or `Lease` record up to `last`.
    pub fn newest_lease(&self, last: Lsn) -> Option<Lsn> {
        let mut newest_first = self.from(Lsn(0)).rev().skip_while(|(lsn, _)| *lsn > last);
        let found = newest_first.find(|(_, slot)| matches!(slot.kind, Kind::Lease | Kind::Opened));
        found.map(|(lsn, _)| lsn)
    }

    /// The last entry that lies in the segment `last` or one before; the base's lsn when there is none.
    pub fn last_up_to(&self, last: u32) -> Lsn {
        let count = self.slots.partition_point(|slot| slot.location.is_up_to(last));
        Lsn(self.base.position.lsn.0 + count as u64)
    }

    /// What a base at `lsn` has to say of the entries up to there. `None` when the index does not reach that far.
    pub fn summary_at(&self, lsn: Lsn) -> Option<RecoveredLog> {
        if lsn < self.base.position.lsn || lsn > self.last() {
            return None;
        }
        let mut summary = of_base(&self.base);
        for (at, slot) in self.from(Lsn(0)).take_while(|(at, _)| *at <= lsn) {
            fold(&mut summary, at, slot);
        }
        Some(summary)
    }

    /// Forgets the entries up to the base. A no-op for one that is not after the present one.
    pub fn trim(&mut self, base: LogBase) {
        let Some(place) = self.place_of(base.position.lsn) else {
            return;
        };
        for slot in self.slots.drain(..(place + 1).min(self.slots.len())) {
            self.bytes -= u64::from(slot.location.len);
        }
        self.base = base;
        if self.slots.capacity() > 1_024 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
        if self.sealed.is_some_and(|sealed| sealed <= base.position.lsn) {
            self.sealed = None;
        }
    }

    /// Bytes of the records that were written, in the files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entry at `lsn` was written, or copied.
    pub fn place(&mut self, lsn: Lsn, location: Location) {
        let Some(slot) = self.get_mut(lsn) else { return };
        let before = std::mem::replace(&mut slot.location, location);
        self.bytes -= u64::from(before.len);
        self.bytes += u64::from(location.len);
    }

    /// Adds the next entry.
    pub fn push(&mut self, slot: Slot) {
        self.bytes += u64::from(slot.location.len);
        self.slots.push_back(slot);
        if slot.kind == Kind::Sealed && self.sealed.is_none() {
            self.sealed = Some(self.last());
        }
    }

    /// Removes every entry after `lsn`, and returns them.
    pub fn cut_after(&mut self, lsn: Lsn) -> Vec<Slot> {
        let keep = lsn.0.saturating_sub(self.base.position.lsn.0);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX).min(self.slots.len());
        let removed: Vec<Slot> = self.slots.split_off(keep).into();
        self.bytes -= removed
            .iter()
            .map(|slot| u64::from(slot.location.len))
            .sum::<u64>();
        if self.sealed.is_some_and(|sealed| sealed > lsn) {
            self.sealed = None;
        }
        removed
    }

    /// What R18 needs of the whole log. A scan: for after a cut, which is rare.
    pub fn summarise(&self) -> RecoveredLog {
        self.summary_at(self.last()).unwrap_or_default()
    }

    /// The lsn after the last commit with a timestamp below `from`: every entry that was appended when the stream's commits had reached
    /// `from` lies there or later (I3: commit timestamps increase with the lsn).
    pub fn first_from(&self, from: Timestamp) -> Lsn {
        let (mut low, mut high) = (0, self.slots.len());
        // Everything before `low` is known to belong before `from`; nothing from `high` on is.
        while low < high {
            let middle = low + (high - low) / 2;
            let mut commits = self.slots.range(middle..high).enumerate();
            match commits.find(|(_, slot)| slot.kind == Kind::Commit) {
                Some((skip, slot)) if slot.timestamp < from => low = middle + skip + 1,
                _ => high = middle,
            }
        }
        Lsn(self.base.position.lsn.0 + low as u64 + 1)
    }

    fn place_of(&self, lsn: Lsn) -> Option<usize> {
        let place = lsn.0.checked_sub(self.base.position.lsn.0)?.checked_sub(1)?;
        usize::try_from(place).ok()
    }
}

/// What is known of a log of which only the base is left.
pub fn of_base(base: &LogBase) -> RecoveredLog {
    RecoveredLog {
        lease_end: base.lease_end,
        last_commit: base.last_commit,
        released: None,
        last: base.position.lsn,
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
