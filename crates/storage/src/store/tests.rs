//! One suite for every store, and a plain model that all must agree with.

mod cached;
mod crash;
mod lives;
mod on_disk;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::store::cached::Cached;

const CACHE_BYTES: u64 = 1 << 20;
const FLUSH_INTERVAL_MS: u64 = 1_000;

/// Each store, fresh, under its name.
fn each(test: impl Fn(&str, &dyn VersionStore)) {
    test("memory", &MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    test(
        "sled",
        &SledStore::open(dir.path(), CACHE_BYTES, FLUSH_INTERVAL_MS).unwrap(),
    );
    let dir = tempfile::tempdir().unwrap();
    test("fjall", &FjallStore::open(dir.path(), CACHE_BYTES).unwrap());
    for capacity in [1 << 10, 64 << 20] {
        test(
            "cached",
            &Cached::new(Arc::new(MemoryStore::new()), capacity, Arc::default()),
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let fjall = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
    test(
        "fjall, cached",
        &Cached::new(Arc::new(fjall), 4 << 10, Arc::default()),
    );
}

fn batch(writes: &[(&str, u64, Option<&str>)]) -> AppliedBatch {
    let versions = writes.iter().map(|(key, timestamp, value)| VersionWrite {
        key: (*key).into(),
        timestamp: Timestamp(*timestamp),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    });
    AppliedBatch {
        versions: versions.collect(),
        progress: BTreeMap::new(),
    }
}

type Row = (Key, u64, Option<Bytes>);

/// Walks a whole range in chunks of `max_steps`, breaking after every `rows` rows, and resuming as a reader
/// does.
fn walk_all(
    store: &dyn VersionStore,
    mut range: KeyRange,
    at: u64,
    direction: Direction,
    max_steps: usize,
    rows: usize,
) -> Vec<Row> {
    let mut all = Vec::new();
    loop {
        let mut page = 0;
        let resume = store
            .walk(
                &range,
                Timestamp(at),
                direction,
                max_steps,
                &mut |key, version| {
                    all.push((key, version.timestamp.0, version.value));
                    page += 1;
                    if page == rows {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                },
            )
            .unwrap();
        match (resume, direction) {
            (None, _) => return all,
            (Some(key), Direction::Forward) => {
                assert!(key > range.start, "a chunk makes progress");
                range.start = key;
            }
            (Some(key), Direction::Reverse) => {
                assert!(range.end.is_none_or(|end| key < end), "a chunk makes progress");
                range.end = Some(key);
            }
        }
    }
}

fn sweep_all(store: &dyn VersionStore, below: u64, max_steps: usize) -> Swept {
    let mut total = Swept::default();
    let mut range = KeyRange::all();
    loop {
        let (swept, resume) = store
            .sweep(&range, Timestamp(below), Timestamp(below), max_steps)
            .unwrap();
        total.dropped += swept.dropped;
        total.aging += swept.aging;
        match resume {
            None => return total,
            Some(key) => {
                assert!(key > range.start || swept.dropped > 0, "a chunk makes progress");
                range.start = key;
            }
        }
    }
}

#[test]
fn the_newest_version_at_the_timestamp_is_read_tombstones_included() {
    each(|name, store| {
        store
            .apply(&batch(&[
                ("a", 10, Some("1")),
                ("a", 20, None),
                ("a", 30, Some("3")),
            ]))
            .unwrap();
        store
            .apply(&batch(&[("a\0", 15, Some("other")), ("", 1, Some("x"))]))
            .unwrap();
        let at = |timestamp| {
            let version = store.newest(b"a", Timestamp(timestamp)).unwrap();
            version.map(|version| (version.timestamp.0, version.value))
        };
        assert_eq!(at(9), None, "{name}");
        assert_eq!(at(10), Some((10, Some(Bytes::from("1")))));
        assert_eq!(at(19), Some((10, Some(Bytes::from("1")))));
        assert_eq!(at(20), Some((20, None)));
        assert_eq!(at(u64::MAX), Some((30, Some(Bytes::from("3")))));
        assert_eq!(store.newest(b"b", Timestamp::MAX).unwrap(), None);
    });
}

/// All versions, in chunks of `max_steps`.
fn all_versions(store: &dyn VersionStore, max_steps: usize) -> Vec<VersionWrite> {
    let mut all: Vec<VersionWrite> = Vec::new();
    loop {
        let after = all.last().map(|last| (last.key.clone(), last.timestamp));
        let is_end = store.versions(after.as_ref(), max_steps, &mut |write| {
            all.push(write);
            ControlFlow::Continue(())
        });
        if is_end.unwrap() {
            return all;
        }
    }
}

#[test]
fn all_versions_are_visited_in_order_and_a_store_that_is_filled_says_so_until_the_end() {
    each(|name, store| {
        let writes = [
            ("b", 10, Some("1")),
            ("a\0", 15, Some("other")),
            ("a", 10, Some("1")),
            ("a", 20, None),
            ("", 1, Some("x")),
        ];
        store.apply(&batch(&writes)).unwrap();
        let mut expected = batch(&writes).versions;
        expected.sort_by_key(|write| (write.key.clone(), std::cmp::Reverse(write.timestamp)));
        for max_steps in 1..7 {
            assert_eq!(all_versions(store, max_steps), expected, "{name}");
        }
        let at = |lsn| Progress {
            position: Position::new(1, lsn),
            last_commit: Timestamp(lsn),
        };
        let applied = AppliedBatch {
            progress: [(StreamId(1), at(9)), (StreamId(2), at(4))].into(),
            ..AppliedBatch::default()
        };
        store.apply(&applied).unwrap();
        assert!(!store.is_incomplete().unwrap());
        store.begin_filling().unwrap();
        assert!(store.is_incomplete().unwrap() && store.progress().unwrap().is_empty());
        let mut chunks = 1;
        while !store.clear(2).unwrap() {
            chunks += 1;
        }
        assert_eq!((chunks, all_versions(store, 9)), (3, vec![]), "{name}");
        store.apply(&batch(&writes[..2])).unwrap();
        assert!(store.is_incomplete().unwrap());
        let progress = BTreeMap::from([(StreamId(2), at(7))]);
        store.end_filling(&progress, Timestamp(3)).unwrap();
        assert!(!store.is_incomplete().unwrap());
        assert_eq!(store.progress().unwrap(), progress);
        assert_eq!(
            (store.horizon().unwrap(), all_versions(store, 1).len()),
            (Timestamp(3), 2)
        );
    });
}

#[test]
fn what_is_applied_while_a_store_is_cleared_goes_as_well() {
    each(|name, store| {
        let keys: Vec<String> = (0..20).map(|key| format!("{key:02}")).collect();
        let writes: Vec<_> = keys.iter().map(|key| (key.as_str(), 1, Some("x"))).collect();
        store.apply(&batch(&writes)).unwrap();
        assert!(!store.clear(10).unwrap(), "{name}");
        store.apply(&batch(&writes[..5])).unwrap();
        assert!(!store.clear(10).unwrap(), "{name}");
        while !store.clear(10).unwrap() {}
        assert_eq!(all_versions(store, 9), [], "{name}");
        store.apply(&batch(&writes[..5])).unwrap();
        assert_eq!(all_versions(store, 9).len(), 5, "{name}");
    });
}

#[test]
fn many_versions_of_one_key_are_skipped_not_counted_through() {
    each(|name, store| {
        for timestamp in 1..=200 {
            store
                .apply(&batch(&[("hot", timestamp, Some("v")), ("z", timestamp, None)]))
                .unwrap();
        }
        store.apply(&batch(&[("a", 5, Some("a"))])).unwrap();
        for direction in [Direction::Forward, Direction::Reverse] {
            for max_steps in [1, 3, 10, 10_000] {
                let mut rows = walk_all(store, KeyRange::all(), 100, direction, max_steps, 2);
                rows.sort();
                let found: Vec<_> = rows.iter().map(|row| (row.0.as_ref(), row.1)).collect();
                assert_eq!(
                    found,
                    [(&b"a"[..], 5), (b"hot", 100), (b"z", 100)],
                    "{name} {direction:?}"
                );
            }
        }
    });
}

#[test]
fn retention_keeps_the_newest_and_what_younger_snapshots_need() {
    each(|name, store| {
        store
            .apply(&batch(&[
                ("dead", 10, Some("x")),
                ("dead", 20, None),
                ("dying", 20, Some("x")),
                ("dying", 60, None),
                ("kept", 10, Some("1")),
                ("kept", 20, Some("2")),
                ("kept", 60, Some("3")),
            ]))
            .unwrap();
        let swept = sweep_all(store, 50, 100);
        assert_eq!(swept.dropped, 3, "{name}: both of dead, the first of kept");
        assert!(swept.aging > 0, "dying and kept have more to lose");
        let rows = |at| walk_all(store, KeyRange::all(), at, Direction::Forward, 100, 100);
        let keys = |at| rows(at).into_iter().map(|row| (row.0, row.1)).collect::<Vec<_>>();
        assert_eq!(keys(50), [("dying".into(), 20), ("kept".into(), 20)]);
        assert_eq!(keys(60), [("dying".into(), 60), ("kept".into(), 60)]);
        assert_eq!(store.horizon().unwrap(), Timestamp(50));
        let swept = sweep_all(store, 70, 100);
        assert_eq!((swept.dropped, swept.aging), (3, 0), "{name}");
        assert_eq!(keys(70), [("kept".into(), 60)]);
        assert_eq!(sweep_all(store, 40, 100).dropped, 0);
        assert_eq!(store.horizon().unwrap(), Timestamp(70), "never moves backwards");
    });
}

#[test]
fn many_old_versions_of_one_key_go_in_small_chunks() {
    each(|name, store| {
        for timestamp in 1..=300 {
            store
                .apply(&batch(&[("hot", timestamp, (timestamp != 150).then_some("v"))]))
                .unwrap();
        }
        assert_eq!(
            sweep_all(store, 150, 7).dropped,
            150,
            "{name}: the tombstone at 150 and all that it hid"
        );
        let rest = walk_all(store, KeyRange::all(), 150, Direction::Forward, 100, 100);
        assert_eq!(rest, [], "{name}");
        assert_eq!(
            store.newest(b"hot", Timestamp(151)).unwrap().unwrap().timestamp,
            Timestamp(151)
        );
    });
}

#[test]
fn progress_is_kept_per_stream() {
    each(|_, store| {
        let progress = |lsn| Progress {
            position: Position::new(2, lsn),
            last_commit: Timestamp(lsn * 10),
        };
        let mut applied = batch(&[("a", 10, Some("1"))]);
        applied.progress = [(StreamId(1), progress(1)), (StreamId(7), progress(9))].into();
        store.apply(&applied).unwrap();
        applied.progress = [(StreamId(1), progress(2))].into();
        store.apply(&applied).unwrap();
        let expected = [(StreamId(1), progress(2)), (StreamId(7), progress(9))];
        assert_eq!(store.progress().unwrap(), expected.into());
    });
}

#[test]
fn a_crash_of_the_memory_store_loses_a_tail_of_whole_batches() {
    let store = MemoryStore::new();
    store.apply(&batch(&[("a", 1, Some("1"))])).unwrap();
    store.flush().unwrap();
    store
        .apply(&batch(&[("a", 2, Some("2")), ("b", 2, Some("2"))]))
        .unwrap();
    store.apply(&batch(&[("a", 3, Some("3"))])).unwrap();
    assert_eq!(store.unflushed(), 2);
    store.clone().crash(1);
    assert_eq!(
        store.newest(b"a", Timestamp::MAX).unwrap().unwrap().timestamp,
        Timestamp(2)
    );
    assert_eq!(
        store.newest(b"b", Timestamp::MAX).unwrap().unwrap().timestamp,
        Timestamp(2)
    );
    store.crash(0);
    assert_eq!(
        store.newest(b"a", Timestamp::MAX).unwrap().unwrap().timestamp,
        Timestamp(2)
    );
}

/// Everything that was ever written, and what retention says of it.
#[derive(Debug, Default)]
struct Model {
    versions: BTreeMap<Key, BTreeMap<u64, Option<Bytes>>>,
    horizon: u64,
}

impl Model {
    fn rows(&self, range: &KeyRange, at: u64) -> Vec<Row> {
        let keys = self
            .versions
            .iter()
            .filter(|(key, _)| range.contains(key.as_ref()));
        let rows = keys.filter_map(|(key, versions)| {
            let (timestamp, value) = versions.range(..=at).next_back()?;
            Some((key.clone(), *timestamp, value.clone()))
        });
        rows.collect()
    }
}

/// Tombstones at or below the horizon may be gone or not: either way the key reads as absent.
fn without_old_tombstones(rows: Vec<Row>, horizon: u64) -> Vec<Row> {
    rows.into_iter()
        .filter(|row| row.2.is_some() || row.1 > horizon)
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(Vec<u8>, Option<u8>)>),
    Sweep {
        back: u64,
        max_steps: usize,
    },
    Walk {
        from: Vec<u8>,
        to: Vec<u8>,
        back: u64,
        reverse: bool,
        max_steps: usize,
        rows: usize,
    },
    Get {
        key: Vec<u8>,
        back: u64,
    },
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0, 1, 0xff]), 0..4)
}

