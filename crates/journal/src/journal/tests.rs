//! Decisions, syncs and refusals in every order, without tasks: the test is the writer.

use std::time::Duration;

use bytes::Bytes;
use meridian_clock::ManualClock;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::{AppendBatch, AppendRequest, Entry};
use meridian_types::{ClusterId, DiskId, Lsn};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::config::Writer;
use crate::disk;
use crate::files::MemoryFiles;
use crate::wal::Wal;
use crate::wal::format::Owner;

const NOW: u64 = 1_000_000_000_000;
const STREAM: StreamId = StreamId(1);

/// A journal node and its log.
struct Bench {
    journal: Journal,
    wal: Wal,
    connection: u64,
    group: Vec<Vec<Body>>,
}

impl Bench {
    /// Every message is a group of its own; nothing written is kept in memory.
    fn new() -> Self {
        Self::with_tail(0)
    }

    fn with_tail(tail_bytes: usize) -> Self {
        let files = MemoryFiles::new();
        let identity = DiskIdentity {
            cluster: ClusterId(Uuid::from_u128(7)),
            node: "j1".into(),
            disk_id: DiskId(Uuid::from_u128(1)),
            rejoining: false,
        };
        disk::initialise_in(&files, &identity).unwrap();
        let owner = Owner {
            cluster: identity.cluster,
            node: identity.node.clone(),
            disk: identity.disk_id,
        };
        let files: Arc<dyn crate::Files> = Arc::new(files);
        let (wal, _) = Wal::open(files.clone(), owner, 16 << 10, &mut |_, _| Ok(())).unwrap();
        let config = Config {
            group_bytes: 1,
            tail_bytes,
            writer: Writer::Task,
            ..Config::default()
        };
        let parts = Parts {
            config,
            identity,
            replicas: ["j1", "j2", "j3"].map(NodeName::from).to_vec(),
            clock: Arc::new(ManualClock::new(Timestamp(NOW), Duration::ZERO)),
            segments: Segments::new(files),
            active_segment: wal.active(),
        };
        let journal = Journal::new(parts, BTreeMap::new());
        let connection = journal.connect("a1".into());
        Self {
            journal,
            wal,
            connection,
            group: Vec::new(),
        }
    }

    /// Sends an append; its reply goes to `replies`.
    fn send(&self, append: AppendRequest, replies: &mpsc::Sender<Result<AppendReplyBatch, Status>>) {
        let batch = AppendBatch {
            appends: vec![append],
            ..AppendBatch::default()
        };
        let slot = replies.clone().try_reserve_owned().ok().unwrap();
        let room = self.journal.room.clone().try_acquire_many_owned(1).unwrap();
        self.journal.append(self.connection, batch, slot, room).unwrap();
    }

    /// The entries after the first `from` of an owner's log are sent.
    fn append(&self, epoch: u64, log: &[Entry], from: usize) {
        let prev = from.checked_sub(1).and_then(|index| log.get(index));
        let append = AppendRequest {
            stream: STREAM.0,
            epoch,
            prev: prev.map(|entry| Position::new(entry.epoch, entry.lsn).into()),
            entries: log[from..].to_vec(),
            ..AppendRequest::default()
        };
        let (sender, mut replies) = mpsc::channel(1);
        self.send(append, &sender);
        if let Ok(Ok(batch)) = replies.try_recv() {
            let reply = batch.replies[0].result.clone().unwrap();
            assert!(matches!(reply, Reply::Matched(_)), "{reply:?}");
        }
    }

    fn take(&mut self) -> bool {
        if self.group.is_empty()
            && let Work::Write(group) = self.journal.next_work()
        {
            self.group = group;
        }
        !self.group.is_empty()
    }

    /// Returns how many messages were written.
    fn write(&mut self) -> usize {
        let messages = self.group.len();
        let records: Vec<Body> = std::mem::take(&mut self.group).into_iter().flatten().collect();
        let locations = self.wal.append(&records).unwrap();
        self.journal.complete(messages, records, locations);
        messages
    }

    fn refuse(&mut self) {
        self.group.clear();
        self.journal.refuse("disk full");
    }

    fn read(&self) -> Vec<Entry> {
        let located = self.journal.locate(STREAM, Lsn(0), Timestamp(0), None);
        let Located { first, to, .. } = located.unwrap();
        let mut next = first;
        let mut entries = Vec::new();
        while next <= to.lsn {
            let read = self.journal.read_log(STREAM, next, to, 100).unwrap();
            next = Lsn(read.last().expect("entries are missing").lsn).next();
            entries.extend(read);
        }
        entries
    }
}

