//! The Kv service as the router offers it: each call goes on, body and trailers as they are, to the query
//! processor that it belongs to.
//!
//! | call | goes to |
//! |---|---|
//! | Session | the ready query processor with fewest sessions, for the life of the stream |
//! | Begin, Execute, Outcome | a ready query processor, in turn |
//! | all others | the one that the transaction's handle (field 1) names |
//!
//! What was surely not handed on may go to another query processor, or is refused with UNAVAILABLE and our
//! details: this request was not applied. What broke after it was handed on ends in a bare UNAVAILABLE, without details,
//! which says nothing: a Commit or an Execute may have been applied.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, Uri, Version, header};
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::handle::TxnHandle;
use meridian_types::limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use crate::backends::Backend;
use crate::body::{Held, Retractable, read_ahead};
use crate::peek::{self, Peeked};
use crate::router::Router;

/// Most bytes of a request that are read to find its handle: any request but the largest batch reads, whatever
/// the order of its fields. Usually the first few suffice.
const MAX_AHEAD_BYTES: usize = 2 << 20;

/// The proxy of the Kv service.
#[derive(Clone)]
pub(crate) struct KvProxy(pub(crate) Arc<Router>);

impl NamedService for KvProxy {
    const NAME: &'static str = "meridian.v1.Kv";
}

impl Service<Request<Body>> for KvProxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let router = self.0.clone();
        async move {
            Ok(router
                .route(request)
                .await
                .unwrap_or_else(|status| status.into_http()))
        }
        .boxed()
    }
}

/// Where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Session,
    /// Any query processor; begins something.
    Begins,
    /// Any query processor; asks about something.
    Asks,
    /// The one that the handle names.
    Named,
}

impl Kind {
    fn of(path: &str) -> Option<Self> {
        Some(match path.rsplit('/').next()? {
            "Session" => Self::Session,
            "Begin" | "Execute" => Self::Begins,
            "Outcome" => Self::Asks,
            "Get" | "BatchGet" | "Scan" | "Put" | "Delete" | "DeleteRange" | "Savepoint" | "RollbackTo"
            | "Commit" | "Rollback" => Self::Named,
            _ => return None,
        })
    }
}

/// Counts a session at its query processor until it ends.
struct SessionCount(Arc<Backend>);

impl SessionCount {
    fn new(backend: &Arc<Backend>) -> Self {
        backend.sessions.fetch_add(1, Ordering::Relaxed);
        Self(backend.clone())
    }
}

impl Drop for SessionCount {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request without its body, to be sent more than once.
struct Head {
    parts: http::request::Parts,
}

impl Head {
    fn new(mut parts: http::request::Parts) -> Self {
        // The next hop has its own.
        parts.headers.remove(header::HOST);
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(Uri::default, Uri::from);
        parts.version = Version::HTTP_2;
        Self { parts }
    }

    fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        request
    }
}

/// Why a query processor did not take a request.
enum Refusal {
    /// It has seen nothing of it. The body is there for another one.
    NotSent(KvError, Retractable),
    /// It may have done it.
    Lost(Status),
}

