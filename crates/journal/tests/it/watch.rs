//! What a node tells of commitment, whenever it learns of more.

use std::time::Duration;

use meridian_rpc::internal::{AppendRequest, WatchBatch, WatchRequest};
use tonic::Streaming;

use crate::support::*;

struct Watch(Streaming<WatchBatch>);

impl Watch {
    async fn open(world: &World, streams: &[u64]) -> Self {
        let request = WatchRequest {
            streams: streams.to_vec(),
        };
        Self(world.client("j1").watch(request).await.unwrap().into_inner())
    }

    /// Stream, epoch and lsn of the next batch.
    async fn next(&mut self) -> Vec<(u64, u64, u64)> {
        let batch = tokio::time::timeout(Duration::from_secs(10), self.0.message()).await;
        let batch = batch.expect("the watch is silent").unwrap();
        let committed = batch.expect("the watch ended").committed;
        let triple = |stream, at: meridian_rpc::internal::Position| (stream, at.epoch, at.lsn);
        committed
            .into_iter()
            .map(|told| triple(told.stream, told.position.unwrap()))
            .collect()
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(30), self.0.message())
            .await
            .is_err()
    }
}

fn in_stream(stream: u64, append: AppendRequest) -> AppendRequest {
    AppendRequest { stream, ..append }
}

#[tokio::test]
async fn a_watch_tells_what_a_quorum_has_and_this_node_holds() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let mut watch = Watch::open(&world, &[]).await;
    assert_eq!(
        watch.next().await,
        [],
        "at first what is known, also if it is nothing"
    );
    let first = append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"")], 0);
    assert_eq!(link.append(first).await, matched(1, 2));
    assert!(watch.is_silent().await, "nobody else has it");
    // Another replica has more than this node.
    assert_eq!(link.append(append(1, (1, 2), vec![], 9)).await, matched(1, 2));
    assert_eq!(watch.next().await, [(STREAM, 1, 2)]);
    assert_eq!(
        link.append(append(1, (1, 2), vec![commit(1, 3, b"")], 9)).await,
        matched(1, 3)
    );
    assert_eq!(watch.next().await, [(STREAM, 1, 3)]);
    assert!(watch.is_silent().await);
}

#[tokio::test]
async fn a_successors_vector_commits_nothing_before_an_entry_of_its_own_epoch() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut old = Link::open(world.client("j1"), "a1").await;
    let first = append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"")], 0);
    assert_eq!(old.append(first).await, matched(1, 2));
    let mut watch = Watch::open(&world, &[STREAM]).await;
    assert_eq!(watch.next().await, []);
    let mut new = Link::open(world.client("j1"), "a2").await;
    assert_eq!(new.append(append(2, (1, 2), vec![], 2)).await, matched(1, 2));
    assert!(watch.is_silent().await);
    assert_eq!(
        new.append(append(2, (1, 2), vec![opened(2, 3)], 3)).await,
        matched(2, 3)
    );
    assert_eq!(watch.next().await, [(STREAM, 2, 3)], "with the entry's epoch");
}

#[tokio::test]
async fn a_watch_begins_with_all_streams_and_only_those_that_were_asked_for() {
    let world = World::default();
    let node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    for stream in [3, 4, 5] {
        let first = in_stream(stream, append(1, (0, 0), vec![opened(1, 1)], 1));
        assert_eq!(link.append(first).await, matched(1, 1));
    }
    let mut all = Watch::open(&world, &[]).await;
    assert_eq!(all.next().await, [(3, 1, 1), (4, 1, 1), (5, 1, 1)]);
    let mut some = Watch::open(&world, &[5, 6]).await;
    assert_eq!(some.next().await, [(5, 1, 1)]);
    for stream in [4, 6] {
        let next = in_stream(
            stream,
            append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"")], 2),
        );
        assert_eq!(link.append(next).await, matched(1, 2));
        assert_eq!(all.next().await, [(stream, 1, 2)], "streams that begin later too");
    }
    assert_eq!(some.next().await, [(6, 1, 2)]);
    assert!(some.is_silent().await);
    node.stop().await;
    assert!(some.0.message().await.is_err(), "a node that stops says so");
}
