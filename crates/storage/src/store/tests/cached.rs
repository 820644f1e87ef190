//! The newest versions in memory: the races with what is applied meanwhile, failures, and what they take.

mod beside;
mod engine;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use engine::{Engine, Meanwhile};

const SMALL: u64 = 16 << 10;

fn found(store: &dyn VersionStore, at: u64) -> Option<u64> {
    let version = store.newest(b"k", Timestamp(at)).unwrap();
    version.map(|version| version.timestamp.0)
}

fn write(timestamp: u64) -> AppliedBatch {
    batch(&[("k", timestamp, Some("x"))])
}

fn counts(cached: &Cached) -> (u64, u64) {
    let lookups = cached.lookups();
    (
        lookups.hits.load(Ordering::Relaxed),
        lookups.misses.load(Ordering::Relaxed),
    )
}

#[test]
fn what_was_read_is_in_memory_and_what_is_applied_makes_it_newer() {
    let (cached, engine) = Engine::cached(SMALL);
    cached.apply(&write(10)).unwrap();
    assert_eq!((found(&*cached, 15), counts(&cached)), (Some(10), (0, 1)));
    assert_eq!((found(&*cached, 10), counts(&cached)), (Some(10), (1, 1)));
    cached.apply(&write(20)).unwrap();
    assert_eq!((found(&*cached, 25), counts(&cached)), (Some(20), (2, 1)));
    // Older than what is known, and that stays known.
    assert_eq!((found(&*cached, 15), counts(&cached)), (Some(10), (2, 2)));
    assert_eq!(found(&*cached, 9), None);
    assert_eq!((found(&*cached, 20), counts(&cached)), (Some(20), (3, 3)));
    // Of another stream, which is behind; and again.
    cached.apply(&write(15)).unwrap();
    cached.apply(&write(10)).unwrap();
    assert_eq!((found(&*cached, 25), found(&*cached, 17)), (Some(20), Some(15)));
    cached
        .apply(&batch(&[
            ("k", 30, Some("x")),
            ("k", 32, None),
            ("k", 31, Some("x")),
        ]))
        .unwrap();
    assert_eq!(
        cached.newest(b"k", Timestamp(40)).unwrap(),
        engine.inner.newest(b"k", Timestamp(40)).unwrap()
    );
    assert_eq!(counts(&cached), (5, 4));
}

#[test]
fn that_there_is_no_version_is_remembered_too() {
    let (cached, _) = Engine::cached(SMALL);
    assert_eq!((found(&*cached, 5), found(&*cached, 9)), (None, None));
    assert_eq!(counts(&cached), (1, 1));
    cached.apply(&write(7)).unwrap();
    assert_eq!((found(&*cached, 9), found(&*cached, 6)), (Some(7), None));
}

/// A reader of the past must not leave behind what it saw as if it were the newest.
#[test]
fn a_read_of_the_past_keeps_the_newest_of_all() {
    let (cached, _) = Engine::cached(SMALL);
    cached.apply(&write(10)).unwrap();
    cached.apply(&write(20)).unwrap();
    assert_eq!(found(&*cached, 15), Some(10));
    assert_eq!((found(&*cached, 25), counts(&cached)), (Some(20), (1, 1)));
}

#[test]
fn what_is_applied_while_the_engine_is_asked_is_not_missed() {
    for before in [None, Some(10)] {
        let (cached, engine) = Engine::cached(SMALL);
        if let Some(before) = before {
            cached.apply(&write(before)).unwrap();
        }
        engine.next(Meanwhile::AppliedWhileRead(write(20)));
        assert_eq!(found(&*cached, 15), before);
        assert_eq!(found(&*cached, 25), Some(20));
    }
}

#[test]
fn what_is_read_while_it_is_applied_becomes_newer() {
    for meanwhile in [Meanwhile::ReadBeforeApplied(15), Meanwhile::ReadAfterApplied(15)] {
        let (cached, engine) = Engine::cached(SMALL);
        cached.apply(&write(10)).unwrap();
        engine.next(meanwhile);
        cached.apply(&write(20)).unwrap();
        assert_eq!((found(&*cached, 25), found(&*cached, 15)), (Some(20), Some(10)));
    }
}

#[test]
fn what_is_read_while_the_store_is_cleared_is_not_kept() {
    let (cached, engine) = Engine::cached(SMALL);
    cached.apply(&write(10)).unwrap();
    assert_eq!(found(&*cached, 15), Some(10));
    cached.begin_filling().unwrap();
    while !cached.clear(9).unwrap() {}
    assert_eq!(found(&*cached, 15), None);
    cached.apply(&write(12)).unwrap();
    cached.end_filling(&BTreeMap::new(), Timestamp(1)).unwrap();
    assert_eq!((found(&*cached, 15), found(&*engine, 15)), (Some(12), Some(12)));
}

