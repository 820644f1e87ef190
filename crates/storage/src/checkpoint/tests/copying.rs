//! Checkpoints of a store that is applied to, closed and swept meanwhile.
//!
//! Two streams write the same keys, as after keys went from one stream to another, so versions of a key are applied out of order:
//! what a sweep drops together may come again from the journal in part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use meridian_clock::{Clock, ManualClock};
use meridian_files::{Fault, Files, MemoryFiles};
use meridian_rpc::network::LocalNodes;
use meridian_rpc::owner::Owners;
use meridian_rpc::{Env, Identity, Network, TcpDialer};
use meridian_types::{ClusterId, Key, Lsn, Position, RangeId, RangeMap, StreamId, Timestamp};
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::writer::{self, WriteError};
use crate::checkpoint::{CHECKPOINT, Checkpoints};
use crate::config::Config;
use crate::fill::Filler;
use crate::retention::Retention;
use crate::shared::Shared;
use crate::store::{AppliedBatch, FjallStore, MemoryStore, Progress, SledStore, VersionStore, VersionWrite};

const START: u64 = 1_000_000_000_000;
const MILLI: u64 = 1_000_000;
const KEYS: [&str; 24] = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t", "u",
    "v", "w", "x",
];

/// One entry: which stream it is in, which key it writes, whether it deletes it, and how much later than its turn the second
/// stream's are applied.
type Entry = (bool, usize, bool);

/// One life of a node.
struct Life {
    shared: Arc<Shared>,
    env: Env,
    clock: Arc<ManualClock>,
    _map: watch::Sender<Arc<RangeMap>>,
}

impl Life {
    fn new(store: Arc<dyn VersionStore>, files: &MemoryFiles, chunk: usize) -> Self {
        let identity = Identity {
            cluster: ClusterId::default(),
            node: "st1".into(),
        };
        let dialer = Arc::new(TcpDialer::new(BTreeMap::new()));
        let network = Network::new(&identity, LocalNodes::default(), dialer);
        let clock = Arc::new(ManualClock::new(Timestamp(START), Duration::ZERO));
        let env = Env::new("st1".into(), "home".into(), clock.clone(), network.clone(), 7);
        let map = watch::Sender::new(Arc::new(RangeMap::single(vec![])));
        let config = Config {
            retention_ms: 2,
            sweep_interval_ms: 1,
            sweep_pause_ms: 1,
            sweep_chunk: 100,
            checkpoint_chunk: chunk,
            ..Config::default()
        };
        let keys = config.keys.clone();
        let checkpoints = Checkpoints::open(Arc::new(files.clone()), "st1".into(), None, keys).unwrap();
        let owners = Owners::new(network, map.subscribe());
        let shared = Shared::new(config, &env, owners, store, checkpoints, CancellationToken::new());
        Self {
            shared: Arc::new(shared.unwrap()),
            env,
            clock,
            _map: map,
        }
    }

    async fn write(&self) -> Result<bool, WriteError> {
        writer::write(&self.shared, &self.env, &mut self.env.rng()).await
    }

    async fn fill_at_start(&self) -> bool {
        self.shared.checkpoints.check_found(&self.shared.figures).await;
        let filler = Filler::new(self.shared.clone(), self.env.clone());
        filler.at_start().await.unwrap()
    }
}

fn stream_of(entry: Entry) -> StreamId {
    StreamId(if entry.0 { 2 } else { 1 })
}

fn commit_of(index: usize) -> Timestamp {
    Timestamp(START + (index as u64 + 1) * MILLI)
}

/// The entry in place `index` of the history, as its stream has it.
fn batch(history: &[Entry], index: usize) -> AppliedBatch {
    let entry = history[index];
    let stream = stream_of(entry);
    let lsn = history[..=index]
        .iter()
        .filter(|other| stream_of(**other) == stream)
        .count();
    let timestamp = commit_of(index);
    let value = (!entry.2).then(|| Bytes::from(index.to_string()));
    AppliedBatch {
        versions: vec![VersionWrite {
            key: KEYS[entry.1].into(),
            timestamp,
            value,
        }],
        progress: BTreeMap::from([(
            stream,
            Progress {
                position: Position::new(1, lsn as u64),
                last_commit: timestamp,
            },
        )]),
    }
}

/// In which order the entries are applied: each stream's in its own, the first one's later by so many.
fn order(history: &[Entry], lag: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..history.len()).collect();
    order.sort_by_key(|index| (index + if history[*index].0 { 0 } else { lag }, *index));
    order
}

