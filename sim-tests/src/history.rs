//! What clients did and saw, in the order in which it happened.

mod buffer;
mod op;
mod show;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use meridian_client::{CommitToken, Timestamp};

pub use buffer::Buffer;
pub use op::{Found, Mode, Op, Part, Past};
pub(crate) use show::tail;

/// A point in a run. Points of the same time are still ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Rises with every point.
    pub order: u64,
    /// Since the run began.
    pub at: Duration,
}

/// What is known to have become of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It is open still, or its commit was asked for and nothing is known.
    #[default]
    Unknown,
    /// It was acknowledged; zero for one that wrote nothing, or whose client was not told when.
    Committed(Timestamp),
    /// It is certain that it was not applied.
    Aborted(String),
}

/// One transaction: each attempt of a client is one of its own.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// Its place in the history.
    pub id: usize,
    /// Who ran it.
    pub client: String,
    /// Before its first message.
    pub began: Moment,
    /// After the answer from which the outcome is known.
    pub ended: Option<Moment>,
    /// How it was asked to run.
    pub mode: Mode,
    /// What it did.
    pub ops: Vec<Op>,
    /// What became of it.
    pub outcome: Outcome,
    /// What the cluster said whenever it was asked beside that.
    pub asked: Vec<Outcome>,
    /// Its commit token, as far as its client knows it.
    pub token: Option<CommitToken>,
}

impl Txn {
    /// Whether it was acknowledged.
    pub fn is_committed(&self) -> bool {
        matches!(self.outcome, Outcome::Committed(_))
    }

    /// Whether it is certain that it was not applied.
    pub fn is_aborted(&self) -> bool {
        matches!(self.outcome, Outcome::Aborted(_))
    }

    /// What it leaves behind if it commits: key and value, `None` for a deletion.
    pub fn effects(&self) -> BTreeMap<&str, Option<&str>> {
        let mut buffer = Buffer::default();
        self.ops.iter().for_each(|op| buffer.apply(op));
        buffer.into_writes()
    }

    /// Whether it looked where the key is, and nothing was there; not if it writes the key itself.
    pub fn misses(&self, key: &str) -> bool {
        let is_missed = self.ops.iter().any(|op| match op {
            Op::Read { key: read, found, .. } => read == key && found.is_none(),
            Op::Scan { prefix, rows, .. } => {
                key.starts_with(prefix.as_str()) && !rows.iter().any(|(row, _)| row == key)
            }
            _ => false,
        });
        is_missed && !self.effects().contains_key(key)
    }

    /// What it wrote last to each key, without what it took back or deleted again.
    pub fn writes(&self) -> impl Iterator<Item = (&str, &str)> {
        let effects = self.effects().into_iter();
        effects.filter_map(|(key, value)| Some((key, value?)))
    }

    /// What it read of others: key, and what was found. Of a scan, the rows.
    pub fn reads(&self) -> impl Iterator<Item = (&str, Option<&Found>)> {
        self.checked_reads().map(|(key, found, _)| (key, found))
    }

    /// The same, and whether nobody else may have written the key until it committed.
    pub fn checked_reads(&self) -> impl Iterator<Item = (&str, Option<&Found>, bool)> {
        let mut own = Buffer::default();
        let mut reads = Vec::new();
        for op in &self.ops {
            match op {
                Op::Read {
                    key,
                    found,
                    for_update,
                } if own.get(key).is_none() => reads.push((key.as_str(), found.as_ref(), *for_update)),
                Op::Scan { rows, for_update, .. } => {
                    let others = rows.iter().filter(|(_, found)| !found.is_own());
                    reads.extend(others.map(|(key, found)| (key.as_str(), Some(found), *for_update)));
                }
                _ => own.apply(op),
            }
        }
        let all = self.mode.serializable;
        reads
            .into_iter()
            .filter(|(_, found, _)| !found.is_some_and(Found::is_own))
            .map(move |(key, found, for_update)| (key, found, for_update || all))
    }

    /// When it committed, if it wrote something and that is known.
    pub fn commit(&self) -> Option<Timestamp> {
        match self.outcome {
            Outcome::Committed(timestamp) if timestamp > Timestamp::ZERO => Some(timestamp),
            _ => None,
        }
    }

