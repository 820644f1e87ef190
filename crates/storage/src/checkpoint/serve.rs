//! Sends the checkpoint to another storage node that has to be filled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use meridian_files::read_exact_at;
use meridian_rpc::KvError;
use meridian_rpc::internal::{CheckpointPart, CheckpointRequest};
use meridian_types::KeyRange;
use meridian_types::limits::MAX_KEY_BYTES;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::{Checkpoint, PART_BYTES, holds};
use crate::shared::Shared;

/// The parts that follow what the asker has.
pub(crate) type PartStream = BoxStream<'static, Result<CheckpointPart, Status>>;

/// When a node that sends to others already wants to be asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a peer is sent.
struct Sending {
    checkpoint: Arc<Checkpoint>,
    at: u64,
    /// One of those that are sent at the same time.
    _permit: OwnedSemaphorePermit,
}

/// Answers one request.
pub(crate) fn serve(shared: &Arc<Shared>, request: CheckpointRequest) -> Result<PartStream, Status> {
    let keys = keys(&request)?;
    shared.check_held(&keys)?;
    let node = &shared.node;
    let Some(checkpoint) = shared.checkpoints.sound() else {
        shared.checkpoints.asked.notify_one();
        let why = format!("storage node {node} has no checkpoint yet: it writes one if it has anything");
        return Err(KvError::unavailable(why).into());
    };
    if !holds(&checkpoint.header.keys, &keys) {
        let why = format!("the checkpoint of storage node {node} does not hold all of these keys");
        return Err(KvError::unavailable(why).into());
    }
    let is_same = request.id == checkpoint.header.id.as_slice();
    if is_same && request.offset > checkpoint.size {
        return Err(KvError::invalid(format!(
            "offset {} lies behind the end of the checkpoint, which has {} bytes",
            request.offset, checkpoint.size
        ))
        .into());
    }
    let permit = shared.checkpoints.sending.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        let what = format!("storage node {node} sends its checkpoint to others already");
        KvError::overloaded(what, RETRY_AFTER)
    })?;
    tracing::info!(%node, bytes = checkpoint.size, from = request.offset, is_same, "the checkpoint is sent to a peer");
    let sending = Sending {
        at: if is_same { request.offset } else { 0 },
        checkpoint,
        _permit: permit,
    };
    let parts = stream::try_unfold(sending, |mut sending| async move {
        let part = sending.next()?;
        Ok(part.map(|part| (part, sending)))
    });
    let shutdown = shared.shutdown.clone();
    Ok(parts.take_until(shutdown.cancelled_owned()).boxed())
}

/// The keys asked for.
fn keys(request: &CheckpointRequest) -> Result<KeyRange, Status> {
    if request.start.len().max(request.end.len()) > MAX_KEY_BYTES + 1 {
        return Err(KvError::invalid("the bounds are no keys").into());
    }
    let end = (!request.end.is_empty()).then(|| request.end.clone().into());
    Ok(KeyRange {
        start: request.start.clone().into(),
        end,
    })
}

impl Sending {
    fn next(&mut self) -> Result<Option<CheckpointPart>, Status> {
        let Checkpoint {
            header, file, size, ..
        } = &*self.checkpoint;
        let left = size.saturating_sub(self.at);
        if left == 0 {
            return Ok(None);
        }
        let length = usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES));
        let data = read_exact_at(&**file, self.at, length).map_err(|error| {
            tracing::error!(%error, at = self.at, "the checkpoint cannot be read any more");
            Status::from(KvError::unavailable(format!(
                "the checkpoint cannot be read: {error}"
            )))
        })?;
        let part = CheckpointPart {
            id: Bytes::copy_from_slice(&header.id),
            offset: self.at,
            size: *size,
            data,
        };
        self.at += length as u64;
        Ok(Some(part))
    }
}
