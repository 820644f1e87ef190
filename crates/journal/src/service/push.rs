//! Streams of batches that a node sends of its own accord, for as long as the caller listens.

use meridian_rpc::KvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::gone;
use crate::journal::Journal;

/// Batches that wait for a slow caller.
pub const QUEUE: usize = 2;

/// Sends what `next` has, and waits for progress when it has nothing. Ends with the caller, the node, or an error.
pub async fn push<T>(
    journal: &Journal,
    batches: mpsc::Sender<Result<T, Status>>,
    mut next: impl FnMut() -> Result<Option<T>, KvError>,
) {
    let mut progress = journal.progress();
    let stopped = journal.stopped();
    loop {
        progress.mark_unchanged();
        let result = match next().transpose() {
            Some(result) => result,
            None => {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {
                        let _ = batches.try_send(Err(gone(journal)));
                        break;
                    }
                    () = batches.closed() => break,
                    changed = progress.changed() => if changed.is_err() { break },
                }
                continue;
            }
        };
        let is_error = result.is_err();
        let sent = tokio::select! {
            biased;
            () = stopped.cancelled() => {
                let _ = batches.try_send(Err(gone(journal)));
                break;
            }
            sent = batches.send(result.map_err(Status::from)) => sent,
        };
        if is_error || sent.is_err() {
            break;
        }
    }
}
