//! One query processor's stream of commit requests: one task that reads them, checks them and hands them to the streams.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{DecideBatch, DecideRequest, Decision, ReadRange, Refused, WriteSet};
use meridian_types::{Attempt, Key, KeyRange, Timestamp, limits};
use prost::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tonic::Streaming;

use crate::context::Context;
use crate::registry::Registry;
use crate::request::{DecideWork, ReplyTo, overloaded, refusal, wrong_epoch};

/// When to come back after the queue was full, in milliseconds.
const QUEUE_FULL_DELAY_MS: u64 = 50;
/// What a read to check takes beside its bounds' bytes.
const READ_OVERHEAD_BYTES: usize = 80;

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
            // Waits when too many of this connection are not answered: then its requests are not read either.
            let Ok(place) = answers.clone().reserve_owned().await else {
                return;
            };
            let reply = ReplyTo {
                id: request.id,
                place,
            };
            admit(&ctx, &registry, request, reply);
        }
    }
}

fn admit(ctx: &Context, registry: &Registry, request: DecideRequest, reply: ReplyTo) {
    let attempt = request.attempt.as_ref().map(Attempt::try_from);
    let Some(Ok(attempt)) = attempt else {
        reply.refused(refusal(Reason::Invalid, "the attempt is not named"));
        return;
    };
    let Some(stream) = registry.stream(attempt.home) else {
        reply.refused(wrong_epoch(None));
        return;
    };
    let work = match check(ctx, attempt, request) {
        Ok(work) => work,
        Err(refused) => {
            reply.refused(refused);
            return;
        }
    };
    let bytes = work.bytes;
    if !stream.budget.take(bytes) {
        reply.refused(overloaded(
            "too many bytes wait to be decided",
            QUEUE_FULL_DELAY_MS,
        ));
        return;
    }
    let work = work.answer_to(reply);
    let (work, refused) = match stream.decides.try_send(work) {
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

/// A request that was checked.
struct Checked {
    attempt: Attempt,
    start: Timestamp,
    written: Vec<Key>,
    reads: Vec<KeyRange>,
    payload: bytes::Bytes,
    bytes: usize,
    deadline: Option<Instant>,
}

impl Checked {
    fn answer_to(self, reply: ReplyTo) -> DecideWork {
        DecideWork {
            attempt: self.attempt,
            start: self.start,
            written: self.written,
            reads: self.reads,
            payload: self.payload,
            bytes: self.bytes,
            deadline: self.deadline,
            reply,
        }
    }
}

/// The limits were checked where the transaction entered; here again, because a record that breaks them would have to be
/// carried by everybody after.
fn check(ctx: &Context, attempt: Attempt, request: DecideRequest) -> Result<Checked, Refused> {
    let invalid = |what: String| refusal(Reason::Invalid, what);
    let writes = WriteSet::decode(request.write_set.clone())
        .map_err(|error| invalid(format!("the write set cannot be read: {error}")))?
        .writes;
    if writes.is_empty() {
        return Err(invalid(
            "a transaction that writes nothing needs no decision".to_owned(),
        ));
    }
    if writes.len() > limits::MAX_TXN_KEYS {
        let got = writes.len();
        return Err(invalid(format!(
            "{got} keys written, the limit is {}",
            limits::MAX_TXN_KEYS
        )));
    }
    let map = ctx.map.borrow();
    let Some(range) = map.by_stream(attempt.home) else {
        return Err(wrong_epoch(None));
    };
    let mut size = 0usize;
    for write in &writes {
        if write.key.is_empty() || write.key.len() > limits::MAX_KEY_BYTES {
            let got = write.key.len();
            return Err(invalid(format!(
                "a key has {got} bytes, the limit is {}",
                limits::MAX_KEY_BYTES
            )));
        }
        if !range.keys.contains(&write.key) {
            return Err(invalid(format!("a written key is not in range {}", range.id)));
        }
        size += write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len);
    }
    if size > limits::MAX_TXN_BYTES {
        return Err(invalid(format!(
            "{size} bytes written, the limit is {}",
            limits::MAX_TXN_BYTES
        )));
    }
    let (reads, read_bytes) = check_reads(&range.keys, request.reads)?;
    let deadline = (request.timeout_ms > 0)
        .then(|| Instant::now().checked_add(Duration::from_millis(request.timeout_ms)))
        .flatten();
    Ok(Checked {
        attempt,
        start: Timestamp(request.start),
        written: writes.into_iter().map(|write| Key(write.key)).collect(),
        reads,
        bytes: request.write_set.len() + read_bytes,
        payload: request.write_set,
        deadline,
    })
}

/// What a transaction wants checked, and the bytes that it takes. A read outside of the owner's keys is refused: here
/// nothing is known of the writes there (I2s).
fn check_reads(keys: &KeyRange, reads: Vec<ReadRange>) -> Result<(Vec<KeyRange>, usize), Refused> {
    let invalid = |what: String| refusal(Reason::Invalid, what);
    if reads.len() > limits::MAX_TXN_READS {
        let (got, limit) = (reads.len(), limits::MAX_TXN_READS);
        return Err(invalid(format!("{got} reads to check, the limit is {limit}")));
    }
    let mut bytes = 0;
    let mut ranges = Vec::with_capacity(reads.len());
    for read in reads {
        bytes += read.start.len() + read.end.len() + READ_OVERHEAD_BYTES;
        let range = KeyRange::from(read);
        if !range.is_empty() && keys.intersection(&range).as_ref() != Some(&range) {
            return Err(invalid("a read to check is not in the owner's range".to_owned()));
        }
        ranges.push(range);
    }
    Ok((ranges, bytes))
}
