//! Bounded memory: everything that a client can make the query processor hold is counted first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;

/// When to come back after the budget was found spent.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A number of bytes shared by all transactions.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            limit,
        })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// An empty part of the budget.
    pub(crate) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes: 0,
        }
    }

    fn take(&self, more: usize) -> KvResult<()> {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|total| *total <= self.limit)
            });
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(KvError::overloaded(
                format!(
                    "open transactions hold {} bytes, the limit of this node",
                    self.limit
                ),
                RETRY_AFTER,
            )),
        }
    }
}

/// The part of the budget that one holder has; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// Holds `bytes` from now on; `Overloaded`, and unchanged, when the budget does not have them.
    pub(crate) fn resize(&mut self, bytes: usize) -> KvResult<()> {
        if bytes > self.bytes {
            self.budget.take(bytes - self.bytes)?;
        } else {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
