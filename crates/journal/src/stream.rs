//! One stream at this node: the pure [`ReplicaLog`] with where its entries are.
//!
//! Decisions take effect here at once, before they are written; [`Undo`] takes the newest ones back when the disk is full.
//!
//! Invariants: the index has one slot per entry of the log; the tail holds every entry that is not written yet.

mod index;
mod replaced;
mod tail;

use meridian_protocol::fencing::ReplicaLog;
use meridian_protocol::takeover::RecoveredLog;
use meridian_rpc::internal::Entry;
use meridian_types::{Epoch, LogBase, Lsn, NodeName, Position, Timestamp};
use tokio::time::Instant;

pub use index::{Index, Slot};
pub use replaced::Replaced;
pub use tail::Tail;

use crate::wal::Location;

/// One stream at this node.
pub struct Stream {
    /// What is promised, held and committed.
    pub log: ReplicaLog,
    /// Where each entry is.
    pub index: Index,
    /// The newest entries.
    pub tail: Tail,
    /// Of the log up to its last entry: the highest commit timestamp and lease_end, and how it was released.
    pub summary: RecoveredLog,
    /// The epoch and matched position of the last append that was synced.
    pub persisted: (Epoch, Position),
    /// What the owner told last: its epoch, and the persisted lsn of each replica.
    pub acked: (Epoch, Vec<Lsn>),
    /// Who appends, or was promised to.
    pub owner: OwnerSeen,
    /// What is on the disk and not in the log.
    pub replaced: Replaced,
    /// What is durable beside entries.
    pub durable: Durable,
}

/// What was written and synced of a stream, beside its entries: only that may go into a base file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// The highest promise, and to whom it was given, if that is known.
    pub promise: (Epoch, Option<NodeName>),
    /// It was rebuilt on this disk.
    pub is_rebuilt: bool,
}

impl Durable {
    /// A promise is durable.
    pub fn on_promise(&mut self, epoch: Epoch, owner: Option<NodeName>) {
        if epoch > self.promise.0 {
            self.promise = (epoch, owner);
        }
    }
}

/// What was seen of the owner of the promised epoch.
#[derive(Clone, Debug, Default)]
pub struct OwnerSeen {
    /// Its name, where it is known.
    pub name: Option<NodeName>,
    /// The connection that appends in the promised epoch, if one did.
    pub connection: Option<u64>,
    /// It fenced and has not appended yet: any append stream of its name is taken for its own.
    pub has_just_fenced: bool,
    /// When it was last heard of on a connection that is closed, or by a fence.
    pub last_heard: Option<Instant>,
}

/// How to take back one append or fence that was decided.
pub struct Undo {
    log: ReplicaLog,
    summary: RecoveredLog,
    owner: OwnerSeen,
    replaced: Replaced,
    last: Lsn,
    /// The slots that a cut removed, after `last`.
    removed: Vec<Slot>,
    /// The whole index, when the log began anew.
    begun_from: Option<Index>,
}

impl Stream {
    /// A stream that holds nothing yet.
    pub fn new(log: ReplicaLog) -> Self {
        Self {
            log,
            index: Index::default(),
            tail: Tail::default(),
            summary: RecoveredLog::default(),
            persisted: (Epoch(0), Position::START),
            acked: (Epoch(0), Vec::new()),
            owner: OwnerSeen::default(),
            replaced: Replaced::default(),
            durable: Durable::default(),
        }
    }

    /// What to keep before deciding about an append or a fence.
    pub fn before(&self) -> Undo {
        Undo {
            log: self.log.clone(),
            summary: self.summary,
            owner: self.owner.clone(),
            replaced: self.replaced.clone(),
            last: self.index.last(),
            removed: Vec::new(),
            begun_from: None,
        }
    }

    /// Entries after `lsn` are replaced.
    pub fn cut_after(&mut self, lsn: Lsn, undo: &mut Undo) {
        undo.removed = self.index.cut_after(lsn);
        undo.last = self.index.last();
        let before = self.index.get(lsn).map(|slot| slot.location);
        let removed = undo.removed.iter().map(|slot| slot.location);
        self.replaced.on_cut(lsn.next(), removed, before);
        self.tail.cut_after(lsn);
        self.summary = self.index.summarise();
    }

