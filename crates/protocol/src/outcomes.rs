//! What became of recent transactions, so that retries and questions get the one true answer (I9).
//!
//! Outcomes are forgotten by age, oldest first, and only after [`meridian_types::limits::OUTCOME_RETENTION`];
//! `outcome_low` tells which questions cannot be answered any more. If the memory fills, commits are
//! refused rather than outcomes forgotten.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_types::{Lsn, Timestamp, TxnId};

/// The outcome of a transaction. Its record is at `lsn` of the home stream and may still be on its way to the quorum:
/// whoever tells the outcome waits until `lsn` is committed in the owner's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// Every attempt of it is barred for good.
    Barred {
        /// Where the `Barred` record is.
        lsn: Lsn,
    },
}

/// What was forgotten by [`Outcomes::forget_before`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForgottenOutcomes {
    /// How many outcomes.
    pub count: usize,
    /// Whether a barred transaction was among them: then `window_low` must rise to the cutoff, so that no attempt of it that
    /// still turns up can commit.
    pub any_barred: bool,
}

/// The outcomes of one stream's recent transactions.
///
/// Invariant: `by_age` and `by_txn` hold the same transactions, `barred` those of them that are; ages do not decrease from front to back.
#[derive(Clone, Debug)]
pub struct Outcomes {
    by_txn: BTreeMap<TxnId, (Timestamp, Outcome)>,
    by_age: VecDeque<TxnId>,
    barred: BTreeSet<TxnId>,
    newest: Timestamp,
    limit: usize,
    outcome_low: Timestamp,
}

impl Outcomes {
    /// An empty memory for `limit` transactions of a log whose commits up to `outcome_low` it does not know.
    pub fn new(limit: usize, outcome_low: Timestamp) -> Self {
        let newest = Timestamp::ZERO;
        Self {
            by_txn: BTreeMap::new(),
            by_age: VecDeque::new(),
            barred: BTreeSet::new(),
            newest,
            limit,
            outcome_low,
        }
    }

    /// The highest commit timestamp whose outcome may have been forgotten or trimmed: a transaction that
    /// is not known and began before it may have committed.
    pub fn outcome_low(&self) -> Timestamp {
        self.outcome_low
    }

    /// The outcome of a transaction, if it is remembered.
    pub fn get(&self, txn: TxnId) -> Option<Outcome> {
        self.by_txn.get(&txn).map(|(_, outcome)| *outcome)
    }

    /// The transactions that are barred.
    pub fn barred(&self) -> impl ExactSizeIterator<Item = TxnId> + '_ {
        self.barred.iter().copied()
    }

    /// Whether no more outcome may be added.
    pub fn is_full(&self) -> bool {
        self.by_txn.len() >= self.limit
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.by_txn.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_txn.is_empty()
    }

    /// Adds an outcome that came to be at `at` (a commit's timestamp; for a bar, the present). Rebuilding from the
    /// log may exceed the limit: what happened cannot be refused. The first outcome of a transaction stays.
    pub fn insert(&mut self, txn: TxnId, outcome: Outcome, at: Timestamp) {
        if self.by_txn.contains_key(&txn) {
            return;
        }
        // A bar's time may lie behind the last commit's, which may be `lead` ahead of the present.
        self.newest = self.newest.max(at);
        if matches!(outcome, Outcome::Barred { .. }) {
            self.barred.insert(txn);
        }
        self.by_txn.insert(txn, (self.newest, outcome));
        self.by_age.push_back(txn);
    }

    /// Forgets what came to be before `cutoff`.
    pub fn forget_before(&mut self, cutoff: Timestamp) -> ForgottenOutcomes {
        let mut forgotten = ForgottenOutcomes::default();
        while let Some(txn) = self.by_age.front() {
            match self.by_txn.get(txn) {
                Some((at, _)) if *at >= cutoff => break,
                Some((_, Outcome::Committed { commit, .. })) => {
                    self.outcome_low = self.outcome_low.max(*commit);
                }
                Some((_, Outcome::Barred { .. })) => forgotten.any_barred = true,
                None => {}
            }
            self.barred.remove(txn);
            self.by_txn.remove(txn);
            self.by_age.pop_front();
            forgotten.count += 1;
        }
        forgotten
    }
}
