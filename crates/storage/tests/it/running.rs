//! The node as a process runs it, and with several threads.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use meridian_rpc::Listener;
use meridian_rpc::internal::ScanKeys;
use meridian_storage::Config;
use meridian_storage::store::{AppliedBatch, Direction, FjallStore, SledStore, VersionStore, VersionWrite};
use meridian_types::{ClusterId, Key, KeyRange, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::world::{BOUND, NOW, World, eventually};

#[tokio::test]
async fn run_ends_when_told_to_and_says_why_when_it_ends_by_itself() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let run = |shutdown: CancellationToken| {
        let (env, owners) = world.env("st1");
        let config = Config {
            data_dir: dir.path().join("versions"),
            ..world.config()
        };
        meridian_storage::run(config, env, Listener::Local, owners, vec!["j1".into()], shutdown)
    };
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(shutdown.clone()));
    world.close(NOW);
    eventually("following", || world.journals[0].subscriptions() == [0]).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();

    world.commit(NOW, &[("k", Some("below what was closed"))]);
    let failure = run(CancellationToken::new()).await.unwrap_err();
    assert!(failure.to_string().contains("I6 violated"), "{failure}");
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused_by_name() {
    let world = World::new();
    let (env, owners) = world.env("st1");
    let config = Config {
        page_keys: 0,
        ..world.config()
    };
    let started = meridian_storage::start(config, env, owners, vec![], CancellationToken::new()).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("storage.page_keys"), "{error}");
}

#[tokio::test]
async fn a_node_with_some_keys_refuses_others_and_a_directory_that_lacks_some() {
    const AT: u64 = NOW - 10 * BOUND;
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let start = async |from: &str, to: &str| {
        let config = Config {
            data_dir: dir.path().join("versions"),
            keys: KeyRange::new(from.into(), to.into()),
            ..world.config()
        };
        let started = world.try_start("st1", config).await;
        started.map_err(|failure| failure.to_string())
    };
    let node = start("b", "m").await.unwrap();
    world.commit(AT, &[("a", Some("1")), ("b", Some("2")), ("m", Some("3"))]);
    world.close(AT);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("b", AT).await, Ok(Some("2".to_owned())));
    for key in ["a", "m"] {
        let error = reader.get(key, AT).await.unwrap_err().to_string();
        assert!(error.contains("holds keys from \"b\" to m only"), "{error}");
    }
    let page = ScanKeys {
        start: "b".into(),
        end: "z".into(),
        ..ScanKeys::default()
    };
    assert!(reader.scan(AT, page).await.is_err());
    drop(reader);
    node.stop().await;

    let error = start("a", "m").await.err().unwrap();
    assert!(
        error.contains("was filled with keys from \"b\" to \"m\" only"),
        "{error}"
    );
    let node = start("c", "k").await.unwrap();
    node.stop().await;
    assert!(
        start("b", "k").await.is_err(),
        "what it held before may have changed since"
    );
}

const KEYS: u64 = 40;
const COMMITS: u64 = 600;
const KEPT: u64 = 3;

/// What key `n` holds at timestamp `at`: written by every commit, deleted by those that its number divides.
fn expected(n: u64, at: u64) -> Option<Bytes> {
    (at > 0 && !at.is_multiple_of(n % 5 + 2)).then(|| Bytes::from(format!("{n}@{at}")))
}

/// Scans at closed timestamps while another thread applies and a third one drops what is old: no scan that is
/// not refused may see anything but its own snapshot.
#[test]
fn scans_see_their_snapshot_while_versions_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    scans_see_their_snapshot(&SledStore::open(dir.path(), 1 << 20, 1_000).unwrap());
    let dir = tempfile::tempdir().unwrap();
    scans_see_their_snapshot(&FjallStore::open(dir.path(), 1 << 20).unwrap());
}

fn scans_see_their_snapshot(store: &dyn VersionStore) {
    let (closed, horizon, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 1..=COMMITS {
                let versions = (0..KEYS).map(|n| VersionWrite {
                    key: Key::from(format!("key{n:02}").as_str()),
                    timestamp: Timestamp(at),
                    value: expected(n, at),
                });
                store
                    .apply(&AppliedBatch {
                        versions: versions.collect(),
                        ..Default::default()
                    })
                    .unwrap();
                closed.store(at, Ordering::SeqCst);
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let below = closed.load(Ordering::SeqCst).saturating_sub(KEPT);
                horizon.store(below, Ordering::SeqCst);
                store
                    .sweep(&KeyRange::all(), Timestamp(below), Timestamp(below), 1_000)
                    .unwrap();
            }
        });
        for direction in [Direction::Forward, Direction::Reverse] {
            let (closed, horizon, done) = (&closed, &horizon, &done);
            scope.spawn(move || {
                let mut answered = 0;
                while !done.load(Ordering::SeqCst) || answered == 0 {
                    let at = closed.load(Ordering::SeqCst);
                    let mut rows = Vec::new();
                    store
                        .walk(
                            &KeyRange::all(),
                            Timestamp(at),
                            direction,
                            usize::MAX,
                            &mut |key, version| {
                                rows.extend(version.value.map(|value| (key, value)));
                                ControlFlow::Continue(())
                            },
                        )
                        .unwrap();
                    if at < horizon.load(Ordering::SeqCst) {
                        continue; // refused, R6
                    }
                    rows.sort();
                    let all = (0..KEYS)
                        .filter_map(|n| Some((Key::from(format!("key{n:02}").as_str()), expected(n, at)?)));
                    assert_eq!(rows, all.collect::<Vec<_>>(), "{direction:?} at {at}");
                    answered += 1;
                }
            });
        }
    });
}

/// Positions in another cluster's streams mean nothing here: what the directory holds would be served, and the new log's first entries
/// skipped.
#[tokio::test]
async fn a_directory_of_another_cluster_is_refused() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let start = |cluster: u8| {
        let (env, owners) = world.env("st1");
        let config = Config {
            data_dir: dir.path().to_owned(),
            cluster: ClusterId::from_slice(&[cluster; 16]),
            ..world.config()
        };
        let shutdown = CancellationToken::new();
        async move {
            let started =
                meridian_storage::start(config, env, owners, vec!["j1".into()], shutdown.clone()).await;
            match started {
                Ok(started) => {
                    shutdown.cancel();
                    drop(started.service);
                    started.stopped.await.unwrap().map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            }
        }
    };
    start(1).await.unwrap();
    start(1).await.unwrap();
    let refused = start(2).await.unwrap_err();
    let path = dir.path().display().to_string();
    assert!(
        refused.contains(&path) && refused.contains("empty it"),
        "{refused}"
    );
    start(1).await.unwrap();
}
