//! What the journal holds, worked out from all events: which records were appended where, which log each epoch has, and
//! which entries were ever committed.
//!
//! ```text
//! epoch 1:  1 2 3 4 5 6            opening e2: adopted e1/4
//! epoch 2:         └─ 5 6 7        the log of e2 is e1/1..4, e2/5..7
//! ```
//! Committed is what an owner or a journal node counted, what an owner answered, and what a storage node applied.

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::{Epoch, Lsn, Position, StreamId, Timestamp};

use super::replica::Replica;
use crate::events::{Decided, Event, Happened};

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

/// All streams.
pub struct Log<'a> {
    /// Everything that happened, in order.
    pub events: &'a [Happened],
    /// By stream.
    pub streams: BTreeMap<StreamId, StreamLog>,
}

impl<'a> Log<'a> {
    /// What these events tell.
    pub fn new(events: &'a [Happened]) -> Self {
        let mut streams: BTreeMap<StreamId, StreamLog> = BTreeMap::new();
        let journals: BTreeSet<&str> = events
            .iter()
            .filter(|happened| is_mounted(&happened.event))
            .map(|h| &*h.node)
            .collect();
        let quorum = match journals.len() {
            0 => 0,
            count => meridian_protocol::quorum::majority(count),
        };
        let mut disks: BTreeMap<&str, u128> = BTreeMap::new();
        for (index, happened) in events.iter().enumerate() {
            let node: &str = &happened.node;
            match &happened.event {
                Event::Mounted { disk } => {
                    disks.insert(node, *disk);
                }
                event => {
                    if let Some(stream) = stream_of(event) {
                        let disk = disks.get(node).copied().unwrap_or_default();
                        let log = streams.entry(stream).or_insert_with(|| StreamLog::new(quorum));
                        log.take(index, node, disk, event);
                    }
                }
            }
        }
        Self { events, streams }
    }

    /// The decisions whose records were committed, in the order of the log, with the events.
    pub fn committed(&self) -> impl Iterator<Item = (usize, &'a Decided)> {
        self.streams.values().flat_map(|log| {
            let records = log
                .committed
                .values()
                .filter_map(|entry| log.records.get(&entry.at));
            records.flatten().filter_map(|index| match self.event(*index) {
                Some(Event::Decided(decided)) => Some((*index, decided)),
                _ => None,
            })
        })
    }

    /// The event.
    pub fn event(&self, index: usize) -> Option<&'a Event> {
        self.events.get(index).map(|happened| &happened.event)
    }

    /// The commit timestamp and keys of the transaction's record at a place.
    pub fn decided(&self, stream: StreamId, at: Position) -> Option<(usize, &'a Decided)> {
        let records = self.streams.get(&stream)?.records.get(&at)?;
        records.iter().find_map(|index| match self.event(*index) {
            Some(Event::Decided(decided)) => Some((*index, decided)),
            _ => None,
        })
    }

    /// Everything that happened, with its place.
    pub fn all(&self) -> impl Iterator<Item = (usize, &'a Happened)> + use<'a> {
        self.events.iter().enumerate()
    }
}

impl StreamLog {
    fn new(quorum: usize) -> Self {
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

    /// The last committed transaction with a timestamp up to this, if commits rise.
    pub fn record_at(&self, lsn: Lsn) -> Option<&[usize]> {
        let at = self.committed.get(&lsn)?.at;
        self.records.get(&at).map(Vec::as_slice)
    }

    fn take(&mut self, index: usize, node: &str, disk: u128, event: &Event) {
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
            Event::Decided(Decided { at, .. }) | Event::Barred { at, .. } | Event::Released { at, .. } => {
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

fn is_mounted(event: &Event) -> bool {
    matches!(event, Event::Mounted { .. })
}

fn stream_of(event: &Event) -> Option<StreamId> {
    match event {
        Event::Opening { stream, .. }
        | Event::Decided(Decided { stream, .. })
        | Event::Barred { stream, .. }
        | Event::Released { stream, .. }
        | Event::Answered { stream, .. }
        | Event::Counted { stream, .. }
        | Event::Recovered { stream, .. }
        | Event::Promised { stream, .. }
        | Event::Accepted { stream, .. }
        | Event::Persisted { stream, .. }
        | Event::Applied { stream, .. } => Some(*stream),
        _ => None,
    }
}

/// The committed versions of each key of all streams: by commit timestamp, the event that decided it.
pub(super) fn versions<'a>(log: &Log<'a>) -> BTreeMap<&'a [u8], BTreeMap<Timestamp, usize>> {
    let mut versions: BTreeMap<&[u8], BTreeMap<Timestamp, usize>> = BTreeMap::new();
    for (index, decided) in log.committed() {
        for key in &decided.written {
            versions
                .entry(key.as_ref())
                .or_default()
                .insert(decided.commit, index);
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::testing::{counted, decided, happened, opening, persisted, promised, recovered};

    #[test]
    fn the_log_of_an_epoch_is_the_adopted_one_and_its_own_entries() {
        let events = happened([
            ("a-1", opening(1, 1, (0, 0), 0)),
            ("a-1", decided(1, 2, 7, 5, 10, "k")),
            ("a-1", decided(1, 3, 8, 5, 11, "k")),
            ("a-2", opening(2, 3, (1, 2), 50)),
            ("a-2", counted(2, 2, 3)),
        ]);
        let log = Log::new(&events);
        let stream = &log.streams[&StreamId(1)];
        let entry = |epoch, lsn| stream.entry(Epoch(epoch), Lsn(lsn));
        assert_eq!(entry(2, 2), Some(Position::new(1, 2)));
        assert_eq!(entry(2, 3), Some(Position::new(2, 3)));
        assert_eq!(entry(1, 3), Some(Position::new(1, 3)));
        assert_eq!(entry(3, 3), None);
        let txns: Vec<u128> = log
            .committed()
            .map(|(_, decided)| decided.txn.0.as_u128())
            .collect();
        assert_eq!(txns, [7], "what was not adopted is not committed");
        assert!(stream.clashes.is_empty());
    }

    #[test]
    fn a_journal_nodes_own_entries_are_what_it_counts() {
        let events = happened([
            ("j-1", promised(1)),
            ("j-1", persisted(1, 1, 0)),
            ("j-1", persisted(1, 2, 9)),
            ("j-1", persisted(2, 2, 0)),
            ("j-1", counted(2, 2, 2)),
            ("j-1", recovered(2, (2, 2))),
        ]);
        let log = Log::new(&events);
        let stream = &log.streams[&StreamId(1)];
        assert_eq!(stream.committed[&Lsn(1)].at, Position::new(1, 1));
        assert_eq!(stream.committed[&Lsn(2)].at, Position::new(2, 2));
        assert_eq!(stream.committed[&Lsn(2)].by.map(|by| by.0), Some(Epoch(2)));
        assert!(stream.forgotten.is_empty() && stream.replaced.is_empty());
    }
}
