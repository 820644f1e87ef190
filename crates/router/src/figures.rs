//! What the router counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Calls, but for sessions, that a query processor has answered.
    pub(crate) requests_served: AtomicU64,
    /// Sessions that a query processor has opened.
    pub(crate) sessions_served: AtomicU64,
    /// Calls and sessions refused because too much was open.
    pub(crate) refused_overloaded: AtomicU64,
    /// Calls and sessions refused because the router was stopping.
    pub(crate) refused_draining: AtomicU64,
    /// Answers that broke before their end, or never came.
    pub(crate) answers_broken: Arc<AtomicU64>,
}

impl Figures {
    /// All of them, by name.
    pub(crate) fn by_name(&self) -> HashMap<String, u64> {
        [
            ("requests_served", &self.requests_served),
            ("sessions_served", &self.sessions_served),
            ("refused_overloaded", &self.refused_overloaded),
            ("refused_draining", &self.refused_draining),
            ("answers_broken", &*self.answers_broken),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed)))
        .collect()
    }
}
