//! What a promised write does to others (R11), and that searching ranges finds what a plain search finds.

use std::collections::BTreeMap;

use meridian_protocol::conflict::{Collision, Recent, RecentWrites};
use meridian_types::{Attempt, Epoch, Key, KeyRange, StreamId, Timestamp, TxnId};
use uuid::Uuid;

use crate::rng::{Rng, for_each_seed};

fn txn(number: u128) -> TxnId {
    TxnId(Uuid::from_u128(number))
}

fn attempt(number: u128) -> Attempt {
    Attempt {
        txn: txn(number),
        number: 1,
        home: StreamId(2),
        home_epoch: Epoch(3),
    }
}

#[test]
fn a_promise_holds_against_older_snapshots_and_not_as_final() {
    let mut recent = RecentWrites::new(10_000, Timestamp(10));
    let (a, b) = (Key::from("a"), Key::from("b"));
    recent.promise([&a], attempt(1), Timestamp(50));
    let with = Recent::Promised {
        attempt: attempt(1),
        promise: Timestamp(50),
    };
    let collision = Collision::With { key: a.clone(), with };
    assert_eq!(
        recent.check(txn(2), Timestamp(49), std::slice::from_ref(&a), &[]),
        Some(collision)
    );
    assert_eq!(
        recent.check(txn(2), Timestamp(50), std::slice::from_ref(&a), &[]),
        None
    );
    assert_eq!(
        recent.check(txn(1), Timestamp(49), std::slice::from_ref(&a), &[]),
        Some(Collision::SameTxn)
    );

    // A committed write decides, when there is one as well: the same attempt need not be tried again.
    recent.commit([&b], txn(9), Timestamp(40));
    let collision = Collision::With {
        key: b.clone(),
        with: Recent::Committed {
            at: Timestamp(40),
            txn: txn(9),
        },
    };
    assert_eq!(
        recent.check(txn(2), Timestamp(30), &[a.clone(), b], &[]),
        Some(collision)
    );
}

#[test]
fn a_forgotten_promise_counts_as_its_promise() {
    let mut recent = RecentWrites::new(300, Timestamp(10));
    let (a, b) = (Key::from("a"), Key::from("b"));
    recent.promise([&a], attempt(1), Timestamp(50));
    recent.commit([&b], txn(9), Timestamp(60));
    assert_eq!((recent.len(), recent.get(&a)), (1, None));
    assert_eq!(recent.window_low(), Timestamp(50));
}

#[test]
fn a_transaction_larger_than_the_memory_is_forgotten_safely() {
    let mut recent = RecentWrites::new(100, Timestamp(10));
    recent.commit([&Key::from("a"), &Key::from("b")], txn(9), Timestamp(60));
    assert!(recent.is_empty() && recent.size_bytes() == 0);
    assert_eq!(recent.window_low(), Timestamp(60));
}

/// Ranges wide and narrow, snapshots old and new: both walks of the lockstep end the search in some of them.
#[test]
fn searching_a_range_finds_a_collision_exactly_when_there_is_one() {
    for_each_seed(200, |seed| {
        let mut rng = Rng::new(seed);
        let mut recent = RecentWrites::new(1 << 20, Timestamp(0));
        let mut plain: BTreeMap<Key, Timestamp> = BTreeMap::new();
        for time in 1..=200_u64 {
            let key = Key::from(format!("{:03}", rng.below(120)).as_str());
            recent.commit([&key], txn(9), Timestamp(time));
            plain.insert(key, Timestamp(time));
            let start = Timestamp(time.saturating_sub(rng.below(60) as u64));
            let from = rng.below(120);
            let to = from + rng.below(40);
            let range = KeyRange::new(
                Key::from(format!("{from:03}").as_str()),
                Key::from(format!("{to:03}").as_str()),
            );
            let is_hit =
                |key: &Key| plain.get(key).is_some_and(|at| *at > start) && range.contains(key.as_ref());
            match recent.check(txn(1), start, &[], std::slice::from_ref(&range)) {
                None => assert!(!plain.keys().any(is_hit), "missed one in {range:?} after {start}"),
                Some(Collision::With { key, with }) => {
                    assert!(
                        is_hit(&key) && plain.get(&key) == Some(&with.timestamp()),
                        "{key} is none"
                    );
                }
                Some(Collision::SameTxn) => panic!("nothing was promised"),
            }
        }
    });
}
