//! Messages between adjudicators (section 5): votes, and how attempts ended. One stream from each process to each other one.
//!
//! ```text
//! stream task ──ExchangeMessage──> queue ──ExchangeBatch──> the other process ──> its stream task
//! ```
//! Nothing is answered and nothing is sent twice: who misses a message asks for it, or gives up. A link is opened when there is
//! something to say.

mod message;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use meridian_rpc::batch::Batches;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{ExchangeBatch, ExchangeMessage};
use meridian_types::{NodeName, StreamId, limits};
use prost::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::link::jittered;
use crate::registry::Registry;
pub(crate) use message::{PeerContent, PeerMessage, PeerVote};

/// Messages that may wait for one process; beyond, they are dropped.
const QUEUE_MESSAGES: usize = 8_192;
/// Messages, and bytes, that one batch on the wire carries at most.
const BATCH_MESSAGES: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The links of this process to the other adjudicators.
pub(crate) struct Exchange {
    node: NodeName,
    registry: Arc<Registry>,
    queues: Mutex<BTreeMap<NodeName, mpsc::Sender<ExchangeMessage>>>,
}

impl Exchange {
    /// No links yet.
    pub(crate) fn new(node: NodeName, registry: Arc<Registry>) -> Self {
        Self {
            node,
            registry,
            queues: Mutex::default(),
        }
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<NodeName, mpsc::Sender<ExchangeMessage>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message to a node, which may be this one. It may get lost, and does if the map knows of no such adjudicator.
    pub(crate) fn send(&self, node: &NodeName, message: ExchangeMessage) {
        if *node == self.node {
            deliver(&self.registry, message);
            return;
        }
        let sent = match self.queues().get(node) {
            Some(queue) => queue.try_send(message).is_ok(),
            None => false,
        };
        if !sent {
            tracing::debug!(%node, "a message to another adjudicator was dropped");
        }
    }

    /// The task that keeps the link to `node`, unless there is one already. It ends when `stop` is cancelled.
    pub(crate) fn link(
        &self,
        ctx: &Arc<Context>,
        node: &NodeName,
        stop: &CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut queues = self.queues();
        if *node == self.node || queues.contains_key(node) {
            return None;
        }
        let (sender, queue) = mpsc::channel(QUEUE_MESSAGES);
        queues.insert(node.clone(), sender);
        Some(run(ctx.clone(), node.clone(), queue, stop.clone()))
    }
}

/// Hands a message to the stream that it is meant for. `false` when that stream's task is gone, as in a process that ends.
pub(crate) fn deliver(registry: &Registry, message: ExchangeMessage) -> bool {
    let stream = StreamId(message.to_stream);
    let Some(handle) = registry.stream(stream) else {
        tracing::debug!(%stream, "a message for a stream that is not here");
        return true;
    };
    let message = match PeerMessage::try_from(message) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(%stream, %error, "a message of another adjudicator makes no sense");
            return true;
        }
    };
    match handle.peers.try_send(message) {
        Ok(()) => true,
        Err(TrySendError::Full(_)) => {
            tracing::debug!(%stream, "too many messages of other adjudicators wait; one was dropped");
            true
        }
        Err(TrySendError::Closed(_)) => false,
    }
}

async fn run(
    ctx: Arc<Context>,
    node: NodeName,
    mut queue: mpsc::Receiver<ExchangeMessage>,
    stop: CancellationToken,
) {
    let mut rng = ctx.env.rng();
    let mut pause = FIRST_PAUSE;
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            first = queue.recv() => first,
        };
        let Some(first) = first else {
            return;
        };
        let began = Instant::now();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = serve(&ctx, &node, first, &mut queue) => ended,
        };
        let Some(why) = ended else {
            return;
        };
        tracing::debug!(%node, why, "the link to another adjudicator ended");
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered(pause, &mut rng)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends what is queued until the link breaks: returns why it did, or `None` when nothing more can come.
///
/// What was handed to a link that breaks is lost.
async fn serve(
    ctx: &Context,
    node: &NodeName,
    first: ExchangeMessage,
    queue: &mut mpsc::Receiver<ExchangeMessage>,
) -> Option<String> {
    let (outgoing, batches) = mpsc::channel(BATCH_MESSAGES);
    let sender = ctx.env.node.0.clone();
    let batches =
        Batches::new(batches, BATCH_MESSAGES, BATCH_BYTES, Message::encoded_len).map(move |messages| {
            ExchangeBatch {
                sender: sender.clone(),
                messages,
            }
        });
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(node))
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
    let call = client.exchange(batches);
    tokio::pin!(call);
    let mut first = Some(first);
    loop {
        let sent = async {
            let Ok(place) = outgoing.reserve().await else {
                // Nobody takes anything any more: the call is about to end.
                return std::future::pending().await;
            };
            let message = match first.take() {
                Some(first) => first,
                None => queue.recv().await?,
            };
            place.send(message);
            Some(())
        };
        tokio::select! {
            biased;
            ended = &mut call => return Some(match ended {
                Ok(_) => "closed by the other side".to_owned(),
                Err(status) => status.to_string(),
            }),
            sent = sent => sent?,
        }
    }
}
