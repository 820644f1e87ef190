//! Trimming (decision 28): what goes, what stays, and what a crash in the middle of it leaves.

use std::sync::Arc;

use meridian_journal::files::Files;
use meridian_journal::files::{Fault, MemoryFiles};
use meridian_journal::wal::{BASE_FILE, NEW_BASE_FILE, segment_name, segment_number};
use meridian_journal::{Config, StartError, disk};
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::feed_event::Event;
use meridian_rpc::internal::{
    AppendRequest, CheckpointedRequest, CommittedPosition, Entry, LogBase, ReadRequest, ReadResponse,
};
use tonic::Code;

use crate::support::*;

/// Every commit of these tests was made this long before the nodes' clock shows.
const AGE: u64 = 1_000_000_000;

fn config() -> Config {
    Config {
        segment_bytes: 4 << 10,
        tail_bytes: 0,
        trim_min_age_ms: 400,
        storage_nodes: vec!["s1".into(), "s2".into()],
        ..small_config()
    }
}

async fn start(world: &World, files: &MemoryFiles) -> Node {
    world
        .try_start(config(), "j1", Arc::new(files.clone()))
        .await
        .unwrap()
}

fn old_commit(epoch: u64, lsn: u64) -> Entry {
    Entry {
        timestamp: NOW - AGE + lsn,
        ..commit(epoch, lsn, &[7; 500])
    }
}

fn old_lease(epoch: u64, lsn: u64) -> Entry {
    Entry {
        kind: Kind::Lease.into(),
        ..opened(epoch, lsn)
    }
}

/// Commits that fill segments to more than half, with a lease at every tenth place.
fn log() -> Vec<Entry> {
    log_to(60)
}

fn log_to(last: u64) -> Vec<Entry> {
    let entry = |lsn| match (lsn, lsn % 10) {
        (1, _) => opened(1, lsn),
        (_, 1) => old_lease(1, lsn),
        _ => old_commit(1, lsn),
    };
    (1..=last).map(entry).collect()
}

/// A node that holds the log, all of it committed.
async fn filled(world: &World, files: &MemoryFiles) -> (Node, Link) {
    let node = start(world, files).await;
    world.fence("j1", 1, "a1").await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let mut prev = (0, 0);
    for part in log().chunks(6) {
        let last = part.last().unwrap().lsn;
        let appended = append(1, prev, part.to_vec(), last);
        assert_eq!(link.append(appended).await, matched(1, last));
        prev = (1, last);
    }
    (node, link)
}

async fn tell(world: &World, storage: &str, epoch: u64, lsn: u64) {
    tell_of(world, storage, epoch, lsn).await.unwrap();
}

async fn tell_of(world: &World, storage: &str, epoch: u64, lsn: u64) -> Result<(), tonic::Status> {
    let told = CommittedPosition {
        stream: STREAM,
        position: Some(position(epoch, lsn)),
    };
    let request = CheckpointedRequest {
        node: storage.to_owned(),
        positions: vec![told],
    };
    world.client("j1").checkpointed(request).await.map(drop)
}

async fn base(world: &World) -> Option<LogBase> {
    world.state("j1").await.base
}

/// Waits until the log was trimmed.
async fn trimmed(world: &World) -> LogBase {
    for _ in 0..200 {
        if let Some(base) = base(world).await {
            // The segments are removed after that is told.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            return base;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("nothing is trimmed");
}

async fn is_untouched(world: &World) {
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(base(world).await, None);
}

fn segments(files: &MemoryFiles) -> Vec<u64> {
    let names = files.list().unwrap();
    names.iter().filter_map(|name| segment_number(name)).collect()
}

fn lsns(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.lsn).collect()
}

async fn responses(world: &World, request: ReadRequest) -> Vec<ReadResponse> {
    let mut stream = world.client("j1").read(request).await.unwrap().into_inner();
    let mut responses = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        responses.push(response);
    }
    responses
}

