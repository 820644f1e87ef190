//! What the query processor counts and measures.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_metrics::{Counters, Histogram, names};
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::session_op::Op;

use crate::txn::Ending;

/// Counters since the start of the process, which status shows, and what only metrics show.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) begun: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) sessions: AtomicU64,
    committed: AtomicU64,
    early: AtomicU64,
    conflicts: AtomicU64,
    unknown: AtomicU64,
    failed: AtomicU64,
    aborts: Counters,
    retries: Counters,
    errors: Counters,
    operations: Vec<Histogram>,
    /// From when a commit was sent until its end was known.
    pub(crate) attempts: Histogram,
    /// R3.
    pub(crate) commit_wait: Histogram,
    /// Passes of a session's task.
    pub(crate) busy: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        let operations = names::OPERATIONS.iter();
        Self {
            begun: AtomicU64::default(),
            refused: AtomicU64::default(),
            sessions: AtomicU64::default(),
            committed: AtomicU64::default(),
            early: AtomicU64::default(),
            conflicts: AtomicU64::default(),
            unknown: AtomicU64::default(),
            failed: AtomicU64::default(),
            aborts: Counters::new(&names::QUERY_ABORTS, &[], &KvError::REASONS),
            retries: Counters::new(&names::QUERY_RETRIES, &[], names::RETRIES),
            errors: Counters::new(&names::QUERY_ERRORS, &[], &KvError::REASONS),
            operations: operations
                .map(|operation| names::QUERY_OPERATION.histogram(&[operation]))
                .collect(),
            attempts: names::QUERY_ATTEMPTS.histogram(&[]),
            commit_wait: names::QUERY_WAIT.histogram(&[]),
            busy: names::QUERY_BUSY.histogram(&[]),
        }
    }
}

/// An operation of a session that is timed; its number is its place in [`names::OPERATIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    BatchGet,
    DeleteRange,
    ScanPage,
    Commit,
    Execute,
    Outcome,
}

impl Operation {
    /// What the operation is timed as. Those that take effect at once are not timed.
    pub(crate) fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Get(_) => Some(Self::Get),
            Op::BatchGet(_) => Some(Self::BatchGet),
            Op::DeleteRange(_) => Some(Self::DeleteRange),
            Op::Scan(_) | Op::ScanNext(_) => Some(Self::ScanPage),
            Op::Commit(_) => Some(Self::Commit),
            Op::Execute(_) => Some(Self::Execute),
            Op::Outcome(_) => Some(Self::Outcome),
            Op::Begin(_)
            | Op::Put(_)
            | Op::Delete(_)
            | Op::Savepoint(_)
            | Op::RollbackTo(_)
            | Op::Rollback(_) => None,
        }
    }
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
        if let Err(error) = ending {
            self.aborts.count(error.reason());
        }
    }

    /// A commit was known from a journal node before its owner said so.
    pub(crate) fn count_early_commit(&self) {
        self.early.fetch_add(1, Ordering::Relaxed);
    }

    /// A commit is tried once more, for one of [`names::RETRIES`].
    pub(crate) fn count_retry(&self, why: &'static str) {
        self.retries.count(why);
    }

    /// An operation of a session took so long.
    pub(crate) fn time(&self, operation: Option<Operation>, took: Duration) {
        if let Some(histogram) = operation.and_then(|operation| self.operations.get(operation as usize)) {
            histogram.record(took);
        }
    }

    /// Counts an answer of a session, if it is an error.
    pub(crate) fn count_answer<T>(&self, answer: &KvResult<T>) {
        if let Err(error) = answer {
            self.errors.count(error.reason());
        }
    }

    /// Those that status shows, by name.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timed_operation_has_the_name_of_its_place() {
        for (operation, name) in [
            (Operation::Get, "get"),
            (Operation::BatchGet, "batch_get"),
            (Operation::DeleteRange, "delete_range"),
            (Operation::ScanPage, "scan_page"),
            (Operation::Commit, "commit"),
            (Operation::Execute, "execute"),
            (Operation::Outcome, "outcome"),
        ] {
            assert_eq!(names::OPERATIONS.get(operation as usize), Some(&name));
        }
    }
}
