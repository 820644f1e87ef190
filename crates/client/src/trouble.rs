//! Whether the near endpoints can do their work. A region that is cut off from the majority still greets its clients, but can
//! neither commit nor read at the present: calls that fail one after another send the client to another region although its session
//! is well.

use meridian_rpc::KvError;
use tokio::sync::watch;

/// Calls in a row without a success, from which on the region is suspected.
const SUSPICIOUS: u32 = 3;

/// What has gone wrong lately. Shared by all users of a client.
pub(crate) struct Trouble {
    in_a_row: watch::Sender<u32>,
}

impl Trouble {
    pub(crate) fn new() -> Self {
        Self {
            in_a_row: watch::Sender::new(0),
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
