//! Whether the near endpoints can do their work. A region that is cut off from the majority still greets its clients, but can
//! neither commit nor read at the present: calls that fail one after another, or are not answered at all for long, send the client to
//! another region although its session is well.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meridian_rpc::KvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::session::Session;

/// Calls in a row without a success, from which on the region is suspected.
const SUSPICIOUS: u32 = 3;
/// An operation is not answered, and nothing else succeeds, for so long: longer than another region needs to be taken over.
const SILENCE: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What has gone wrong lately. Shared by all users of a client.
pub(crate) struct Trouble {
    in_a_row: watch::Sender<u32>,
    well_at: Mutex<Instant>,
}

impl Trouble {
    pub(crate) fn new() -> Self {
        Self {
            in_a_row: watch::Sender::new(0),
            well_at: Mutex::new(Instant::now()),
        }
    }

    /// A call failed. Only what says that a part of the cluster could not be reached counts.
    pub(crate) fn failed(&self, error: &KvError) {
        let counts = matches!(
            error,
            KvError::Unavailable { .. } | KvError::DeadlineExceeded { .. } | KvError::OutcomeUnknown { .. }
        );
        if counts {
            self.in_a_row
                .send_modify(|count| *count = count.saturating_add(1));
        }
    }

    /// A call succeeded, or another endpoint is used from now on.
    pub(crate) fn clear(&self) {
        self.in_a_row.send_if_modified(|count| std::mem::take(count) > 0);
        *self.well_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when the session leaves something without an answer for long while nothing else succeeds.
    pub(crate) async fn silent(&self, session: &Session) {
        loop {
            sleep(LOOK_EVERY).await;
            let well_at = *self.well_at.lock().unwrap_or_else(PoisonError::into_inner);
            if session.silent_for() >= SILENCE && well_at.elapsed() >= SILENCE {
                return;
            }
        }
    }

    /// Returns when too much has gone wrong.
    pub(crate) async fn suspected(&self) {
        // The sender lives as long as we do.
        let _ = self
            .in_a_row
            .subscribe()
            .wait_for(|count| *count >= SUSPICIOUS)
            .await;
    }
}
