//! The range map in its stream, and moves of ranges.

use meridian_adjudicator::Config;
use meridian_rpc::internal::change_request::Change;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{
    Closure, FeedRequest, FeedStart, MergeRanges, MoveRange, SplitRange, StreamLsn, feed_event,
};
use meridian_types::{NodeName, StreamId, Timestamp};
use tokio::time::sleep;

use super::cluster::{Cluster, Txn};
use super::real_journal::RealJournal;

async fn cluster(adjudicators: &[&str]) -> (Cluster, RealJournal) {
    let (cluster, journal) = cluster_without_news(adjudicators).await;
    cluster.follow_map();
    (cluster, journal)
}

/// Nobody is told of changes of the map.
async fn cluster_without_news(adjudicators: &[&str]) -> (Cluster, RealJournal) {
    let names: Vec<NodeName> = ["j1", "j2", "j3"].map(NodeName::from).to_vec();
    let mut cluster = Cluster::bare(names.clone(), adjudicators, Config::default());
    let journal = RealJournal::start(&cluster, &names).await;
    for name in adjudicators {
        cluster.start_adjudicator(name).await;
    }
    (cluster, journal)
}

fn move_to(node: &str) -> Change {
    Change::Move(MoveRange {
        range: 1,
        node: node.to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_moved_range_is_served_by_its_new_owner_without_a_pause() {
    let (mut cluster, _journal) = cluster(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let committed = decider.commit(&txn).await;
    let before = cluster.now();
    let changed = cluster.change("a1", move_to("a2")).await;
    assert_eq!(changed.version, 2, "{changed:?}");
    cluster
        .until("the range has moved", |cluster| {
            cluster.status("a2").role == "owner"
        })
        .await;
    assert_eq!(cluster.status("a1").role, "standby");
    assert_eq!(
        (
            cluster.map().version,
            cluster.map().entries[0].candidates[0].0.as_str()
        ),
        (2, "a2")
    );
    // Whoever asks the old owner is sent to the new one, which is not deposed.
    let (owner, epoch) = cluster.locate("a1").await;
    assert_eq!((owner.as_str(), epoch), ("a2", 2));
    assert!(
        cluster.status("a2").window_low < before.0 + 300_000_000,
        "no lease to wait for"
    );
    let mut decider = cluster.decider("a2").await;
    sleep(std::time::Duration::from_millis(300)).await;
    let next = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    assert!(decider.commit(&next).await.commit > committed.commit);
    // Said again, it is done again: the map has another version, and nothing moves.
    assert_eq!(cluster.change("a1", move_to("a2")).await.version, 3);
    sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(
        (cluster.status("a2").role.as_str(), cluster.status("a2").epoch),
        ("owner", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_map_outlives_the_owner_of_its_stream() {
    let (mut cluster, mut journal) = cluster_without_news(&["a1", "a2", "a3"]).await;
    assert_eq!(cluster.change("a1", move_to("a3")).await.version, 2);
    let elsewhere = cluster.change("a2", move_to("a2")).await;
    assert_eq!((elsewhere.not_owner, elsewhere.owner.as_str()), (true, "a1"));
    let refused = cluster.change("a1", move_to("nobody")).await;
    assert_eq!(refused.version, 0);
    assert!(refused.refused.contains("nobody"), "{refused:?}");
    cluster.kill("a1").await;
    journal.kill(&cluster, "j1").await;
    let mut changed = cluster.change("a2", move_to("a2")).await;
    while changed.not_owner {
        sleep(std::time::Duration::from_millis(100)).await;
        changed = cluster.change("a2", move_to("a2")).await;
    }
    assert_eq!(changed.version, 3, "it goes on from the version in the log");
    cluster.follow_map();
    cluster.until("told", |cluster| cluster.map().version == 3).await;
    let names: Vec<_> = cluster.map().entries[0]
        .candidates
        .iter()
        .map(|name| name.0.clone())
        .collect();
    assert_eq!(names, ["a2", "a3", "a1"]);
}

/// A closure of the range, as a storage node gets it: after everything that it depends on.
async fn next_closure(cluster: &Cluster, range: u64) -> Closure {
    let streams = (1..=4).map(|stream| FeedStart { stream, after_lsn: 0 });
    let request = FeedRequest {
        subscriber: "s1".to_owned(),
        streams: streams.collect(),
    };
    let mut feed = cluster.journal("j1").feed(request).await.unwrap().into_inner();
    loop {
        let batch = feed.message().await.unwrap().expect("the feed ended");
        for event in batch.events {
            if let Some(feed_event::Event::Closure(closure)) = event.event
                && closure.range == range
            {
                return closure;
            }
        }
    }
}

/// Streams other than the first are asked by hand: the tests' helpers know that one only.
async fn closed(cluster: &Cluster, node: &str, stream: u64) -> u64 {
    use meridian_rpc::internal::CloseThroughRequest;
    let request = CloseThroughRequest {
        stream,
        timestamp: cluster.now().0,
        journal: String::new(),
    };
    let answer = cluster.client(node).close_through(request).await.unwrap();
    answer.into_inner().closed
}

#[tokio::test(start_paused = true)]
async fn a_split_ends_the_old_stream_and_nothing_it_said_is_contradicted() {
    let (mut cluster, _journal) = cluster(&["a1"]).await;
    let mut old = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let committed = old.commit(&txn).await;
    let last_closed = cluster.close_through("a1", cluster.now()).await.closed;
    let split = Change::Split(SplitRange { key: "m".into() });
    assert_eq!(cluster.change("a1", split.clone()).await.version, 2);
    cluster
        .until("split", |cluster| cluster.map().entries.len() == 2)
        .await;
    let map = cluster.map();
    let streams: Vec<_> = map.entries.iter().map(|entry| entry.stream.0).collect();
    assert_eq!(streams, [2, 3]);
    let origin = map.reshaping.origins[&StreamId(3)].clone();
    assert!(origin.floor >= Timestamp(last_closed) && origin.floor >= Timestamp(committed.commit));
    assert!(origin.after[0].1.0 > committed.lsn);
    for stream in [2, 3] {
        assert!(closed(&cluster, "a1", stream).await >= origin.floor.0);
        let ranges = cluster.adjudicators["a1"].started.service.status().ranges;
        let range = ranges.iter().find(|range| range.stream == stream).unwrap();
        assert!(range.window_low >= origin.floor.0 && range.floor >= origin.floor.0);
        let closure = next_closure(&cluster, stream).await;
        let last = origin.after[0].1.0;
        assert!(
            closure.after.contains(&StreamLsn { stream: 1, lsn: last }),
            "{closure:?}"
        );
    }
    let shown = cluster.adjudicators["a1"].started.service.status().ranges;
    let retired = shown
        .iter()
        .filter(|range| range.retired)
        .map(|range| range.stream);
    assert_eq!(retired.collect::<Vec<_>>(), [1]);
    // The old stream answers for its transactions, and takes no others: not even in the epoch of its new owner.
    let (owner, epoch) = cluster.locate("a1").await;
    assert_eq!((owner.as_str(), epoch), ("a1", 2));
    let outcome = cluster.outcome("a1", txn.id, txn.start).await;
    assert_eq!(
        (outcome.outcome(), outcome.commit),
        (Outcome::Committed, committed.commit)
    );
    let mut ended = cluster.open("a1", 2).await;
    let late = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let (reason, refused) = ended.refusal(&late).await;
    assert_eq!(reason, Reason::SnapshotTooOld, "{refused:?}");
    assert!(refused.with >= origin.floor.0);
    let never = cluster.outcome("a1", late.id, late.start).await;
    assert_eq!(never.outcome(), Outcome::Aborted);
    assert_eq!(closed(&cluster, "a1", 1).await, 0, "nor does it close anything");
    assert!(
        !cluster.change("a1", split).await.refused.is_empty(),
        "m begins a range by now"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_was_told_aborted_before_a_split_is_refused_by_its_targets() {
    let (mut cluster, _journal) = cluster(&["a1"]).await;
    cluster.decider("a1").await;
    let barred = cluster.new_txn();
    let told = cluster.outcome("a1", barred, cluster.now()).await;
    assert_eq!(told.outcome(), Outcome::Aborted);
    let split = Change::Split(SplitRange { key: "m".into() });
    assert_eq!(cluster.change("a1", split).await.version, 2);
    cluster
        .until("split", |cluster| cluster.map().entries.len() == 2)
        .await;
    for (stream, key) in [(2, "k"), (3, "p")] {
        let mut decider = cluster.decider_of("a1", stream).await;
        // Its start is drawn only now, when the request arrives: above the targets' floors.
        sleep(std::time::Duration::from_millis(50)).await;
        let other = cluster.new_txn();
        let to = |id| Txn {
            home: stream,
            ..Txn::writing(id, cluster.now(), key)
        };
        assert_eq!(
            decider.refusal(&to(barred)).await.0,
            Reason::Barred,
            "stream {stream}"
        );
        decider.commit(&to(other)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_an_old_map_refuses_nothing_by_it() {
    use meridian_rpc::internal::{ChangeRequest, ChangeResponse};
    let (cluster, _journal) = cluster(&["a1"]).await;
    cluster.decider("a1").await;
    let merge = Change::Merge(MergeRanges { key: "m".into() });
    assert!(!cluster.change("a1", merge.clone()).await.refused.is_empty());
    let request = ChangeRequest {
        known_version: cluster.map().version + 1,
        change: Some(merge),
    };
    let answer = cluster.change_once("a1", request).await;
    assert_eq!(answer, ChangeResponse::default(), "ask another one");
}

#[tokio::test(start_paused = true)]
async fn a_merge_survives_the_death_of_an_owner_that_has_sealed_its_stream() {
    let (mut cluster, _journal) = cluster(&["a1", "a2"]).await;
    cluster.decider("a1").await;
    let split = Change::Split(SplitRange { key: "m".into() });
    assert_eq!(cluster.change("a1", split).await.version, 2);
    cluster
        .until("split", |cluster| cluster.map().entries.len() == 2)
        .await;
    for stream in [2, 3] {
        closed(&cluster, "a1", stream).await;
    }
    // One source is sealed by its owner, the other's owner dies.
    let merge = Change::Merge(MergeRanges { key: "m".into() });
    assert!(cluster.change("a1", merge).await.version > 2);
    cluster.kill("a1").await;
    sleep(std::time::Duration::from_secs(3)).await;
    for stream in [2, 3] {
        // Somebody needs the keys.
        let request = meridian_rpc::internal::LocateRequest {
            stream,
            passive: false,
        };
        let _ = cluster.client("a2").locate(request).await;
    }
    cluster
        .until("merged", |cluster| cluster.map().entries.len() == 1)
        .await;
    let map = cluster.map();
    assert_eq!(map.entries[0].stream, StreamId(4));
    assert_eq!(map.reshaping.retired.len(), 3);
    let origin = &map.reshaping.origins[&StreamId(4)];
    assert_eq!(origin.after.len(), 3, "all that ever ordered these keys");
    for _ in 0..100 {
        if closed(&cluster, "a2", 4).await >= origin.floor.0 {
            return;
        }
        sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the merged range is not served");
}
