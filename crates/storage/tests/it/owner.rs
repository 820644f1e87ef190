//! An owner that closes when it is told to.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::Stream;
use meridian_rpc::internal::adjudicator_server::Adjudicator;
use meridian_rpc::internal::{
    AttemptQuery, CloseThroughRequest, CloseThroughResponse, Closure, DecideBatch, DecisionBatch,
    LocateRequest, LocateResponse, OutcomeAnswer, OutcomeQuery, StreamLsn,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::journal::{Fact, Log};

/// How an owner answers a request to close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Closes as asked, and tells the journal too, as a periodic closure soon would.
    Closes,
    /// Closes as asked, and tells nobody but who asks.
    Answers,
    /// Says nothing until told otherwise.
    Waits,
    /// May not close further than this yet.
    OnlyThrough(u64),
    /// Says that it has closed, but the closure is lost.
    Loses,
    /// Names another owner.
    Deposed(&'static str),
    /// Fails.
    Fails,
}

/// One adjudicator.
#[derive(Clone)]
pub struct FakeOwner {
    pub name: &'static str,
    pub log: Log,
    pub manner: Arc<watch::Sender<Manner>>,
    pub asked: Arc<Mutex<Vec<u64>>>,
    /// The journal node that the last request named.
    pub read_through: Arc<Mutex<String>>,
    under_way: Arc<AtomicU64>,
    pub most_under_way: Arc<AtomicU64>,
}

impl FakeOwner {
    pub fn new(name: &'static str, log: Log) -> Self {
        Self {
            name,
            log,
            manner: Arc::new(watch::Sender::new(Manner::Closes)),
            asked: Arc::default(),
            read_through: Arc::default(),
            under_way: Arc::default(),
            most_under_way: Arc::default(),
        }
    }

    pub fn asked(&self) -> Vec<u64> {
        self.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl Adjudicator for FakeOwner {
    type DecideStream = Pin<Box<dyn Stream<Item = Result<DecisionBatch, Status>> + Send>>;

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        Ok(Response::new(LocateResponse {
            stream: request.into_inner().stream,
            owner: self.name.to_owned(),
            epoch: 1,
        }))
    }

    async fn close_through(
        &self,
        request: Request<CloseThroughRequest>,
    ) -> Result<Response<CloseThroughResponse>, Status> {
        let CloseThroughRequest {
            stream,
            timestamp: asked,
            journal,
        } = request.into_inner();
        self.asked.lock().unwrap().push(asked);
        *self.read_through.lock().unwrap() = journal;
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let mut changes = self.manner.subscribe();
        let manner = changes
            .wait_for(|manner| *manner != Manner::Waits)
            .await
            .unwrap()
            .clone();
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        let mut response = CloseThroughResponse::default();
        let x = match manner {
            Manner::Fails => return Err(Status::unavailable("owner failed")),
            Manner::Deposed(owner) => {
                response.owner = owner.to_owned();
                response.epoch = 2;
                response.not_owner = true;
                return Ok(Response::new(response));
            }
            Manner::OnlyThrough(x) => x.min(asked),
            _ => asked,
        };
        response.closed = x;
        if manner != Manner::Loses {
            let after = StreamLsn {
                stream,
                lsn: self.log.last_lsn(),
            };
            response.closure = Some(Closure {
                range: stream,
                epoch: 1,
                closed: x,
                after: vec![after],
            });
        }
        if !matches!(manner, Manner::Loses | Manner::Answers) {
            self.log.push(Fact::Closed {
                range: stream,
                x,
                after: self.log.last_lsn(),
            });
        }
        Ok(Response::new(response))
    }

    async fn decide(
        &self,
        _: Request<Streaming<DecideBatch>>,
    ) -> Result<Response<Self::DecideStream>, Status> {
        Err(Status::unimplemented("not played in these tests"))
    }

    async fn outcome(&self, _: Request<OutcomeQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        Err(Status::unimplemented("not played in these tests"))
    }

    async fn attempt_outcome(&self, _: Request<AttemptQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        Err(Status::unimplemented("not played in these tests"))
    }
    async fn ready(
        &self,
        _: Request<meridian_rpc::internal::ReadyRequest>,
    ) -> Result<Response<meridian_rpc::internal::ReadyResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn hand_over(
        &self,
        _: Request<Streaming<meridian_rpc::internal::HandOverPart>>,
    ) -> Result<Response<meridian_rpc::internal::HandOverAnswer>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn exchange(
        &self,
        _: Request<Streaming<meridian_rpc::internal::ExchangeBatch>>,
    ) -> Result<Response<meridian_rpc::internal::ExchangeEnd>, Status> {
        Err(Status::unimplemented("not asked by storage nodes"))
    }

    async fn raise_floor(
        &self,
        _: Request<meridian_rpc::internal::RaiseFloorRequest>,
    ) -> Result<Response<meridian_rpc::internal::RaiseFloorResponse>, Status> {
        Err(Status::unimplemented("not asked by storage nodes"))
    }
}
