//! Streams of batches that a node sends of its own accord, for as long as the caller listens.

use meridian_rpc::KvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::gone;
use crate::journal::Journal;

/// Batches that wait for a slow caller.
pub const QUEUE: usize = 2;

/// What there is to be sent.
pub enum Next<T> {
    /// This.
    Message(T),
    /// This, and nothing after it.
    Last(T),
    /// Nothing now.
    Nothing,
}

/// Sends what `next` has, and waits for progress when it has nothing. Ends with the caller, the node, what is the last, or an error.
pub async fn push<T>(
    journal: &Journal,
    batches: mpsc::Sender<Result<T, Status>>,
    mut next: impl FnMut() -> Result<Next<T>, KvError>,
) {
    let mut progress = journal.progress();
    let stopped = journal.stopped();
    loop {
        progress.mark_unchanged();
        let (result, is_last) = match next() {
            Ok(Next::Message(message)) => (Ok(message), false),
            Ok(Next::Last(message)) => (Ok(message), true),
            Err(error) => (Err(error), true),
            Ok(Next::Nothing) => {
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
        let sent = tokio::select! {
            biased;
            () = stopped.cancelled() => {
                let _ = batches.try_send(Err(gone(journal)));
                break;
            }
            sent = batches.send(result.map_err(Status::from)) => sent,
        };
        if is_last || sent.is_err() {
            break;
        }
    }
}
