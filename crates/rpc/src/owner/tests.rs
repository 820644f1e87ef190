//! Looking for an owner among candidates that are there, away, or silent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::BoxStream;
use meridian_clock::ManualClock;
use meridian_types::{ClusterId, Timestamp};
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::env::Env;
use crate::guard::Identity;
use crate::internal::adjudicator_server::{Adjudicator, AdjudicatorServer};
use crate::internal::{
    AttemptQuery, CloseThroughRequest, CloseThroughResponse, DecideBatch, DecisionBatch, ExchangeBatch,
    ExchangeEnd, LocateRequest, LocateResponse, OutcomeAnswer, OutcomeQuery, RaiseFloorRequest,
    RaiseFloorResponse,
};
use crate::network::{LocalNodes, TcpDialer};

const STREAM: StreamId = StreamId(1);

/// How a candidate behaves.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Owner(u64),
    /// Takes over when it is asked to see to it.
    There,
    /// Cut off, or paused.
    Silent,
}

struct Fake {
    name: &'static str,
    is: Is,
    seen_to: Arc<AtomicUsize>,
}

fn not_played<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not played in these tests"))
}

#[tonic::async_trait]
impl Adjudicator for Fake {
    type DecideStream = BoxStream<'static, Result<DecisionBatch, Status>>;

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        let passive = request.into_inner().passive;
        let epoch = match self.is {
            Is::Silent => std::future::pending().await,
            Is::Owner(epoch) => epoch,
            Is::There if passive => 0,
            Is::There => {
                self.seen_to.fetch_add(1, Ordering::SeqCst);
                9
            }
        };
        let owner = if epoch > 0 { self.name } else { "" };
        Ok(Response::new(LocateResponse {
            stream: STREAM.0,
            owner: owner.to_owned(),
            epoch,
        }))
    }

    async fn decide(
        &self,
        _: Request<Streaming<DecideBatch>>,
    ) -> Result<Response<Self::DecideStream>, Status> {
        not_played()
    }

    async fn close_through(
        &self,
        _: Request<CloseThroughRequest>,
    ) -> Result<Response<CloseThroughResponse>, Status> {
        not_played()
    }

    async fn outcome(&self, _: Request<OutcomeQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        not_played()
    }

    async fn attempt_outcome(&self, _: Request<AttemptQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        not_played()
    }

    async fn ready(
        &self,
        _: Request<crate::internal::ReadyRequest>,
    ) -> Result<Response<crate::internal::ReadyResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn hand_over(
        &self,
        _: Request<Streaming<crate::internal::HandOverPart>>,
    ) -> Result<Response<crate::internal::HandOverAnswer>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn exchange(&self, _: Request<Streaming<ExchangeBatch>>) -> Result<Response<ExchangeEnd>, Status> {
        not_played()
    }

    async fn raise_floor(
        &self,
        _: Request<RaiseFloorRequest>,
    ) -> Result<Response<RaiseFloorResponse>, Status> {
        not_played()
    }
}

/// Asks candidates `a`, `b` and `c`, of which those without a behaviour do not run. Answers the owner, how often each was asked to see to
/// it, and how long it took.
async fn ask(candidates: [Option<Is>; 3]) -> (KvResult<Owner>, [usize; 3], Duration) {
    let nodes = LocalNodes::default();
    let names = ["a", "b", "c"];
    let seen_to = names.map(|_| Arc::new(AtomicUsize::new(0)));
    for ((name, is), seen_to) in names.into_iter().zip(candidates).zip(&seen_to) {
        let Some(is) = is else { continue };
        let seen_to = seen_to.clone();
        let mut routes = Routes::builder();
        routes.add_service(AdjudicatorServer::new(Fake { name, is, seen_to }));
        nodes.register(name.into(), routes.routes());
    }
    let identity = Identity {
        cluster: ClusterId::default(),
        node: "qp".into(),
    };
    let network = Network::new(&identity, nodes, Arc::new(TcpDialer::default()));
    let clock = Arc::new(ManualClock::new(Timestamp(1_000_000), Duration::from_micros(1)));
    let env = Env::new("qp".into(), "a".to_owned(), clock, network, 7);
    let (_sender, map) = watch::channel(Arc::new(RangeMap::single(names.map(NodeName::from).to_vec())));
    let owners = Owners::new(env.network, map);
    let began = Instant::now();
    let found = owners.owner(STREAM).await;
    let seen_to = seen_to.map(|count| count.load(Ordering::SeqCst));
    (found, seen_to, began.elapsed())
}

fn owner(node: &str, epoch: u64) -> KvResult<Owner> {
    Ok(Owner {
        node: node.into(),
        epoch: Epoch(epoch),
    })
}

#[tokio::test(start_paused = true)]
async fn an_owner_is_found_wherever_it_is_and_nobody_takes_over() {
    let found = ask([Some(Is::Silent), Some(Is::There), Some(Is::Owner(4))]).await;
    assert_eq!((found.0, found.1), (owner("c", 4), [0, 0, 0]));
    assert!(found.2 < Duration::from_millis(100), "{:?}", found.2);
}

#[tokio::test(start_paused = true)]
async fn the_first_that_is_there_is_asked_to_take_over_and_nobody_else() {
    let found = ask([Some(Is::There); 3]).await;
    assert_eq!((found.0, found.1), (owner("a", 9), [1, 0, 0]));
    let found = ask([None, Some(Is::There), Some(Is::There)]).await;
    assert_eq!((found.0, found.1), (owner("b", 9), [0, 1, 0]));
    assert!(found.2 < Duration::from_millis(100), "{:?}", found.2);
    // One that is cut off is passed over soon.
    let found = ask([Some(Is::Silent), Some(Is::There), Some(Is::There)]).await;
    assert_eq!((found.0, found.1), (owner("b", 9), [0, 1, 0]));
    assert!(found.2 < Duration::from_millis(500), "{:?}", found.2);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_answers_it_is_said_in_time() {
    for candidates in [[None; 3], [Some(Is::Silent); 3], [Some(Is::Silent), None, None]] {
        let (found, _, took) = ask(candidates).await;
        assert!(found.unwrap_err().to_string().contains("no owner of stream s1"));
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}
