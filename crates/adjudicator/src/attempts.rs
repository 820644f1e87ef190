//! Attempts of this epoch that were given up because somebody asked what became of them (section 5).
//!
//! A query processor whose connection broke asks for its attempt. If the owner of the named epoch has not decided it, it
//! answers *aborted*, and from then on must refuse the attempt when it still arrives. That need not be durable: no
//! other epoch ever decides it.

use std::collections::BTreeMap;

use meridian_types::{Attempt, Timestamp};

/// More are not kept: the question is answered *pending* then.
const MAX_ATTEMPTS: usize = 65_536;

/// The attempts that this epoch's owner will never commit.
#[derive(Debug, Default)]
pub(crate) struct BarredAttempts {
    starts: BTreeMap<Attempt, Timestamp>,
}

impl BarredAttempts {
    /// Bars an attempt; `false` when there is no memory for it.
    pub(crate) fn bar(&mut self, attempt: Attempt, start: Timestamp) -> bool {
        let fits = self.starts.len() < MAX_ATTEMPTS || self.starts.contains_key(&attempt);
        if fits {
            self.starts.insert(attempt, start);
        }
        fits
    }

    pub(crate) fn contains(&self, attempt: &Attempt) -> bool {
        !self.starts.is_empty() && self.starts.contains_key(attempt)
    }

    /// Forgets those that began before `cutoff`, and says whether there were any: then `window_low` must rise to it.
    pub(crate) fn forget_before(&mut self, cutoff: Timestamp) -> bool {
        let before = self.starts.len();
        self.starts.retain(|_, start| *start >= cutoff);
        self.starts.len() < before
    }

    /// A new epoch decides none of the old ones anyway.
    pub(crate) fn clear(&mut self) {
        self.starts.clear();
    }
}