/// Applies what the store does not have yet, and closes what is complete; the time goes on.
async fn apply_all(life: &Life, history: &[Entry], lag: usize) {
    let shared = &life.shared;
    let mut missing: BTreeSet<usize> = (0..history.len()).collect();
    for index in order(history, lag) {
        let batch = batch(history, index);
        let (stream, progress) = batch.progress.first_key_value().unwrap();
        let applied = shared.applied().get(stream).copied().unwrap_or_default();
        if applied < progress.position.lsn {
            assert_eq!(applied.next(), progress.position.lsn);
            shared.store.apply(&batch).unwrap();
            shared.note_applied(*stream, progress.position.lsn);
            shared.figures.versions_applied.fetch_add(1, Ordering::Relaxed);
        }
        missing.remove(&index);
        let complete = missing
            .first()
            .map_or(commit_of(history.len()), |first| commit_of(*first));
        shared
            .closed
            .send_if_modified(|closed| closed.close(RangeId(1), Timestamp(complete.0 - 1)));
        life.clock.set(life.clock.now().latest.max(commit_of(index)));
        sleep(Duration::from_millis(1)).await;
    }
}

/// What each key reads as, at each time from the horizon on.
fn reads(shared: &Shared, count: usize, from: Timestamp) -> Vec<(Key, Timestamp, Option<Bytes>)> {
    let mut all = Vec::new();
    for at in (0..count).map(commit_of).filter(|at| *at >= from) {
        for key in KEYS {
            let version = shared.store.newest(key.as_bytes(), at).unwrap();
            all.push((key.into(), at, version.and_then(|version| version.value)));
        }
    }
    all
}

/// Writes a checkpoint in the middle of a life, loads it in another one that replays the rest of the log, and compares.
async fn compare(
    history: &[Entry],
    lags: (usize, usize),
    begin: u64,
    chunk: usize,
    stores: [Arc<dyn VersionStore>; 2],
) {
    let files = MemoryFiles::new();
    let [first, second] = stores;
    let life = Life::new(first, &files, chunk);
    let sweeps = tokio::spawn(Retention::new(life.shared.clone()).run());
    let write = async {
        sleep(Duration::from_millis(begin)).await;
        life.write().await.unwrap()
    };
    let (_, written) = tokio::join!(apply_all(&life, history, lags.0), write);
    sleep(Duration::from_millis(20)).await;
    life.shared.shutdown.cancel();
    sweeps.await.unwrap();
    if !written {
        return;
    }
    let expected = |from| reads(&life.shared, history.len(), from);

    // Something else is in the store: it was behind, and is not any more.
    let stale = VersionWrite {
        key: "a".into(),
        timestamp: Timestamp(START - 1),
        value: Some(Bytes::from_static(b"gone long ago")),
    };
    let versions = vec![stale];
    second
        .apply(&AppliedBatch {
            versions,
            ..AppliedBatch::default()
        })
        .unwrap();
    let again = Life::new(second, &files, chunk);
    assert!(again.fill_at_start().await);
    apply_all(&again, history, lags.1).await;
    let from = life.shared.horizon().max(again.shared.horizon());
    assert_eq!(reads(&again.shared, history.len(), from), expected(from));
    let lsns = |shared: &Shared| shared.store.progress().unwrap();
    assert_eq!(lsns(&again.shared), lsns(&life.shared));
}

