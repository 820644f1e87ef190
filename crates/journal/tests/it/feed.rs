//! The merged feed: committed entries and closures, from memory and from files, resumed.

use std::sync::Arc;

use meridian_journal::Config;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::{Closure, ReadRequest, StreamLsn};

use crate::support::*;

/// Keeps nothing in memory, and sends small batches.
fn files_only() -> Config {
    Config {
        tail_bytes: 0,
        batch_bytes: 500,
        ..small_config()
    }
}

async fn append_commits(link: &mut Link, from: u64, to: u64) {
    for lsn in from..=to {
        let epoch_before = u64::from(lsn > 1);
        let payload = vec![u8::try_from(lsn).unwrap(); 200];
        let next = append(
            1,
            (epoch_before, lsn - 1),
            vec![commit(1, lsn, &payload)],
            lsn - 1,
        );
        assert_eq!(link.append(next).await, matched(1, lsn));
    }
}

#[tokio::test]
async fn a_feed_resumes_where_the_subscriber_was_and_after_a_restart_of_the_node() {
    let files = registered("j1", 1);
    for config in [small_config(), files_only()] {
        let files = files.after_process_death();
        let world = World::default();
        let node = world
            .try_start(config.clone(), "j1", Arc::new(files.clone()))
            .await
            .unwrap();
        let mut link = Link::open(world.client("j1"), "a1").await;
        append_commits(&mut link, 1, 40).await;
        let mut feed = world.feed("j1", 0).await;
        for lsn in 1..=39 {
            assert_eq!(feed.next_lsn().await, lsn);
        }
        assert!(feed.is_silent().await, "only this node has entry 40");
        let mut resumed = world.feed("j1", 25).await;
        assert_eq!(resumed.next_lsn().await, 26);
        node.stop().await;
        let world = World::default();
        let _node = world.try_start(config, "j1", Arc::new(files)).await.unwrap();
        let mut feed = world.feed("j1", 38).await;
        assert!(
            feed.is_silent().await,
            "what is committed is learnt from the owner"
        );
        let mut link = Link::open(world.client("j1"), "a1").await;
        assert_eq!(link.append(append(1, (1, 40), vec![], 40)).await, matched(1, 40));
        assert_eq!((feed.next_lsn().await, feed.next_lsn().await), (39, 40));
    }
}

#[tokio::test]
async fn a_closure_waits_for_the_entries_it_depends_on() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let mut feed = world.feed("j1", 0).await;
    link.send(vec![], vec![closure(NOW + 1, 0)]).await;
    assert_eq!(feed.next_closure().await, closure(NOW + 1, 0));
    // Entry 2 is on its way; another stream's entry never comes.
    let mut foreign = closure(NOW + 50, 2);
    foreign.after.push(StreamLsn { stream: 9, lsn: 1 });
    link.send(
        vec![append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"")], 1)],
        vec![closure(NOW + 9, 2), foreign],
    )
    .await;
    assert_eq!(link.reply().await, matched(1, 2));
    assert_eq!(feed.next_lsn().await, 1);
    assert!(feed.is_silent().await, "entry 2 is not committed");
    assert_eq!(link.append(append(1, (1, 2), vec![], 2)).await, matched(1, 2));
    assert_eq!(feed.next_lsn().await, 2);
    assert_eq!(feed.next_closure().await, closure(NOW + 9, 2));
    assert!(feed.is_silent().await);
    // A subscriber that has everything gets the newest closure at once; it implies the older ones.
    let mut late = world.feed("j1", 2).await;
    assert_eq!(late.next_closure().await, closure(NOW + 9, 2));
}

#[tokio::test]
async fn entries_of_a_deposed_owner_are_not_committed_by_an_old_vector() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut old = Link::open(world.client("j1"), "a1").await;
    let first = append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"uncommitted")], 0);
    assert_eq!(old.append(first).await, matched(1, 2));
    let mut feed = world.feed("j1", 0).await;
    // The new owner's vector says that a quorum holds lsn 2; but nothing of its own epoch is here yet.
    let mut new = Link::open(world.client("j1"), "a2").await;
    assert_eq!(new.append(append(2, (1, 2), vec![], 2)).await, matched(1, 2));
    assert!(feed.is_silent().await);
    let opening = append(2, (1, 2), vec![opened(2, 3)], 3);
    assert_eq!(new.append(opening).await, matched(2, 3));
    for lsn in 1..=3 {
        assert_eq!(feed.next_lsn().await, lsn);
    }
}

#[tokio::test]
async fn reads_are_exact_by_lsn_and_by_timestamp() {
    for config in [small_config(), files_only()] {
        let world = World::default();
        let _node = world
            .try_start(config, "j1", Arc::new(registered("j1", 1)))
            .await
            .unwrap();
        let mut link = Link::open(world.client("j1"), "a1").await;
        append_commits(&mut link, 1, 30).await;
        let lsns = async |from_lsn, from_timestamp, to| {
            let request = ReadRequest {
                stream: STREAM,
                from_lsn,
                from_timestamp,
                to: Some(position(1, to)),
                headers_only: true,
            };
            let entries = world.read("j1", request).await.unwrap();
            assert!(
                entries
                    .iter()
                    .all(|entry| entry.payload.is_empty() && entry.txn.len() == 16)
            );
            entries.iter().map(|entry| entry.lsn).collect::<Vec<_>>()
        };
        assert_eq!(lsns(7, 0, 19).await, (7..=19).collect::<Vec<_>>());
        assert_eq!(lsns(0, 0, 30).await, (1..=30).collect::<Vec<_>>());
        for from in 1..=32 {
            assert_eq!(lsns(0, NOW + from, 30).await, (from..=30).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn entries_far_ahead_of_the_clock_or_of_unknown_kind_are_refused() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let limit = NOW + 1_000_000 + Config::default().max_ahead_ms * 1_000_000;
    for (timestamp, is_accepted) in [(limit + 1, false), (limit, true)] {
        let mut lease = opened(1, 1);
        lease.timestamp = timestamp;
        let reply = link.append(append(1, (0, 0), vec![lease], 0)).await;
        assert_eq!(matches!(reply, Reply::Matched(_)), is_accepted, "{reply:?}");
    }
    let mut unknown = commit(1, 2, b"");
    unknown.kind = 99;
    assert!(matches!(
        link.append(append(1, (1, 1), vec![unknown], 0)).await,
        Reply::Invalid(_)
    ));
    let mut nameless = commit(1, 2, b"");
    nameless.txn.clear();
    assert!(matches!(
        link.append(append(1, (1, 1), vec![nameless], 0)).await,
        Reply::Invalid(_)
    ));
    assert_eq!(world.read_all("j1").await.len(), 1);
}

/// Many ranges, each depending on many streams: what is kept for a new subscriber does not fit into one message.
#[tokio::test]
async fn closures_that_do_not_fit_into_one_message_come_in_several() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    for range in 1..=100 {
        let after = (1..=10_000).map(|stream| StreamLsn { stream, lsn: 0 });
        let closure = Closure {
            range,
            after: after.collect(),
            ..closure(NOW, 0)
        };
        link.send(vec![], vec![closure]).await;
    }
    // Answered after all of them were taken in.
    let opened = append(1, (0, 0), vec![opened(1, 1)], 0);
    assert_eq!(link.append(opened).await, matched(1, 1));
    let mut feed = world.feed("j1", 0).await;
    let mut ranges = Vec::new();
    for _ in 0..100 {
        ranges.push(feed.next_closure().await.range);
    }
    ranges.sort_unstable();
    assert_eq!(ranges, (1..=100).collect::<Vec<u64>>());
}
