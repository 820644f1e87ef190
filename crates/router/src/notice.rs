//! The one message that a router puts into a session itself: the client is to open another, because the router is to stop, or its
//! region is drained, or the session is old.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{SessionClosing, SessionReply, SessionResponse};
use meridian_types::limits;
use prost::Message;
use tonic::Status;

use crate::call::Call;
use crate::frames::{Frames, HEAD_BYTES};
use crate::router::Router;

/// What becomes of one session, in order.
enum Phase {
    Open,
    /// The client is to be told as soon as no message is half sent.
    Due,
    Told,
}

/// Follows the answer of one session, to put the notice between two of its messages.
pub(crate) struct Notice {
    phase: Phase,
    frames: Frames,
    /// Until it is due; then until the session is cut.
    next: BoxFuture<'static, ()>,
    call: Arc<Call>,
}

impl Notice {
    pub(crate) fn new(router: &Router, call: &Arc<Call>) -> Self {
        Self {
            phase: Phase::Open,
            frames: Frames::default(),
            next: Box::pin(router.session_ends()),
            call: call.clone(),
        }
    }

    /// A piece of the answer is passed on.
    pub(crate) fn passes(&mut self, data: &[u8]) {
        if self.frames.check(data).is_err() {
            // Where messages begin is not known any more: nothing can be put between them.
            self.phase = Phase::Told;
            self.next = Box::pin(std::future::pending());
        }
    }

    /// The notice, once, when it is due and the answer is between two messages. Otherwise wakes when it is due.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        if matches!(self.phase, Phase::Open) && self.is_next(cx) {
            self.phase = Phase::Due;
        }
        if matches!(self.phase, Phase::Due) && self.frames.is_between() {
            self.phase = Phase::Told;
            // As long as a transaction may be open in it.
            self.next = Box::pin(tokio::time::sleep(limits::MAX_TXN_AGE));
            return Some(message());
        }
        if matches!(self.phase, Phase::Told) && self.is_next(cx) {
            let why = "the session was to be closed long ago; whether the request was applied is not known";
            self.call.end(Status::unavailable(why));
        }
        None
    }

    fn is_next(&mut self, cx: &mut Context<'_>) -> bool {
        let is_ready = Pin::new(&mut self.next).poll(cx).is_ready();
        if is_ready {
            self.next = Box::pin(std::future::pending());
        }
        is_ready
    }
}

/// A whole message, with its head.
fn message() -> Bytes {
    let response = SessionResponse {
        replies: vec![SessionReply {
            id: 0,
            reply: Some(Reply::Closing(SessionClosing {})),
        }],
    };
    let payload = response.encode_to_vec();
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(payload.len()).unwrap_or_default());
    bytes.extend_from_slice(&payload);
    bytes.freeze()
}