fn in_simulated_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_checkpoint_and_the_log_after_it_are_the_store(
        history in prop::collection::vec((any::<bool>(), 0..KEYS.len(), prop::bool::weighted(0.6)), 1..60),
        lags in (0..8_usize, 0..8_usize),
        begin in 0..60_u64,
        chunk in 1..4_usize,
    ) {
        let stores: [Arc<dyn VersionStore>; 2] = [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
        in_simulated_time(compare(&history, lags, begin, chunk, stores));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn the_same_on_disk(
        history in prop::collection::vec((any::<bool>(), 0..KEYS.len(), any::<bool>()), 20..40),
        lags in (0..12_usize, 0..12_usize),
        begin in 5..30_u64,
    ) {
        let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
        let sled = |dir: &tempfile::TempDir| -> Arc<dyn VersionStore> {
            Arc::new(SledStore::open(dir.path(), 1 << 20, 1_000).unwrap())
        };
        let fjall = |dir: &tempfile::TempDir| -> Arc<dyn VersionStore> {
            Arc::new(FjallStore::open(dir.path(), 1 << 20).unwrap())
        };
        for stores in [[sled(&dirs[0]), sled(&dirs[1])], [fjall(&dirs[2]), fjall(&dirs[3])]] {
            in_simulated_time(compare(&history, lags, begin, 2, stores));
        }
    }
}

/// A life in which everything was applied.
async fn settled(files: &MemoryFiles, count: usize) -> Life {
    let life = Life::new(Arc::new(MemoryStore::new()), files, 3);
    let history: Vec<Entry> = (0..count).map(|n| (n % 2 == 0, n % KEYS.len(), false)).collect();
    apply_all(&life, &history, 0).await;
    life
}

#[test]
fn nothing_new_is_not_written_again_and_what_is_behind_or_being_filled_is_not_written_at_all() {
    in_simulated_time(async {
        let files = MemoryFiles::new();
        let empty = Life::new(Arc::new(MemoryStore::new()), &files, 3);
        assert!(!empty.write().await.unwrap(), "nothing was ever applied");
        let life = settled(&files, 9).await;
        assert!(life.write().await.unwrap());
        assert!(!life.write().await.unwrap(), "nothing was applied since");
        let behind = Life::new(Arc::new(MemoryStore::new()), &files, 3);
        behind
            .shared
            .checkpoints
            .check_found(&behind.shared.figures)
            .await;
        behind.shared.store.apply(&batch(&[(true, 0, false)], 0)).unwrap();
        assert!(!behind.write().await.unwrap(), "less than the checkpoint holds");
        life.shared.store.begin_filling().unwrap();
        assert!(!life.write().await.unwrap(), "incomplete");
    });
}

#[test]
fn a_power_loss_at_any_write_or_sync_leaves_the_checkpoint_before_or_this_one() {
    in_simulated_time(async {
        let lsn = |life: &Life| {
            let sound = life.shared.checkpoints.sound();
            sound.map(|checkpoint| checkpoint.header.progress[&StreamId(1)].position.lsn)
        };
        let mut found = BTreeSet::new();
        for fails in 0..24_u64 {
            for survives in [true, false] {
                let files = MemoryFiles::new();
                let old = settled(&files, 10).await;
                assert!(old.write().await.unwrap());
                let life = settled(&files, 40).await;
                life.shared.checkpoints.check_found(&life.shared.figures).await;
                // The process gets no further than this.
                let fault = Fault {
                    fail_write_after: (fails % 2 == 0).then_some(fails / 2),
                    fail_sync_after: (fails % 2 == 1).then_some(fails / 2),
                    ..Fault::default()
                };
                files.set_fault(fault);
                let told = match life.write().await {
                    Ok(_) => lsn(&life),
                    Err(error) => {
                        assert!(matches!(error, WriteError::Failed(_)), "{error}");
                        Some(Lsn(5))
                    }
                };
                let mut odd = survives;
                let files = files.after_power_loss(|| {
                    odd = !odd;
                    odd
                });
                let after = Life::new(Arc::new(MemoryStore::new()), &files, 3);
                after.shared.checkpoints.check_found(&after.shared.figures).await;
                assert!(
                    lsn(&after) >= told,
                    "{:?} was told of, {:?} is there",
                    told,
                    lsn(&after)
                );
                assert_eq!(files.list().unwrap(), [CHECKPOINT]);
                found.insert(lsn(&after));
            }
        }
        assert_eq!(found, [Some(Lsn(5)), Some(Lsn(20))].into());
    });
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    in_simulated_time(async {
        let files = MemoryFiles::new();
        let life = settled(&files, 10).await;
        assert!(life.write().await.unwrap());
        let more: Vec<Entry> = (0..40).map(|n| (n % 2 == 0, n % KEYS.len(), false)).collect();
        apply_all(&life, &more, 0).await;
        for fault in [
            Fault {
                capacity_bytes: Some(files.used_bytes() + 400),
                ..Fault::default()
            },
            Fault {
                full_syncs: 1,
                ..Fault::default()
            },
        ] {
            files.set_fault(fault);
            let error = life.write().await.unwrap_err();
            assert!(matches!(error, WriteError::Full(_)), "{error}");
            assert_eq!(files.list().unwrap(), [CHECKPOINT], "room is made again");
        }
        assert_eq!(
            life.shared.checkpoints.sound().unwrap().header.progress[&StreamId(1)]
                .position
                .lsn,
            Lsn(5)
        );
        files.set_fault(Fault::default());
        assert!(life.write().await.unwrap());
    });
}