#[test]
fn after_a_failure_nothing_is_believed_and_nothing_kept() {
    for meanwhile in [Meanwhile::Failure, Meanwhile::LateFailure] {
        let (cached, engine) = Engine::cached(SMALL);
        cached.apply(&write(10)).unwrap();
        assert_eq!(found(&*cached, 25), Some(10));
        engine.next(meanwhile);
        cached.apply(&write(20)).unwrap_err();
        let (_, misses) = counts(&cached);
        for _ in 0..2 {
            assert_eq!(found(&*cached, 25), found(&*engine, 25));
        }
        assert_eq!(counts(&cached).1, misses + 2);
    }
    let (cached, engine) = Engine::cached(SMALL);
    cached.apply(&write(10)).unwrap();
    assert_eq!(found(&*cached, 25), Some(10));
    engine.next(Meanwhile::LateFailure);
    cached.clear(9).unwrap_err();
    assert_eq!(found(&*cached, 25), None);
}

#[test]
fn memory_is_bounded_and_keeps_no_message_alive() {
    let (cached, _) = Engine::cached(SMALL);
    let message = Bytes::from(vec![b'x'; 1 << 10]);
    let apply = |length: usize, timestamp: u64| {
        for key in 0..200 {
            let versions = vec![VersionWrite {
                key: format!("{key:03}").into(),
                timestamp: Timestamp(timestamp),
                value: Some(message.slice(..length)),
            }];
            let progress = BTreeMap::new();
            cached.apply(&AppliedBatch { versions, progress }).unwrap();
        }
    };
    let read = || {
        for key in 0..200 {
            let value = cached
                .newest(format!("{key:03}").as_bytes(), Timestamp::MAX)
                .unwrap();
            let value = value.unwrap().value.unwrap();
            assert!(value.iter().all(|byte| *byte == b'x'));
        }
    };
    for (length, timestamp) in [(10, 1), (500, 2), (1_000, 3), (10, 4)] {
        // What is there becomes larger and smaller.
        apply(length, timestamp);
        assert!(cached.bytes() <= SMALL, "{length}");
        read();
        let bytes = cached.bytes();
        assert!(bytes <= SMALL && bytes > SMALL * 3 / 4, "{length}: {bytes}");
    }
    let (before, _) = counts(&cached);
    let mut value = None;
    for _ in 0..3 {
        value = cached.newest(b"007", Timestamp::MAX).unwrap().unwrap().value;
    }
    assert!(counts(&cached).0 >= before + 2);
    assert!(!message.as_ptr_range().contains(&value.unwrap().as_ptr()));
    // Too large to be kept: asked for each time.
    let large = Bytes::from(vec![b'x'; 5 << 10]);
    let versions = vec![VersionWrite {
        key: "007".into(),
        timestamp: Timestamp(9),
        value: Some(large),
    }];
    let progress = BTreeMap::new();
    cached.apply(&AppliedBatch { versions, progress }).unwrap();
    let (hits, _) = counts(&cached);
    for _ in 0..3 {
        let version = cached.newest(b"007", Timestamp::MAX).unwrap().unwrap();
        assert_eq!(version.timestamp, Timestamp(9));
    }
    assert_eq!(counts(&cached).0, hits);
}

/// Threads that read what was closed, while others apply: key `k` of `KEYS` is written at every timestamp `t` with `t % KEYS == k`.
#[test]
fn readers_see_all_that_was_applied_before_they_began() {
    const KEYS: u64 = 7;
    let last: u64 = if cfg!(debug_assertions) { 5_000 } else { 40_000 };
    let cached = Cached::new(Arc::new(MemoryStore::new()), 1 << 10, Arc::default());
    let (closed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let key = |index: u64| [b'a' + u8::try_from(index).unwrap()];
    std::thread::scope(|scope| {
        for salt in 0..2 {
            let (cached, closed, is_over) = (&cached, &closed, &is_over);
            scope.spawn(move || {
                let mut turn = salt;
                while !is_over.load(Ordering::SeqCst) {
                    turn += 1;
                    let at = closed.load(Ordering::SeqCst).saturating_sub(turn % 3);
                    let index = turn % KEYS;
                    let found = cached.newest(&key(index), Timestamp(at)).unwrap();
                    let found = found.map(|version| version.timestamp.0);
                    let expected = (at.saturating_sub(KEYS - 1)..=at)
                        .rev()
                        .find(|t| *t > 0 && t % KEYS == index);
                    assert_eq!(found, expected, "key {index} at {at}");
                }
            });
        }
        for timestamp in 1..=last {
            let versions = vec![VersionWrite {
                key: key(timestamp % KEYS).to_vec().into(),
                timestamp: Timestamp(timestamp),
                value: Some(Bytes::from_static(b"x")),
            }];
            let progress = BTreeMap::new();
            cached.apply(&AppliedBatch { versions, progress }).unwrap();
            closed.store(timestamp, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::SeqCst);
    });
}
