//! One query processor's stream of commit requests: one task that reads them, checks them and hands them to the streams.

mod check;

use std::sync::Arc;

use meridian_rpc::internal::{DecideBatch, Decision, Refused};
use meridian_types::StreamId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tonic::Streaming;

use crate::context::Context;
use crate::measured::Measured;
use crate::registry::Registry;
use crate::request::{ReplyTo, overloaded, wrong_epoch};
use check::{Checked, check_decide, check_prepare};

/// When to come back after the queue was full, in milliseconds.
const QUEUE_FULL_DELAY_MS: u64 = 50;

/// Reads requests until the stream ends or the process shuts down. Answers that are still open keep their places in
/// `answers`.
pub(crate) async fn run(
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    mut requests: Streaming<DecideBatch>,
    answers: mpsc::Sender<Decision>,
) {
    loop {
        let batch = tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => return,
            () = answers.closed() => return,
            batch = requests.message() => batch,
        };
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "a query processor's stream ended");
                return;
            }
        };
        for request in batch.requests {
            let Some(reply) = reserve(&ctx, &answers, request.id, request.trace).await else {
                return;
            };
            admit(&registry, check_decide(&ctx, request), reply);
        }
        for request in batch.prepares {
            let Some(reply) = reserve(&ctx, &answers, request.id, request.trace).await else {
                return;
            };
            admit(&registry, check_prepare(&ctx, request), reply);
        }
    }
}

/// A place for the answer. It waits when too many of this connection are not answered: then its requests are not read either.
async fn reserve(
    ctx: &Context,
    answers: &mpsc::Sender<Decision>,
    id: u64,
    is_traced: bool,
) -> Option<ReplyTo> {
    let measured = is_traced.then(|| Box::new(Measured::new()));
    let queue = answers.clone();
    let place = answers.clone().reserve_owned().await.ok()?;
    Some(ReplyTo {
        id,
        place,
        queue,
        figures: ctx.figures.clone(),
        measured,
    })
}

/// Hands a request that was checked to the stream that it is for.
fn admit(registry: &Registry, checked: Result<(StreamId, Checked), Refused>, reply: ReplyTo) {
    let (stream, checked) = match checked {
        Ok(checked) => checked,
        Err(refused) => {
            reply.refused(refused);
            return;
        }
    };
    let Some(stream) = registry.stream(stream) else {
        reply.refused(wrong_epoch(None));
        return;
    };
    let bytes = checked.bytes;
    if !stream.budget.take(bytes) {
        let what = "too many bytes wait to be decided";
        reply.refused(overloaded(what, QUEUE_FULL_DELAY_MS));
        return;
    }
    let (work, refused) = match stream.decides.try_send(checked.answer_to(reply)) {
        Ok(()) => return,
        Err(TrySendError::Full(work)) => (
            work,
            overloaded("too many requests wait to be decided", QUEUE_FULL_DELAY_MS),
        ),
        Err(TrySendError::Closed(work)) => (work, wrong_epoch(None)),
    };
    stream.budget.give_back(bytes);
    work.reply.refused(refused);
}
