//! The journal's RPCs.

mod append;
mod feed;
mod push;
mod read;
mod watch;

use std::sync::Arc;

use futures::stream::BoxStream;
use meridian_rpc::internal::journal_server::{Journal as JournalRpc, JournalServer};
use meridian_rpc::internal::{
    AppendBatch, AppendReplyBatch, CheckpointedRequest, CheckpointedResponse, FeedBatch, FeedRequest,
    FenceRequest, FenceResponse, ReadRequest, ReadResponse, StateRequest, StateResponse, WatchBatch,
    WatchRequest,
};
use meridian_rpc::v1::ServiceStatus;
use meridian_rpc::{KvError, Service};
use meridian_types::limits::MAX_MESSAGE_BYTES;
use tokio::sync::oneshot;
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use crate::journal::Journal;

/// Serves one journal node.
#[derive(Clone)]
pub struct JournalService {
    journal: Arc<Journal>,
}

impl JournalService {
    /// A service of this node.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal }
    }
}

impl Service for JournalService {
    fn role(&self) -> &'static str {
        crate::ROLE
    }

    fn register(&self, routes: &mut RoutesBuilder) {
        let server = JournalServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        routes.add_service(server);
    }

    fn status(&self) -> ServiceStatus {
        self.journal.status(crate::ROLE)
    }

    fn is_ready(&self) -> bool {
        self.journal.check_serving().is_ok()
    }
}

/// What callers of a node that failed or was shut down are told.
fn gone(journal: &Journal) -> Status {
    match journal.check_serving() {
        Err(error) => error.into(),
        Ok(()) => KvError::unavailable("the journal node is shutting down").into(),
    }
}

#[tonic::async_trait]
impl JournalRpc for JournalService {
    type AppendStream = BoxStream<'static, Result<AppendReplyBatch, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;
    type FeedStream = BoxStream<'static, Result<FeedBatch, Status>>;
    type WatchStream = BoxStream<'static, Result<WatchBatch, Status>>;

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        let (sender, answer) = oneshot::channel();
        if let Some(refused) = self.journal.fence(request.into_inner(), sender)? {
            return Ok(Response::new(refused));
        }
        // Dropped without an answer when the node failed.
        let answered = answer.await.map_err(|_| gone(&self.journal))?;
        Ok(Response::new(answered?))
    }

    async fn state(&self, request: Request<StateRequest>) -> Result<Response<StateResponse>, Status> {
        self.journal.check_serving()?;
        let (asked, limit) = (request.get_ref().streams.len(), self.journal.config().max_streams);
        if asked > limit {
            return Err(KvError::LimitExceeded {
                limit: "streams of a question".to_owned(),
                allowed: limit as u64,
                got: asked as u64,
            }
            .into());
        }
        Ok(Response::new(self.journal.state(request.get_ref())))
    }

    async fn append(
        &self,
        request: Request<Streaming<AppendBatch>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.journal.check_serving()?;
        Ok(Response::new(append::serve(
            self.journal.clone(),
            request.into_inner(),
        )))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Ok(Response::new(read::serve(
            self.journal.clone(),
            request.get_ref(),
        )?))
    }

    async fn feed(&self, request: Request<FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        self.journal.check_serving()?;
        Ok(Response::new(feed::serve(
            self.journal.clone(),
            request.get_ref(),
        )?))
    }

    async fn checkpointed(
        &self,
        _: Request<CheckpointedRequest>,
    ) -> Result<Response<CheckpointedResponse>, Status> {
        Err(Status::unimplemented("this version trims nothing"))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.journal.check_serving()?;
        Ok(Response::new(watch::serve(
            self.journal.clone(),
            request.get_ref(),
        )?))
    }
}
