//! The connection to one journal node, shared by all streams of the process.
//!
//! ```text
//! stream tasks ──LinkMessage──> Batches ──AppendBatch──> journal node
//!      ^────────LinkEvent::Replies──── link task <──AppendReplyBatch──┘
//! ```
//! A connection that breaks is opened again after a random pause; what was under way is the streams' to send again.
//! Invariant: a stream's task never waits for a link, a link may wait for a stream's task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use meridian_rpc::batch::Batches;
use meridian_rpc::internal::{AppendBatch, AppendReply, AppendReplyBatch};
use meridian_types::StreamId;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::context::Context;
use crate::journals;
use crate::records::entry_bytes;
use crate::registry::{Connection, LinkEvent, LinkMessage, Registry};

/// Messages of all streams that may wait for one journal node. Each carries about a batch at most.
const QUEUE_MESSAGES: usize = 64;
/// Appends and closures that one message on the wire carries at most.
const BATCH_MESSAGES: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the connection to one replica open until `stop` is cancelled.
pub(crate) async fn run(ctx: Arc<Context>, registry: Arc<Registry>, replica: usize, stop: CancellationToken) {
    let mut rng = ctx.env.rng();
    let mut pause = FIRST_PAUSE;
    let node = ctx.journals.get(replica).cloned().unwrap_or_default();
    loop {
        let connected = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            connected = connect(&ctx, replica) => connected,
        };
        match connected {
            Ok((outgoing, replies)) => {
                pause = FIRST_PAUSE;
                tracing::info!(journal = %node, "connected");
                let why = serve(&registry, replica, outgoing, replies, &stop).await;
                if stop.is_cancelled() {
                    return;
                }
                tracing::warn!(journal = %node, %why, "connection lost");
            }
            Err(status) => tracing::debug!(journal = %node, %status, "connection failed"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered(pause, &mut rng)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of the duration and all of it.
pub(crate) fn jittered(duration: Duration, rng: &mut StdRng) -> Duration {
    duration.mul_f64(rng.random_range(0.5..=1.0))
}

type Opened = (mpsc::Sender<LinkMessage>, Streaming<AppendReplyBatch>);

async fn connect(ctx: &Context, replica: usize) -> Result<Opened, Status> {
    let (outgoing, queue) = mpsc::channel(QUEUE_MESSAGES);
    let messages = appends(ctx.env.node.0.clone(), queue, ctx.config.append_batch_bytes);
    let mut client = journals::client(ctx, replica);
    let call = client.append(messages);
    match tokio::time::timeout(ctx.config.call_timeout(), call).await {
        Ok(answer) => Ok((outgoing, answer?.into_inner())),
        Err(_) => Err(Status::deadline_exceeded("the journal node did not answer")),
    }
}

/// The outgoing side: who the owner is, then whatever has queued up.
fn appends(
    owner: String,
    queue: mpsc::Receiver<LinkMessage>,
    batch_bytes: usize,
) -> impl Stream<Item = AppendBatch> + Send + 'static {
    let hello = AppendBatch {
        owner,
        ..AppendBatch::default()
    };
    let batches = Batches::new(queue, BATCH_MESSAGES, batch_bytes, message_bytes).map(|messages| {
        let mut batch = AppendBatch::default();
        for message in messages {
            match message {
                LinkMessage::Append(append) => batch.appends.push(append),
                LinkMessage::Closure(closure) => batch.closures.push(closure),
            }
        }
        batch
    });
    futures::stream::iter([hello]).chain(batches)
}

fn message_bytes(message: &LinkMessage) -> usize {
    match message {
        LinkMessage::Append(append) => 64 + append.entries.iter().map(entry_bytes).sum::<usize>(),
        LinkMessage::Closure(_) => 64,
    }
}

/// Hands replies to the streams until the connection ends; returns why it did.
async fn serve(
    registry: &Registry,
    replica: usize,
    outgoing: mpsc::Sender<LinkMessage>,
    mut replies: Streaming<AppendReplyBatch>,
    stop: &CancellationToken,
) -> String {
    let id = registry.next_connection();
    let connection = Connection { id, outgoing };
    for stream in registry.set_connection(replica, Some(connection.clone())) {
        let connection = connection.clone();
        let _ = stream.links.send(LinkEvent::Up { replica, connection }).await;
    }
    drop(connection);
    let why = loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => break "shutdown".to_owned(),
            received = replies.message() => received,
        };
        match received {
            Ok(Some(batch)) => {
                for (stream, replies) in by_stream(batch.replies) {
                    if let Some(stream) = registry.stream(stream) {
                        let event = LinkEvent::Replies { replica, id, replies };
                        let _ = stream.links.send(event).await;
                    }
                }
            }
            Ok(None) => break "closed by the journal node".to_owned(),
            Err(status) => break status.to_string(),
        }
    };
    for stream in registry.set_connection(replica, None) {
        let _ = stream.links.send(LinkEvent::Down { replica, id }).await;
    }
    why
}

fn by_stream(replies: Vec<AppendReply>) -> BTreeMap<StreamId, Vec<AppendReply>> {
    let mut grouped: BTreeMap<StreamId, Vec<AppendReply>> = BTreeMap::new();
    for reply in replies {
        grouped.entry(StreamId(reply.stream)).or_default().push(reply);
    }
    grouped
}
