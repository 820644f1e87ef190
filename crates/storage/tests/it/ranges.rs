//! More than one range: nothing in a storage node may count on there being one.

use std::sync::Arc;

use meridian_rpc::KvError;
use meridian_rpc::internal::storage_read::Read;
use meridian_rpc::internal::{ClosedQuery, ScanKeys, StorageRead};
use meridian_types::{End, KeyRange, Lsn, RangeId, RangeMap, RangeMapEntry, StreamId, Timestamp};

use crate::owner::Manner;
use crate::world::{NOW, World, eventually, get};

/// Long enough ago for R4 not to matter.
const AGO: u64 = NOW - 10_000_000;

fn entry(id: u64, start: &str, end: Option<&str>) -> RangeMapEntry {
    RangeMapEntry {
        id: RangeId(id),
        keys: KeyRange {
            start: start.into(),
            end: end.map(Into::into),
        },
        stream: StreamId(id),
        candidates: vec!["a1".into()],
    }
}

fn split_at_m(world: &World) {
    let entries = vec![entry(1, "", Some("m")), entry(2, "m", None)];
    world.map.send_replace(Arc::new(RangeMap {
        version: 2,
        entries,
        ..RangeMap::default()
    }));
}

#[tokio::test]
async fn a_read_over_two_ranges_waits_for_both() {
    let world = World::new();
    split_at_m(&world);
    let node = world.start(world.config());
    world.commit(AGO, &[("a", Some("1")), ("z", Some("2"))]);
    world.close(AGO);
    eventually("closed", || node.closed() == AGO).await;
    let owner = &world.owners[0];
    owner.manner.send_replace(Manner::Waits);
    let mut reader = node.reader().await;
    assert_eq!(
        reader.get("a", AGO).await.unwrap().as_deref(),
        Some("1"),
        "range 1 alone is closed"
    );
    let scan = StorageRead {
        read: Some(Read::Scan(ScanKeys::default())),
        ..get("", AGO)
    };
    let waiting = reader.send(vec![get("z", AGO), scan]).await;
    eventually("asked for range 2", || owner.asked() == [AGO]).await;
    for id in &waiting {
        assert!(
            reader
                .is_unanswered(*id, std::time::Duration::from_millis(30))
                .await,
            "read {id}"
        );
    }
    owner.manner.send_replace(Manner::Closes);
    for id in waiting {
        reader.answer(id).await.unwrap();
    }
    let over_both = StorageRead {
        read: Some(Read::Closed(ClosedQuery::default())),
        ..get("", 0)
    };
    reader.one(over_both).await.unwrap();
}

#[tokio::test]
async fn a_new_map_is_followed_from_the_positions_reached() {
    let world = World::new();
    let node = world.start(world.config());
    world.commit(AGO, &[("a", Some("1"))]);
    eventually("applied", || node.applied_lsn() == 1).await;
    split_at_m(&world);
    eventually("followed anew", || world.journals[0].subscriptions() == [0, 1]).await;
    assert_eq!(
        node.started.service.status().applied.len(),
        2,
        "both streams are shown"
    );
    let mut reader = node.reader().await;
    assert_eq!(reader.get("a", AGO).await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn reads_that_wait_for_a_range_that_is_split_go_on_with_its_successors() {
    let world = World::new();
    let node = world.start(world.config());
    world.commit(AGO, &[("a", Some("1")), ("z", Some("2"))]);
    eventually("applied", || node.applied_lsn() == 1).await;
    // The old range is not closed any more: its owner has sealed it.
    let owner = &world.owners[0];
    owner.manner.send_replace(Manner::OnlyThrough(1));
    let mut reader = node.reader().await;
    let scan = StorageRead {
        read: Some(Read::Scan(ScanKeys::default())),
        ..get("", AGO)
    };
    let waiting = reader.send(vec![get("a", AGO), get("z", AGO), scan]).await;
    eventually("asked for", || !owner.asked().is_empty()).await;
    let map = world.map.borrow().split(&"m".into()).unwrap();
    let end = End {
        floor: Timestamp(AGO),
        last: Lsn(1),
        ..End::default()
    };
    let map = map.sealed(StreamId(1), end).unwrap();
    let ranges: Vec<_> = map.entries.iter().map(|entry| entry.id.0).collect();
    assert_eq!(ranges, [2, 3]);
    world.map.send_replace(Arc::new(map));
    owner.manner.send_replace(Manner::Closes);
    for id in waiting {
        reader.answer(id).await.unwrap();
    }
    assert!(node.closed() < AGO, "the old range was not closed");
    // Reads that come later know no other ranges.
    assert_eq!(reader.get("z", AGO).await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn keys_that_no_range_holds_are_not_answered() {
    let world = World::new();
    let entries = vec![entry(1, "", Some("m")), entry(2, "p", None)];
    world.map.send_replace(Arc::new(RangeMap {
        version: 2,
        entries,
        ..RangeMap::default()
    }));
    let node = world.start(world.config());
    let mut reader = node.reader().await;
    assert!(matches!(
        reader.get("n", AGO).await,
        Err(KvError::Unavailable { .. })
    ));
    for (start, end) in [("", ""), ("a", "n"), ("n", "q")] {
        let scan = ScanKeys {
            start: start.into(),
            end: end.into(),
            ..ScanKeys::default()
        };
        let refused = reader.scan(AGO, scan).await;
        assert!(
            matches!(refused, Err(KvError::Unavailable { .. })),
            "{start}..{end}: {refused:?}"
        );
    }
    let inside = ScanKeys {
        start: "a".into(),
        end: "m".into(),
        ..ScanKeys::default()
    };
    reader.scan(AGO, inside).await.unwrap();
}
