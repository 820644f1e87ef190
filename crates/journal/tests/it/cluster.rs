//! Three nodes, one owner: fencing, previous positions, commitment, the feed, restarts.

use meridian_rpc::internal::ReadRequest;
use meridian_rpc::internal::append_reply::Result as Reply;

use crate::support::*;

#[tokio::test]
async fn three_nodes_replicate_commit_and_feed() {
    let world = World::default();
    let mut nodes = Vec::new();
    let mut links = Vec::new();
    for (disk, name) in (1..).zip(["j1", "j2", "j3"]) {
        nodes.push(world.start(name, &registered(name, disk)).await);
        let fenced = world.fence(name, 1, "a1").await;
        assert_eq!((fenced.refused_by_epoch, fenced.rejoining), (0, false));
        assert_eq!(fenced.last, Some(position(0, 0)));
        links.push(Link::open(world.client(name), "a1").await);
    }
    let mut feed = world.feed("j3", 0).await;
    for link in &mut links {
        let first = append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"x")], 0);
        assert_eq!(link.append(first).await, matched(1, 2));
    }
    assert!(feed.is_silent().await, "nobody was told that a quorum has it");
    links[2]
        .send(vec![append(1, (1, 2), vec![], 2)], vec![closure(NOW, 2)])
        .await;
    assert_eq!(links[2].reply().await, matched(1, 2));
    assert_eq!((feed.next_lsn().await, feed.next_lsn().await), (1, 2));
    assert_eq!(feed.next_closure().await, closure(NOW, 2));
    assert_eq!(world.state("j3").await.committed_lsn, 2);
    assert_eq!(world.state("j1").await.committed_lsn, 0);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_fence_ends_lower_epochs_and_an_equal_one_is_refused() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    world.fence("j1", 3, "a1").await;
    let mut old = Link::open(world.client("j1"), "a1").await;
    assert_eq!(
        old.append(append(3, (0, 0), vec![opened(3, 1)], 0)).await,
        matched(3, 1)
    );
    assert_eq!(world.fence("j1", 3, "a2").await.refused_by_epoch, 3);
    let fenced = world.fence("j1", 5, "a2").await;
    assert_eq!(fenced.last, Some(position(3, 1)));
    assert_eq!(fenced.lease_end, NOW + 1_000_000);
    let late = append(3, (3, 1), vec![commit(3, 2, b"late")], 1);
    assert_eq!(old.append(late).await, Reply::RefusedByEpoch(5));
    assert_eq!(world.read_all("j1").await, [opened(3, 1)]);
    let state = world.state("j1").await;
    assert_eq!(
        (state.promised, state.owner.as_str(), state.owner_connected),
        (5, "a2", false)
    );
}

#[tokio::test]
async fn an_append_that_does_not_continue_the_log_is_told_where_it_ends() {
    let world = World::default();
    let _node = world.start("j1", &registered("j1", 1)).await;
    let mut link = Link::open(world.client("j1"), "a1").await;
    let ahead = append(1, (1, 1), vec![commit(1, 2, b"")], 0);
    assert_eq!(link.append(ahead).await, Reply::Mismatch(position(0, 0)));
    assert_eq!(
        link.append(append(1, (0, 0), vec![opened(1, 1)], 0)).await,
        matched(1, 1)
    );
    let gap = append(1, (1, 1), vec![commit(1, 3, b"")], 0);
    assert!(matches!(link.append(gap).await, Reply::Invalid(_)));
    let again = append(1, (0, 0), vec![opened(1, 1), commit(1, 2, b"new")], 0);
    assert_eq!(link.append(again).await, matched(1, 2));
    // A successor replaces what was not committed.
    let mut next = Link::open(world.client("j1"), "a2").await;
    let replaced = append(2, (1, 1), vec![opened(2, 2)], 0);
    assert_eq!(next.append(replaced).await, matched(2, 2));
    assert_eq!(world.read_all("j1").await, [opened(1, 1), opened(2, 2)]);
    let to = Some(position(1, 2));
    let gone = ReadRequest {
        stream: STREAM,
        to,
        ..ReadRequest::default()
    };
    assert_eq!(
        world.read("j1", gone).await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
}
