//! One stream as all events together tell it, see [`super::log`].

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Epoch, Lsn, Position};

use super::replica::Replica;
use crate::events::{Decided, Event};

/// An owner that appends after the log it adopted.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The event.
    pub index: usize,
    /// Its `Opened` record.
    pub at: Position,
    /// The end of the adopted log.
    pub adopted: Position,
}

/// An entry that was committed.
#[derive(Clone, Copy, Debug)]
pub struct Committed {
    /// The entry.
    pub at: Position,
    /// The event from which it is known first.
    pub index: usize,
    /// The lowest epoch whose owner had it committed, with the event that says so.
    pub by: Option<(Epoch, usize)>,
}

/// One stream.
#[derive(Debug, Default)]
pub struct StreamLog {
    /// The records that owners appended, by where: more than one at a place is a violation of I8.
    pub records: BTreeMap<Position, Vec<usize>>,
    /// The owners, by epoch.
    pub openings: BTreeMap<Epoch, Opening>,
    /// Committed entries.
    pub committed: BTreeMap<Lsn, Committed>,
    /// Events that say that different entries are committed at one lsn.
    pub clashes: Vec<(Lsn, usize, usize)>,
    /// Events of journal nodes that replaced an entry which they had counted as committed.
    pub replaced: Vec<(Lsn, usize)>,
    /// Events of journal nodes that put an entry after another one than its owner did: what they hold, and the owner's.
    pub mismatched: Vec<(usize, Position, Position)>,
    /// Events of journal nodes that accepted an append of an epoch below one that they had promised.
    pub stale: Vec<(usize, Epoch)>,
    /// Owners that open although too few journal nodes have promised: the event, and how many have.
    pub unfenced: Vec<(usize, usize)>,
    /// Events that count an entry although too few journal nodes hold it, and how many do.
    pub uncommitted: Vec<(usize, usize)>,
    /// Events of owners that count an entry of an epoch before their own.
    pub premature: Vec<usize>,
    /// Journal nodes that forgot what they had synced: the event, and what.
    pub forgotten: Vec<(usize, String)>,
    quorum: usize,
    replicas: BTreeMap<(String, u128), Replica>,
    /// How far owners have counted, by epoch.
    counted: BTreeMap<Epoch, Lsn>,
}

impl StreamLog {
    /// A stream whose replicas need this many to agree.
    pub(super) fn new(quorum: usize) -> Self {
        Self {
            quorum,
            ..Self::default()
        }
    }

    /// The entry at `lsn` in the log of the owner of an epoch; `None` when there is none, or nobody knows.
    pub fn entry(&self, mut epoch: Epoch, lsn: Lsn) -> Option<Position> {
        loop {
            let opening = self.openings.get(&epoch)?;
            if lsn >= opening.at.lsn {
                return Some(Position { epoch, lsn });
            }
            if opening.adopted.epoch >= epoch || lsn > opening.adopted.lsn {
                return None;
            }
            epoch = opening.adopted.epoch;
        }
    }

    /// Something happened to it.
    pub(super) fn take(&mut self, index: usize, node: &str, disk: u128, event: &Event) {
        match event {
            Event::Opening { at, adopted, .. } => {
                let opening = Opening {
                    index,
                    at: *at,
                    adopted: *adopted,
                };
                self.openings.entry(at.epoch).or_insert(opening);
                let promised = self.nodes(|replica| replica.promised() >= at.epoch);
                if promised < self.quorum {
                    self.unfenced.push((index, promised));
                }
                self.records.entry(*at).or_default().push(index);
            }
            Event::Decided(Decided { at, .. })
            | Event::Barred { at, .. }
            | Event::Released { at, .. }
            | Event::Mapped { at, .. } => {
                self.records.entry(*at).or_default().push(index);
            }
            Event::Answered { at, .. } | Event::Applied { at, .. } => self.claim(*at, index, None),
            Event::Counted { owner, at, .. } => self.count(index, node, disk, *owner, *at),
            Event::Recovered { promised, last, .. } => {
                if let Some(what) = self.replica(node, disk).recover(*promised, *last) {
                    self.forgotten.push((index, what));
                }
            }
            Event::Promised { epoch, .. } => self.replica(node, disk).promise(*epoch),
            Event::Accepted { owner, .. } => {
                let promised = self.replica(node, disk).promised();
                if *owner < promised {
                    self.stale.push((index, promised));
                }
            }
            Event::Begun { at, .. } => {
                if let Some(lsn) = self.replica(node, disk).begin(*at) {
                    self.replaced.push((lsn, index));
                }
            }
            Event::Persisted { at, .. } => {
                let before = self.entry(at.epoch, Lsn(at.lsn.0.saturating_sub(1)));
                if let (Some(held), Some(before)) = (self.replica(node, disk).before(at.lsn), before)
                    && held != before
                {
                    self.mismatched.push((index, held, before));
                }
                if let Some(lsn) = self.replica(node, disk).persist(*at) {
                    self.replaced.push((lsn, index));
                }
            }
            _ => {}
        }
    }

    /// How many journal nodes are like this, on their present disk or an earlier one.
    fn nodes(&self, is_so: impl Fn(&Replica) -> bool) -> usize {
        let so = self.replicas.iter().filter(|(_, replica)| is_so(replica));
        so.map(|((node, _), _)| node).collect::<BTreeSet<_>>().len()
    }

    fn replica(&mut self, node: &str, disk: u128) -> &mut Replica {
        self.replicas.entry((node.to_owned(), disk)).or_default()
    }

    fn count(&mut self, index: usize, node: &str, disk: u128, owner: Epoch, to: Position) {
        let news = match self.replicas.get_mut(&(node.to_owned(), disk)) {
            Some(replica) => replica.count(to),
            None => {
                if to.epoch != owner {
                    self.premature.push(index);
                }
                let from = self.counted.get(&owner).copied().unwrap_or_default();
                self.counted.insert(owner, to.lsn);
                let between = (from.0 + 1..to.lsn.0).filter_map(|lsn| self.entry(owner, Lsn(lsn)));
                between.chain([to]).collect()
            }
        };
        let holding = self.nodes(|replica| replica.may_hold(to));
        if holding < self.quorum {
            self.uncommitted.push((index, holding));
        }
        for at in news {
            self.claim(at, index, Some(owner));
        }
    }

    fn claim(&mut self, at: Position, index: usize, by: Option<Epoch>) {
        let by = by.map(|epoch| (epoch, index));
        let known = self
            .committed
            .entry(at.lsn)
            .or_insert(Committed { at, index, by });
        if known.at != at {
            self.clashes.push((at.lsn, known.index, index));
        } else if let Some((epoch, _)) = by
            && known.by.is_none_or(|(known, _)| epoch < known)
        {
            known.by = by;
        }
    }
}
