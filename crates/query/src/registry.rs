//! The transactions of this node: those open, and for a while those that ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_types::TxnId;

use crate::txn::Txn;

/// When to come back after too many transactions were found open.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// All transactions that this node knows.
pub(crate) struct Registry {
    open: AtomicUsize,
    max_open: usize,
    max_finished: usize,
    known: Mutex<Known>,
}

/// Invariant: `unfinished` names those of `txns` that have not ended (the others are many more, and are not looked at in vain);
/// `finished` names each ended one once, the oldest first; an id whose `generation` differs was begun again since.
#[derive(Default)]
struct Known {
    txns: BTreeMap<TxnId, (u64, Arc<Txn>)>,
    unfinished: BTreeSet<(TxnId, u64)>,
    finished: VecDeque<(TxnId, u64)>,
    next_generation: u64,
}

/// What a request that names a transaction id asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To begin it: nothing can commit without another request.
    ToBegin,
    /// To run all of it: if that is a repetition, the first one may commit any moment.
    ToRun,
}

/// Counts a transaction as open; dropped when it ends.
pub(crate) struct OpenSlot {
    registry: Weak<Registry>,
    id: TxnId,
    generation: u64,
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.open.fetch_sub(1, Ordering::Relaxed);
            registry.on_end(self.id, self.generation);
        }
    }
}

impl Registry {
    pub(crate) fn new(max_open: usize, max_finished: usize) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            max_open,
            max_finished,
            known: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a transaction that `make` begins. Refused when too many are open, and when the id is in use: by a
    /// transaction that is open, or by one that may have committed or may yet.
    pub(crate) fn begin(
        self: &Arc<Self>,
        id: TxnId,
        asked: Asked,
        make: impl FnOnce(OpenSlot) -> Txn,
    ) -> KvResult<Arc<Txn>> {
        let mut known = self.lock();
        if let Some((_, other)) = known.txns.get(&id) {
            match other.ending() {
                Some(Err(error)) if error.is_definite() => {}
                None if asked == Asked::ToBegin && other.is_open() => {
                    return Err(KvError::invalid(format!("transaction id {id} is in use")));
                }
                // Not this request, but the transaction of this id has committed, or still may (I9).
                _ => return Err(KvError::OutcomeUnknown { token: other.token() }),
            }
        }
        if self.open.load(Ordering::Relaxed) >= self.max_open {
            return Err(KvError::overloaded(
                format!("{} transactions are open, the limit of this node", self.max_open),
                RETRY_AFTER,
            ));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let generation = known.next_generation;
        known.next_generation += 1;
        let txn = Arc::new(make(OpenSlot {
            registry: Arc::downgrade(self),
            id,
            generation,
        }));
        known.txns.insert(id, (generation, txn.clone()));
        known.unfinished.insert((id, generation));
        Ok(txn)
    }

    /// A transaction by its id, also for a while after its end.
    pub(crate) fn get(&self, id: TxnId) -> KvResult<Arc<Txn>> {
        let known = self.lock();
        let txn = known.txns.get(&id).map(|(_, txn)| txn.clone());
        txn.ok_or_else(|| KvError::TransactionNotFound { txn: id.to_string() })
    }

    fn on_end(&self, id: TxnId, generation: u64) {
        let mut freed = Vec::new();
        let mut known = self.lock();
        known.unfinished.remove(&(id, generation));
        known.finished.push_back((id, generation));
        while known.finished.len() > self.max_finished {
            let Some((oldest, generation)) = known.finished.pop_front() else {
                break;
            };
            if known
                .txns
                .get(&oldest)
                .is_some_and(|(current, _)| *current == generation)
            {
                freed.extend(known.txns.remove(&oldest));
            }
        }
        drop(known);
        drop(freed);
    }

    /// How many are open (or committing).
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// All transactions that have not ended.
    pub(crate) fn unfinished(&self) -> Vec<Arc<Txn>> {
        let known = self.lock();
        let all = known.unfinished.iter().filter_map(|(id, _)| known.txns.get(id));
        all.map(|(_, txn)| txn.clone()).collect()
    }
}
