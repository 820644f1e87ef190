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

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::handle::TxnHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use crate::answer::{Answer, early_end};
use crate::backends::Backend;
use crate::call::{Call, OpenCall};
use crate::head::{Head, Kind};
use crate::notice::Notice;
use crate::peek::{self, Peeked};
use crate::router::Router;
use crate::status::remove_broken_details;
use crate::upload::Upload;

/// Most bytes of a request that are read to find its handle: any request but the largest batch reads, whatever
/// the order of its fields. Usually the first few suffice.
const MAX_AHEAD_BYTES: usize = 2 << 20;

/// The proxy of the Kv service.
#[derive(Clone)]
pub(crate) struct Proxy(pub(crate) Arc<Router>);

impl NamedService for Proxy {
    const NAME: &'static str = "meridian.v1.Kv";
}

impl Service<Request<Body>> for Proxy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let proxy = self.clone();
        async move {
            Ok(proxy
                .route(request)
                .await
                .unwrap_or_else(|status| status.into_http()))
        }
        .boxed()
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

/// Why there is no answer of a query processor.
enum Refusal {
    /// It has seen nothing of the request. Another one may have it.
    NotSent(KvError),
    /// It may have done it.
    Lost(Status),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotSent(error) => error.into(),
            Refusal::Lost(status) => status,
        }
    }
}

/// What an open call holds besides its permit.
type Held = (OwnedSemaphorePermit, Option<SessionCount>);

impl Proxy {
    /// Passes a call on to the query processor that it belongs to, and its answer back.
    async fn route(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let router = &self.0;
        let (parts, body) = request.into_parts();
        let kind = Kind::of(parts.uri.path())
            .ok_or_else(|| Status::unimplemented(format!("there is no call {}", parts.uri.path())))?;
        let permit = self.admit(kind)?;
        let open = OpenCall::new(&router.cut);
        let upload = Upload::new(open.0.clone(), body);
        let head = Head::new(kind, parts);
        let (response, count) = tokio::select! {
            biased;
            () = open.0.ended() => return Err(self.ended_early(kind, &open.0, &upload)),
            status = self.overdue(kind, &upload) => return Err(status),
            passed = self.pass(&head, &upload) => {
                if open.0.why().is_some() {
                    // The request went wrong; what the query processor says of it is only a consequence.
                    return Err(self.ended_early(kind, &open.0, &upload));
                }
                passed?
            }
        };
        let figures = &router.figures;
        let served = if kind == Kind::Session {
            &figures.sessions_served
        } else {
            &figures.requests_served
        };
        served.fetch_add(1, Ordering::Relaxed);
        let held: Held = (permit, count);
        let notice = (kind == Kind::Session).then(|| Notice::new(router, &open.0));
        let broken = figures.answers_broken.clone();
        Ok(Answer::wrap(response, open, held, notice, broken))
    }

    /// Refuses early, before anything is read.
    fn admit(&self, kind: Kind) -> KvResult<OwnedSemaphorePermit> {
        let router = &self.0;
        let retry_after = || {
            router
                .backends
                .jitter(Duration::from_millis(router.config.retry_after_ms))
        };
        if router.cut.is_cancelled() || (router.shutdown.is_cancelled() && kind.is_new()) {
            router.figures.refused_draining.fetch_add(1, Ordering::Relaxed);
            return Err(KvError::Unavailable {
                what: format!("router {} is shutting down", router.env.node),
                retry_after: retry_after(),
            });
        }
        if router.is_drained() && kind.is_new() {
            router.figures.refused_draining.fetch_add(1, Ordering::Relaxed);
            return Err(KvError::Unavailable {
                what: format!(
                    "region {} is drained: clients are to use another one",
                    router.env.region
                ),
                retry_after: retry_after(),
            });
        }
        let (what, most, semaphore): (_, _, &Arc<Semaphore>) = if kind == Kind::Session {
            ("sessions", router.config.max_sessions, &router.sessions)
        } else {
            ("requests", router.config.max_requests, &router.requests)
        };
        semaphore.clone().try_acquire_owned().map_err(|_| {
            router.figures.refused_overloaded.fetch_add(1, Ordering::Relaxed);
            let what = format!("{most} {what} are open, the limit of this router");
            KvError::overloaded(what, retry_after())
        })
    }

    /// Why a call ended before its answer began.
    fn ended_early(&self, kind: Kind, call: &Call, upload: &Upload) -> Status {
        match call.why() {
            // What came before in the session may have been done; what came before in one request is not all of it.
            Some(why) if kind != Kind::Session => why.clone(),
            None if upload.is_untouched() => {
                KvError::unavailable(format!("router {} was shut down", self.0.env.node)).into()
            }
            _ => early_end(call),
        }
    }