fn entry(epoch: u64, lsn: u64) -> Entry {
    Entry {
        epoch,
        lsn,
        kind: Kind::Commit.into(),
        timestamp: NOW + lsn,
        txn: Bytes::from_static(&[1; 16]),
        payload: Bytes::from(format!("{epoch}/{lsn}")),
    }
}

fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
    positions.iter().map(|(epoch, lsn)| entry(*epoch, *lsn)).collect()
}

/// One owner writes, the next cuts it, a third one has adopted what was cut: all before the first sync ends.
#[test]
fn an_entry_that_was_cut_and_came_back_before_its_sync_can_be_read_when_the_rest_is_refused() {
    let mut bench = Bench::new();
    let first = entries(&[(1, 1), (1, 2), (1, 3)]);
    bench.append(1, &first, 0);
    assert!(bench.take());
    bench.append(2, &entries(&[(1, 1), (2, 2)]), 1);
    bench.append(3, &entries(&[(1, 1), (1, 2), (1, 3), (3, 4)]), 1);
    bench.write();
    bench.refuse();
    assert_eq!(bench.read(), first);
    assert_eq!(bench.journal.failure(), None);
}

/// A decision that dies half-way may have changed what is held without queueing it: a repeated append would then be
/// acknowledged although it was never written.
#[test]
fn a_decision_that_panics_stops_the_node() {
    let mut bench = Bench::new();
    bench.append(1, &entries(&[(1, 1)]), 0);
    std::thread::scope(|scope| {
        let decision = scope.spawn(|| {
            let _state = bench.journal.lock();
            panic!("a decision panics, as this test wants");
        });
        assert!(decision.join().is_err());
    });
    assert!(bench.journal.check_serving().is_err());
    assert!(bench.journal.failure().is_some() && bench.journal.stopped().is_cancelled());
    assert!(!bench.take(), "nothing is acknowledged any more");
}

/// A node without its writer would take appends in and answer none of them.
#[test]
fn a_writer_that_goes_away_stops_the_node() {
    let Bench { journal, wal, .. } = Bench::new();
    let journal = Arc::new(journal);
    drop(crate::writer::LogWriter::new(journal.clone(), wal, Arc::new(())));
    assert!(journal.failure().is_some() && journal.stopped().is_cancelled());
}

/// An append that needs no sync is answered at once, but never before one that came earlier and did.
#[test]
fn replies_come_in_the_order_of_the_appends() {
    const ROUNDS: u64 = 3_000;
    let Bench {
        journal,
        wal,
        connection,
        group,
    } = Bench::new();
    let journal = Arc::new(journal);
    let writer = crate::writer::LogWriter::new(journal.clone(), wal, Arc::new(()));
    let thread = std::thread::spawn(|| writer.run_on_thread());
    let (sender, mut replies) = mpsc::channel(4);
    for lsn in 1..=ROUNDS {
        let prev = (lsn > 1).then(|| Position::new(1, lsn - 1).into());
        for entries in [vec![entry(1, lsn)], vec![]] {
            let append = AppendRequest {
                stream: STREAM.0,
                epoch: 1,
                prev,
                entries,
                ..AppendRequest::default()
            };
            let batch = AppendBatch {
                appends: vec![append],
                ..AppendBatch::default()
            };
            let slot = sender.clone().try_reserve_owned().ok().unwrap();
            let room = journal.room.clone().try_acquire_many_owned(1).unwrap();
            journal.append(connection, batch, slot, room).unwrap();
            // The second one comes right when the first one's sync has ended.
            while !journal.lock().pending.is_empty() {
                std::thread::yield_now();
            }
        }
        let mut matched = || {
            let batch = replies.blocking_recv().unwrap().unwrap();
            match batch.replies[0].result {
                Some(Reply::Matched(position)) => position.lsn,
                _ => panic!("{batch:?}"),
            }
        };
        assert_eq!((matched(), matched()), (lsn, lsn - 1));
    }
    drop(group);
    journal.close();
    thread.join().unwrap().unwrap();
}

/// Whatever an owner says: closures are kept in bounded memory, and the newest of each range first of all.
#[test]
fn the_dependencies_of_closures_are_bounded() {
    let mut closures = Closures::default();
    let after: Vec<(StreamId, Lsn)> = (0..10_000).map(|stream| (StreamId(stream), Lsn(1))).collect();
    for round in 1..=3 {
        for range in 0..1_000 {
            let closure = meridian_protocol::closing::Closure {
                range: meridian_types::RangeId(range),
                epoch: Epoch(1),
                x: Timestamp(round),
                after: after.clone(),
            };
            closures.push(closure, 100_000);
        }
    }
    let (kept, _) = closures.after(0);
    let dependencies: usize = kept.iter().map(|closure| closure.after.len()).sum();
    assert!(dependencies <= 4 << 20, "{dependencies} are kept");
    let newest = kept
        .iter()
        .filter(|closure| closure.range.0 == 0)
        .map(|closure| closure.x.0);
    assert_eq!(newest.max(), Some(3));
}