/// What is left of the log after its base, and what is told of the rest.
async fn check_trimmed(world: &World, base: LogBase) {
    let at = base.position.unwrap();
    assert_eq!(world.read_all("j1").await, log()[at.lsn as usize..]);
    let state = world.state("j1").await;
    assert_eq!((state.base, state.last), (Some(base), Some(position(1, 60))));
    assert_eq!(
        (state.lease_end, state.last_commit),
        (NOW + 1_000_000, NOW - AGE + 60),
        "R18's numbers count what is gone"
    );
    assert!(state.committed_lsn >= at.lsn);
    let whole = ReadRequest {
        stream: STREAM,
        from_lsn: 1,
        ..ReadRequest::default()
    };
    let responses = responses(world, whole).await;
    assert_eq!(responses[0].base, Some(base));
    assert!(responses.iter().skip(1).all(|response| response.base.is_none()));
    let mut feed = world.feed("j1", at.lsn - 1).await;
    let Event::Trimmed(trimmed) = feed.next().await else {
        panic!("an entry that is gone")
    };
    assert_eq!((trimmed.stream, trimmed.base), (STREAM, Some(base)));
    assert!(feed.is_over().await, "nothing follows what is trimmed");
}

#[tokio::test(start_paused = true)]
async fn what_all_storage_nodes_have_and_nobody_needs_goes_and_the_rest_stays() {
    let (world, files) = (World::default(), registered("j1", 1));
    let (node, _link) = filled(&world, &files).await;
    let before = segments(&files);
    assert!(before.len() > 3, "{before:?}");
    is_untouched(&world).await;
    tell(&world, "s1", 1, 60).await;
    is_untouched(&world).await;
    assert_eq!(
        tell_of(&world, "s3", 1, 60).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    tell(&world, "s2", 1, 45).await;
    let base = trimmed(&world).await;
    let at = base.position.unwrap();
    assert!(at.lsn <= 45 && at.lsn > 10, "{at:?}");
    assert_eq!(base.last_commit, NOW - AGE + at.lsn - u64::from(at.lsn % 10 == 1));
    assert_eq!(base.lease_end, NOW + 1_000_000);
    let after = segments(&files);
    assert!(after[0] > before[0] && after.last() == before.last(), "{after:?}");
    check_trimmed(&world, base).await;
    let mut feed = world.feed("j1", at.lsn).await;
    assert_eq!(feed.next_lsn().await, at.lsn + 1);
    // The same after a restart, from the base file; and then nothing more goes before all have told again.
    node.stop().await;
    let again = World::default();
    let files = files.after_power_loss(|| false);
    let node = start(&again, &files).await;
    check_trimmed(&again, base).await;
    assert_eq!(
        again.fence("j1", 1, "a1").await.refused_by_epoch,
        1,
        "the promise is kept"
    );
    tell(&again, "s1", 1, 60).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(self::base(&again).await, Some(base));
    // More is appended, so that there are segments again.
    let mut link = Link::open(again.client("j1"), "a1").await;
    for part in log_to(100)[60..].chunks(5) {
        let (first, last) = (part[0].lsn, part[4].lsn);
        let appended = append(1, (1, first - 1), part.to_vec(), last);
        assert_eq!(link.append(appended).await, matched(1, last));
    }
    tell(&again, "s1", 1, 100).await;
    tell(&again, "s2", 1, 100).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let later = self::base(&again).await.unwrap().position.unwrap();
    assert_eq!(later, position(1, 90), "the newest lease stays");
    assert_eq!(again.read_all("j1").await, log_to(100)[90..]);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_storage_node_has_and_this_node_does_not_is_not_believed() {
    let (world, files) = (World::default(), registered("j1", 1));
    let (_node, _link) = filled(&world, &files).await;
    for (storage, epoch, lsn) in [("s1", 2, 50), ("s2", 2, 50), ("s1", 1, 61), ("s2", 1, 61)] {
        tell(&world, storage, epoch, lsn).await;
    }
    is_untouched(&world).await;
    tell(&world, "s1", 1, 50).await;
    is_untouched(&world).await;
    tell(&world, "s2", 1, 50).await;
    trimmed(&world).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_of_the_meta_stream_goes_and_a_quiet_stream_is_copied() {
    let (world, files) = (World::default(), registered("j1", 1));
    let node = start(&world, &files).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let in_stream = |stream, append: AppendRequest| AppendRequest { stream, ..append };
    for stream in [0, 9] {
        let first = vec![opened(1, 1), old_commit(1, 2), old_commit(1, 3), old_lease(1, 4)];
        let first = in_stream(stream, append(1, (0, 0), first, 4));
        assert_eq!(link.append(first).await, matched(1, 4));
    }
    drop((node, link));
    let world = World::default();
    let files = files.after_power_loss(|| false);
    let (node, _link) = filled(&world, &files).await;
    for storage in ["s1", "s2"] {
        let told = [(0, 4), (STREAM, 50)].map(|(stream, lsn)| CommittedPosition {
            stream,
            position: Some(position(1, lsn)),
        });
        let request = CheckpointedRequest {
            node: storage.to_owned(),
            positions: told.to_vec(),
        };
        world.client("j1").checkpointed(request).await.unwrap();
    }
    trimmed(&world).await;
    assert!(segments(&files)[0] > 1);
    for stream in [0, 9] {
        let request = ReadRequest {
            stream,
            ..ReadRequest::default()
        };
        assert_eq!(lsns(&world.read("j1", request).await.unwrap()), [1, 2, 3, 4]);
    }
    node.stop().await;
    let world = World::default();
    let _node = start(&world, &files).await;
    for stream in [0, 9] {
        let request = ReadRequest {
            stream,
            ..ReadRequest::default()
        };
        assert_eq!(
            lsns(&world.read("j1", request).await.unwrap()),
            [1, 2, 3, 4],
            "after a restart"
        );
    }
}

/// A node that is about to trim; how many writes and syncs of files it has done.
async fn about_to_trim() -> (World, MemoryFiles, Node) {
    let (world, files) = (World::default(), registered("j1", 1));
    let (node, _link) = filled(&world, &files).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    tell(&world, "s1", 1, 50).await;
    tell(&world, "s2", 1, 50).await;
    (world, files, node)
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_leaves_the_whole_log_or_a_trimmed_one() {
    // The steps are those after which a write or a sync fails; what is on the disk then is what a crash leaves.
    let mut seen = (0, 0);
    for step in 0..12 {
        for is_sync in [false, true] {
            let (world, files, _node) = about_to_trim().await;
            files.set_fault(Fault {
                fail_write_after: (!is_sync).then_some(step),
                fail_sync_after: is_sync.then_some(step),
                ..Fault::default()
            });
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            drop(world);
            for survives in [false, true] {
                let left = files.after_power_loss(|| survives);
                let world = World::default();
                let node = start(&world, &left).await;
                match base(&world).await {
                    None => {
                        seen.0 += 1;
                        assert_eq!(world.read_all("j1").await, log());
                    }
                    Some(base) => {
                        seen.1 += 1;
                        check_trimmed(&world, base).await;
                    }
                }
                assert!(!left.list().unwrap().iter().any(|name| name == NEW_BASE_FILE));
                assert_eq!(world.fence("j1", 1, "a1").await.refused_by_epoch, 1);
                node.stop().await;
            }
        }
    }
    assert!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn segments_that_were_not_removed_in_time_do_not_count() {
    let (world, files, node) = about_to_trim().await;
    let before = files.after_process_death();
    let base = trimmed(&world).await;
    node.stop().await;
    // All of them are there again, beside the base file, and a new one that is torn.
    for name in before.list().unwrap() {
        if segment_number(&name).is_some() && files.content(&name).is_none() {
            drop(files.create(&name).unwrap());
            files.set_content(&name, before.content(&name).unwrap());
        }
    }
    drop(files.create(NEW_BASE_FILE).unwrap());
    files.set_content(NEW_BASE_FILE, vec![1; 700]);
    assert_eq!(segments(&files)[0], 1);
    let world = World::default();
    let _node = start(&world, &files).await;
    check_trimmed(&world, base).await;
    assert!(segments(&files)[0] > 1);
    assert_eq!(files.content(NEW_BASE_FILE), None);
}

#[tokio::test(start_paused = true)]
async fn a_base_file_that_is_missing_or_damaged_is_a_loss() {
    let (world, files, node) = about_to_trim().await;
    trimmed(&world).await;
    node.stop().await;
    let good = files.content(BASE_FILE).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    for content in [bad, good[..good.len() - 9].to_vec()] {
        files.set_content(BASE_FILE, content);
        let refused = World::default()
            .try_start(config(), "j1", Arc::new(files.clone()))
            .await;
        let error = refused.err().unwrap();
        assert!(
            error.is_loss() && error.to_string().contains(BASE_FILE),
            "{error}"
        );
    }
    files.remove(BASE_FILE).unwrap();
    let refused = World::default()
        .try_start(config(), "j1", Arc::new(files.clone()))
        .await;
    let error = refused.err().unwrap();
    let first = segment_name(segments(&files)[0]);
    assert!(error.is_loss() && error.to_string().contains(&first), "{error}");
    let twice = disk::initialise_in(&files, &identity("j1", 2));
    assert!(matches!(twice, Err(StartError::AlreadyRegistered { .. })));
    disk::replace_in(&files, &identity("j1", 2)).unwrap();
    assert_eq!(segments(&files), []);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_replaced_goes_only_with_what_replaced_it() {
    let (world, files) = (World::default(), registered("j1", 1));
    let (node, mut link) = filled(&world, &files).await;
    // An end that is not committed, over several segments, and then an owner that cuts it.
    let uncommitted: Vec<Entry> = (61..=90).map(|lsn| old_commit(1, lsn)).collect();
    assert_eq!(
        link.append(append(1, (1, 60), uncommitted, 60)).await,
        matched(1, 90)
    );
    let last = *segments(&files).last().unwrap();
    world.fence("j1", 2, "a2").await;
    let mut other = Link::open(world.client("j1"), "a2").await;
    let mut entries = vec![opened(2, 61)];
    entries.extend((62..=75).map(|lsn| Entry {
        timestamp: NOW - AGE + lsn,
        ..commit(2, lsn, &[8; 500])
    }));
    assert_eq!(
        other.append(append(2, (1, 60), entries, 75)).await,
        matched(2, 75)
    );
    tell(&world, "s1", 2, 70).await;
    tell(&world, "s2", 2, 70).await;
    trimmed(&world).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let first = segments(&files)[0];
    let expected = world.read_all("j1").await;
    assert!(
        lsns(&expected).ends_with(&[74, 75]) && first <= last,
        "{first} {last}"
    );
    node.stop().await;
    let world = World::default();
    let _node = start(&world, &files.after_power_loss(|| false)).await;
    assert_eq!(world.read_all("j1").await, expected);
}

fn with_base(append: AppendRequest, last_commit: u64) -> AppendRequest {
    let base = LogBase {
        position: append.prev,
        last_commit,
        lease_end: NOW + 5,
    };
    AppendRequest {
        base: Some(base),
        ..append
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_behind_the_base_begins_there() {
    let (world, files) = (World::default(), registered("j1", 1));
    let (node, _link) = filled(&world, &files).await;
    world.fence("j1", 5, "a5").await;
    let mut link = Link::open(world.client("j1"), "a5").await;
    let entries = vec![opened(5, 101), old_commit(5, 102)];
    let next = append(5, (4, 100), entries.clone(), 102);
    assert_eq!(link.append(next.clone()).await, Reply::Mismatch(position(1, 60)));
    let far = with_base(next.clone(), NOW * 2);
    assert!(matches!(link.append(far).await, Reply::Invalid(why) if why.contains("ahead")));
    let mut elsewhere = with_base(next.clone(), NOW);
    elsewhere.prev = Some(position(4, 99));
    assert!(matches!(link.append(elsewhere).await, Reply::Invalid(_)));
    let stale = AppendRequest {
        epoch: 4,
        entries: vec![],
        ..with_base(next.clone(), NOW)
    };
    assert_eq!(link.append(stale).await, Reply::RefusedByEpoch(5));
    assert_eq!(lsns(&world.read_all("j1").await).len(), 60);
    assert_eq!(
        link.append(with_base(next.clone(), NOW + 77)).await,
        matched(5, 102)
    );
    // Once it holds that it begins nowhere.
    assert_eq!(link.append(with_base(next, NOW + 77)).await, matched(5, 102));
    let check = async |world: &World| {
        let state = world.state("j1").await;
        assert_eq!((state.last_commit, state.lease_end), (NOW + 77, NOW + 1_000_000));
        assert_eq!(state.base.unwrap().position, Some(position(4, 100)));
        assert_eq!(world.read_all("j1").await, entries);
        assert!(state.committed_lsn >= 100);
    };
    check(&world).await;
    node.stop().await;
    for files in [files.after_power_loss(|| false), files] {
        let world = World::default();
        let node = start(&world, &files).await;
        check(&world).await;
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_finds_no_room_is_taken_back() {
    let (world, files) = (World::default(), registered("j1", 1));
    let (_node, mut link) = filled(&world, &files).await;
    files.set_fault(Fault {
        capacity_bytes: Some(files.used_bytes()),
        ..Fault::default()
    });
    let large = vec![1; 20_000];
    let next = append(5, (4, 100), vec![opened(5, 101), commit(5, 102, &large)], 0);
    assert!(matches!(
        link.append(with_base(next.clone(), NOW)).await,
        Reply::Invalid(_)
    ));
    assert_eq!(world.read_all("j1").await, log());
    assert_eq!((base(&world).await, world.state("j1").await.promised), (None, 1));
    files.set_fault(Fault::default());
    assert_eq!(link.append(with_base(next, NOW)).await, matched(5, 102));
    assert_eq!(lsns(&world.read_all("j1").await), [101, 102]);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_disk_begins_at_the_base_of_an_owner_that_may_rebuild_it() {
    let (world, files) = (World::default(), MemoryFiles::new());
    let rejoining = meridian_journal::DiskIdentity {
        rejoining: true,
        ..identity("j1", 4)
    };
    disk::replace_in(&files, &rejoining).unwrap();
    let node = start(&world, &files).await;
    let mut link = Link::open(world.client("j1"), "a5").await;
    let disk = disk_id(4).to_bytes();
    let next = with_base(append(5, (4, 100), vec![old_commit(4, 101)], 0), NOW);
    assert_eq!(link.append(next.clone()).await, Reply::RejoinDiskId(disk.clone()));
    assert_eq!(base(&world).await, None);
    let allowed = |append| AppendRequest {
        rejoin_disk_id: disk.clone(),
        ..append
    };
    assert_eq!(link.append(allowed(next)).await, matched(4, 101));
    assert!(world.state("j1").await.rejoining);
    let last = append(5, (4, 101), vec![opened(5, 102)], 0);
    assert_eq!(link.append(allowed(last)).await, matched(5, 102));
    assert!(!world.state("j1").await.rejoining);
    node.stop().await;
    let world = World::default();
    let _node = start(&world, &files).await;
    assert!(!world.fence("j1", 9, "a9").await.rejoining);
    assert_eq!(lsns(&world.read_all("j1").await), [101, 102]);
}