    /// Returns when the client has taken too long to send its request: it must not hold its place for ever.
    async fn overdue(&self, kind: Kind, upload: &Upload) -> Status {
        if kind != Kind::Session {
            tokio::time::sleep(Duration::from_millis(self.0.config.request_timeout_ms)).await;
            if !upload.is_complete() {
                return too_slow();
            }
        }
        std::future::pending().await
    }

    /// Hands a request to a query processor.
    async fn pass(
        &self,
        head: &Head,
        upload: &Upload,
    ) -> Result<(Response<Body>, Option<SessionCount>), Status> {
        if head.kind == Kind::Named {
            let backend = self.read_handle(upload).await?;
            return Ok((self.send(&backend, head, upload).await?, None));
        }
        let mut last = KvError::unavailable("no query processor is configured");
        for backend in self.0.backends.in_order() {
            let count = (head.kind == Kind::Session).then(|| SessionCount::new(&backend));
            match self.send(&backend, head, upload).await {
                Ok(response) => return Ok((response, count)),
                Err(Refusal::NotSent(error)) => last = error,
                Err(Refusal::Lost(status)) => return Err(status),
            }
        }
        Err(last.into())
    }

    /// Reads as much of a request as is needed to see which query processor holds its transaction.
    async fn read_handle(&self, upload: &Upload) -> Result<Arc<Backend>, Status> {
        let enough = |bytes: &[u8]| {
            Some(match peek::handle(bytes) {
                Peeked::Handle(range) => {
                    TxnHandle::decode(bytes.get(range).unwrap_or_default()).map_err(Status::from)
                }
                Peeked::More if bytes.len() < MAX_AHEAD_BYTES => return None,
                Peeked::More => Err(invalid(
                    "the transaction's handle does not come first in the request",
                )),
                Peeked::None => Err(invalid("the request names no transaction")),
                Peeked::Unacceptable(what) => Err(what.into()),
                Peeked::Malformed => Err(invalid("not a protobuf message")),
            })
        };
        let timeout = Duration::from_millis(self.0.config.header_timeout_ms);
        let handle = tokio::time::timeout(timeout, upload.read_ahead(enough))
            .await
            .map_err(|_| too_slow())?
            .unwrap_or_else(|| Err(invalid("the request ended before its message did")))?;
        self.0.backends.named(&handle.node).cloned().ok_or_else(|| {
            tracing::debug!(txn = %handle.txn, node = %handle.node, "a handle names an unknown query processor");
            let txn = handle.txn.to_string();
            KvError::TransactionNotFound { txn }.into()
        })
    }

    /// Sends a request to one query processor.
    async fn send(&self, backend: &Backend, head: &Head, upload: &Upload) -> Result<Response<Body>, Refusal> {
        let request = head.with(upload.lend());
        let mut response = match backend.transport().call(request).await {
            Ok(response) => response,
            Err(error) => return Err(self.not_answered(backend, upload, &error)),
        };
        remove_broken_details(response.headers_mut());
        if let Some(error) = not_taken(response.headers()) {
            let untouched = upload.is_untouched();
            if untouched || head.kind.shows_readiness() {
                backend.mark_down(&error.to_string());
            }
            if untouched {
                return Err(Refusal::NotSent(error));
            }
        }
        Ok(response)
    }

    fn not_answered(
        &self,
        backend: &Backend,
        upload: &Upload,
        error: &(dyn std::error::Error + 'static),
    ) -> Refusal {
        if let Some(why) = upload.broke() {
            // Not the query processor's fault.
            return Refusal::Lost(why);
        }
        let node = &backend.node;
        let what = format!("query processor {node} was not reached: {}", chain(error));
        backend.mark_down(&what);
        if upload.is_untouched() {
            return Refusal::NotSent(KvError::unavailable(what));
        }
        self.0.figures.answers_broken.fetch_add(1, Ordering::Relaxed);
        // Bare: it says nothing about whether the request was applied.
        Refusal::Lost(Status::unavailable(format!(
            "the connection to query processor {node} broke; whether the request was applied is not known"
        )))
    }
}

fn invalid(what: &str) -> Status {
    KvError::invalid(what).into()
}

fn too_slow() -> Status {
    let waiting_for = "the client sends its request".to_owned();
    KvError::DeadlineExceeded { waiting_for }.into()
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