fn any_step() -> impl Strategy<Value = Step> {
    let writes = prop::collection::vec((any_key(), prop::option::of(any::<u8>())), 1..8);
    prop_oneof![
        4 => writes.prop_map(Step::Apply),
        1 => (0..20_u64, 1..20_usize).prop_map(|(back, max_steps)| Step::Sweep { back, max_steps }),
        2 => (any_key(), any_key(), 0..20_u64, any::<bool>(), 1..20_usize, 1..5_usize).prop_map(
            |(from, to, back, reverse, max_steps, rows)| Step::Walk { from, to, back, reverse, max_steps, rows }
        ),
        2 => (any_key(), 0..20_u64).prop_map(|(key, back)| Step::Get { key, back }),
    ]
}

fn run_step(store: &dyn VersionStore, model: &mut Model, now: &mut u64, step: &Step) {
    match step.clone() {
        Step::Apply(writes) => {
            *now += 1;
            let mut applied = AppliedBatch::default();
            for (key, value) in writes {
                let (key, value) = (Key(key.into()), value.map(|value| Bytes::from(vec![value])));
                model
                    .versions
                    .entry(key.clone())
                    .or_default()
                    .insert(*now, value.clone());
                applied.versions.push(VersionWrite {
                    key,
                    timestamp: Timestamp(*now),
                    value,
                });
            }
            store.apply(&applied).unwrap();
        }
        Step::Sweep { back, max_steps } => {
            model.horizon = model.horizon.max(now.saturating_sub(back));
            sweep_all(store, model.horizon, max_steps);
        }
        Step::Get { key, back } => {
            let at = now.saturating_sub(back).max(model.horizon);
            let found = store.newest(&key, Timestamp(at)).unwrap();
            let found = found.map(|version| (Key(key.clone().into()), version.timestamp.0, version.value));
            let expected = model.rows(&KeyRange::point(Key(key.into())), at);
            let keep = |rows| without_old_tombstones(rows, model.horizon);
            assert_eq!(keep(found.into_iter().collect()), keep(expected));
        }
        Step::Walk {
            from,
            to,
            back,
            reverse,
            max_steps,
            rows,
        } => {
            let at = now.saturating_sub(back).max(model.horizon);
            let end = (!to.is_empty()).then_some(Key(to.into()));
            let range = KeyRange {
                start: Key(from.into()),
                end,
            };
            let direction = if reverse {
                Direction::Reverse
            } else {
                Direction::Forward
            };
            let found = walk_all(store, range.clone(), at, direction, max_steps, rows);
            let mut expected = model.rows(&range, at);
            if reverse {
                expected.reverse();
            }
            let keep = |rows| without_old_tombstones(rows, model.horizon);
            assert_eq!(keep(found), keep(expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn every_store_agrees_with_the_model(steps in prop::collection::vec(any_step(), 1..80)) {
        each(|_, store| {
            let (mut model, mut now) = (Model::default(), 0);
            for step in &steps {
                run_step(store, &mut model, &mut now, step);
            }
        });
    }
}