impl Router {
    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (parts, body) = request.into_parts();
        let kind = Kind::of(parts.uri.path())
            .ok_or_else(|| Status::unimplemented(format!("there is no call {}", parts.uri.path())))?;
        if self.shutdown.is_cancelled() && matches!(kind, Kind::Session | Kind::Begins) {
            return Err(KvError::unavailable(format!("router {} is shutting down", self.env.node)).into());
        }
        let permit = self.admit(kind)?;
        let head = Head::new(parts);
        if kind == Kind::Named {
            let (backend, body) = self.read_handle(body).await?;
            let response = match send(&backend, &head, body).await {
                Ok(response) => response,
                Err(Refusal::NotSent(error, _)) => return Err(error.into()),
                Err(Refusal::Lost(status)) => return Err(status),
            };
            return Ok(response.map(|body| Held::wrap(body, permit, self.cut.clone())));
        }
        let body = Retractable::new(VecDeque::new(), body);
        self.send_to_any(kind, &head, body, permit).await
    }

    /// Refuses early, before anything is read.
    fn admit(&self, kind: Kind) -> KvResult<OwnedSemaphorePermit> {
        let (what, most, semaphore): (_, _, &Arc<Semaphore>) = if kind == Kind::Session {
            ("sessions", self.config.max_sessions, &self.sessions)
        } else {
            ("requests", self.config.max_requests, &self.requests)
        };
        semaphore.clone().try_acquire_owned().map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let retry_after = Duration::from_millis(self.config.retry_after_ms);
            KvError::overloaded(
                format!("{most} {what} are open, the limit of this router"),
                self.backends.jitter(retry_after),
            )
        })
    }

    /// Reads as much of a request as is needed to see which query processor holds its transaction.
    async fn read_handle(&self, mut body: Body) -> Result<(Arc<Backend>, Retractable), Status> {
        let enough = |bytes: &[u8]| match peek::handle(bytes) {
            Peeked::More if bytes.len() < MAX_AHEAD_BYTES => None,
            peeked => Some(peeked),
        };
        let timeout = Duration::from_millis(self.config.header_timeout_ms);
        let read = tokio::time::timeout(timeout, read_ahead(&mut body, enough)).await;
        let (peeked, ahead) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Err(KvError::invalid("the request ended before its message did").into()),
            Err(_) => {
                let waiting_for = "the client's request".to_owned();
                return Err(KvError::DeadlineExceeded { waiting_for }.into());
            }
        };
        let handle = match peeked {
            Peeked::Handle(range) => TxnHandle::decode(ahead.get(range).unwrap_or_default())?,
            Peeked::None => return Err(KvError::invalid("the request names no transaction").into()),
            Peeked::Compressed => return Err(Status::unimplemented("compressed requests are not supported")),
            Peeked::TooLarge(got) => {
                return Err(KvError::LimitExceeded {
                    limit: "message size in bytes".to_owned(),
                    allowed: limits::MAX_MESSAGE_BYTES as u64,
                    got: got as u64,
                }
                .into());
            }
            Peeked::More => {
                let what = "the transaction's handle does not come first in the request";
                return Err(KvError::invalid(what).into());
            }
            Peeked::Malformed => return Err(KvError::invalid("not a protobuf message").into()),
        };
        match self.backends.named(&handle.node) {
            Some(backend) => Ok((backend.clone(), Retractable::new(VecDeque::from([ahead]), body))),
            None => {
                tracing::debug!(txn = %handle.txn, node = %handle.node, "a handle names an unknown query processor");
                let txn = handle.txn.to_string();
                Err(KvError::TransactionNotFound { txn }.into())
            }
        }
    }

    /// Tries one query processor after the other until one has taken something of the request.
    async fn send_to_any(
        &self,
        kind: Kind,
        head: &Head,
        mut body: Retractable,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Status> {
        let mut last = KvError::unavailable("no query processor is configured");
        for backend in self.backends.in_order() {
            let count = (kind == Kind::Session).then(|| SessionCount::new(&backend));
            match send(&backend, head, body).await {
                Ok(response) => {
                    let held = (permit, count);
                    return Ok(response.map(|body| Held::wrap(body, held, self.cut.clone())));
                }
                Err(Refusal::NotSent(error, taken_back)) => {
                    last = error;
                    body = taken_back;
                }
                Err(Refusal::Lost(status)) => return Err(status),
            }
        }
        Err(last.into())
    }
}

/// Sends a request to one query processor.
async fn send(backend: &Backend, head: &Head, body: Retractable) -> Result<Response<Body>, Refusal> {
    let request = head.with(body.lend());
    match backend.transport().call(request).await {
        Ok(response) => match not_taken(response.headers()) {
            Some(error) => {
                backend.mark_down(&error.to_string());
                match body.retract() {
                    Some(body) => Err(Refusal::NotSent(error, body)),
                    None => Ok(response),
                }
            }
            None => Ok(response),
        },
        Err(error) => {
            let what = format!(
                "query processor {} was not reached: {}",
                backend.node,
                chain(&error)
            );
            backend.mark_down(&what);
            match body.retract() {
                Some(body) => Err(Refusal::NotSent(KvError::unavailable(what), body)),
                // Bare: it says nothing about whether the request was applied.
                None => Err(Refusal::Lost(Status::unavailable(format!(
                    "the connection to query processor {} broke; whether the request was applied is not known",
                    backend.node
                )))),
            }
        }
    }
}

/// Our own UNAVAILABLE at the very beginning of a response: the query processor takes nothing new.
fn not_taken(headers: &http::HeaderMap) -> Option<KvError> {
    let status = Status::from_header_map(headers).filter(|status| status.code() == Code::Unavailable)?;
    KvError::from_status(&status)
}

/// An error and what caused it: the first line alone is just "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
