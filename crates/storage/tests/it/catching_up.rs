//! Following the journal through restarts, losses and bad feeds.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::internal::entry::Kind;
use meridian_storage::store::{MemoryStore, VersionStore};

use crate::journal::Mood;
use crate::world::{NOW, World, eventually};

/// Long enough ago for R4 not to matter.
const AGO: u64 = NOW - 10_000_000;

#[tokio::test]
async fn a_restart_goes_on_from_its_position_and_an_emptied_directory_is_rebuilt() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    world.append(Kind::Opened, 0, vec![]);
    for n in 0..20 {
        world.commit(AGO + n, &[("k", Some(&n.to_string()))]);
    }
    let node = world.start_in("st1", dir.path()).await;
    eventually("applied", || node.applied_lsn() == 21).await;
    node.stop().await;
    world.commit(AGO + 20, &[("k", Some("20"))]);
    let node = world.start_in("st1", dir.path()).await;
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 20).await.unwrap().as_deref(), Some("20"));
    assert_eq!(reader.get("k", AGO + 5).await.unwrap().as_deref(), Some("5"));
    assert_eq!(world.journals[0].subscriptions(), [0, 21]);
    assert_eq!(node.figure("entries_applied"), 1, "only what was new");
    node.stop().await;

    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
    }
    let node = world.start_in("st1", dir.path()).await;
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 5).await.unwrap().as_deref(), Some("5"));
    assert_eq!(world.journals[0].subscriptions(), [0, 21, 0]);
    node.stop().await;
}

#[tokio::test]
async fn closures_do_not_outlive_a_restart() {
    let world = World::new();
    let store = Arc::new(MemoryStore::new());
    world.commit(AGO, &[("k", Some("1"))]);
    let node = world.start_on("st1", world.config(), store.clone());
    eventually("applied", || node.applied_lsn() == 1).await;
    store.flush().unwrap();
    world.commit(AGO + 1, &[("k", Some("2"))]);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 1).await.unwrap().as_deref(), Some("2"));
    // The process dies; its end flushes in this test, so the loss is put back by hand.
    let lost = store.unflushed();
    assert_eq!(lost, 1);
    store.crash(0);
    node.shutdown.cancel();
    let _ = node.started.stopped.await;
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Silent);
    }
    let node = world.start_on("st1", world.config(), store);
    let mut reader = node.reader().await;
    let id = reader.send(vec![crate::world::get("k", AGO + 1)]).await[0];
    assert!(
        reader.is_unanswered(id, Duration::from_millis(100)).await,
        "version 2 is missing here"
    );
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Well);
    }
    let answer = crate::world::got(reader.answer(id).await.unwrap());
    assert_eq!(answer.values[0].value.as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn a_second_node_joins_and_serves_the_same() {
    let world = World::new();
    let first = world.start(world.config());
    for n in 0..50 {
        world.commit(
            AGO + n,
            &[(&format!("k{n}"), Some("v")), ("last", Some(&n.to_string()))],
        );
    }
    eventually("applied", || first.applied_lsn() == 50).await;
    let second = world.start_on("st2", world.config(), Arc::new(MemoryStore::new()));
    for node in [&first, &second] {
        let mut reader = node.reader().await;
        assert_eq!(reader.get("last", AGO + 49).await.unwrap().as_deref(), Some("49"));
        assert_eq!(reader.get("last", AGO + 10).await.unwrap().as_deref(), Some("10"));
        assert!(node.started.service.is_ready());
    }
}

#[tokio::test]
async fn a_journal_node_that_goes_down_is_replaced_by_another() {
    let world = World::new();
    let node = world.start(world.config());
    world.commit(AGO, &[("k", Some("1"))]);
    eventually("applied", || node.applied_lsn() == 1).await;
    world.journals[0].mood.send_replace(Mood::Down);
    world.commit(AGO + 1, &[("k", Some("2"))]);
    eventually("applied", || node.applied_lsn() == 2).await;
    assert_eq!(world.journals[1].subscriptions(), [1]);
    world.journals[1].mood.send_replace(Mood::Down);
    eventually("not ready", || !node.started.service.is_ready()).await;
    world.commit(AGO + 2, &[("k", Some("3"))]);
    world.journals[0].mood.send_replace(Mood::Well);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 2).await.unwrap().as_deref(), Some("3"));
}

