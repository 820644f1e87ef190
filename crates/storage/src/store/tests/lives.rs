//! Applying, sweeping half-way, flushing and crashing in any order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Life {
    /// So many further entries of the log, in one batch.
    Apply(usize),
    /// A sweep below this part of what is applied, in chunks of so many steps, the first few of them only.
    Sweep {
        below: prop::sample::Index,
        max_steps: usize,
        chunks: usize,
    },
    Flush,
    /// Of the changes since the last flush so many survive.
    Crash {
        kept: usize,
    },
}

fn life() -> impl Strategy<Value = Life> {
    prop_oneof![
        4 => (1..8_usize).prop_map(Life::Apply),
        3 => (any::<prop::sample::Index>(), 1..6_usize, 1..8_usize)
            .prop_map(|(below, max_steps, chunks)| Life::Sweep { below, max_steps, chunks }),
        1 => Just(Life::Flush),
        2 => (0..6_usize).prop_map(|kept| Life::Crash { kept }),
    ]
}

/// Lives through it all; after each step every read from the horizon up to the position is answered as if nothing had ever been dropped.
fn live(store: &dyn VersionStore, crash: impl Fn(usize), log: &[(bool, bool)], lives: &[Life]) {
    let keys = ["a", "b"];
    let stream = StreamId(1);
    let timestamp = |lsn: u64| Timestamp(100 + lsn);
    let value = |lsn: u64| log[lsn as usize - 1].1.then(|| Bytes::from(lsn.to_string()));
    let key = |lsn: u64| keys[usize::from(log[lsn as usize - 1].0)];
    let applied = || {
        store
            .progress()
            .unwrap()
            .get(&stream)
            .map_or(0, |it| it.position.lsn.0)
    };
    for life in lives {
        match life {
            Life::Apply(count) => {
                let mut batch = AppliedBatch::default();
                for lsn in (applied() + 1..=log.len() as u64).take(*count) {
                    batch.versions.push(VersionWrite {
                        key: key(lsn).into(),
                        timestamp: timestamp(lsn),
                        value: value(lsn),
                    });
                    let progress = Progress {
                        position: Position::new(1, lsn),
                        last_commit: timestamp(lsn),
                    };
                    batch.progress.insert(stream, progress);
                }
                store.apply(&batch).unwrap();
            }
            Life::Sweep {
                below,
                max_steps,
                chunks,
            } => {
                let below = timestamp(below.index(applied() as usize + 1) as u64);
                let mut range = KeyRange {
                    start: Key::default(),
                    end: None,
                };
                for _ in 0..*chunks {
                    match store.sweep(&range, below, below, *max_steps).unwrap().1 {
                        Some(start) => range.start = start,
                        None => break,
                    }
                }
            }
            Life::Flush => store.flush().unwrap(),
            Life::Crash { kept } => crash(*kept),
        }
        let first = store.horizon().unwrap().max(timestamp(0));
        for at in (first.0..=timestamp(applied()).0).map(Timestamp) {
            for name in keys {
                let is_visible = |lsn: &u64| timestamp(*lsn) <= at && key(*lsn) == name;
                let expected = (1..=applied()).rev().find(is_visible).and_then(value);
                let found = store.newest(name.as_bytes(), at).unwrap();
                assert_eq!(
                    found.and_then(|version| version.value),
                    expected,
                    "{name} at {at}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever a crash takes away, what is left belongs together; and so does what a sweep that stopped half-way leaves.
    #[test]
    fn positions_horizon_and_versions_belong_together(
        log in prop::collection::vec((prop::bool::weighted(0.2), any::<bool>()), 1..60),
        lives in prop::collection::vec(life(), 1..60),
    ) {
        let store = MemoryStore::new();
        live(&store, |kept| store.crash(kept), &log, &lives);
        let dir = tempfile::tempdir().unwrap();
        live(&SledStore::open(dir.path(), CACHE_BYTES, FLUSH_INTERVAL_MS).unwrap(), |_| {}, &log, &lives);
        let dir = tempfile::tempdir().unwrap();
        let cached = Cached::new(Arc::new(MemoryStore::new()), 1 << 10, Arc::default());
        live(&cached, |_| {}, &log, &lives);
        live(&FjallStore::open(dir.path(), CACHE_BYTES).unwrap(), |_| {}, &log, &lives);
    }
}
