//! What the query processor counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_rpc::KvError;

use crate::txn::Ending;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) begun: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) sessions: AtomicU64,
    committed: AtomicU64,
    early: AtomicU64,
    conflicts: AtomicU64,
    unknown: AtomicU64,
    failed: AtomicU64,
}

impl Figures {
    /// Counts the end of a commit.
    pub(crate) fn count(&self, ending: &Ending) {
        let counter = match ending {
            Ok(_) => &self.committed,
            Err(KvError::Conflict { .. }) => &self.conflicts,
            Err(KvError::OutcomeUnknown { .. }) => &self.unknown,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A commit was known from a journal node before its owner said so.
    pub(crate) fn count_early_commit(&self) {
        self.early.fetch_add(1, Ordering::Relaxed);
    }

    /// All of them, by name.
    pub(crate) fn by_name(&self) -> HashMap<String, u64> {
        [
            ("transactions_begun", &self.begun),
            ("refused_overloaded", &self.refused),
            ("sessions", &self.sessions),
            ("commits", &self.committed),
            ("commits_told_by_journal", &self.early),
            ("conflicts", &self.conflicts),
            ("commits_unknown", &self.unknown),
            ("commits_failed", &self.failed),
        ]
        .into_iter()
        .map(|(name, counter)| (name.to_owned(), counter.load(Ordering::Relaxed)))
        .collect()
    }
}
