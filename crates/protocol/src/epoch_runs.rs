//! The epochs of a log's entries, kept as runs of equal epoch.

use meridian_types::{Epoch, Lsn, Position};

/// Entries were given that do not continue the log: a gap, or an epoch that goes backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {entry} does not continue a log that ends at {last}")]
pub struct LogGap {
    /// The entry that was given.
    pub entry: Position,
    /// The last entry of the log.
    pub last: Position,
}

/// Which epoch each entry of one log has. Epochs never decrease with the lsn, so a log of any length
/// is a handful of runs.
///
/// Invariant: runs are ordered by first lsn and by epoch, both strictly; `base.lsn < first lsn <= last.lsn`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochRuns {
    /// The last entry that was trimmed (or never held); `START` when the log is whole.
    base: Position,
    last: Position,
    /// (first lsn, epoch).
    runs: Vec<(Lsn, Epoch)>,
}

impl EpochRuns {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log whose entries up to `base` (included) are trimmed, and which holds nothing after it.
    pub fn after(base: Position) -> Self {
        Self {
            base,
            last: base,
            runs: Vec::new(),
        }
    }

    /// The last trimmed entry; `START` when nothing was trimmed.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The last entry; the base when there is none after it.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The epoch of the entry at `lsn`: known for the base and for every entry after it. `START` has
    /// epoch 0.
    pub fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        if lsn == self.base.lsn {
            return Some(self.base.epoch);
        }
        if lsn < self.base.lsn || lsn > self.last.lsn {
            return None;
        }
        let after = self.runs.partition_point(|(first, _)| *first <= lsn);
        self.runs[..after].last().map(|(_, epoch)| *epoch)
    }

    /// The position of the entry at `lsn`, if its epoch is known.
    pub fn position_at(&self, lsn: Lsn) -> Option<Position> {
        self.epoch_at(lsn).map(|epoch| Position { epoch, lsn })
    }

    /// The first lsn after the base whose entry has this epoch.
    pub fn first_of(&self, epoch: Epoch) -> Option<Lsn> {
        self.runs
            .iter()
            .find(|(_, of)| *of == epoch)
            .map(|(first, _)| *first)
    }

    /// The highest lsn, not after `limit`, whose entry has at most this epoch. Never before the base.
    pub fn last_not_above(&self, epoch: Epoch, limit: Lsn) -> Lsn {
        let after = self.runs.partition_point(|(_, of)| *of <= epoch);
        let end = match self.runs.get(after) {
            Some((first, _)) => Lsn(first.0.saturating_sub(1)),
            None => self.last.lsn,
        };
        end.min(limit).max(self.base.lsn)
    }

    /// Adds the next entry.
    pub fn push(&mut self, entry: Position) -> Result<(), LogGap> {
        if entry.lsn != self.last.lsn.next() || entry.epoch < self.last.epoch {
            return Err(LogGap {
                entry,
                last: self.last,
            });
        }
        if self.runs.last().is_none_or(|(_, epoch)| *epoch != entry.epoch) {
            self.runs.push((entry.lsn, entry.epoch));
        }
        self.last = entry;
        Ok(())
    }

    /// Puts the entries before the base back, as read from a journal node: `older` must end with the base.
    pub fn prepend(&mut self, older: Self) -> Result<(), LogGap> {
        if older.last != self.base {
            return Err(LogGap {
                entry: self.base,
                last: older.last,
            });
        }
        let mut runs = older.runs;
        let goes_on = runs.last().map(|(_, epoch)| *epoch) == self.runs.first().map(|(_, epoch)| *epoch);
        runs.extend(self.runs.drain(..).skip(usize::from(goes_on)));
        self.runs = runs;
        self.base = older.base;
        Ok(())
    }

    /// Removes every entry after `lsn`. Entries up to the base stay.
    pub fn cut_after(&mut self, lsn: Lsn) {
        let lsn = lsn.max(self.base.lsn);
        let Some(epoch) = self.epoch_at(lsn) else { return };
        self.runs.retain(|(first, _)| *first <= lsn);
        self.last = Position { epoch, lsn };
    }

    /// Forgets every entry up to `lsn` (included). A no-op for what is trimmed already, or not there.
    pub fn trim(&mut self, lsn: Lsn) {
        let Some(base) = self.position_at(lsn) else { return };
        let after = self.runs.partition_point(|(first, _)| *first <= lsn);
        self.runs.drain(..after);
        // The run that `lsn` lies in goes on after it.
        let next_run_starts = self.runs.first().is_some_and(|(first, _)| *first == lsn.next());
        if lsn < self.last.lsn && !next_run_starts {
            self.runs.insert(0, (lsn.next(), base.epoch));
        }
        self.base = base;
    }
}
