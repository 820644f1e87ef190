//! What a node holds after it was killed, lost power, or its disk failed, filled up or was replaced.

use std::sync::Arc;

use meridian_journal::files::{Fault, MemoryFiles, RealFiles};
use meridian_journal::wal::{MARK_FILE, segment_name};
use meridian_journal::{Config, StartError, Writer, disk};
use meridian_rpc::internal::StateRequest;
use meridian_rpc::internal::append_reply::Result as Reply;
use tonic::Code;

use crate::support::*;

/// A node with a stream of three entries, of epoch 1 by `a1`.
async fn three_entries(world: &World, files: &MemoryFiles) -> (Node, Link) {
    let node = world.start("j1", files).await;
    world.fence("j1", 1, "a1").await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let first = append(
        1,
        (0, 0),
        vec![opened(1, 1), commit(1, 2, b"two"), commit(1, 3, b"three")],
        0,
    );
    assert_eq!(link.append(first).await, matched(1, 3));
    (node, link)
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_power_loss() {
    let files = registered("j1", 1);
    let (_node, _link) = three_entries(&World::default(), &files).await;
    let after = files.after_power_loss(|| false);
    let world = World::default();
    let node = world.start("j1", &after).await;
    assert_eq!(
        world.read_all("j1").await,
        [opened(1, 1), commit(1, 2, b"two"), commit(1, 3, b"three")]
    );
    assert_eq!(
        world.fence("j1", 1, "a1").await.refused_by_epoch,
        1,
        "the promise is forgotten"
    );
    let fenced = world.fence("j1", 2, "a1").await;
    drop(node);
    let again = World::default();
    let _node = again.start("j1", &after.after_power_loss(|| false)).await;
    assert_eq!(
        again.fence("j1", 2, "a1").await.refused_by_epoch,
        2,
        "the promise is forgotten"
    );
    assert_eq!(fenced.last, Some(position(1, 3)));
    assert_eq!(
        (fenced.last_commit, fenced.lease_end, fenced.released_floor),
        (NOW + 3, NOW + 1_000_000, 0)
    );
}

#[tokio::test]
async fn a_real_directory_survives_a_restart_and_admits_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    assert!(matches!(disk::load(&path), Err(StartError::NotRegistered { .. })));
    disk::initialise(&path, cluster_id(), "j1".into(), disk_id(1)).unwrap();
    let twice = disk::initialise(&path, cluster_id(), "j1".into(), disk_id(2));
    assert!(matches!(twice, Err(StartError::AlreadyRegistered { .. })));
    let config = Config {
        segment_bytes: 32 << 10,
        writer: Writer::Thread,
        ..Config::default()
    };
    let payload = vec![7; 10_000];
    for round in 0..3 {
        let world = World::default();
        let files = Arc::new(RealFiles::new(&path).unwrap());
        let node = world
            .try_start(config.clone(), "j1", files.clone())
            .await
            .unwrap();
        let second = world.try_start(config.clone(), "j1", files).await;
        assert!(matches!(second, Err(StartError::Locked { .. })));
        let epoch = round + 1;
        let last = world.fence("j1", epoch, "a1").await.last.unwrap();
        assert_eq!(last.lsn, round * 6);
        let mut link = Link::open(world.client("j1"), "a1").await;
        let (mut prev, mut lsn) = ((last.epoch, last.lsn), last.lsn + 1);
        for _ in 0..6 {
            assert_eq!(
                link.append(append(epoch, prev, vec![commit(epoch, lsn, &payload)], 0))
                    .await,
                matched(epoch, lsn)
            );
            (prev, lsn) = ((epoch, lsn), lsn + 1);
        }
        let entries = world.read_all("j1").await;
        assert_eq!(entries.len() as u64, epoch * 6);
        assert!(entries.iter().all(|entry| entry.payload == payload));
        node.stop().await;
    }
}

