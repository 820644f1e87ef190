//! The replies of a session on their way to the client.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{GetResponse, SessionReply};
use tokio::sync::mpsc;

use crate::processor::Processor;

/// The sending side. Cheap to clone.
#[derive(Clone)]
pub(super) struct Output {
    queue: mpsc::Sender<SessionReply>,
    slow_client: Duration,
    /// Which counts the errors.
    processor: Arc<Processor>,
}

impl Output {
    /// A client that takes nothing for `slow_client_ms` is given up.
    pub(super) fn new(queue: mpsc::Sender<SessionReply>, processor: Arc<Processor>) -> Self {
        Self {
            queue,
            slow_client: Duration::from_millis(processor.config.slow_client_ms),
            processor,
        }
    }

    /// Puts a reply on the stream; waits for room. `false` when the client is gone or takes no replies.
    pub(super) async fn send(&self, id: u64, reply: Reply) -> bool {
        let reply = SessionReply {
            id,
            reply: Some(reply),
        };
        self.queue.send_timeout(reply, self.slow_client).await.is_ok()
    }

    /// Puts a result on the stream.
    pub(super) async fn answer(&self, id: u64, result: Result<Reply, KvError>) -> bool {
        self.processor.figures.count_answer(&result);
        let reply = result.unwrap_or_else(|error| Reply::Error(error.to_proto()));
        self.send(id, reply).await
    }

    /// Returns when the client is gone.
    pub(super) async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// About the bytes of a reply in a message.
pub(super) fn size(reply: &SessionReply) -> usize {
    let value = |got: &GetResponse| got.value.as_ref().map_or(0, bytes::Bytes::len) + 16;
    let content = match &reply.reply {
        Some(Reply::Value(got)) => value(got),
        Some(Reply::Values(got)) => got.values.iter().map(value).sum(),
        Some(Reply::Executed(executed)) => executed.values.iter().map(value).sum(),
        Some(Reply::Page(page)) => page
            .rows
            .iter()
            .map(|row| row.key.len() + row.value.len() + 24)
            .sum(),
        Some(Reply::Error(_)) => 256,
        _ => 0,
    };
    content + 64
}