    /// Which workload it is of: its client's name without the number.
    pub fn workload(&self) -> &str {
        self.client.split('-').next().unwrap_or_default()
    }

    /// Its snapshot, if that is known exactly, whatever became of it.
    pub fn snapshot(&self) -> Option<Timestamp> {
        match self.mode.past {
            Some(Past::At(at)) => Some(at),
            Some(Past::NotOlderThan(_)) => None,
            None => Some(self.token.filter(|token| token.home.is_some())?.start),
        }
    }

    /// Its snapshot is not before this, as far as the cluster said.
    pub fn snapshot_not_before(&self) -> Timestamp {
        match self.mode.past {
            Some(Past::At(at)) => at,
            Some(Past::NotOlderThan(_)) => Timestamp::ZERO,
            None => self.token.map_or(Timestamp::ZERO, |token| token.start),
        }
    }

    /// Its snapshot, if it committed a write and the snapshot is known exactly: a token that names the home stream does,
    /// one from before the commit is only a lower bound.
    pub fn start(&self) -> Option<Timestamp> {
        let token = self.token.filter(|token| token.home.is_some())?;
        self.commit().and(Some(token.start))
    }
}

/// All transactions of a run. Clones share it.
#[derive(Clone)]
pub struct History {
    inner: Rc<RefCell<Inner>>,
    elapsed: Rc<dyn Fn() -> Duration>,
}

#[derive(Default)]
struct Inner {
    order: u64,
    txns: Vec<Txn>,
}

impl History {
    /// Nothing has happened. `elapsed` says how long ago the run began.
    pub fn new(elapsed: impl Fn() -> Duration + 'static) -> Self {
        Self {
            inner: Rc::default(),
            elapsed: Rc::new(elapsed),
        }
    }

    /// A transaction begins.
    pub fn begin(&self, client: &str, mode: Mode) -> usize {
        let began = self.moment();
        let mut inner = self.inner.borrow_mut();
        let id = inner.txns.len();
        inner.txns.push(Txn {
            id,
            client: client.to_owned(),
            began,
            mode,
            ..Txn::default()
        });
        id
    }

    /// It did something.
    pub fn op(&self, id: usize, op: Op) {
        self.change(id, |txn| txn.ops.push(op));
    }

    /// It did these before all others.
    pub fn first_ops(&self, id: usize, ops: Vec<Op>) {
        self.change(id, |txn| {
            txn.ops.splice(0..0, ops);
        });
    }

    /// Its token became known, or more exact.
    pub fn token(&self, id: usize, token: CommitToken) {
        self.change(id, |txn| txn.token = Some(token));
    }

    /// Its outcome became known.
    pub fn end(&self, id: usize, outcome: Outcome) {
        let now = self.moment();
        tracing::debug!(txn = id, ?outcome, "ends");
        self.change(id, |txn| {
            txn.outcome = outcome;
            txn.ended = Some(now);
        });
    }

    /// The cluster was asked what became of it.
    pub fn asked(&self, id: usize, said: Outcome) {
        self.change(id, |txn| {
            // A client that was not told when it committed learns it so.
            if let (Outcome::Committed(known), Outcome::Committed(timestamp)) = (&mut txn.outcome, &said)
                && *known == Timestamp::ZERO
            {
                *known = *timestamp;
            }
            txn.asked.push(said);
        });
    }

    /// Whether it leaves anything behind if it commits.
    pub fn has_effects(&self, id: usize) -> bool {
        let inner = self.inner.borrow();
        inner.txns.get(id).is_some_and(|txn| !txn.effects().is_empty())
    }

    /// Since the run began.
    pub fn now(&self) -> Duration {
        (self.elapsed)()
    }

    /// All transactions.
    pub fn take(&self) -> Vec<Txn> {
        std::mem::take(&mut self.inner.borrow_mut().txns)
    }

    fn change(&self, id: usize, change: impl FnOnce(&mut Txn)) {
        if let Some(txn) = self.inner.borrow_mut().txns.get_mut(id) {
            change(txn);
        }
    }

    fn moment(&self) -> Moment {
        let mut inner = self.inner.borrow_mut();
        inner.order += 1;
        Moment {
            order: inner.order,
            at: (self.elapsed)(),
        }
    }
}
