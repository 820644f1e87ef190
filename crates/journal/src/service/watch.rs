//! One caller's watch on what is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_rpc::KvError;
use meridian_rpc::internal::{CommittedPosition, WatchBatch, WatchRequest};
use meridian_types::{Position, StreamId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::push::{Next, QUEUE, push};
use crate::journal::Journal;

/// The committed positions of the streams asked for: at first all, in any case one batch, then what is new.
pub fn serve(
    journal: Arc<Journal>,
    request: &WatchRequest,
) -> Result<BoxStream<'static, Result<WatchBatch, Status>>, KvError> {
    let limit = journal.config().max_streams;
    if request.streams.len() > limit {
        return Err(KvError::LimitExceeded {
            limit: "streams of a watch".to_owned(),
            allowed: limit as u64,
            got: request.streams.len() as u64,
        });
    }
    let wanted: BTreeSet<StreamId> = request.streams.iter().copied().map(StreamId).collect();
    let (batches, output) = mpsc::channel(QUEUE);
    tokio::spawn(send(journal, wanted, batches));
    Ok(ReceiverStream::new(output).boxed())
}

async fn send(
    journal: Arc<Journal>,
    wanted: BTreeSet<StreamId>,
    batches: mpsc::Sender<Result<WatchBatch, Status>>,
) {
    let mut seen = 0;
    let mut is_first = true;
    push(&journal, batches, || {
        journal.check_serving()?;
        // What is not wanted, or more than one batch holds, must not look like the end of what there is.
        loop {
            let before = seen;
            let is_wanted = |stream| wanted.is_empty() || wanted.contains(&stream);
            let (found, looked) = journal.committed_after(before, is_wanted);
            seen = looked;
            if std::mem::take(&mut is_first) || !found.is_empty() {
                let committed = found.into_iter().map(to_wire).collect();
                return Ok(Next::Message(WatchBatch { committed }));
            }
            if looked == before {
                return Ok(Next::Nothing);
            }
        }
    })
    .await;
}

fn to_wire((stream, position): (StreamId, Position)) -> CommittedPosition {
    CommittedPosition {
        stream: stream.0,
        position: Some(position.into()),
    }
}
