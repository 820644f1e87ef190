//! Reads of a part of a stream's log.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use meridian_rpc::KvError;
use meridian_rpc::internal::{Entry, ReadRequest, ReadResponse};
use meridian_types::{Lsn, Position, StreamId, Timestamp};
use tonic::Status;

use crate::journal::Journal;

/// What is still to be read.
struct Reading {
    journal: Arc<Journal>,
    stream: StreamId,
    next: Lsn,
    to: Position,
    headers_only: bool,
    is_done: bool,
}

/// The entries wanted, in batches, read as the caller takes them.
pub fn serve(
    journal: Arc<Journal>,
    request: &ReadRequest,
) -> Result<BoxStream<'static, Result<ReadResponse, Status>>, KvError> {
    let stream = StreamId(request.stream);
    let to = request.to.map(Position::from);
    let from = (Lsn(request.from_lsn), Timestamp(request.from_timestamp));
    let (next, to) = journal.locate(stream, from.0, from.1, to)?;
    let reading = Reading {
        journal,
        stream,
        next,
        to,
        headers_only: request.headers_only,
        is_done: false,
    };
    Ok(stream::unfold(reading, next_batch).boxed())
}

async fn next_batch(mut reading: Reading) -> Option<(Result<ReadResponse, Status>, Reading)> {
    if reading.is_done || reading.next > reading.to.lsn {
        return None;
    }
    let budget = reading.journal.config().batch_bytes;
    let read = reading
        .journal
        .read_log(reading.stream, reading.next, reading.to, budget);
    let result = match read {
        Ok(mut entries) => match entries.last() {
            Some(last) => {
                reading.next = Lsn(last.lsn).next();
                if reading.headers_only {
                    entries.iter_mut().for_each(strip);
                }
                Ok(ReadResponse { entries, base: None })
            }
            // An end before `to` would be taken for the whole answer.
            None => {
                reading.is_done = true;
                let missing = format!(
                    "stream {}: entry {} is not held here",
                    reading.stream, reading.next
                );
                Err(KvError::unavailable(missing).into())
            }
        },
        Err(error) => {
            reading.is_done = true;
            Err(error.into())
        }
    };
    Some((result, reading))
}

fn strip(entry: &mut Entry) {
    entry.payload.clear();
}
