//! The transactions of a session, by the client's numbers, and the order of their operations.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use meridian_rpc::error::KvResult;
use meridian_rpc::v1::SessionOp;

use crate::scan::Scan;
use crate::txn::Txn;

/// One transaction of the session.
pub(super) struct Slot {
    /// The transaction, or why it did not begin: that is what its operations are answered.
    pub(super) txn: KvResult<Arc<Txn>>,
    /// Tells apart two transactions that had the same number.
    pub(super) generation: u64,
    /// Operations under way.
    running: usize,
    /// One of them is such that the others wait for it.
    exclusive: bool,
    /// What waits, in order.
    waiting: VecDeque<SessionOp>,
}

/// All transactions of a session.
///
/// Invariant: `waiting` is the number of operations in all queues.
#[derive(Default)]
pub(super) struct Table {
    slots: BTreeMap<u64, Slot>,
    waiting: usize,
    next_generation: u64,
}

/// An open scan of the session.
pub(super) struct ScanSlot {
    /// The client's number of its transaction.
    pub(super) txn: u64,
    /// `None` while a page is being read.
    pub(super) scan: Option<Scan>,
    /// Pages asked for meanwhile: how long the client waits for each, in milliseconds.
    pub(super) wanted: VecDeque<u64>,
}

/// An operation that has ended.
pub(super) struct Done {
    /// The client's number of the transaction; 0 for none.
    pub(super) txn: u64,
    /// The slot's.
    pub(super) generation: u64,
    pub(super) part: Part,
    /// Whether the client took the reply.
    pub(super) answered: bool,
}

/// What is left of an operation.
pub(super) enum Part {
    Nothing,
    /// What waited for it may start.
    Exclusive,
    /// A page was read; the scan is `None` when it has ended.
    Page(u64, Option<Box<Scan>>),
}

impl Table {
    pub(super) fn get(&self, number: u64) -> Option<&Slot> {
        self.slots.get(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A new transaction under a number that is free.
    pub(super) fn insert(&mut self, number: u64, txn: KvResult<Arc<Txn>>) {
        let generation = self.next_generation;
        self.next_generation += 1;
        let slot = Slot {
            txn,
            generation,
            running: 0,
            exclusive: false,
            waiting: VecDeque::new(),
        };
        self.slots.insert(number, slot);
    }

    /// Whether an operation of the transaction may start now. `exclusive`: only when no other is under way.
    pub(super) fn may_start(&self, number: u64, exclusive: bool) -> bool {
        self.slots.get(&number).is_none_or(|slot| {
            !slot.exclusive && slot.waiting.is_empty() && (!exclusive || slot.running == 0)
        })
    }

    /// Queues an operation behind those that it waits for.
    pub(super) fn queue(&mut self, number: u64, op: SessionOp) {
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.waiting.push_back(op);
            self.waiting += 1;
        }
    }

    /// An operation starts; the slot's generation.
    pub(super) fn on_start(&mut self, number: u64, exclusive: bool) -> u64 {
        let Some(slot) = self.slots.get_mut(&number) else {
            return u64::MAX;
        };
        slot.running += 1;
        slot.exclusive |= exclusive;
        slot.generation
    }

    /// An operation has ended.
    pub(super) fn on_done(&mut self, number: u64, generation: u64, exclusive: bool) {
        if let Some(slot) = self.slots.get_mut(&number)
            && slot.generation == generation
        {
            slot.running = slot.running.saturating_sub(1);
            slot.exclusive &= !exclusive;
        }
    }

    /// Takes the next queued operation of a transaction, if `is_exclusive` of it lets it start.
    pub(super) fn next_waiting(
        &mut self,
        number: u64,
        is_exclusive: impl Fn(&SessionOp) -> bool,
    ) -> Option<SessionOp> {
        let slot = self.slots.get_mut(&number)?;
        let next = slot.waiting.front()?;
        if slot.exclusive || (is_exclusive(next) && slot.running > 0) {
            return None;
        }
        self.waiting -= 1;
        slot.waiting.pop_front()
    }

    /// Frees the numbers of transactions that have ended and have nothing under way.
    pub(super) fn forget_ended(&mut self) {
        self.slots.retain(|_, slot| {
            let ended = slot.txn.as_ref().map_or(true, |txn| txn.ending().is_some());
            !ended || slot.running > 0 || !slot.waiting.is_empty()
        });
    }

    /// Frees the number of a transaction that ended, unless something waits for it.
    pub(super) fn forget_if_ended(&mut self, number: u64) {
        let forget = self.slots.get(&number).is_some_and(|slot| {
            let ended = slot.txn.as_ref().map_or(true, |txn| txn.ending().is_some());
            ended && slot.waiting.is_empty()
        });
        if forget {
            self.slots.remove(&number);
        }
    }

    /// Whether a transaction is open.
    pub(super) fn has_open(&self) -> bool {
        self.slots
            .values()
            .any(|slot| slot.txn.as_ref().is_ok_and(|txn| txn.ending().is_none()))
    }

    /// Rolls back what is open; a commit that was sent goes on.
    pub(super) fn roll_back_all(&self) {
        for txn in self.slots.values().filter_map(|slot| slot.txn.as_ref().ok()) {
            txn.abort("its session ended");
        }
    }
}
