//! What a feed says, checked and gathered into batches (R14, I3, I6). No I/O.

use std::collections::BTreeMap;
use std::fmt;

use meridian_protocol::closing::{self, ClosedMap, FeedGate};
use meridian_protocol::events;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::feed_event::Event;
use meridian_rpc::internal::{Closure, Entry, FeedEvent, Trimmed as TrimmedEvent, WriteSet};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Epoch, Key, KeyRange, Lsn, Position, RangeId, RangeMap, StreamId, Timestamp};
use prost::Message;

use crate::error::FeedFault;
use crate::store::{AppliedBatch, Progress, VersionWrite};

/// Gathers a feed's events in order. What is gathered must be applied before the closures that came with it
/// are believed.
pub(crate) struct Intake {
    /// What is kept here: other keys' writes are dropped.
    keys: KeyRange,
    progress: BTreeMap<StreamId, Progress>,
    /// Up to when each range was said to be complete, applied or not: no later write may lie below.
    promised: ClosedMap,
    /// A closure was taken: reads may have been answered.
    has_closed: bool,
    gathered: Gathered,
    /// Keeps the order of closures that did not come with the feed.
    gate: FeedGate,
}

/// What to apply, and the closures to believe afterwards.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub batch: AppliedBatch,
    pub closures: Vec<(RangeId, Timestamp)>,
    pub entries: u64,
    pub bytes: usize,
}

impl Intake {
    /// Goes on from what the store holds.
    pub fn new(keys: KeyRange, progress: BTreeMap<StreamId, Progress>) -> Self {
        let lsns = progress.iter().map(|(stream, at)| (*stream, at.position.lsn));
        Self {
            gate: FeedGate::new(lsns),
            keys,
            progress,
            promised: ClosedMap::new(),
            has_closed: false,
            gathered: Gathered::default(),
        }
    }

    /// The last entry taken of a stream.
    pub fn lsn(&self, stream: StreamId) -> Lsn {
        self.progress
            .get(&stream)
            .copied()
            .unwrap_or_default()
            .position
            .lsn
    }

    /// Whether a closure was taken, so that reads may have been answered.
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Takes one event. After a fault everything taken before it stands, and the event has left no trace.
    pub fn take(&mut self, event: FeedEvent, map: &RangeMap) -> Result<(), FeedFault> {
        match event.event {
            Some(Event::Entry(fed)) => {
                let entry = fed
                    .entry
                    .ok_or_else(|| FeedFault::Broken("an event without its entry".into()))?;
                self.take_entry(StreamId(fed.stream), entry, map)
            }
            Some(Event::Closure(closure)) => self.take_closure(closure),
            Some(Event::Trimmed(trimmed)) => Err(self.take_trimmed(&trimmed)),
            None => Err(FeedFault::Broken(
                "an event that is neither entry nor closure".into(),
            )),
        }
    }

    /// Takes a closure that its owner has answered with. No journal node has seen to its order: it waits here for the entries that it
    /// depends on (R14).
    pub fn offer(&mut self, closure: Closure) {
        if let Some(closure) = self.gate.offer(from_wire(closure)) {
            self.believe(&closure);
        }
    }

    /// What was gathered since the last time.
    pub fn drain(&mut self) -> Gathered {
        std::mem::take(&mut self.gathered)
    }

    /// How many bytes were gathered.
    pub fn bytes(&self) -> usize {
        self.gathered.bytes
    }

