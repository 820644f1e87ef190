//! A request's body on its way to a query processor.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tonic::body::Body;

use crate::call::Call;
use crate::frames::Frames;

/// A request's body. It can be lent again as long as nothing of it was handed on: then another query processor
/// may get it. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub(crate) struct Upload {
    call: Arc<Call>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    /// What was read ahead to find the handle.
    ahead: Option<Bytes>,
    rest: Body,
    frames: Frames,
    /// To whom it was lent last: only they may read on.
    lent: u32,
    /// Something of it was handed on.
    touched: bool,
    /// All of it was.
    complete: bool,
}

impl Shared {
    fn is_complete(&self) -> bool {
        self.complete || (self.ahead.is_none() && self.rest.is_end_stream())
    }

    /// The next frame, if it may be passed on; otherwise why the call ends.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = match self.ahead.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        };
        self.touched |= polled.is_ready();
        match &polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) => {
                    if let Err(status) = self.frames.check(data) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                None => self.complete = true,
            },
            Poll::Ready(None) => self.complete = true,
            Poll::Ready(Some(Err(_))) => {
                return Poll::Ready(Some(Err(Status::cancelled("the client broke its request off"))));
            }
            Poll::Pending => {}
        }
        polled
    }
}

impl Upload {
    pub(crate) fn new(call: Arc<Call>, body: Body) -> Self {
        let shared = Shared {
            ahead: None,
            rest: body,
            frames: Frames::default(),
            lent: 0,
            touched: false,
            complete: false,
        };
        Self {
            call,
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body for one query processor. What was lent before breaks.
    pub(crate) fn lend(&self) -> Body {
        let turn = {
            let mut shared = self.lock();
            shared.lent += 1;
            shared.lent
        };
        Body::new(Lent {
            upload: self.clone(),
            turn,
            ended: None,
        })
    }

    /// Whether nothing of it was handed on.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.lock().touched
    }

    /// Why it broke, if it did.
    pub(crate) fn broke(&self) -> Option<Status> {
        self.call.why().cloned()
    }

    /// Whether the client has sent all of it.
    pub(crate) fn is_complete(&self) -> bool {
        self.lock().is_complete()
    }

    /// Reads on until `enough` says so of the bytes so far; they count as not handed on. `None` when the body
    /// ended before, or broke.
    pub(crate) async fn read_ahead<T>(&self, mut enough: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        let mut read = BytesMut::new();
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut self.lock().rest).poll_frame(cx)).await;
            let data = frame?.ok()?.into_data().ok()?;
            let (found, bytes) = if read.is_empty() {
                // Usually enough, and then it need not be copied.
                let found = enough(&data);
                if found.is_none() {
                    read.extend_from_slice(&data);
                }
                (found, data)
            } else {
                read.extend_from_slice(&data);
                let found = enough(&read);
                let bytes = found.as_ref().map(|_| read.split().freeze());
                (found, bytes.unwrap_or_default())
            };
            if found.is_some() {
                self.lock().ahead = Some(bytes);
                return found;
            }
        }
    }
}

/// The body as one query processor gets it.
struct Lent {
    upload: Upload,
    turn: u32,
    /// Registered with when there was nothing to read.
    ended: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Lent {
    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let call = &self.upload.call;
        let ended = self.ended.get_or_insert_with(|| Box::pin(call.ended()));
        ended.as_mut().poll(cx).is_ready()
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut shared = self.upload.lock();
        if shared.lent != self.turn || self.upload.call.has_ended() {
            return Poll::Ready(Some(Err(over())));
        }
        let polled = shared.poll_frame(cx);
        drop(shared);
        match polled {
            Poll::Pending if self.has_ended(cx) => Poll::Ready(Some(Err(over()))),
            Poll::Ready(Some(Err(why))) => {
                self.upload.call.end(why);
                Poll::Ready(Some(Err(over())))
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.upload.lock();
        shared.lent == self.turn && !self.upload.call.has_ended() && shared.is_complete()
    }
}

/// What a query processor sees of a request that goes no further. Not CANCELLED: tonic's servers take that for
/// a request's regular end.
fn over() -> Status {
    Status::aborted("the router has given the call up")
}
