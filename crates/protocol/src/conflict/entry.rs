//! What is remembered of one key.

use meridian_types::{Attempt, Key, Timestamp, TxnId};

use super::{Collision, Recent};

/// The newest committed write and the promises that may still become one.
///
/// A promise is kept beside what was committed before, so that an abort restores exactly that, in whatever order the attempts of
/// a key end.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    committed: Option<(Timestamp, TxnId)>,
    /// Nearly always at most one: the next may come only to whoever began after the promise.
    promised: Vec<(Attempt, Timestamp)>,
}

impl Entry {
    /// What counts in checks, forgetting and `by_time`; `None` when there is nothing to remember.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.all().map(|recent| recent.timestamp()).max()
    }

    /// The write that counts in checks.
    pub(super) fn recent(&self) -> Option<Recent> {
        self.all().max_by_key(Recent::timestamp)
    }

    /// The newest committed write.
    pub(super) fn committed(&self) -> Option<(Timestamp, TxnId)> {
        self.committed
    }

    fn all(&self) -> impl Iterator<Item = Recent> {
        let committed = self.committed.map(|(at, txn)| Recent::Committed { at, txn });
        let promised = self.promised.iter().copied();
        committed
            .into_iter()
            .chain(promised.map(|(attempt, promise)| Recent::Promised { attempt, promise }))
    }

    /// The write that a transaction with this snapshot collides with.
    pub(super) fn collision(&self, txn: TxnId, start: Timestamp, key: &Key) -> Option<Collision> {
        self.all()
            .filter(|recent| recent.timestamp() > start)
            .map(|recent| Collision::new(txn, key, recent))
            .max_by_key(Collision::rank)
    }

    pub(super) fn commit(&mut self, at: Timestamp, txn: TxnId) {
        if self.committed.is_none_or(|(before, _)| before < at) {
            self.committed = Some((at, txn));
        }
    }

    pub(super) fn promise(&mut self, attempt: Attempt, promise: Timestamp) {
        self.promised.retain(|(other, _)| *other != attempt);
        self.promised.push((attempt, promise));
    }

    /// The attempt ended. Whether it still had a promise here.
    pub(super) fn end(&mut self, attempt: &Attempt) -> bool {
        let before = self.promised.len();
        self.promised.retain(|(other, _)| other != attempt);
        if self.promised.is_empty() {
            self.promised = Vec::new();
        }
        before > 0 && self.promised.len() < before
    }
}
