//! The follower against journal nodes that can be told to go away.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_clock::ManualClock;
use meridian_types::{ClusterId, Timestamp};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::service::Routes;
use tonic::{Request, Response};

use super::*;
use crate::guard::Identity;
use crate::internal::journal_server::{Journal, JournalServer};
use crate::internal::{
    AppendBatch, AppendReplyBatch, CheckpointedRequest, CheckpointedResponse, CommittedPosition, FeedBatch,
    FeedRequest, FenceRequest, FenceResponse, ReadRequest, ReadResponse, StateRequest, StateResponse,
};
use crate::network::{LocalNodes, TcpDialer};

const STREAM: StreamId = StreamId(3);

/// One that tells of one stream; its streams end when the sender does.
struct FakeJournal(watch::Receiver<Position>);

type Output<T> = BoxStream<'static, Result<T, Status>>;

fn not_played<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not played in these tests"))
}

#[tonic::async_trait]
impl Journal for FakeJournal {
    type AppendStream = Output<AppendReplyBatch>;
    type ReadStream = Output<ReadResponse>;
    type FeedStream = Output<FeedBatch>;
    type WatchStream = Output<WatchBatch>;

    async fn fence(&self, _: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        not_played()
    }

    async fn state(&self, _: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        not_played()
    }

    async fn append(
        &self,
        _: Request<Streaming<AppendBatch>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        not_played()
    }

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        not_played()
    }

    async fn feed(&self, _: Request<FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        not_played()
    }

    async fn checkpointed(
        &self,
        _: Request<CheckpointedRequest>,
    ) -> Result<Response<CheckpointedResponse>, Status> {
        Err(Status::unimplemented("not trimmed"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let batches = WatchStream::new(self.0.clone()).map(|position| {
            Ok(WatchBatch {
                committed: vec![CommittedPosition {
                    stream: STREAM.0,
                    position: Some(position.into()),
                }],
            })
        });
        Ok(Response::new(batches.boxed()))
    }
}

struct World {
    nodes: LocalNodes,
    watch: CommittedWatch,
    _stop: tokio_util::sync::DropGuard,
}

impl World {
    /// Follows `j-1`, or else `j-2`.
    fn start() -> Self {
        let nodes = LocalNodes::default();
        let identity = Identity {
            cluster: ClusterId::default(),
            node: "qp".into(),
        };
        let network = Network::new(&identity, nodes.clone(), Arc::new(TcpDialer::default()));
        let clock = Arc::new(ManualClock::new(Timestamp(1_000_000), Duration::from_micros(1)));
        let env = Env::new("qp".into(), "a".to_owned(), clock, network, 7);
        let stop = CancellationToken::new();
        let watch = CommittedWatch::start(&env, vec!["j-1".into(), "j-2".into()], stop.clone());
        Self {
            nodes,
            watch,
            _stop: stop.drop_guard(),
        }
    }

    fn serve(&self, node: &str, position: Position) -> watch::Sender<Position> {
        let (sender, receiver) = watch::channel(position);
        let mut routes = Routes::builder();
        routes.add_service(JournalServer::new(FakeJournal(receiver)));
        self.nodes.register(node.into(), routes.routes());
        sender
    }

    async fn wait(&self, epoch: u64, lsn: u64) -> Known {
        let wait = self.watch.wait(STREAM, Epoch(epoch), Lsn(lsn));
        tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap()
    }
}

#[test]
fn a_later_entry_of_the_same_epoch_commits_and_one_of_another_epoch_says_nothing() {
    let at = Position::new;
    for (last, wanted, expected) in [
        (at(2, 7), at(2, 8), None),
        (at(2, 8), at(2, 8), Some(Known::Committed)),
        (at(2, 9), at(2, 8), Some(Known::Committed)),
        // The owner of epoch 3 has not committed anything: what epoch 2 committed says nothing of its entries.
        (at(2, 9), at(3, 8), None),
        (at(3, 9), at(2, 8), Some(Known::OtherEpoch)),
        (at(3, 7), at(2, 8), Some(Known::OtherEpoch)),
    ] {
        assert_eq!(known(last, wanted), expected, "{last} {wanted}");
    }
}

#[tokio::test]
async fn those_who_wait_are_answered_in_any_order_and_nothing_is_left_of_those_who_go() {
    let watch = CommittedWatch::default();
    let waiting = |stream, epoch, lsn| {
        let watch = watch.clone();
        tokio::spawn(async move { watch.wait(StreamId(stream), Epoch(epoch), Lsn(lsn)).await })
    };
    let (first, second) = (waiting(3, 2, 5), waiting(3, 2, 5));
    let (later, other, newer) = (waiting(3, 2, 6), waiting(4, 2, 5), waiting(3, 3, 5));
    tokio::task::yield_now().await;
    watch.learn(STREAM, Position::new(2, 5));
    // What another node tells later may be behind.
    watch.learn(STREAM, Position::new(2, 4));
    assert_eq!(first.await.unwrap(), Known::Committed);
    assert_eq!(second.await.unwrap(), Known::Committed);
    assert_eq!(watch.last(STREAM), Some(Position::new(2, 5)));
    assert!(!later.is_finished() && !other.is_finished());
    watch.learn(STREAM, Position::new(3, 6));
    assert_eq!(later.await.unwrap(), Known::OtherEpoch);
    assert_eq!(newer.await.unwrap(), Known::Committed);
    other.abort();
    assert!(other.await.is_err());
    assert!(watch.shared.lock().waiters.is_empty());
}

#[tokio::test]
async fn the_nearest_node_is_followed_and_another_while_it_is_away() {
    let world = World::start();
    let second = world.serve("j-2", Position::new(1, 1));
    assert_eq!(world.wait(1, 1).await, Known::Committed);
    let first = world.serve("j-1", Position::new(1, 2));
    assert_eq!(world.wait(1, 2).await, Known::Committed);
    // The second one is not listened to any more.
    second.send_replace(Position::new(1, 3));
    let wait = world.watch.wait(STREAM, Epoch(1), Lsn(3));
    assert!(
        tokio::time::timeout(Duration::from_millis(100), wait)
            .await
            .is_err()
    );
    world.nodes.remove(&"j-1".into());
    drop(first);
    assert_eq!(world.wait(1, 3).await, Known::Committed);
    drop(second);
    let _second = world.serve("j-2", Position::new(2, 4));
    assert_eq!(world.wait(1, 4).await, Known::OtherEpoch);
}

#[tokio::test]
async fn a_node_that_falls_behind_is_left_for_one_that_knows_more_until_it_has_caught_up() {
    let world = World::start();
    let nearest = world.serve("j-1", Position::new(1, 1));
    let other = world.serve("j-2", Position::new(1, 1));
    assert_eq!(world.wait(1, 1).await, Known::Committed);
    // The nearest is cut off from the owner: it stays where it is, and its stream stays open.
    other.send_replace(Position::new(1, 5));
    assert_eq!(world.wait(1, 5).await, Known::Committed);
    // The other one is followed now, for as long as the nearest is behind what advances.
    for lsn in 6..30 {
        other.send_replace(Position::new(1, lsn));
        assert_eq!(world.wait(1, lsn).await, Known::Committed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nearest.send_replace(Position::new(1, 29));
    let mut lsn = 30;
    let back = async {
        while other.receiver_count() > 1 {
            // What is told by both may lie with either.
            nearest.send_replace(Position::new(1, lsn));
            other.send_replace(Position::new(1, lsn));
            lsn += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back)
        .await
        .expect("the nearest is followed again");
    nearest.send_replace(Position::new(1, lsn));
    assert_eq!(world.wait(1, lsn).await, Known::Committed);
}