#[tokio::test]
async fn the_nearest_journal_node_is_followed_again_once_it_has_come_as_far() {
    let world = World::new();
    let config = meridian_storage::Config {
        feed_return_ms: 20,
        ..world.config()
    };
    let node = world.start(config);
    world.commit(AGO, &[("k", Some("1"))]);
    eventually("applied", || node.applied_lsn() == 1).await;
    world.journals[0].mood.send_replace(Mood::Down);
    world.commit(AGO + 1, &[("k", Some("2"))]);
    eventually("applied", || node.applied_lsn() == 2).await;
    // It is back, and says that it has nothing yet.
    world.journals[0].mood.send_replace(Mood::Silent);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.journals[0].subscriptions(), [0]);
    world.journals[0].mood.send_replace(Mood::Well);
    eventually("followed again", || world.journals[0].subscriptions() == [0, 2]).await;
    world.journals[1].mood.send_replace(Mood::Down);
    world.commit(AGO + 2, &[("k", Some("3"))]);
    eventually("applied", || node.applied_lsn() == 3).await;
    assert_eq!(world.journals[1].subscriptions(), [1]);
}

#[tokio::test]
async fn a_journal_node_that_is_behind_is_left_for_one_that_knows_what_reads_wait_for() {
    let world = World::new();
    let config = meridian_storage::Config {
        feed_return_ms: 20,
        ..world.config()
    };
    let node = world.start(config);
    world.commit(AGO, &[("k", Some("1"))]);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO).await.unwrap().as_deref(), Some("1"));
    // It is cut off from the owner of this range alone: other things are still fed.
    world.journals[0].mood.send_replace(Mood::Behind);
    world.commit(AGO + 1, &[("k", Some("2"))]);
    assert!(world.journals[1].subscriptions().is_empty(), "nobody waits");
    assert_eq!(reader.get("k", AGO + 1).await.unwrap().as_deref(), Some("2"));
    assert_eq!(world.journals[1].subscriptions(), [1]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.journals[0].subscriptions(), [0], "not before it is in step");
    world.journals[0].mood.send_replace(Mood::Well);
    eventually("followed again", || world.journals[0].subscriptions() == [0, 2]).await;
}

#[tokio::test]
async fn a_journal_node_that_is_being_rebuilt_is_passed_over_until_it_is_whole() {
    let world = World::new();
    world.commit(AGO, &[("k", Some("1"))]);
    world.journals[0].mood.send_replace(Mood::Rebuilt);
    let config = meridian_storage::Config {
        feed_return_ms: 20,
        ..world.config()
    };
    let node = world.start(config);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO).await.unwrap().as_deref(), Some("1"));
    assert_eq!(world.journals[0].subscriptions(), []);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.journals[0].subscriptions(), []);
    world.journals[0].mood.send_replace(Mood::Well);
    eventually("followed", || world.journals[0].subscriptions() == [1]).await;
}

#[tokio::test]
async fn a_gap_in_a_feed_is_never_skipped() {
    let world = World::new();
    world.journals[0].mood.send_replace(Mood::Skips(2));
    for n in 0..3 {
        world.commit(AGO + n, &[("k", Some(&n.to_string()))]);
    }
    let node = world.start(world.config());
    eventually("applied", || node.applied_lsn() == 3).await;
    assert_eq!(
        world.journals[1].subscriptions(),
        [1],
        "from the other node, after what was in order"
    );
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 1).await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn a_write_below_a_closed_timestamp_stops_the_node() {
    let world = World::new();
    let node = world.start(world.config());
    world.close(AGO);
    eventually("closed", || node.closed() == AGO).await;
    world.commit(AGO, &[("k", Some("too late"))]);
    let failure = node.started.stopped.await.unwrap().unwrap_err();
    assert!(failure.to_string().contains("I6 violated"), "{failure}");
    assert!(node.started.service.status().state.contains("I6 violated"));
    assert!(!node.started.service.is_ready());
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_a_reason() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let node = world.start_in("st1", dir.path()).await;
    let opened = meridian_storage::store::FjallStore::open(dir.path(), 1 << 20);
    assert!(matches!(opened, Err(meridian_storage::StoreError::Locked { .. })));
    let other = meridian_storage::Config {
        data_dir: dir.path().to_owned(),
        engine: Some(meridian_storage::Engine::Sled),
        ..world.config()
    };
    let refused = world.try_start("st1", other).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("kept by fjall"), "{refused}");
    node.stop().await;
}