    /// The log begins after `base`, which [`Self::log`] was told: whatever was held is not in it.
    pub fn begin(&mut self, base: LogBase, undo: &mut Undo) {
        undo.begun_from = Some(std::mem::replace(&mut self.index, Index::after(base)));
        self.replaced.on_begun(u32::MAX);
        self.tail.clear();
        self.summary = index::of_base(&base);
    }

    /// Adds an entry that the log accepted; it is not written yet.
    pub fn push(&mut self, entry: &Entry) {
        self.note(entry, Location::default());
        self.tail.push(entry.clone());
    }

    /// An entry was written and synced. The decisions made since may have cut it, and even brought it back: their `undos` hold
    /// the slots that they removed.
    pub fn place<'a>(
        &mut self,
        entry: Position,
        location: Location,
        undos: impl Iterator<Item = &'a mut Undo>,
    ) {
        if self.log.epoch_at(entry.lsn) == Some(entry.epoch) {
            self.index.place(entry.lsn, location);
        }
        for undo in undos {
            if undo.log.epoch_at(entry.lsn) == Some(entry.epoch) {
                undo.place(entry.lsn, location);
            }
        }
    }

    /// Takes back a decision, the newest one first; what was learnt since of earlier ones stays.
    pub fn undo(&mut self, undo: Undo) {
        let committed = self.log.committed();
        self.log = undo.log;
        match undo.begun_from {
            // What was learnt of the other log says nothing of this one.
            Some(index) => self.index = index,
            None => {
                self.index.cut_after(undo.last);
                self.log.on_recovered_committed(committed);
            }
        }
        for slot in undo.removed {
            self.index.push(slot);
        }
        // It may have been trimmed since.
        self.log.on_recovered_committed(self.index.base().position.lsn);
        self.log.trim(self.index.base().position.lsn);
        self.replaced = undo.replaced;
        let (epoch, matched) = self.persisted;
        self.log.on_persisted(epoch, matched);
        self.summary = undo.summary;
        self.owner = undo.owner;
        // What is left was written: it can be read back.
        self.tail.clear();
    }

    /// An entry found in the write-ahead log. An error means that the log is not what was written.
    pub fn recover(&mut self, entry: &Entry, location: Location) -> Result<(), String> {
        let position = Position::new(entry.epoch, entry.lsn);
        let before = self.log.last();
        if position.lsn < self.log.base().lsn {
            return Ok(());
        }
        if position.lsn <= before.lsn && self.log.epoch_at(position.lsn) == Some(position.epoch) {
            return Ok(());
        }
        self.log
            .on_recovered_entry(position)
            .map_err(|gap| gap.to_string())?;
        if position.lsn <= before.lsn {
            let mut undo = self.before();
            self.cut_after(Lsn(position.lsn.0 - 1), &mut undo);
        }
        self.note(entry, location);
        Ok(())
    }

    /// A base found in the base file, or in the write-ahead log, where an owner's append brought it.
    pub fn recover_base(&mut self, base: LogBase, location: Location) {
        self.log.on_recovered_base(base.position);
        let mut undo = self.before();
        self.begin(base, &mut undo);
        self.replaced = Replaced::default();
        if location.segment & Location::IN_BASE == 0 {
            self.replaced.on_begun(location.segment);
        }
    }

    /// The record by which the log began at `base` was written; it may have begun once more since.
    pub fn on_base_durable<'a>(
        &mut self,
        base: Position,
        location: Location,
        undos: impl Iterator<Item = &'a mut Undo>,
    ) {
        if self.index.base().position == base {
            self.replaced.on_begun_durable(location.segment);
        }
        for undo in undos.filter(|undo| undo.log.base() == base) {
            undo.replaced.on_begun_durable(location.segment);
        }
    }

    /// The base file is durable that stands for the segments up to `last`: the log begins at `base` if that is later than before, and
    /// the entries `moved` were copied there from where they were.
    pub fn trim<'a>(
        &mut self,
        base: LogBase,
        last: u32,
        moved: &[Moved],
        undos: impl Iterator<Item = &'a mut Undo>,
    ) {
        let mut undos: Vec<&mut Undo> = undos.collect();
        for moved in moved {
            if self
                .index
                .get(moved.lsn)
                .is_some_and(|slot| slot.location == moved.from)
            {
                self.index.place(moved.lsn, moved.to);
            }
            for undo in &mut undos {
                undo.on_moved(moved);
            }
        }
        self.log.on_recovered_committed(base.position.lsn);
        self.log.trim(base.position.lsn);
        self.index.trim(base);
        for undo in undos {
            if let Some(index) = &mut undo.begun_from {
                index.trim(base);
            }
            undo.replaced.on_trimmed(last);
        }
        self.replaced.on_trimmed(last);
    }

    /// Forgets the oldest entries of the tail beyond `limit_bytes`.
    pub fn shrink_tail(&mut self, limit_bytes: usize) {
        let index = &self.index;
        let is_written = |lsn| index.get(lsn).is_some_and(|slot| slot.location.is_placed());
        self.tail.shrink(limit_bytes, is_written);
    }

    fn note(&mut self, entry: &Entry, location: Location) {
        let slot = Slot {
            location,
            timestamp: Timestamp(entry.timestamp),
            kind: entry.kind(),
        };
        self.index.push(slot);
        index::fold(&mut self.summary, Lsn(entry.lsn), &slot);
    }

    /// What the log begins behind, if it was trimmed.
    pub fn base(&self) -> Option<LogBase> {
        Some(self.index.base()).filter(|base| base.position != Position::START)
    }

    /// R18's input, for a fence answer: the floor of a RELEASED entry that is the last one.
    pub fn released_floor(&self) -> u64 {
        self.summary.released.map_or(0, |floor| floor.0)
    }
}

