//! Answering reads (R4 to R6).

mod connection;
mod job;
mod parked;
mod predicate;

use std::sync::Arc;

use meridian_rpc::internal::storage_server::Storage;
use meridian_rpc::internal::{CheckpointRequest, StorageReadBatch, StorageReadReplyBatch};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::checkpoint::{self, PartStream};
use crate::shared::Shared;
use connection::Connection;

/// Batches of answers that wait for a slow reader; then its reads stop.
const OUT_BATCHES: usize = 4;

/// The RPC service.
#[derive(Clone)]
pub(crate) struct Reads {
    pub shared: Arc<Shared>,
    /// Every connection's task, so that the node ends after them.
    pub tasks: TaskTracker,
}

#[tonic::async_trait]
impl Storage for Reads {
    type ReadStream = ReceiverStream<Result<StorageReadReplyBatch, Status>>;

    async fn read(
        &self,
        request: Request<Streaming<StorageReadBatch>>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let (out, answers) = mpsc::channel(OUT_BATCHES);
        let connection = Connection::new(self.shared.clone(), out);
        self.tasks.spawn(connection.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    type CheckpointStream = PartStream;

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<Self::CheckpointStream>, Status> {
        checkpoint::serve(&self.shared, request.into_inner()).map(Response::new)
    }
}
