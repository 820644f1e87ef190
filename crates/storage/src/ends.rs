//! Streams that were split or merged have nobody who owns them, and closures wait for their last records (section 8). After a restart
//! journal nodes know how much of a log is committed only once an owner has told them: a storage node that lacks the end of such a
//! stream has it owned again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meridian_types::StreamId;
use tokio::time::sleep;

use crate::shared::Shared;

/// Runs until shutdown. Asks nobody while nothing is missing.
pub(crate) async fn run(shared: Arc<Shared>) {
    let shutdown = shared.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = ask(&shared) => {}
    }
}

async fn ask(shared: &Shared) {
    let pause = Duration::from_millis(shared.config.feed_quiet_ms);
    let mut missed = BTreeSet::new();
    loop {
        sleep(pause).await;
        let missing = missing(shared);
        // What came to its end just now is on its way.
        for stream in missing.intersection(&missed) {
            tracing::info!(node = %shared.node, %stream, "the end of a stream is not known to be committed");
            if let Some(owner) = shared.owners.known(*stream) {
                shared.owners.forget(*stream, owner.epoch);
            }
            // Whoever answers owns it, and tells the journal nodes.
            if let Err(error) = shared.owners.owner(*stream).await {
                tracing::debug!(node = %shared.node, %stream, %error, "nobody owns a stream that has ended");
            }
        }
        missed = missing;
    }
}

/// Streams that have ended, and not here.
fn missing(shared: &Shared) -> BTreeSet<StreamId> {
    let (map, applied) = (shared.owners.map(), shared.applied());
    let retired = map.reshaping.retired.iter();
    let missing =
        retired.filter(|(stream, retired)| applied.get(stream).is_none_or(|lsn| *lsn < retired.last));
    missing.map(|(stream, _)| *stream).collect()
}
