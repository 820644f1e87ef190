//! One owner process's append stream.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_rpc::KvError;
use meridian_rpc::internal::{AppendBatch, AppendReplyBatch};
use meridian_types::NodeName;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::gone;
use crate::journal::{Journal, MAX_OWNER_BYTES};

/// What an append, or an entry, takes in memory beside the payloads until it is written, about.
const OVERHEAD_BYTES: usize = 512;

/// Replies come back on the returned stream, in the order of the batches.
pub fn serve(
    journal: Arc<Journal>,
    input: Streaming<AppendBatch>,
) -> BoxStream<'static, Result<AppendReplyBatch, Status>> {
    // One place more than replies: for the error that ends the stream.
    let (replies, output) = mpsc::channel(journal.config().connection_queue.max(1) + 1);
    tokio::spawn(receive(journal, input, replies));
    ReceiverStream::new(output).boxed()
}

async fn receive(
    journal: Arc<Journal>,
    mut input: Streaming<AppendBatch>,
    replies: mpsc::Sender<Result<AppendReplyBatch, Status>>,
) {
    let mut connection = None;
    let ended = receive_all(&journal, &mut input, &replies, &mut connection).await;
    if let Some(connection) = connection {
        journal.disconnect(connection);
    }
    if let Err(status) = ended {
        // The peer may be gone, or not reading: it learns from the end of the stream too.
        let _ = replies.try_send(Err(status));
    }
}

async fn receive_all(
    journal: &Journal,
    input: &mut Streaming<AppendBatch>,
    replies: &mpsc::Sender<Result<AppendReplyBatch, Status>>,
    connection: &mut Option<u64>,
) -> Result<(), Status> {
    loop {
        let message = tokio::select! {
            biased;
            () = journal.stopped().cancelled() => return Err(gone(journal)),
            () = replies.closed() => return Ok(()),
            message = input.message() => message,
        };
        // A broken connection is no news to the peer.
        let Ok(Some(batch)) = message else { return Ok(()) };
        let id = match *connection {
            Some(id) => id,
            None => {
                if batch.owner.is_empty() || batch.owner.len() > MAX_OWNER_BYTES {
                    let what = "the first message of an append stream names its owner, in at most 255 bytes";
                    return Err(KvError::invalid(what).into());
                }
                *connection.insert(journal.connect(NodeName(batch.owner.clone())))
            }
        };
        let room = tokio::select! {
            biased;
            () = journal.stopped().cancelled() => return Err(gone(journal)),
            room = journal.room_for(message_bytes(&batch)) => room?,
        };
        let slot = tokio::select! {
            biased;
            () = journal.stopped().cancelled() => return Err(gone(journal)),
            slot = replies.clone().reserve_owned() => slot,
        };
        // The peer does not read replies any more.
        let Ok(slot) = slot else { return Ok(()) };
        journal.append(id, batch, slot, room)?;
    }
}

/// What a message takes in memory until it is written, about. Appends count also without entries: each decision keeps what is needed
/// to take it back.
fn message_bytes(batch: &AppendBatch) -> usize {
    let entries = batch.appends.iter().flat_map(|append| &append.entries);
    let entries: usize = entries.map(|entry| entry.payload.len() + OVERHEAD_BYTES).sum();
    entries + (batch.appends.len() + 1) * OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use meridian_rpc::internal::{AppendRequest, Entry};

    use super::*;

    #[test]
    fn appends_without_entries_take_room_too() {
        let appends = vec![AppendRequest::default(); 1_000];
        let batch = AppendBatch {
            appends,
            ..AppendBatch::default()
        };
        assert!(message_bytes(&batch) >= 1_000 * OVERHEAD_BYTES);
        let append = AppendRequest {
            entries: vec![Entry::default(); 1_000],
            ..AppendRequest::default()
        };
        let batch = AppendBatch {
            appends: vec![append],
            ..AppendBatch::default()
        };
        assert!(message_bytes(&batch) >= 1_000 * OVERHEAD_BYTES);
    }
}