#[tokio::test]
async fn a_node_whose_sync_fails_acknowledges_nothing_any_more() {
    for writer in [Writer::Task, Writer::Thread] {
        let files = registered("j1", 1);
        let world = World::default();
        let config = Config {
            writer,
            ..small_config()
        };
        let node = world
            .try_start(config, "j1", Arc::new(files.clone()))
            .await
            .unwrap();
        let mut link = Link::open(world.client("j1"), "a1").await;
        assert_eq!(
            link.append(append(1, (0, 0), vec![opened(1, 1)], 0)).await,
            matched(1, 1)
        );
        files.set_fault(Fault {
            fail_sync_after: Some(0),
            ..Fault::default()
        });
        link.send(vec![append(1, (1, 1), vec![commit(1, 2, b"lost")], 0)], vec![])
            .await;
        assert_eq!(link.replies().await.unwrap_err().code(), Code::Unavailable);
        let failure = node.started.stopped.await.unwrap().unwrap_err();
        assert!(failure.what.contains("cannot sync"), "{failure}");
        files.set_fault(Fault::default());
        assert!(!node.started.service.is_ready());
        assert_eq!(
            world.try_fence("j1", 9, "a2").await.unwrap_err().code(),
            Code::Unavailable
        );
        let again = World::default();
        let _node = again.start("j1", &files.after_power_loss(|| false)).await;
        assert_eq!(again.read_all("j1").await, [opened(1, 1)]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_fences_and_accepts_them_when_there_is_room() {
    let world = World::default();
    let files = registered("j1", 1);
    let (_node, mut link) = three_entries(&world, &files).await;
    files.set_fault(Fault {
        capacity_bytes: Some(files.used_bytes()),
        ..Fault::default()
    });
    let large = vec![1; 20_000];
    let next = append(1, (1, 3), vec![commit(1, 4, &large)], 0);
    let Reply::Invalid(why) = link.append(next.clone()).await else {
        panic!("accepted")
    };
    assert!(why.contains("disk full"), "{why}");
    // A successor's append that would cut the log is taken back as a whole.
    let mut other = Link::open(world.client("j1"), "a2").await;
    let cut = append(2, (1, 1), vec![opened(2, 2), commit(2, 3, &large)], 0);
    assert!(matches!(other.append(cut.clone()).await, Reply::Invalid(_)));
    let state = world.state("j1").await;
    assert_eq!(
        (state.promised, state.last, state.last_commit),
        (1, Some(position(1, 3)), NOW + 3)
    );
    assert_eq!(world.read_all("j1").await.len(), 3);
    assert_eq!(link.append(append(1, (1, 3), vec![], 0)).await, matched(1, 3));
    files.set_fault(Fault::default());
    assert_eq!(link.append(next).await, matched(1, 4));
    assert_eq!(other.append(cut).await, matched(2, 3));
    let restarted = World::default();
    let _node = restarted.start("j1", &files.after_power_loss(|| false)).await;
    let entries = restarted.read_all("j1").await;
    assert_eq!(entries, [opened(1, 1), opened(2, 2), commit(2, 3, &large)]);
}

#[tokio::test]
async fn a_lost_disk_is_refused_unless_it_is_replaced_and_then_it_votes_only_once_rebuilt() {
    let files = registered("j1", 1);
    let (node, _link) = three_entries(&World::default(), &files).await;
    node.stop().await;
    let mut bytes = files.content(&segment_name(1)).unwrap();
    bytes[600] ^= 4;
    files.set_content(&segment_name(1), bytes);
    let world = World::default();
    let refused = world
        .try_start(small_config(), "j1", Arc::new(files.clone()))
        .await
        .err()
        .unwrap();
    let message = refused.to_string();
    for part in [
        &segment_name(1),
        "offset 5",
        "replace_lost_disk",
        &disk_id(1).to_string(),
    ] {
        assert!(message.contains(part), "{message}");
    }
    let config = Config {
        replace_lost_disk: true,
        ..small_config()
    };
    let node = world
        .try_start(config, "j1", Arc::new(files.clone()))
        .await
        .unwrap();
    let replaced = disk::load_from(&files).unwrap();
    assert!(replaced.rejoining && replaced.disk_id != disk_id(1));
    let fenced = world.fence("j1", 7, "a2").await;
    assert!(fenced.rejoining && fenced.disk_id == replaced.disk_id.to_bytes());
    let mut link = Link::open(world.client("j1"), "a2").await;
    let mut repair = append(8, (0, 0), vec![opened(1, 1), commit(1, 2, b"two")], 0);
    assert_eq!(
        link.append(repair.clone()).await,
        Reply::RejoinDiskId(replaced.disk_id.to_bytes())
    );
    repair.rejoin_disk_id = replaced.disk_id.to_bytes();
    assert_eq!(link.append(repair).await, matched(1, 2));
    assert!(
        world.state("j1").await.rejoining,
        "it does not hold the owner's Opened yet"
    );
    let mut last = append(8, (1, 2), vec![opened(8, 3)], 0);
    last.rejoin_disk_id = replaced.disk_id.to_bytes();
    assert_eq!(link.append(last).await, matched(8, 3));
    assert!(!world.state("j1").await.rejoining);
    node.stop().await;
    let again = World::default();
    let _node = again.start("j1", &files).await;
    assert!(
        !again.fence("j1", 9, "a2").await.rejoining,
        "rebuilt, also after a restart"
    );
}

#[tokio::test]
async fn a_configuration_under_which_nothing_would_be_written_or_read_is_refused() {
    let world = World::default();
    let wrong = [
        Config {
            group_bytes: 0,
            ..small_config()
        },
        Config {
            batch_bytes: 0,
            ..small_config()
        },
    ];
    for config in wrong {
        let started = world.try_start(config, "j1", Arc::new(registered("j1", 1))).await;
        assert!(matches!(started.err(), Some(StartError::Config { .. })));
    }
}

#[tokio::test]
async fn a_question_about_more_streams_than_the_node_may_hold_is_refused() {
    let world = World::default();
    let config = Config {
        max_streams: 2,
        ..small_config()
    };
    let _node = world
        .try_start(config, "j1", Arc::new(registered("j1", 1)))
        .await
        .unwrap();
    let ask = |streams| {
        let mut client = world.client("j1");
        async move { client.state(StateRequest { streams }).await }
    };
    assert_eq!(ask(vec![1, 2]).await.unwrap().into_inner().streams.len(), 2);
    assert!(ask(vec![1, 2, 3]).await.is_err());
}

#[tokio::test]
async fn an_emptied_or_foreign_directory_does_not_start() {
    let world = World::default();
    let files = registered("j1", 1);
    let empty = world
        .try_start(small_config(), "j1", Arc::new(MemoryFiles::new()))
        .await
        .err()
        .unwrap();
    assert!(matches!(empty, StartError::NotRegistered { .. }), "{empty}");
    let foreign = world
        .try_start(small_config(), "j2", Arc::new(files.clone()))
        .await
        .err()
        .unwrap();
    assert!(matches!(foreign, StartError::WrongDisk { .. }), "{foreign}");
    // The log of another disk, put beside this identity.
    let (node, _link) = three_entries(&world, &files).await;
    node.stop().await;
    let other = registered("j1", 2);
    for name in [segment_name(1), MARK_FILE.to_owned()] {
        meridian_journal::Files::create(&other, &name).ok();
        other.set_content(&name, files.content(&name).unwrap());
    }
    let wrong = world
        .try_start(small_config(), "j1", Arc::new(other))
        .await
        .err()
        .unwrap();
    assert!(matches!(wrong, StartError::WrongDisk { .. }), "{wrong}");
}

/// Both a flipped bit and another valid record in the place of the one that was written.
#[tokio::test]
async fn a_record_that_changes_under_a_running_node_is_never_served_and_stops_it() {
    for is_swapped in [false, true] {
        let world = World::default();
        let files = registered("j1", 1);
        let config = Config {
            tail_bytes: 0,
            ..small_config()
        };
        let node = world
            .try_start(config, "j1", Arc::new(files.clone()))
            .await
            .unwrap();
        let mut link = Link::open(world.client("j1"), "a1").await;
        let mut bounds = Vec::new();
        for lsn in 1..=3 {
            let prev = (u64::from(lsn > 1), lsn - 1);
            assert_eq!(
                link.append(append(1, prev, vec![commit(1, lsn, b"payload")], 0))
                    .await,
                matched(1, lsn)
            );
            let bytes = files.content(&segment_name(1)).unwrap();
            bounds.push(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        }
        let mut bytes = files.content(&segment_name(1)).unwrap();
        if is_swapped {
            let third = bytes[bounds[1]..bounds[2]].to_vec();
            bytes[bounds[2] - 2 * third.len()..bounds[2] - third.len()].copy_from_slice(&third);
        } else {
            bytes[bounds[1] - 3] ^= 1;
        }
        files.set_content(&segment_name(1), bytes);
        let request = meridian_rpc::internal::ReadRequest {
            stream: STREAM,
            ..Default::default()
        };
        assert_eq!(
            world.read("j1", request).await.unwrap_err().code(),
            Code::Unavailable
        );
        let failure = node.started.stopped.await.unwrap().unwrap_err();
        assert!(failure.what.contains(&segment_name(1)), "{failure}");
    }
}

/// A real file system that is really full. Wants a directory on a file system of about 256 KiB in `MERIDIAN_SMALL_DIR`
/// (`mount -t tmpfs -o size=256k`).
#[tokio::test]
#[ignore = "needs a small file system"]
async fn a_really_full_disk_refuses_and_recovers() {
    let dir = std::path::PathBuf::from(std::env::var("MERIDIAN_SMALL_DIR").unwrap());
    let data = dir.join("data");
    disk::initialise(&data, cluster_id(), "j1".into(), disk_id(1)).unwrap();
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 100_000]).unwrap();
    let world = World::default();
    let config = Config {
        segment_bytes: 32 << 10,
        writer: Writer::Thread,
        ..Config::default()
    };
    let files = Arc::new(RealFiles::new(&data).unwrap());
    let node = world
        .try_start(config.clone(), "j1", files.clone())
        .await
        .unwrap();
    let mut link = Link::open(world.client("j1"), "a1").await;
    let mut accepted = 0;
    let refused_at = loop {
        let next = append(
            1,
            (u64::from(accepted > 0), accepted),
            vec![commit(1, accepted + 1, &[9; 5_000])],
            0,
        );
        match link.append(next).await {
            Reply::Matched(_) => accepted += 1,
            Reply::Invalid(why) => break why,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused_at.contains("disk full") && accepted > 5, "{refused_at}");
    std::fs::remove_file(&ballast).unwrap();
    let next = append(1, (1, accepted), vec![commit(1, accepted + 1, &[9; 5_000])], 0);
    assert_eq!(link.append(next).await, matched(1, accepted + 1));
    node.stop().await;
    let again = World::default();
    let _node = again.try_start(config, "j1", files).await.unwrap();
    assert_eq!(again.read_all("j1").await.len() as u64, accepted + 1);
}