impl Undo {
    /// Whether taking the decision back brings entries back.
    pub fn has_removed(&self) -> bool {
        !self.removed.is_empty() || self.begun_from.is_some()
    }

    fn slot(&mut self, lsn: Lsn) -> Option<&mut Slot> {
        if let Some(index) = &mut self.begun_from
            && lsn <= index.last()
        {
            return index.get_mut(lsn);
        }
        let index = lsn.0.checked_sub(self.last.0)?.checked_sub(1)?;
        self.removed.get_mut(usize::try_from(index).ok()?)
    }

    fn place(&mut self, lsn: Lsn, location: Location) {
        match &mut self.begun_from {
            Some(index) if lsn <= index.last() => index.place(lsn, location),
            _ => {
                if let Some(slot) = self.slot(lsn) {
                    slot.location = location;
                }
            }
        }
    }

    fn on_moved(&mut self, moved: &Moved) {
        if self
            .slot(moved.lsn)
            .is_some_and(|slot| slot.location == moved.from)
        {
            self.place(moved.lsn, moved.to);
        }
    }
}

/// An entry that was copied to the base file.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The entry.
    pub lsn: Lsn,
    /// Where it was.
    pub from: Location,
    /// Where it is.
    pub to: Location,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_not_written_yet_stays_in_memory() {
        let mut stream = Stream::new(ReplicaLog::new());
        for lsn in 1..=3 {
            stream.log.on_append(
                Epoch(1),
                Position::new(lsn.min(2) - 1, lsn - 1),
                &[Position::new(1, lsn)],
                None,
            );
            let entry = Entry {
                epoch: 1,
                lsn,
                ..Entry::default()
            };
            stream.push(&entry);
        }
        let location = Location {
            segment: 1,
            len: 10,
            ..Location::default()
        };
        stream.place(Position::new(1, 1), location, std::iter::empty());
        stream.place(Position::new(1, 3), location, std::iter::empty());
        stream.shrink_tail(0);
        let held: Vec<bool> = (1..=3).map(|lsn| stream.tail.get(Lsn(lsn)).is_some()).collect();
        assert_eq!(held, [false, true, true]);
        assert_eq!(stream.index.bytes(), 20);
    }
}