    fn take_entry(&mut self, stream: StreamId, entry: Entry, map: &RangeMap) -> Result<(), FeedFault> {
        let before = self.progress.get(&stream).copied().unwrap_or_default();
        let position = Position::new(entry.epoch, entry.lsn);
        if position.lsn <= before.position.lsn {
            // Had it already, and what was committed never changes (I7).
            tracing::debug!(%stream, lsn = entry.lsn, "entry was fed again");
            return Ok(());
        }
        if position.lsn != before.position.lsn.next() || position.epoch < before.position.epoch {
            return Err(FeedFault::Broken(format!(
                "stream {stream}: entry {position} does not follow {}",
                before.position
            )));
        }
        let kind = Kind::try_from(entry.kind).unwrap_or(Kind::Unspecified);
        let mut after = Progress { position, ..before };
        let (versions, timestamp) = (self.gathered.batch.versions.len(), entry.timestamp);
        match kind {
            Kind::Commit => {
                after.last_commit = Timestamp(entry.timestamp);
                if after.last_commit <= before.last_commit {
                    return Err(FeedFault::Broken(format!(
                        "stream {stream}: commit {} of entry {position} does not rise above {} (I3)",
                        after.last_commit, before.last_commit
                    )));
                }
                self.take_writes(stream, &entry, map)?;
            }
            Kind::Lease | Kind::Opened | Kind::Barred | Kind::Released | Kind::Map | Kind::Sealed => {}
            Kind::Unspecified => {
                return Err(FeedFault::Broken(format!(
                    "stream {stream}: entry {position} is of a kind ({}) that this node does not understand",
                    entry.kind
                )));
            }
        }
        tracing::trace!(
            target: events::TARGET, event = "applied", stream = stream.0, epoch = position.epoch.0,
            lsn = position.lsn.0, commit = if kind == Kind::Commit { timestamp } else { 0 }, written = ?Keys(self.gathered.batch.versions.get(versions..).unwrap_or_default())
        );
        self.progress.insert(stream, after);
        self.gathered.batch.progress.insert(stream, after);
        self.gathered.entries += 1;
        for closure in self.gate.on_sent(stream, position.lsn) {
            self.believe(&closure);
        }
        Ok(())
    }

    fn take_writes(&mut self, stream: StreamId, entry: &Entry, map: &RangeMap) -> Result<(), FeedFault> {
        let commit = Timestamp(entry.timestamp);
        let lsn = entry.lsn;
        // The payload's memory is shared by all keys and values in it.
        let set = WriteSet::decode(entry.payload.clone())
            .map_err(|error| FeedFault::Broken(format!("stream {stream}: entry {lsn}: {error}")))?;
        let mut versions = Vec::with_capacity(set.writes.len());
        for write in set.writes {
            let key = Key(write.key);
            if !self.keys.contains(key.as_ref()) {
                continue;
            }
            if let Some(range) = map.lookup(&key)
                && self.promised.closed(range.id) >= commit
            {
                return Err(FeedFault::Violation(format!(
                    "entry {lsn} of epoch {} of stream {stream} wrote {key} at {commit}, but range {} was closed \
                     through {}",
                    Epoch(entry.epoch),
                    range.id,
                    self.promised.closed(range.id)
                )));
            }
            versions.push(VersionWrite {
                key,
                timestamp: commit,
                value: write.value,
            });
        }
        self.gathered.bytes += entry.payload.len();
        self.gathered.batch.versions.append(&mut versions);
        Ok(())
    }

    /// What is missing is not to be had from the journal, unless that is not true.
    fn take_trimmed(&self, trimmed: &TrimmedEvent) -> FeedFault {
        let stream = StreamId(trimmed.stream);
        let base = trimmed.base.as_ref().and_then(|base| base.position);
        let base = base.map(|base| Position::new(base.epoch, base.lsn));
        match base {
            Some(base) if base.lsn > self.lsn(stream) => FeedFault::Trimmed { stream, base },
            Some(base) => FeedFault::Broken(format!(
                "stream {stream} was trimmed up to {base} only, and entries after {} were asked for",
                self.lsn(stream)
            )),
            None => FeedFault::Broken(format!("stream {stream} was trimmed, but not up to where")),
        }
    }

    fn take_closure(&mut self, closure: Closure) -> Result<(), FeedFault> {
        // R14 is the journal node's to keep; a closure that runs ahead of it would let reads miss writes.
        for after in &closure.after {
            if self.lsn(StreamId(after.stream)) < Lsn(after.lsn) && !is_broken(Rule::ClosureOrder) {
                return Err(FeedFault::Broken(format!(
                    "the closure of range {} through {} came before entry {} of stream {} (R14)",
                    RangeId(closure.range),
                    closure.closed,
                    after.lsn,
                    StreamId(after.stream)
                )));
            }
        }
        self.believe(&from_wire(closure));
        Ok(())
    }

