//! Checkpoints, and filling from them where the journal was trimmed.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_files::{Files, MemoryFiles};
use meridian_rpc::internal::CheckpointRequest;
use meridian_rpc::internal::storage_client::StorageClient;
use meridian_rpc::internal::storage_server::StorageServer;
use meridian_rpc::{FaultPoints, KvError};
use meridian_storage::store::{AppliedBatch, MemoryStore, VersionStore, VersionWrite};
use meridian_storage::{Config, Engine, Peer};
use meridian_types::{KeyRange, Timestamp};
use tonic::service::RoutesBuilder;

use crate::journal::Mood;
use crate::peer::{FakePeer, Turn};
use crate::world::{NOW, Node, World, eventually};

/// Long enough ago for R4 not to matter.
const AGO: u64 = NOW - 10_000_000;
const PARTLY_LOADED: &str = "storage: partly loaded";

/// A world in which `k` was written 30 times, `gone` was deleted, and `late` comes when the log was trimmed up to 20.
fn history(world: &World) {
    world.commit(AGO, &[("gone", Some("x")), ("k", Some("0"))]);
    for n in 1..20 {
        world.commit(AGO + n, &[("k", Some(&n.to_string())), ("gone", None)]);
    }
}

fn trim(world: &World, base: u64) {
    for journal in &world.journals {
        journal.base.send_replace(base);
    }
}

fn peer(name: &'static str) -> Peer {
    Peer {
        name: name.into(),
        keys: KeyRange::all(),
    }
}

