//! Bodies that are passed on as they are, and know something on the way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

/// A request's body that can be taken back as long as nothing of it was handed on: then another query
/// processor may get it.
#[derive(Clone)]
pub(crate) struct Retractable {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    body: Option<Pending>,
    /// Something of it was handed on.
    sent: bool,
}

struct Pending {
    /// What was read ahead to find the handle.
    ahead: VecDeque<Bytes>,
    rest: Body,
}

/// The body as one query processor gets it.
struct Lent {
    from: Retractable,
}

impl Retractable {
    pub(crate) fn new(ahead: VecDeque<Bytes>, rest: Body) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                body: Some(Pending { ahead, rest }),
                sent: false,
            })),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body for one call.
    pub(crate) fn lend(&self) -> Body {
        Body::new(Lent { from: self.clone() })
    }

    /// Takes the body back after a call that failed: what was lent ends there. `None` when something of it was
    /// handed on, or all of it.
    pub(crate) fn retract(&self) -> Option<Self> {
        let mut shared = self.lock();
        if shared.sent {
            return None;
        }
        let Pending { ahead, rest } = shared.body.take()?;
        drop(shared);
        Some(Self::new(ahead, rest))
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut shared = self.from.lock();
        let Some(pending) = shared.body.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = match pending.ahead.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Pin::new(&mut pending.rest).poll_frame(cx),
        };
        if polled.is_ready() {
            shared.sent = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.from.lock();
        shared
            .body
            .as_ref()
            .is_none_or(|body| body.ahead.is_empty() && body.rest.is_end_stream())
    }
}

/// Reads a body until `enough` says so of the bytes so far, which are returned with what was read.
/// `None` when the body ended before, or broke.
pub(crate) async fn read_ahead<T>(
    body: &mut Body,
    mut enough: impl FnMut(&[u8]) -> Option<T>,
) -> Option<(T, Bytes)> {
    let mut read = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))
            .await?
            .ok()?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
            if let Some(found) = enough(&read) {
                return Some((found, read.freeze()));
            }
        }
    }
}

/// A response's body that holds something (a permit, a count) until it ends, and is cut when the router has
/// drained long enough.
pub(crate) struct Held<T> {
    body: Body,
    cut: BoxFuture<'static, ()>,
    held: Option<T>,
}

impl<T: Send + Unpin + 'static> Held<T> {
    pub(crate) fn wrap(body: Body, held: T, cut: CancellationToken) -> Body {
        Body::new(Self {
            body,
            cut: cut.cancelled_owned().boxed(),
            held: Some(held),
        })
    }
}

impl<T: Send + Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.held.is_none() {
            return Poll::Ready(None);
        }
        let polled = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.cut.poll_unpin(cx).is_ready() => {
                self.body = Body::empty();
                self.held = None;
                Poll::Ready(Some(Ok(Frame::trailers(cut_trailers()))))
            }
            polled => polled,
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.held = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() || self.body.is_end_stream()
    }
}

/// Bare, without our details: what was under way may have been done.
fn cut_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    trailers.insert(
        "grpc-message",
        HeaderValue::from_static("the router was shut down"),
    );
    trailers
}