    fn believe(&mut self, closure: &closing::Closure) {
        let (range, x) = (closure.range, closure.x);
        tracing::trace!(
            target: events::TARGET, event = "complete", range = range.0, epoch = closure.epoch.0, x = x.0,
            after = ?closure.after
        );
        self.promised.close(range, x);
        self.has_closed = true;
        self.gathered.closures.push((range, x));
    }
}

fn from_wire(closure: Closure) -> closing::Closure {
    let after = closure.after.into_iter();
    closing::Closure {
        range: RangeId(closure.range),
        epoch: Epoch(closure.epoch),
        x: Timestamp(closure.closed),
        after: after
            .map(|after| (StreamId(after.stream), Lsn(after.lsn)))
            .collect(),
    }
}

/// The keys alone.
struct Keys<'a>(&'a [VersionWrite]);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|write| &write.key))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use meridian_rpc::internal::{FeedEntry, StreamLsn, WriteRecord};

    fn entry(epoch: u64, lsn: u64, kind: Kind, timestamp: u64, keys: &[&'static str]) -> FeedEvent {
        let writes = keys.iter().map(|key| WriteRecord {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::from_static(b"v")),
        });
        let payload = WriteSet {
            writes: writes.collect(),
        }
        .encode_to_vec()
        .into();
        let entry = Entry {
            epoch,
            lsn,
            kind: kind as i32,
            timestamp,
            txn: Bytes::new(),
            payload,
        };
        FeedEvent {
            event: Some(Event::Entry(FeedEntry {
                stream: 1,
                entry: Some(entry),
            })),
        }
    }

    fn closure(closed: u64, after: u64) -> FeedEvent {
        let after = vec![StreamLsn {
            stream: 1,
            lsn: after,
        }];
        FeedEvent {
            event: Some(Event::Closure(Closure {
                range: 1,
                epoch: 1,
                closed,
                after,
            })),
        }
    }

    fn intake() -> (Intake, RangeMap) {
        (
            Intake::new(KeyRange::all(), BTreeMap::new()),
            RangeMap::single(vec![]),
        )
    }

    fn is_broken(result: Result<(), FeedFault>) -> bool {
        matches!(result, Err(FeedFault::Broken(_)))
    }

    #[test]
    fn entries_are_taken_in_order_and_every_kind_moves_the_position() {
        let (mut intake, map) = intake();
        intake.take(entry(1, 1, Kind::Opened, 0, &[]), &map).unwrap();
        intake
            .take(entry(1, 2, Kind::Commit, 10, &["a", "b"]), &map)
            .unwrap();
        intake
            .take(entry(1, 2, Kind::Commit, 10, &["a", "b"]), &map)
            .unwrap();
        intake.take(entry(2, 3, Kind::Lease, 99, &[]), &map).unwrap();
        let gathered = intake.drain();
        assert_eq!(
            (gathered.batch.versions.len(), gathered.entries),
            (2, 3),
            "fed again is applied once"
        );
        let expected = Progress {
            position: Position::new(2, 3),
            last_commit: Timestamp(10),
        };
        assert_eq!(gathered.batch.progress, [(StreamId(1), expected)].into());
        assert!(intake.drain().batch.is_empty());
    }

    #[test]
    fn a_gap_a_falling_commit_and_an_unknown_kind_are_never_skipped() {
        let (mut intake, map) = intake();
        intake.take(entry(3, 1, Kind::Commit, 10, &["a"]), &map).unwrap();
        assert!(
            is_broken(intake.take(entry(3, 3, Kind::Commit, 20, &["a"]), &map)),
            "gap"
        );
        assert!(
            is_broken(intake.take(entry(2, 2, Kind::Commit, 20, &["a"]), &map)),
            "epoch falls"
        );
        assert!(
            is_broken(intake.take(entry(3, 2, Kind::Commit, 10, &["a"]), &map)),
            "I3"
        );
        assert!(
            is_broken(intake.take(entry(3, 2, Kind::Unspecified, 20, &["a"]), &map)),
            "kind"
        );
        assert!(is_broken(intake.take(FeedEvent { event: None }, &map)), "nothing");
        let mut garbled = entry(3, 2, Kind::Commit, 20, &["a"]);
        if let Some(Event::Entry(FeedEntry {
            entry: Some(entry), ..
        })) = &mut garbled.event
        {
            entry.payload = Bytes::from_static(b"\xff\xff");
        }
        assert!(is_broken(intake.take(garbled, &map)), "payload");
        assert_eq!(intake.lsn(StreamId(1)), Lsn(1));
        assert_eq!(intake.drain().batch.versions.len(), 1);
        intake.take(entry(3, 2, Kind::Commit, 11, &["a"]), &map).unwrap();
    }

    #[test]
    fn a_write_at_or_below_a_closed_timestamp_is_a_violation() {
        let (mut intake, map) = intake();
        intake.take(closure(10, 0), &map).unwrap();
        let late = intake.take(entry(1, 1, Kind::Commit, 10, &["a"]), &map);
        assert!(matches!(late, Err(FeedFault::Violation(_))), "{late:?}");
        intake.take(entry(1, 1, Kind::Commit, 11, &["a"]), &map).unwrap();
    }

    #[test]
    fn writes_of_other_keys_are_dropped_and_their_entries_count() {
        let mut intake = Intake::new(KeyRange::new("b".into(), "d".into()), BTreeMap::new());
        let map = RangeMap::single(vec![]);
        intake
            .take(entry(1, 1, Kind::Commit, 9, &["a", "b", "cz", "d"]), &map)
            .unwrap();
        intake.take(entry(1, 2, Kind::Commit, 10, &["x"]), &map).unwrap();
        let batch = intake.drain().batch;
        let keys: Vec<_> = batch.versions.iter().map(|write| write.key.to_string()).collect();
        assert_eq!(keys, ["b", "cz"]);
        assert_eq!(intake.lsn(StreamId(1)), Lsn(2));
    }

    fn answered(closed: u64, after: u64) -> Closure {
        match closure(closed, after).event {
            Some(Event::Closure(closure)) => closure,
            _ => unreachable!("made as one"),
        }
    }

    #[test]
    fn what_an_owner_answers_waits_for_the_entries_that_it_depends_on() {
        let (mut intake, map) = intake();
        // One answer after the other, each a little ahead of what was fed: none is lost.
        for lsn in 1..=3 {
            intake.offer(answered(lsn * 10, lsn));
        }
        assert!(intake.drain().closures.is_empty());
        intake.take(entry(1, 1, Kind::Commit, 9, &["a"]), &map).unwrap();
        assert_eq!(intake.drain().closures, [(RangeId(1), Timestamp(10))]);
        intake.take(entry(1, 2, Kind::Commit, 11, &["a"]), &map).unwrap();
        intake.take(entry(1, 3, Kind::Commit, 21, &["a"]), &map).unwrap();
        let closures = intake.drain().closures;
        assert_eq!(
            closures,
            [(RangeId(1), Timestamp(20)), (RangeId(1), Timestamp(30))]
        );
        intake.offer(answered(40, 3));
        assert_eq!(intake.drain().closures, [(RangeId(1), Timestamp(40))], "at once");
        // From now on a write below it is a violation (I6).
        let late = intake.take(entry(1, 4, Kind::Commit, 40, &["a"]), &map);
        assert!(matches!(late, Err(FeedFault::Violation(_))), "{late:?}");
    }

    #[test]
    fn a_closure_that_overtakes_what_it_depends_on_is_refused() {
        let (mut intake, map) = intake();
        assert!(is_broken(intake.take(closure(10, 1), &map)));
        assert!(intake.drain().closures.is_empty());
        intake.take(entry(1, 1, Kind::Commit, 9, &["a"]), &map).unwrap();
        intake.take(closure(10, 1), &map).unwrap();
        assert_eq!(intake.drain().closures, [(RangeId(1), Timestamp(10))]);
    }
}
