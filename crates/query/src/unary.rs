//! The unary calls of the public interface.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::kv_server::Kv;
use meridian_rpc::v1::{
    BatchGetRequest, BatchGetResponse, BeginRequest, BeginResponse, CommitRequest, CommitResponse,
    DeleteRangeRequest, DeleteRangeResponse, DeleteRequest, ExecuteRequest, ExecuteResponse, GetRequest,
    GetResponse, OutcomeRequest, OutcomeResponse, PutRequest, RollbackRequest, RollbackResponse,
    SavepointRequest, ScanPage, ScanRequest, SessionRequest, SessionResponse, WriteResponse,
};
use meridian_rpc::{KvError, convert};
use meridian_types::CommitToken;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::buffer::check_bound;
use crate::processor::Processor;
use crate::retry::{call_deadline, deadline_in_ms, named_deadline};
use crate::scan::{Scan, ScanSpec};
use crate::txn::{Committed, Txn};

/// The Kv service.
#[derive(Clone)]
pub(crate) struct KvService(pub(crate) Arc<Processor>);

/// What a commit answers.
pub(crate) fn commit_response(txn: &Txn, committed: Committed) -> CommitResponse {
    CommitResponse {
        commit_timestamp: committed.commit.0,
        token: Some(committed.token.into()),
        trace: txn.trace(),
    }
}

/// The token of a question about an outcome.
pub(crate) fn outcome_token(request: &OutcomeRequest) -> KvResult<CommitToken> {
    let token = request.token.as_ref();
    CommitToken::try_from(token.ok_or_else(|| KvError::invalid("a token is needed"))?)
}

/// The range of a deletion, checked.
pub(crate) fn delete_range_spec(request: DeleteRangeRequest) -> KvResult<ScanSpec> {
    check_bound(&request.start)?;
    check_bound(&request.end)?;
    Ok(ScanSpec {
        range: convert::range_from_bytes(request.start, request.end),
        ..ScanSpec::default()
    })
}

impl KvService {
    /// A write, or a change of the savepoints: done at once, answered with what is known of the token.
    fn change(
        &self,
        handle: &[u8],
        change: impl FnOnce(&Txn) -> KvResult<()>,
    ) -> Result<Response<WriteResponse>, Status> {
        let txn = self.0.find(handle)?;
        change(&txn)?;
        Ok(Response::new(WriteResponse {
            token: Some(txn.token().into()),
        }))
    }
}

/// The pages of a unary scan, each read when the client's side has room for it.
fn pages(
    processor: Arc<Processor>,
    scan: Scan,
    named: Option<Instant>,
) -> BoxStream<'static, Result<ScanPage, Status>> {
    stream::unfold(Some(scan), move |scan| {
        let processor = processor.clone();
        async move {
            let mut scan = scan?;
            // A scan may be long: unless the client names a deadline, it is each page that has one.
            let deadline = named.unwrap_or_else(|| deadline_in_ms(0));
            let page = tokio::select! {
                biased;
                () = processor.closed.cancelled() => Err(KvError::unavailable("the node is shutting down")),
                page = scan.next_page(&processor, deadline) => page,
            };
            match page {
                Ok(page) => {
                    let rest = (!page.last).then_some(scan);
                    Some((Ok(page), rest))
                }
                Err(error) => Some((Err(Status::from(error)), None)),
            }
        }
    })
    .boxed()
}

#[tonic::async_trait]
impl Kv for KvService {
    type SessionStream = BoxStream<'static, Result<SessionResponse, Status>>;
    type ScanStream = BoxStream<'static, Result<ScanPage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(crate::session::open(
            self.0.clone(),
            request.into_inner(),
        )?))
    }

    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        self.0.check_ready()?;
        let txn = self.0.begin(request.get_ref())?;
        Ok(Response::new(self.0.begun(&txn)))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        let GetRequest {
            transaction,
            key,
            for_update,
        } = request.into_inner();
        let txn = self.0.find(&transaction)?;
        let _permit = self.0.admit()?;
        let issued = txn.issue_get(vec![key], for_update)?;
        Ok(Response::new(issued.run_one(&self.0, deadline).await?))
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        let BatchGetRequest {
            transaction,
            keys,
            for_update,
        } = request.into_inner();
        let txn = self.0.find(&transaction)?;
        let _permit = self.0.admit()?;
        let issued = txn.issue_get(keys, for_update)?;
        Ok(Response::new(issued.run_batch(&self.0, deadline).await?))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let named = named_deadline(request.metadata());
        let request = request.into_inner();
        let txn = self.0.find(&request.transaction)?;
        let _permit = self.0.admit()?;
        let scan = txn.issue_scan(ScanSpec::new(request)?, self.0.reserve())?;
        Ok(Response::new(pages(self.0.clone(), scan, named)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        let PutRequest {
            transaction,
            key,
            value,
        } = request.into_inner();
        self.change(&transaction, |txn| txn.write(key, Some(value)))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        let DeleteRequest { transaction, key } = request.into_inner();
        self.change(&transaction, |txn| txn.write(key, None))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        let request = request.into_inner();
        let txn = self.0.find(&request.transaction)?;
        let _permit = self.0.admit()?;
        let deleted = self
            .0
            .delete_range(&txn, delete_range_spec(request)?, deadline)
            .await?;
        Ok(Response::new(DeleteRangeResponse { deleted }))
    }

    async fn savepoint(&self, request: Request<SavepointRequest>) -> Result<Response<WriteResponse>, Status> {
        let SavepointRequest { transaction, name } = request.into_inner();
        self.change(&transaction, |txn| txn.savepoint(name))
    }

    async fn rollback_to(
        &self,
        request: Request<SavepointRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        let SavepointRequest { transaction, name } = request.into_inner();
        self.change(&transaction, |txn| txn.rollback_to(&name))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        let txn = self.0.find(&request.get_ref().transaction)?;
        // No admission here: the work was done, shedding it now would waste it. The adjudicator sheds.
        let committed = self.0.commit(&txn, deadline).await?;
        Ok(Response::new(commit_response(&txn, committed)))
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<RollbackResponse>, Status> {
        self.0.find(&request.get_ref().transaction)?.rollback()?;
        Ok(Response::new(RollbackResponse {}))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        self.0.check_ready()?;
        let _permit = self.0.admit()?;
        Ok(Response::new(
            self.0.execute(request.into_inner(), deadline).await?,
        ))
    }

    async fn outcome(&self, request: Request<OutcomeRequest>) -> Result<Response<OutcomeResponse>, Status> {
        let deadline = call_deadline(request.metadata());
        let token = outcome_token(request.get_ref())?;
        let _permit = self.0.admit()?;
        Ok(Response::new(self.0.outcome(token, deadline).await?))
    }
}
