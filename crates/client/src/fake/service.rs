//! The fake's gRPC side.

use std::pin::Pin;

use futures::Stream;
use meridian_rpc::v1::admin_server::Admin;
use meridian_rpc::v1::kv_server::Kv;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::*;
use meridian_rpc::{FORMAT_VERSION, KvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::session::{After, Session};
use super::{FakeCluster, status};

type Replies = mpsc::Sender<Result<SessionResponse, Status>>;

impl FakeCluster {
    async fn serve_session(
        self,
        mut requests: Streaming<SessionRequest>,
        replies: Replies,
        kill: CancellationToken,
    ) {
        let mut session = Session::default();
        loop {
            let request = tokio::select! {
                biased;
                () = kill.cancelled() => {
                    let _ = replies.send(Err(Status::unavailable("connection reset by the fake"))).await;
                    return;
                }
                request = requests.message() => request,
            };
            let Ok(Some(SessionRequest { ops })) = request else {
                return;
            };
            let mut batch = Vec::new();
            for op in ops {
                let after = session.handle(&mut self.lock(), op);
                let (more, broken) = match after {
                    After::Reply(more) => (more, false),
                    After::Break(more) => (more, true),
                };
                batch.extend(more);
                if broken {
                    let _ = replies.send(Ok(SessionResponse { replies: batch })).await;
                    let _ = replies
                        .send(Err(Status::unknown("connection lost by the fake")))
                        .await;
                    return;
                }
            }
            if !batch.is_empty()
                && replies
                    .send(Ok(SessionResponse { replies: batch }))
                    .await
                    .is_err()
            {
                return;
            }
        }
    }
}

fn only_sessions() -> Status {
    KvError::invalid("the fake serves sessions only").into()
}

type PageStream = Pin<Box<dyn Stream<Item = Result<ScanPage, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for FakeCluster {
    type SessionStream = ReceiverStream<Result<SessionResponse, Status>>;
    type ScanStream = PageStream;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (replies, stream) = mpsc::channel(16);
        let (now, operations, kill) = {
            let mut state = self.lock();
            if let Some(error) = state.down.clone() {
                return Err(error.into());
            }
            state.counters.sessions += 1;
            (state.store.now(), state.operations, state.kill.clone())
        };
        let hello = SessionReply {
            id: 0,
            reply: Some(Reply::Hello(SessionHello {
                node: "fake".to_owned(),
                region: "a".to_owned(),
                now,
                format: FORMAT_VERSION,
                operations,
            })),
        };
        let greeting = SessionResponse { replies: vec![hello] };
        // The channel is new and has room.
        let _ = replies.try_send(Ok(greeting));
        tokio::spawn(self.clone().serve_session(request.into_inner(), replies, kill));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn begin(&self, _: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        Err(only_sessions())
    }
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(only_sessions())
    }
    async fn batch_get(&self, _: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        Err(only_sessions())
    }
    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<PageStream>, Status> {
        Err(only_sessions())
    }
    async fn put(&self, _: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(only_sessions())
    }
    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(only_sessions())
    }
    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(only_sessions())
    }
    async fn savepoint(&self, _: Request<SavepointRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(only_sessions())
    }
    async fn rollback_to(&self, _: Request<SavepointRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(only_sessions())
    }
    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Err(only_sessions())
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Result<Response<RollbackResponse>, Status> {
        Err(only_sessions())
    }
    async fn execute(&self, _: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        Err(only_sessions())
    }
    async fn outcome(&self, _: Request<OutcomeRequest>) -> Result<Response<OutcomeResponse>, Status> {
        Err(only_sessions())
    }
}

#[tonic::async_trait]
impl Admin for FakeCluster {
    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        Ok(Response::new(status::sample()))
    }

    async fn change_ranges(
        &self,
        _: Request<ChangeRangesRequest>,
    ) -> Result<Response<ChangeRangesResponse>, Status> {
        Err(only_sessions())
    }
}
