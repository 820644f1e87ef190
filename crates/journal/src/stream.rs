//! One stream at this node: the pure [`ReplicaLog`] with where its entries are.
//!
//! Decisions take effect here at once, before they are written; [`Undo`] takes the newest ones back when the disk is full.
//!
//! Invariants: the index has one slot per entry of the log; the tail holds every entry that is not written yet.

mod index;
mod tail;

use meridian_protocol::fencing::ReplicaLog;
use meridian_protocol::takeover::RecoveredLog;
use meridian_rpc::internal::Entry;
use meridian_types::{Epoch, Lsn, NodeName, Position, Timestamp};
use tokio::time::Instant;

pub use index::{Index, Slot};
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
    index_len: usize,
    /// The slots that a cut removed, after `index_len`.
    removed: Vec<Slot>,
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
        }
    }

    /// What to keep before deciding about an append or a fence.
    pub fn before(&self) -> Undo {
        Undo {
            log: self.log.clone(),
            summary: self.summary,
            owner: self.owner.clone(),
            index_len: self.index.len(),
            removed: Vec::new(),
        }
    }

    /// Entries after `lsn` are replaced.
    pub fn cut_after(&mut self, lsn: Lsn, undo: &mut Undo) {
        undo.removed = self.index.cut_after(lsn);
        undo.index_len = self.index.len();
        self.tail.cut_after(lsn);
        self.summary = self.index.summarise();
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
            if undo.log.epoch_at(entry.lsn) == Some(entry.epoch)
                && let Some(slot) = undo.removed_slot(entry.lsn)
            {
                slot.location = location;
            }
        }
    }

    /// Takes back a decision, the newest one first; what was learnt since of earlier ones stays.
    pub fn undo(&mut self, undo: Undo) {
        let committed = self.log.committed();
        self.index.cut_after(Lsn(undo.index_len as u64));
        for slot in undo.removed {
            self.index.push(slot);
        }
        self.log = undo.log;
        self.log.on_recovered_committed(committed);
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

    /// R18's input, for a fence answer: the floor of a RELEASED entry that is the last one.
    pub fn released_floor(&self) -> u64 {
        self.summary.released.map_or(0, |floor| floor.0)
    }
}

impl Undo {
    /// Whether taking the decision back brings entries back.
    pub fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    fn removed_slot(&mut self, lsn: Lsn) -> Option<&mut Slot> {
        let index = usize::try_from(lsn.0)
            .ok()?
            .checked_sub(1)?
            .checked_sub(self.index_len)?;
        self.removed.get_mut(index)
    }
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
