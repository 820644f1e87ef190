//! What clients did and saw, in the order in which it happened.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use meridian_client::{CommitToken, Timestamp};

use crate::cluster::time::SimTime;

/// A point in a run. Points of the same time are still ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Rises with every point.
    pub order: u64,
    /// Since the run began.
    pub at: Duration,
}

/// A value as a read found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value.
    pub value: String,
    /// When it was committed; zero for the transaction's own write.
    pub timestamp: Timestamp,
}

/// One operation, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read of one key.
    Read {
        /// The key.
        key: String,
        /// `None`: the key has no value.
        found: Option<Found>,
    },
    /// A write of one key.
    Write {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// A read of all keys with a prefix.
    Scan {
        /// The prefix.
        prefix: String,
        /// All of them, in order.
        rows: Vec<(String, Found)>,
    },
}

/// What is known to have become of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is open still, or its commit was asked for and nothing is known.
    Unknown,
    /// It was acknowledged; zero for one that wrote nothing.
    Committed(Timestamp),
    /// It is certain that it was not applied.
    Aborted(String),
}

/// One transaction: each attempt of a client is one of its own.
#[derive(Clone, Debug)]
pub struct Txn {
    /// Its place in the history.
    pub id: usize,
    /// Who ran it.
    pub client: String,
    /// Before its first message.
    pub began: Moment,
    /// After the answer from which the outcome is known.
    pub ended: Option<Moment>,
    /// What it did.
    pub ops: Vec<Op>,
    /// What became of it.
    pub outcome: Outcome,
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

    /// What it wrote last to each key it wrote.
    pub fn writes(&self) -> impl Iterator<Item = (&str, &str)> {
        let ops = self.ops.iter().enumerate();
        ops.filter_map(|(place, op)| match op {
            Op::Write { key, value } if !self.writes_after(place, key) => {
                Some((key.as_str(), value.as_str()))
            }
            _ => None,
        })
    }

    fn writes_after(&self, place: usize, key: &str) -> bool {
        let later = self.ops.get(place + 1..).unwrap_or_default();
        later
            .iter()
            .any(|op| matches!(op, Op::Write { key: other, .. } if other == key))
    }

    /// What it read of others: key, and what was found.
    pub fn reads(&self) -> impl Iterator<Item = (&str, Option<&Found>)> {
        let is_own = |found: &Found| found.timestamp == Timestamp::ZERO;
        self.ops.iter().flat_map(move |op| {
            let reads: Vec<(&str, Option<&Found>)> = match op {
                Op::Read { key, found } => vec![(key.as_str(), found.as_ref())],
                Op::Scan { rows, .. } => rows
                    .iter()
                    .map(|(key, found)| (key.as_str(), Some(found)))
                    .collect(),
                Op::Write { .. } => Vec::new(),
            };
            reads
                .into_iter()
                .filter(move |(_, found)| !found.is_some_and(is_own))
        })
    }

    /// When it committed, if it wrote something and that is known.
    pub fn commit(&self) -> Option<Timestamp> {
        match self.outcome {
            Outcome::Committed(timestamp) if timestamp > Timestamp::ZERO => Some(timestamp),
            _ => None,
        }
    }

    /// Its snapshot, if it is known exactly: a token that names the home stream does, one from before the commit is
    /// only a lower bound.
    pub fn start(&self) -> Option<Timestamp> {
        let token = self.token.filter(|token| token.home.is_some())?;
        self.commit().and(Some(token.start))
    }
}

impl fmt::Display for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self
            .ended
            .map_or("-".to_owned(), |end| format!("{:.3}", end.at.as_secs_f64()));
        write!(
            f,
            "T{} {} [{:.3} {end}]",
            self.id,
            self.client,
            self.began.at.as_secs_f64()
        )?;
        if let Some(start) = self.start() {
            write!(f, " start {}", start.0)?;
        }
        match &self.outcome {
            Outcome::Unknown => write!(f, " unknown")?,
            Outcome::Committed(timestamp) => write!(f, " committed {}", timestamp.0)?,
            Outcome::Aborted(why) => write!(f, " aborted ({why})")?,
        }
        for op in &self.ops {
            match op {
                Op::Read { key, found: None } => write!(f, "\n      read {key} -> nothing")?,
                Op::Read {
                    key,
                    found: Some(found),
                } => {
                    write!(
                        f,
                        "\n      read {key} -> {} @{}",
                        tail(&found.value),
                        found.timestamp.0
                    )?;
                }
                Op::Write { key, value } => write!(f, "\n      write {key} = {}", tail(value))?,
                Op::Scan { prefix, rows } => {
                    write!(f, "\n      scan {prefix} ->")?;
                    for (key, found) in rows {
                        write!(f, " {key}={}@{}", tail(&found.value), found.timestamp.0)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The end of a value that is too long to be read: of a list, what came last.
fn tail(value: &str) -> String {
    const SHOWN: usize = 40;
    match value.len().checked_sub(SHOWN).and_then(|cut| value.get(cut..)) {
        Some(end) => format!("...{end}"),
        None => value.to_owned(),
    }
}

/// All transactions of a run. Clones share it.
#[derive(Clone)]
pub struct History {
    inner: Rc<RefCell<Inner>>,
    time: SimTime,
}

#[derive(Default)]
struct Inner {
    order: u64,
    txns: Vec<Txn>,
}

impl History {
    /// Nothing has happened.
    pub fn new(time: SimTime) -> Self {
        Self {
            inner: Rc::default(),
            time,
        }
    }

    /// A transaction begins.
    pub fn begin(&self, client: &str) -> usize {
        let began = self.moment();
        let mut inner = self.inner.borrow_mut();
        let id = inner.txns.len();
        inner.txns.push(Txn {
            id,
            client: client.to_owned(),
            began,
            ended: None,
            ops: Vec::new(),
            outcome: Outcome::Unknown,
            token: None,
        });
        id
    }

    /// It did something.
    pub fn op(&self, id: usize, op: Op) {
        self.change(id, |txn| txn.ops.push(op));
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

    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.time.elapsed()
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
            at: self.time.elapsed(),
        }
    }
}
