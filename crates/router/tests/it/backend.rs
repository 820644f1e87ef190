//! A query processor that answers what it is told to, and remembers what it saw.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, Request as HttpRequest, Response as HttpResponse};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use meridian_rpc::KvError;
use meridian_rpc::handle::TxnHandle;
use meridian_rpc::v1::kv_server::{Kv, KvServer};
use meridian_rpc::v1::node_server::{Node, NodeServer};
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{self, NodeStatus, NodeStatusRequest, ServiceStatus};
use meridian_types::{NodeName, TxnId};
use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use tower::Service;
use uuid::Uuid;

/// What happens to the next call of a method, instead of what usually does.
#[derive(Clone, Debug)]
pub enum Script {
    /// It is read, and never answered.
    Hang,
    /// It is not even read, and never answered.
    Ignore,
    Refuse(KvError),
    /// These headers alone: the status of a call without an answer.
    Head(HeaderMap),
    /// One message, and then these trailers.
    Trailers(HeaderMap),
    /// One message, and then the answer breaks.
    Break,
    /// One message, and then the answer ends without a status.
    Stop,
    /// One message, and then nothing any more.
    Stall,
    /// Messages without end.
    Endless,
}

/// What a backend saw.
#[derive(Default)]
struct Seen {
    scripts: BTreeMap<&'static str, VecDeque<Script>>,
    calls: Vec<String>,
    /// How the input of each session ended.
    session_ends: Vec<&'static str>,
    held: usize,
}

/// A query processor. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Backend {
    pub name: NodeName,
    seen: Arc<Mutex<Seen>>,
}

impl Backend {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            seen: Arc::default(),
        }
    }

    /// The next call of `method` goes like this.
    pub fn script(&self, method: &'static str, script: Script) {
        let mut seen = self.seen.lock().unwrap();
        seen.scripts.entry(method).or_default().push_back(script);
    }

    /// The public calls received so far, but for probes.
    pub fn calls(&self) -> Vec<String> {
        self.seen.lock().unwrap().calls.clone()
    }

    pub fn count(&self, method: &str) -> usize {
        self.calls().iter().filter(|call| *call == method).count()
    }

    pub fn session_ends(&self) -> Vec<&'static str> {
        self.seen.lock().unwrap().session_ends.clone()
    }

    /// Calls that hang, and whose caller is still there.
    pub fn held(&self) -> usize {
        self.seen.lock().unwrap().held
    }

    pub fn routes(&self) -> Routes {
        let kv = KvServer::new(self.clone()).max_decoding_message_size(16 << 20);
        let mut routes = Routes::builder();
        routes.add_service(Scripted {
            inner: kv,
            backend: self.clone(),
        });
        routes.add_service(Scripted {
            inner: NodeServer::new(self.clone()),
            backend: self.clone(),
        });
        routes.routes()
    }
}

/// Counts a hanging call until its caller gives it up.
struct Hold(Backend);

impl Hold {
    fn new(backend: &Backend) -> Self {
        backend.seen.lock().unwrap().held += 1;
        Self(backend.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().held -= 1;
    }
}

/// The scripts in front of the usual answers.
#[derive(Clone)]
struct Scripted<S> {
    inner: S,
    backend: Backend,
}

impl<S: NamedService> NamedService for Scripted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<HttpRequest<Body>> for Scripted<S>
where
    S: Service<HttpRequest<Body>, Response = HttpResponse<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let mut seen = self.backend.seen.lock().unwrap();
        if method != "Status" {
            seen.calls.push(method.clone());
        }
        let scripts = seen.scripts.get_mut(method.as_str());
        match scripts.and_then(VecDeque::pop_front) {
            Some(script) => play(self.backend.clone(), script, request).boxed(),
            None => self.inner.call(request).boxed(),
        }
    }
}

async fn play(
    backend: Backend,
    script: Script,
    request: HttpRequest<Body>,
) -> Result<HttpResponse<Body>, Infallible> {
    let hold = Hold::new(&backend);
    if !matches!(script, Script::Ignore) {
        // A request that breaks is never answered: its caller is gone.
        let read = request.into_body().collect().await;
        if read.is_err() {
            return Ok(Status::aborted("the request broke").into_http());
        }
    }
    let message = frame(&v1::ScanPage::default());
    let first = move || stream::iter([Ok(Frame::data(message.clone()))]);
    let held = stream::pending().map(move |never: Infallible| {
        let _hold = &hold;
        match never {}
    });
    Ok(match script {
        Script::Hang | Script::Ignore => {
            let mut held = held;
            held.next().await;
            unreachable!("pending")
        }
        Script::Refuse(error) => Status::from(error).into_http(),
        Script::Head(headers) => {
            let mut response = answer(stream::empty());
            response.headers_mut().extend(headers);
            response
        }
        Script::Trailers(trailers) => answer(first().chain(stream::iter([Ok(Frame::trailers(trailers))]))),
        Script::Break => answer(first().chain(stream::iter([Err(Status::internal("broken"))]))),
        Script::Stop => answer(first()),
        Script::Stall => answer(first().chain(held)),
        Script::Endless => {
            let more = stream::repeat_with(move || Ok(Frame::data(frame(&v1::ScanPage::default()))));
            answer(more.then(|frame| async {
                tokio::task::yield_now().await;
                frame
            }))
        }
    })
}

