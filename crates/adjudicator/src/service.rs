//! The RPCs of an adjudicator, and what the process knows of it.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use meridian_protocol::adjudication::HandedOver;
use meridian_rpc::batch::Batches;
use meridian_rpc::error::KvError;
use meridian_rpc::internal::adjudicator_server::{Adjudicator, AdjudicatorServer};
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{
    AttemptQuery, CloseThroughRequest, CloseThroughResponse, DecideBatch, Decision, DecisionBatch,
    ExchangeBatch, ExchangeEnd, HandOverAnswer, HandOverPart, LocateRequest, LocateResponse, OutcomeAnswer,
    OutcomeQuery, RaiseFloorRequest, RaiseFloorResponse, ReadyRequest, ReadyResponse,
};
use meridian_rpc::v1::{OwnedRangeStatus, ServiceStatus};
use meridian_rpc::{Service, convert};
use meridian_types::{Attempt, CommitToken, NodeName, StreamId, Timestamp, limits};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use meridian_rpc::internal::meta_server::MetaServer;

use crate::context::Context;
use crate::handed::Assembly;
use crate::meta::MetaService;
use crate::registry::{Registry, StreamHandle};
use crate::request::{AttemptQuestion, Control};
use crate::{connection, exchange};

/// Answers that one message carries at most.
const MAX_ANSWERS: usize = 512;
/// What votes that are handed over may take beside the recent writes.
const VOTE_BYTES: usize = 128 << 20;
/// How long a question may wait for a takeover before the asker is told to ask again.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(1_800);

/// The service, as RPCs see it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AdjudicatorService {
    pub(crate) ctx: Arc<Context>,
    pub(crate) registry: Arc<Registry>,
}

impl AdjudicatorService {
    pub(crate) fn stream(&self, stream: u64) -> Result<StreamHandle, Status> {
        self.registry
            .stream(StreamId(stream))
            .ok_or_else(|| KvError::invalid(format!("stream {stream} is not in the range map")).into())
    }

    /// Puts a question to a stream's task; `None` when it cannot be answered in time.
    pub(crate) async fn ask<T>(
        &self,
        stream: &StreamHandle,
        question: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<Option<T>, Status> {
        let (reply, answer) = oneshot::channel();
        match stream.control.try_send(question(reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let what = "too many questions wait for an answer";
                return Err(KvError::overloaded(what, Duration::from_millis(50)).into());
            }
            Err(TrySendError::Closed(_)) => {
                return Err(KvError::unavailable("this adjudicator is shutting down").into());
            }
        }
        Ok(tokio::time::timeout(QUESTION_TIMEOUT, answer)
            .await
            .ok()
            .and_then(Result::ok))
    }

    /// Who owns the stream, or has been handed it just now, as far as this process alone can tell.
    fn locate_passively(&self, handle: &StreamHandle, stream: u64) -> LocateResponse {
        let successor = handle.successor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((successor, until)) = successor.as_ref()
            && Instant::now() < *until
        {
            return LocateResponse {
                stream,
                owner: successor.node.0.clone(),
                epoch: successor.epoch.0,
            };
        }
        let status = handle.status.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = if status.role == OWNER {
            self.ctx.env.node.0.clone()
        } else {
            String::new()
        };
        LocateResponse {
            stream,
            owner,
            epoch: status.epoch,
        }
    }
}

/// [`OwnedRangeStatus::role`] of an owner that serves.
const OWNER: &str = "owner";

#[tonic::async_trait]
impl Adjudicator for AdjudicatorService {
    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        let LocateRequest { stream, passive } = request.into_inner();
        let handle = self.stream(stream)?;
        if passive {
            return Ok(Response::new(self.locate_passively(&handle, stream)));
        }
        let answer = self.ask(&handle, Control::Locate).await?;
        Ok(Response::new(answer.unwrap_or(LocateResponse {
            stream,
            ..LocateResponse::default()
        })))
    }

    type DecideStream = Pin<Box<dyn Stream<Item = Result<DecisionBatch, Status>> + Send>>;

    async fn decide(
        &self,
        request: Request<Streaming<DecideBatch>>,
    ) -> Result<Response<Self::DecideStream>, Status> {
        let (answers, queue) = mpsc::channel(self.ctx.config.connection_requests);
        let (ctx, registry) = (self.ctx.clone(), self.registry.clone());
        tokio::spawn(connection::run(ctx, registry, request.into_inner(), answers));
        let size = |_: &Decision| 1;
        let batches = Batches::new(queue, MAX_ANSWERS, MAX_ANSWERS, size);
        Ok(Response::new(Box::pin(
            batches.map(|decisions| Ok(DecisionBatch { decisions })),
        )))
    }

    async fn close_through(
        &self,
        request: Request<CloseThroughRequest>,
    ) -> Result<Response<CloseThroughResponse>, Status> {
        let CloseThroughRequest {
            stream,
            timestamp,
            journal,
        } = request.into_inner();
        let handle = self.stream(stream)?;
        let question = |reply| Control::CloseThrough(Timestamp(timestamp), NodeName(journal), reply);
        match self.ask(&handle, question).await? {
            Some(answer) => Ok(Response::new(answer)),
            None => Err(KvError::unavailable(format!("stream {stream} has no owner yet")).into()),
        }
    }