#[test]
fn the_tails_of_many_streams_share_the_memory_of_some() {
    let bench = Bench::with_tail(1_000);
    let (sender, mut replies) = mpsc::channel(1);
    let mut wal = bench.wal;
    for stream in 1..=500 {
        let entries = (1..=10).map(|lsn| entry(1, lsn)).collect();
        let append = AppendRequest {
            stream,
            epoch: 1,
            entries,
            ..AppendRequest::default()
        };
        let batch = AppendBatch {
            appends: vec![append],
            ..AppendBatch::default()
        };
        let slot = sender.clone().try_reserve_owned().ok().unwrap();
        let room = bench.journal.room.clone().try_acquire_many_owned(1).unwrap();
        bench.journal.append(bench.connection, batch, slot, room).unwrap();
        let Work::Write(group) = bench.journal.next_work() else {
            panic!("nothing to write")
        };
        let records: Vec<Body> = group.into_iter().flatten().collect();
        let locations = wal.append(&records).unwrap();
        bench.journal.complete(1, records, locations);
        assert!(replies.try_recv().unwrap().is_ok());
    }
    let state = bench.journal.lock();
    let bytes: usize = state.streams.values().map(|stream| stream.tail.bytes()).sum();
    assert!(bytes < 150_000, "{bytes} bytes are kept");
    assert!(
        state
            .streams
            .values()
            .next()
            .is_some_and(|stream| stream.tail.bytes() > 500)
    );
}

#[derive(Clone, Debug)]
enum Step {
    /// The owner of the newest epoch goes on, or one of a new epoch that adopted an earlier log.
    Append {
        adopt: Option<prop::sample::Index>,
        kept: prop::sample::Index,
        added: usize,
        again: usize,
    },
    Take,
    Write,
    Refuse,
}

fn step() -> impl Strategy<Value = Step> {
    let adopt = prop::option::weighted(0.5, any::<prop::sample::Index>());
    prop_oneof![
        4 => (adopt, any::<prop::sample::Index>(), 0..4_usize, 0..3_usize)
            .prop_map(|(adopt, kept, added, again)| Step::Append { adopt, kept, added, again }),
        2 => Just(Step::Take),
        2 => Just(Step::Write),
        1 => Just(Step::Refuse),
    ]
}

/// How many of the first entries two logs share.
fn common(a: &[Entry], b: &[Entry]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The node always holds, readable, what its accepted messages say, and after a refusal what was synced.
    #[test]
    fn what_is_accepted_is_held_and_what_is_refused_is_gone(steps in prop::collection::vec(step(), 0..40)) {
        let mut bench = Bench::new();
        let mut epoch = 1;
        let mut owner: Vec<Entry> = Vec::new();
        let mut seen: Vec<Vec<Entry>> = vec![Vec::new()];
        // What the node holds after each message, the first one synced.
        let mut logs: VecDeque<Vec<Entry>> = VecDeque::from([Vec::new()]);
        for step in steps {
            match step {
                Step::Append { adopt, kept, added, again } => {
                    if let Some(adopt) = adopt {
                        epoch += 1;
                        owner = adopt.get(&seen).clone();
                        owner.truncate(kept.index(owner.len() + 1));
                    }
                    let held = logs.back().unwrap().clone();
                    let from = common(&held, &owner).saturating_sub(again);
                    for _ in 0..added {
                        owner.push(entry(epoch, owner.len() as u64 + 1));
                    }
                    bench.append(epoch, &owner, from);
                    let after = if common(&held, &owner) == owner.len() { held } else { owner.clone() };
                    seen.push(owner.clone());
                    // A message that changes nothing is answered at once when nothing waits.
                    if logs.len() > 1 || bench.journal.lock().pending.len() == 1 {
                        logs.push_back(after);
                    }
                }
                Step::Take => drop(bench.take()),
                Step::Write if bench.take() => {
                    logs.drain(..bench.write());
                }
                Step::Write => {}
                Step::Refuse => {
                    bench.refuse();
                    logs.truncate(1);
                    // Its owner would have to learn what is missing; a new one begins.
                    (epoch, owner) = (epoch + 1, logs[0].clone());
                }
            }
            prop_assert_eq!(&bench.read(), logs.back().unwrap());
            prop_assert_eq!(bench.journal.failure(), None);
        }
    }
}