fn answer(
    frames: impl futures::Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
) -> HttpResponse<Body> {
    HttpResponse::builder()
        .header("content-type", "application/grpc")
        .body(Body::new(StreamBody::new(frames)))
        .unwrap()
}

/// A message as it travels.
pub fn frame(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame.into()
}

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not part of the tests"))
}

#[tonic::async_trait]
impl Node for Backend {
    async fn status(&self, _: Request<NodeStatusRequest>) -> Answer<NodeStatus> {
        Ok(Response::new(NodeStatus {
            node: self.name.to_string(),
            region: "here".to_owned(),
            services: vec![ServiceStatus {
                role: "query".to_owned(),
                state: "ready".to_owned(),
                ..ServiceStatus::default()
            }],
            ..NodeStatus::default()
        }))
    }
}

#[tonic::async_trait]
impl Kv for Backend {
    type SessionStream = BoxStream<'static, Result<v1::SessionResponse, Status>>;
    type ScanStream = BoxStream<'static, Result<v1::ScanPage, Status>>;

    /// Greets, and answers each get with its key.
    async fn session(&self, request: Request<Streaming<v1::SessionRequest>>) -> Answer<Self::SessionStream> {
        let mut input = request.into_inner();
        let (sender, replies) = tokio::sync::mpsc::channel(16);
        let backend = self.clone();
        tokio::spawn(async move {
            let reply = |id, reply| v1::SessionResponse {
                replies: vec![v1::SessionReply {
                    id,
                    reply: Some(reply),
                }],
            };
            let hello = v1::SessionHello {
                node: backend.name.to_string(),
                ..v1::SessionHello::default()
            };
            let _ = sender.send(Ok(reply(0, Reply::Hello(hello)))).await;
            let end = loop {
                match input.message().await {
                    Ok(None) => break "ended",
                    Err(_) => break "broke",
                    Ok(Some(request)) => {
                        for op in request.ops {
                            let Some(Op::Get(get)) = op.op else {
                                // Anything else asks it to hang up.
                                backend.seen.lock().unwrap().session_ends.push("hung up");
                                return;
                            };
                            let value = Reply::Value(v1::GetResponse {
                                value: Some(get.key),
                                ..v1::GetResponse::default()
                            });
                            let _ = sender.send(Ok(reply(op.id, value))).await;
                        }
                    }
                }
            };
            backend.seen.lock().unwrap().session_ends.push(end);
        });
        Ok(Response::new(ReceiverStream::new(replies).boxed()))
    }

    async fn begin(&self, request: Request<v1::BeginRequest>) -> Answer<v1::BeginResponse> {
        let id = request.into_inner().txn_id;
        let handle = TxnHandle {
            node: self.name.clone(),
            txn: TxnId(Uuid::from_slice(&id).unwrap_or(Uuid::from_u128(1))),
        };
        Ok(Response::new(v1::BeginResponse {
            transaction: handle.encode(),
            token: None,
        }))
    }

    /// Every key's value is the backend's name.
    async fn get(&self, _: Request<v1::GetRequest>) -> Answer<v1::GetResponse> {
        Ok(Response::new(v1::GetResponse {
            value: Some(self.name.to_string().into()),
            timestamp: 1,
            snapshot: None,
        }))
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        let pages = [false, true].map(|last| {
            Ok(v1::ScanPage {
                last,
                ..v1::ScanPage::default()
            })
        });
        Ok(Response::new(stream::iter(pages).boxed()))
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Answer<v1::WriteResponse> {
        Ok(Response::new(v1::WriteResponse::default()))
    }

    async fn commit(&self, _: Request<v1::CommitRequest>) -> Answer<v1::CommitResponse> {
        Ok(Response::new(v1::CommitResponse {
            commit_timestamp: 7,
            token: None,
            trace: None,
        }))
    }

    async fn execute(&self, _: Request<v1::ExecuteRequest>) -> Answer<v1::ExecuteResponse> {
        Ok(Response::new(v1::ExecuteResponse {
            commit_timestamp: 7,
            ..v1::ExecuteResponse::default()
        }))
    }

    async fn outcome(&self, _: Request<v1::OutcomeRequest>) -> Answer<v1::OutcomeResponse> {
        Ok(Response::new(v1::OutcomeResponse {
            commit_timestamp: 7,
            ..v1::OutcomeResponse::default()
        }))
    }

    async fn batch_get(&self, _: Request<v1::BatchGetRequest>) -> Answer<v1::BatchGetResponse> {
        not_here()
    }
    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::WriteResponse> {
        not_here()
    }
    async fn delete_range(&self, _: Request<v1::DeleteRangeRequest>) -> Answer<v1::DeleteRangeResponse> {
        not_here()
    }
    async fn savepoint(&self, _: Request<v1::SavepointRequest>) -> Answer<v1::WriteResponse> {
        not_here()
    }
    async fn rollback_to(&self, _: Request<v1::SavepointRequest>) -> Answer<v1::WriteResponse> {
        not_here()
    }
    async fn rollback(&self, _: Request<v1::RollbackRequest>) -> Answer<v1::RollbackResponse> {
        not_here()
    }
}
