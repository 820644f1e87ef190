//! A response's body on its way to the client: whatever happens to it, it ends in a status.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;

use crate::call::{Call, OpenCall};
use crate::notice::Notice;
use crate::status::{self, GRPC_STATUS};

/// An answer that holds something (a permit, a count) until it ends.
pub(crate) struct Answer<T> {
    body: Body,
    /// The head says how the call ended; no trailers need follow.
    head_has_status: bool,
    broken: Arc<AtomicU64>,
    /// Registered with when there was nothing to pass on.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Of a session.
    notice: Option<Notice>,
    /// `None` once the answer has ended.
    open: Option<(OpenCall, T)>,
}

impl<T: Send + Unpin + 'static> Answer<T> {
    /// Passes `response` on. Counts it as broken if it does not come to its own end.
    pub(crate) fn wrap(
        response: Response<Body>,
        call: OpenCall,
        held: T,
        notice: Option<Notice>,
        broken: Arc<AtomicU64>,
    ) -> Response<Body> {
        // An answer that is not gRPC's has an end of its own.
        let head_has_status =
            response.headers().contains_key(GRPC_STATUS) || response.status() != StatusCode::OK;
        response.map(|body| {
            Body::new(Self {
                body,
                head_has_status,
                broken,
                ended: None,
                // Without a message there is nothing to put one between.
                notice: notice.filter(|_| !head_has_status),
                open: Some((call, held)),
            })
        })
    }
}

impl<T> Answer<T> {
    /// Lets go of everything.
    fn end(&mut self) {
        self.body = Body::empty();
        self.ended = None;
        self.notice = None;
        self.open = None;
    }

    /// Ends with a status of ours, unless the client has one already.
    fn end_with(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.end();
        if self.head_has_status {
            return None;
        }
        let mut trailers = HeaderMap::new();
        // What does not fit into a header is left out; the code always fits.
        let _ = status.add_header(&mut trailers);
        Some(Ok(Frame::trailers(trailers)))
    }

    /// The query processor did not end it.
    fn broke(&mut self, why: &str) -> Option<Result<Frame<Bytes>, Status>> {
        self.broken.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(why, "an answer broke");
        self.end_with(&Status::unavailable(
            "the query processor's answer broke off; whether the request was applied is not known",
        ))
    }

    /// The call's early end, if it has come; otherwise wakes when it does.
    fn ended_early(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let (OpenCall(call), _) = self.open.as_ref()?;
        let ended = self.ended.get_or_insert_with(|| Box::pin(call.ended()));
        ended.as_mut().poll(cx).is_ready().then(|| early_end(call))
    }
}

impl<T: Send + Unpin> HttpBody for Answer<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some((OpenCall(call), _)) = &self.open else {
            return Poll::Ready(None);
        };
        // First: an answer that always has more would never notice.
        if call.has_ended() {
            let status = early_end(call);
            return Poll::Ready(self.end_with(&status));
        }
        if let Some(notice) = self.notice.as_mut().and_then(|notice| notice.poll(cx)) {
            return Poll::Ready(Some(Ok(Frame::data(notice))));
        }
        let head_has_status = self.head_has_status;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => match self.ended_early(cx) {
                Some(status) => Poll::Ready(self.end_with(&status)),
                None => Poll::Pending,
            },
            Poll::Ready(Some(Ok(frame))) => match frame.into_trailers() {
                Err(data) => {
                    if let (Some(notice), Some(data)) = (&mut self.notice, data.data_ref()) {
                        notice.passes(data);
                    }
                    Poll::Ready(Some(Ok(data)))
                }
                Ok(mut trailers) if head_has_status || trailers.contains_key(GRPC_STATUS) => {
                    status::remove_broken_details(&mut trailers);
                    self.end();
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Ok(_) => Poll::Ready(self.broke("without a status")),
            },
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broke(&error.to_string())),
            Poll::Ready(None) if head_has_status => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Ready(None) => Poll::Ready(self.broke("without a status")),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none() || (self.head_has_status && self.body.is_end_stream())
    }
}

/// Always bare, without our details: what the client sent before may have been done.
pub(crate) fn early_end(call: &Call) -> Status {
    match call.why() {
        Some(why) => Status::new(why.code(), why.message()),
        None => Status::unavailable("the router was shut down; whether the request was applied is not known"),
    }
}