    async fn outcome(&self, request: Request<OutcomeQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        let query = request.into_inner();
        let handle = self.stream(query.stream)?;
        let token = CommitToken {
            txn: convert::txn_id(&query.txn)?,
            start: Timestamp(query.start),
            home: (!query.home_unknown).then_some(StreamId(query.stream)),
        };
        let answer = self.ask(&handle, |reply| Control::Outcome(token, reply)).await?;
        Ok(Response::new(answer.unwrap_or_else(pending)))
    }

    async fn attempt_outcome(
        &self,
        request: Request<AttemptQuery>,
    ) -> Result<Response<OutcomeAnswer>, Status> {
        let query = request.into_inner();
        let name = query
            .attempt
            .as_ref()
            .ok_or_else(|| KvError::invalid("the attempt is not named"))?;
        let attempt = Attempt::try_from(name)?;
        let handle = self.stream(attempt.home.0)?;
        let question = AttemptQuestion {
            attempt,
            start: Timestamp(query.start),
            give_up: query.give_up,
        };
        let question = |reply| Control::AttemptOutcome(question, reply);
        let answer = self.ask(&handle, question).await?;
        Ok(Response::new(answer.unwrap_or_else(pending)))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeBatch>>,
    ) -> Result<Response<ExchangeEnd>, Status> {
        let mut batches = request.into_inner();
        loop {
            let batch = tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => None,
                batch = batches.message() => batch?,
            };
            let Some(batch) = batch else {
                return Ok(Response::new(ExchangeEnd {}));
            };
            for message in batch.messages {
                if !exchange::deliver(&self.registry, message) {
                    return Err(KvError::unavailable("this adjudicator is shutting down").into());
                }
            }
        }
    }

    async fn raise_floor(
        &self,
        request: Request<RaiseFloorRequest>,
    ) -> Result<Response<RaiseFloorResponse>, Status> {
        let RaiseFloorRequest { stream, floor } = request.into_inner();
        let handle = self.stream(stream)?;
        let question = |reply| Control::RaiseFloor(Timestamp(floor), reply);
        match self.ask(&handle, question).await? {
            Some(answer) => Ok(Response::new(answer)),
            None => Err(KvError::unavailable(format!("stream {stream} has no owner yet")).into()),
        }
    }

    async fn ready(&self, request: Request<ReadyRequest>) -> Result<Response<ReadyResponse>, Status> {
        let is_known = self.stream(request.into_inner().stream).is_ok();
        // The nearest one comes first.
        let journal = self.ctx.journals.first().map(ToString::to_string);
        let is_connected = self.registry.is_connected(0);
        Ok(Response::new(ReadyResponse {
            ready: is_known && is_connected && self.is_ready(),
            journal: journal.unwrap_or_default(),
        }))
    }

    async fn hand_over(
        &self,
        request: Request<Streaming<HandOverPart>>,
    ) -> Result<Response<HandOverAnswer>, Status> {
        let handed = self.assemble(request.into_inner()).await?;
        let handle = self.stream(handed.stream.0)?;
        let question = |reply| Control::HandOver(Arc::new(handed), reply);
        let answer = self.ask(&handle, question).await?;
        Ok(Response::new(answer.unwrap_or_default()))
    }
}

impl AdjudicatorService {
    /// All parts of what is handed over: [`VOTE_BYTES`] at most beside the recent writes.
    async fn assemble(&self, mut parts: Streaming<HandOverPart>) -> Result<HandedOver, Status> {
        let max_bytes = self.ctx.config.recent_bytes.saturating_add(VOTE_BYTES);
        let mut assembly = Assembly::default();
        while let Some(part) = parts.message().await? {
            if let Some(whole) = assembly.add(part, max_bytes)? {
                return Ok(whole);
            }
        }
        Err(KvError::invalid("what was handed over is not whole").into())
    }
}

fn pending() -> OutcomeAnswer {
    OutcomeAnswer {
        outcome: Outcome::Pending.into(),
        ..OutcomeAnswer::default()
    }
}

impl Service for AdjudicatorService {
    fn role(&self) -> &'static str {
        crate::ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        let server = AdjudicatorServer::new(self.clone())
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        routes.add_service(server);
        routes.add_service(MetaServer::new(MetaService(self.clone())));
    }

    fn status(&self) -> ServiceStatus {
        let handles = self.registry.streams();
        // The meta stream holds no range: it is shown where it is owned, after the others.
        let is_shown = |status: &OwnedRangeStatus| status.stream != StreamId::META.0 || status.role == OWNER;
        let mut ranges: Vec<OwnedRangeStatus> = handles
            .iter()
            .map(|(_, handle)| {
                handle
                    .status
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone()
            })
            .filter(is_shown)
            .collect();
        ranges.sort_by_key(|status| (status.stream == StreamId::META.0, status.stream));
        let queued: usize = handles
            .iter()
            .map(|(_, handle)| handle.decides.max_capacity() - handle.decides.capacity())
            .sum();
        let state = if self.is_ready() { "ready" } else { "draining" };
        ServiceStatus {
            role: crate::ROLE.to_owned(),
            state: state.to_owned(),
            ranges,
            figures: [("queued_requests".to_owned(), queued as u64)].into(),
            ..ServiceStatus::default()
        }
    }

    /// A standby is ready: it can take over.
    fn is_ready(&self) -> bool {
        !self.ctx.shutdown.is_cancelled()
    }
}