fn config(world: &World, peers: &[&'static str]) -> Config {
    Config {
        peers: peers.iter().map(|name| peer(name)).collect(),
        checkpoint_chunk: 4,
        ..world.config()
    }
}

async fn check_reads(node: &Node) {
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", AGO + 19).await.unwrap().as_deref(), Some("19"));
    assert_eq!(reader.get("k", AGO + 3).await.unwrap().as_deref(), Some("3"));
    assert_eq!(reader.get("gone", AGO).await.unwrap().as_deref(), Some("x"));
    assert_eq!(reader.get("gone", AGO + 19).await.unwrap(), None);
}

/// The first node, which has everything, and its checkpoint.
async fn first_node(world: &World) -> (Node, MemoryFiles) {
    let files = MemoryFiles::new();
    let store = Arc::new(MemoryStore::new());
    let node = world.start_with("st1", config(world, &["st2"]), store, files.clone());
    eventually("applied", || node.applied_lsn() == 20).await;
    (node, files)
}

/// Its checkpoint, written because somebody asks.
async fn checkpoint_of(world: &World) -> (Vec<u8>, [u8; 16]) {
    let (node, files) = first_node(world).await;
    let _ = ask(world, CheckpointRequest::default()).await;
    eventually("written", || node.figure("checkpoints_written") == 1).await;
    let bytes = files.content("checkpoint").unwrap();
    // The header's frame, its kind, magic and format come first.
    let id = bytes[21..37].try_into().unwrap();
    node.stop().await;
    (bytes, id)
}

/// What the first node sends.
async fn ask(world: &World, request: CheckpointRequest) -> Result<Vec<u8>, KvError> {
    let (env, _) = world.env("asker");
    let mut client = StorageClient::new(env.network.transport(&"st1".into()));
    let fault = |status| KvError::from_status(&status).unwrap();
    let mut parts = client.checkpoint(request).await.map_err(fault)?.into_inner();
    let mut all = Vec::new();
    while let Some(part) = parts.message().await.map_err(fault)? {
        all.extend_from_slice(&part.data);
    }
    Ok(all)
}

fn register(world: &World, name: &'static str, peer: &FakePeer) {
    let mut routes = RoutesBuilder::default();
    routes.add_service(StorageServer::new(peer.clone()));
    world.nodes.register(name.into(), routes.routes());
}

#[tokio::test]
async fn a_new_node_is_filled_by_a_peer_and_serves_and_counts() {
    let world = World::new();
    history(&world);
    let (first, _) = first_node(&world).await;
    trim(&world, 15);
    let store = Arc::new(MemoryStore::new());
    let second = world.start_with("st2", config(&world, &["st1"]), store, MemoryFiles::new());
    eventually("filled", || second.figure("fills") == 1).await;
    world.commit(AGO + 30, &[("late", Some("y"))]);
    check_reads(&second).await;
    let mut reader = second.reader().await;
    assert_eq!(reader.get("late", AGO + 30).await.unwrap().as_deref(), Some("y"));
    assert!(second.started.service.is_ready());
    assert_eq!(
        second.figure("entries_applied"),
        1,
        "the rest came with the checkpoint"
    );
    eventually("told", || {
        world.journals.iter().all(|journal| {
            let told = journal.told.lock().unwrap().clone();
            ["st1", "st2"].iter().all(|node| {
                told.iter().any(|told| {
                    let position = told.positions[0].position.unwrap();
                    told.node == *node
                        && (told.positions[0].stream, position.epoch, position.lsn) == (1, 1, 20)
                })
            })
        })
    })
    .await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn the_same_in_sled_whose_checkpoint_outlives_an_emptied_directory() {
    outlives_an_emptied_directory(Engine::Sled).await;
}

#[tokio::test]
async fn the_same_in_fjall_whose_checkpoint_outlives_an_emptied_directory() {
    outlives_an_emptied_directory(Engine::Fjall).await;
}

async fn outlives_an_emptied_directory(engine: Engine) {
    let world = World::new();
    history(&world);
    let (first, _) = first_node(&world).await;
    trim(&world, 20);
    let dir = tempfile::tempdir().unwrap();
    let with_peers = |peers: &[&'static str]| Config {
        data_dir: dir.path().to_owned(),
        engine: Some(engine),
        ..config(&world, peers)
    };
    let second = world.try_start("st2", with_peers(&["st1"])).await.unwrap();
    check_reads(&second).await;
    second.stop().await;
    first.stop().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let path = file.unwrap().path();
        match path.is_dir() {
            true if path.ends_with("checkpoint") => {}
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
    let second = world.try_start("st2", with_peers(&[])).await.unwrap();
    check_reads(&second).await;
    assert_eq!(second.figure("fills"), 1);
    second.stop().await;
    let second = world.try_start("st2", with_peers(&[])).await.unwrap();
    check_reads(&second).await;
    assert_eq!(
        second.figure("fills"),
        0,
        "a store that has everything is not filled again"
    );
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_breaks_off_goes_on_where_it_was_and_another_checkpoint_begins_anew() {
    let world = World::new();
    history(&world);
    let file = checkpoint_of(&world).await;
    let other = (file.0.clone(), [5; 16]);
    let turn = |file: &(Vec<u8>, [u8; 16]), parts| Turn {
        file: file.clone(),
        parts,
    };
    let script = vec![
        turn(&other, 0),
        turn(&other, 2),
        turn(&other, 1),
        turn(&file, 2),
        turn(&file, 0),
        turn(&file, 9_999),
    ];
    let fake = FakePeer::new(script, 100);
    register(&world, "st1", &fake);
    trim(&world, 20);
    let node = world.start_with(
        "st2",
        config(&world, &["st1"]),
        Arc::new(MemoryStore::new()),
        MemoryFiles::new(),
    );
    check_reads(&node).await;
    let (old, new) = (other.1.to_vec(), file.1.to_vec());
    let expected = [
        (vec![], 0),
        (vec![], 0),
        (old.clone(), 200),
        (old, 300),
        (new.clone(), 200),
        (new, 200),
    ];
    assert_eq!(fake.asked(), expected);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_what_was_written_is_never_loaded() {
    let world = World::new();
    history(&world);
    let file = checkpoint_of(&world).await;
    let mut script = Vec::new();
    // In the header, in the middle and in the footer.
    for place in [40, file.0.len() / 2, file.0.len() - 3] {
        let mut bad = file.clone();
        bad.0[place] ^= 4;
        script.push(Turn {
            file: bad,
            parts: 9_999,
        });
    }
    script.push(Turn { file, parts: 9_999 });
    let fake = FakePeer::new(script, 4_096);
    register(&world, "st1", &fake);
    trim(&world, 20);
    let store = Arc::new(MemoryStore::new());
    let node = world.start_with("st2", config(&world, &["st1"]), store, MemoryFiles::new());
    check_reads(&node).await;
    assert_eq!(fake.asked().len(), 4);
    assert_eq!(node.figure("fills"), 1);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_does_not_reach_the_base_is_not_used() {
    let world = World::new();
    history(&world);
    let file = checkpoint_of(&world).await;
    let fake = FakePeer::new(vec![Turn { file, parts: 9_999 }], 4_096);
    register(&world, "st1", &fake);
    world.commit(AGO + 30, &[("k", Some("newer"))]);
    trim(&world, 21);
    let store = Arc::new(MemoryStore::new());
    let node = world.start_with("st2", config(&world, &["st1"]), store, MemoryFiles::new());
    eventually("asked", || fake.asked().len() > 3).await;
    assert_eq!((node.figure("fills"), node.applied_lsn()), (0, 0));
    assert!(!node.started.service.is_ready());
    let state = node.started.service.status().state;
    assert!(
        state.starts_with("filling: ") && state.contains("up to 20 only"),
        "{state}"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_peer_of_other_keys_is_not_used_and_without_any_the_node_says_so() {
    let world = World::new();
    history(&world);
    let (first, _) = first_node(&world).await;
    trim(&world, 20);
    let few = Peer {
        name: "st1".into(),
        keys: KeyRange::new("a".into(), "k".into()),
    };
    let alone = Config {
        peers: vec![few],
        ..config(&world, &[])
    };
    let store = Arc::new(MemoryStore::new());
    let node = world.start_with("st2", alone, store, MemoryFiles::new());
    let failure = node.started.stopped.await.unwrap().unwrap_err().to_string();
    assert!(
        failure.contains("no other storage node is configured") && failure.contains("`checkpoint`"),
        "{failure}"
    );
    // Whatever the asker thinks, a node does not send what lacks some of the keys.
    let files = MemoryFiles::new();
    let narrow = Config {
        keys: KeyRange::new("a".into(), "j".into()),
        ..config(&world, &[])
    };
    first.stop().await;
    trim(&world, 0);
    let first = world.start_with("st1", narrow, Arc::new(MemoryStore::new()), files);
    eventually("applied", || first.applied_lsn() == 20).await;
    let refused = ask(&world, CheckpointRequest::default()).await;
    assert!(
        refused.unwrap_err().to_string().contains("holds keys from"),
        "all keys"
    );
    first.stop().await;
}

/// Does not go on at a place, whoever comes there.
struct Stuck(&'static str);

impl FaultPoints for Stuck {
    fn reached(&self, place: &'static str) -> Option<BoxFuture<'static, ()>> {
        (place == self.0).then(|| futures::future::pending().boxed())
    }
}

#[tokio::test]
async fn a_crash_in_the_middle_of_loading_begins_again_from_the_own_checkpoint() {
    let world = World::new();
    history(&world);
    let (first, _) = first_node(&world).await;
    trim(&world, 20);
    let (store, files) = (Arc::new(MemoryStore::new()), MemoryFiles::new());
    // What the checkpoint does not have must not be left.
    let stale = VersionWrite {
        key: "z".into(),
        timestamp: Timestamp(AGO),
        value: Some("stale".into()),
    };
    store
        .apply(&AppliedBatch {
            versions: vec![stale],
            ..AppliedBatch::default()
        })
        .unwrap();
    let stuck = Arc::new(Stuck(PARTLY_LOADED));
    let node = world.start_at(
        "st2",
        config(&world, &["st1"]),
        store.clone(),
        files.clone(),
        stuck,
    );
    eventually("partly loaded", || {
        node.started.service.status().state.contains("loaded")
    })
    .await;
    let mut reader = node.reader().await;
    let id = reader.send(vec![crate::world::get("k", AGO)]).await[0];
    assert!(reader.is_unanswered(id, Duration::from_millis(50)).await);
    assert!(!node.started.service.is_ready());
    assert!(store.is_incomplete().unwrap());
    drop(reader);
    node.stop().await;
    first.stop().await;
    let node = world.start_with("st2", config(&world, &[]), store.clone(), files);
    check_reads(&node).await;
    assert!(!store.is_incomplete().unwrap());
    assert_eq!(store.newest(b"z", Timestamp::MAX).unwrap(), None);
    node.stop().await;
}

#[tokio::test]
async fn a_store_that_lost_what_was_not_synced_is_filled_from_the_own_checkpoint_at_once() {
    let world = World::new();
    history(&world);
    let (store, files) = (Arc::new(MemoryStore::new()), MemoryFiles::new());
    let often = Config {
        checkpoint_interval_ms: 40,
        ..config(&world, &[])
    };
    let node = world.start_with("st1", often, store.clone(), files.clone());
    eventually("written", || {
        node.figure("checkpoints_written") > 0 && node.applied_lsn() == 20
    })
    .await;
    world.commit(AGO + 30, &[("late", Some("y"))]);
    let written = node.figure("checkpoints_written");
    eventually("written", || node.figure("checkpoints_written") > written).await;
    // The power fails: the store forgets everything, whatever it flushed, and nothing tells.
    node.shutdown.cancel();
    let _ = node.started.stopped.await;
    let files = files.after_power_loss(|| false);
    trim(&world, 21);
    let node = world.start_with(
        "st1",
        config(&world, &[]),
        Arc::new(MemoryStore::new()),
        files.clone(),
    );
    check_reads(&node).await;
    assert_eq!(node.figure("fills"), 1);
    assert_eq!(
        world.journals[0].subscriptions().last(),
        Some(&21),
        "never asked for what is gone"
    );
    node.stop().await;

    // One that is damaged does not count, and is not loaded.
    let mut bytes = files.content("checkpoint").unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    files.set_content("checkpoint", bytes);
    let node = world.start_with("st1", config(&world, &[]), Arc::new(MemoryStore::new()), files);
    let failure = node.started.stopped.await.unwrap().unwrap_err().to_string();
    assert!(failure.contains("no other storage node"), "{failure}");
}

#[tokio::test]
async fn a_node_that_has_answered_reads_and_is_trimmed_stops_and_says_what_to_do() {
    let world = World::new();
    history(&world);
    let (first, _) = first_node(&world).await;
    let store = Arc::new(MemoryStore::new());
    let second = world.start_with("st2", config(&world, &["st1"]), store.clone(), MemoryFiles::new());
    check_reads(&second).await;
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Down);
    }
    eventually("cut off", || !second.started.service.is_ready()).await;
    world.commit(AGO + 30, &[("k", Some("missed"))]);
    world.commit(AGO + 31, &[("late", Some("y"))]);
    trim(&world, 21);
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Well);
    }
    let failure = second.started.stopped.await.unwrap().unwrap_err().to_string();
    assert!(failure.contains("start the node again"), "{failure}");
    // So does this one, which was trimmed too.
    drop(first);
}

#[tokio::test]
async fn what_is_sent_begins_where_the_asker_is_and_is_refused_beyond_the_end() {
    let world = World::new();
    history(&world);
    let (node, files) = first_node(&world).await;
    let none = ask(&world, CheckpointRequest::default()).await.unwrap_err();
    assert!(none.to_string().contains("no checkpoint yet"), "{none}");
    eventually("written", || node.figure("checkpoints_written") == 1).await;
    let bytes = files.content("checkpoint").unwrap();
    assert_eq!(node.figure("checkpoint_bytes"), bytes.len() as u64);
    assert_eq!(ask(&world, CheckpointRequest::default()).await.unwrap(), bytes);
    let from = |offset| CheckpointRequest {
        id: bytes[21..37].to_vec().into(),
        offset,
        ..CheckpointRequest::default()
    };
    assert_eq!(ask(&world, from(100)).await.unwrap(), bytes[100..]);
    assert_eq!(ask(&world, from(bytes.len() as u64)).await.unwrap(), b"");
    let beyond = ask(&world, from(bytes.len() as u64 + 1)).await.unwrap_err();
    assert!(matches!(beyond, KvError::Invalid { .. }), "{beyond}");
    let other = CheckpointRequest {
        id: vec![1; 16].into(),
        offset: 100,
        ..CheckpointRequest::default()
    };
    assert_eq!(
        ask(&world, other).await.unwrap(),
        bytes,
        "another one begins anew"
    );
    assert_eq!(files.list().unwrap(), ["checkpoint"]);
    node.stop().await;
}
