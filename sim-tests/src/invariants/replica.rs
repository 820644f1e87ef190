//! One journal node's log of one stream, as its events tell it.

use std::collections::BTreeMap;

use meridian_types::{Epoch, Lsn, Position};

/// What a journal node has synced, and counted as committed.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// Entries that it surely holds. After a crash what was never acknowledged may be there too.
    held: BTreeMap<Lsn, Position>,
    /// The last entry that it synced.
    last: Position,
    /// The highest epoch that it synced a promise for.
    promised: Epoch,
    counted: Lsn,
    /// Up to here it may hold what was never acknowledged, as it did not lose all of that in a crash.
    unsure: Lsn,
}

impl Replica {
    /// An entry was synced. Answers the lsn of an entry that it replaces although that was counted as committed.
    pub(super) fn persist(&mut self, at: Position) -> Option<Lsn> {
        let removed = self.held.split_off(&at.lsn);
        self.held.insert(at.lsn, at);
        self.last = at;
        self.promised = self.promised.max(at.epoch);
        let is_replaced = |(lsn, old): &(&Lsn, &Position)| **lsn <= self.counted && **old != at;
        removed.iter().find(is_replaced).map(|(lsn, _)| *lsn)
    }

    /// It has synced that its log begins after `base`, which is committed: it holds what the owner's log holds up to there, in that it needs
    /// none of it, and nothing else. Answers the lsn of an entry that it had counted as committed, and which this one replaces.
    pub(super) fn begin(&mut self, base: Position) -> Option<Lsn> {
        let replaced = self.held.get(&base.lsn).filter(|held| **held != base);
        let replaced = replaced.map(|held| held.lsn).filter(|lsn| *lsn <= self.counted);
        self.held = BTreeMap::from([(base.lsn, base)]);
        self.unsure = base.lsn;
        self.last = base;
        self.counted = self.counted.max(base.lsn);
        replaced
    }

    /// The entry before `lsn`, if it is known.
    pub(super) fn before(&self, lsn: Lsn) -> Option<Position> {
        self.held.get(&Lsn(lsn.0.checked_sub(1)?)).copied()
    }

    /// Whether it holds the entry, or may.
    pub(super) fn may_hold(&self, at: Position) -> bool {
        match self.held.get(&at.lsn) {
            Some(held) => *held == at,
            None => at.lsn <= self.unsure,
        }
    }

    /// The highest epoch that it has synced a promise for.
    pub(super) fn promised(&self) -> Epoch {
        self.promised
    }

    pub(super) fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }

    /// The node starts anew and has found this. Answers what it had and does not have any more.
    pub(super) fn recover(&mut self, promised: Epoch, last: Position) -> Option<String> {
        let lost = if last < self.last {
            Some(format!("had synced {} and holds {last}", self.last))
        } else if promised < self.promised {
            Some(format!("had promised {} and holds {promised}", self.promised))
        } else {
            None
        };
        if last != self.last {
            // Something that was not acknowledged survived; what it replaced is not known.
            self.held.split_off(&self.counted.next());
            self.unsure = last.lsn;
            self.last = last;
        }
        self.promised = self.promised.max(promised);
        lost
    }

    /// It counts everything up to `to` as committed: what was not yet counted, as far as its entries are known.
    pub(super) fn count(&mut self, to: Position) -> Vec<Position> {
        let mut news: Vec<Position> = if to.lsn > self.counted {
            self.held
                .range(self.counted.next()..=to.lsn)
                .map(|(_, at)| *at)
                .collect()
        } else {
            Vec::new()
        };
        if news.last().is_none_or(|last| last.lsn != to.lsn) {
            news.push(to);
        }
        self.counted = self.counted.max(to.lsn);
        news
    }
}
