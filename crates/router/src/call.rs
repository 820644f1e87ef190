//! One call on its way through the router: its two directions end together.
//!
//! ```text
//! client ── Upload ──> query processor     an upload that breaks or breaks the rules ends the call,
//! client <── Answer ── query processor     an answer that ends leaves nobody to read the upload,
//!                                          the router's cut ends both.
//! ```

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// What both directions of one call share.
pub(crate) struct Call {
    ended: CancellationToken,
    /// Why it ended early, unless the router was cut.
    why: OnceLock<Status>,
}

impl Call {
    /// Ends the call early; the first reason counts.
    pub(crate) fn end(&self, why: Status) {
        // A second reason is a consequence of the first.
        let _ = self.why.set(why);
        self.ended.cancel();
    }

    /// Whether it has ended, for whatever reason.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Returns when it has ended.
    pub(crate) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }

    /// Why it ended early. `None`: the router was cut.
    pub(crate) fn why(&self) -> Option<&Status> {
        self.why.get()
    }
}

/// A call that somebody waits for; when it is dropped nobody does.
pub(crate) struct OpenCall(pub(crate) Arc<Call>);

impl OpenCall {
    /// A call that ends with `cut` at the latest.
    pub(crate) fn new(cut: &CancellationToken) -> Self {
        Self(Arc::new(Call {
            ended: cut.child_token(),
            why: OnceLock::new(),
        }))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.ended.cancel();
    }
}
