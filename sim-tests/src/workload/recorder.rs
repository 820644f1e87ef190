//! A client of the real library that notes what it asks and what it is told.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use meridian_client::{
    Client, CommitToken, Committed, Error, Executed, Isolation, KvError, Timestamp, Transaction, Txn,
    TxnOptions,
};

use super::call::Call;
use super::open::Recorded;
use super::recorded::Handle;
use super::settle::Doubts;
use super::{Control, Phase};
use crate::history::{History, Mode, Outcome, Past};

/// One client.
pub struct Recorder {
    /// Its name, which its values begin with.
    pub name: String,
    pub(super) client: Client,
    pub(super) history: History,
    pub(super) control: Rc<Control>,
    /// Where the next transaction has to begin so as not to meet the same conflict.
    min_start: Option<Timestamp>,
    last_commit: Option<Timestamp>,
    /// Transactions that nobody uses any more, and whose rollback nobody asks for.
    pub(super) abandoned: Vec<Transaction>,
    pub(super) doubts: Doubts,
}

/// What is asked for after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// If the outcome is unknown it is asked for at once, while the commit may still be under way.
    AskNow,
    /// It is asked for at the end.
    AskLater,
    /// It is never asked for.
    NeverAsk,
}

impl Recorder {
    /// A client of that name.
    pub fn new(name: &str, client: Client, history: History, control: Rc<Control>) -> Self {
        Self {
            name: name.to_owned(),
            client,
            history,
            control,
            min_start: None,
            last_commit: None,
            abandoned: Vec::new(),
            doubts: Doubts::default(),
        }
    }

    /// Goes on with another instance of the library; the last one and all it had open is gone at once.
    pub fn reborn(&mut self, client: Client) {
        self.client = client;
    }

    /// When it last committed a write, as far as it was told.
    pub fn last_commit(&self) -> Option<Timestamp> {
        self.last_commit
    }

    /// Begins a transaction; `None` when that failed, which is on record.
    pub async fn begin(&mut self, mode: Mode) -> Option<Recorded<'_>> {
        self.begin_idle(mode, None).await
    }

    /// The same; the cluster rolls it back when it is not used for so long.
    pub async fn begin_idle(&mut self, mode: Mode, idle_timeout: Option<Duration>) -> Option<Recorded<'_>> {
        let mut options = options(mode);
        options.idle_timeout = idle_timeout;
        if mode.past.is_none() {
            options.min_start = self.min_start.take();
        }
        let id = self.history.begin(&self.name, mode);
        let is_calm = self.is_calm();
        match self.client.begin(options).await {
            Ok(transaction) => {
                let handle = Handle {
                    history: self.history.clone(),
                    id,
                    txn: (*transaction).clone(),
                };
                Some(Recorded {
                    recorder: self,
                    handle,
                    is_calm,
                    transaction,
                })
            }
            Err(error) => {
                self.failed(id, &error);
                None
            }
        }
    }

    /// Runs a transaction with the library's own retries; each run is on record as a transaction of its own. Whether it
    /// was acknowledged.
    pub async fn transact<W>(&mut self, mode: Mode, work: impl Fn(Handle, usize) -> W) -> bool
    where
        W: Future<Output = Result<(), Error>>,
    {
        let is_calm = self.is_calm();
        let runs = Runs::new(&self.name, &self.history, mode);
        let result = self.client.transact_with(options(mode), |txn| {
            let (handle, run) = runs.next(txn);
            let done = work(handle.clone(), run);
            let runs = &runs;
            async move {
                done.await?;
                runs.is_complete(&handle);
                Ok(())
            }
        });
        let result = result.await;
        let Some(id) = runs.last.get() else {
            return false;
        };
        let token = runs.complete.take().map(|txn| txn.token());
        if let Some(token) = token {
            self.history.token(id, token);
        }
        match (result, token) {
            (Ok(()), _) => {
                self.committed(id, Timestamp::ZERO, is_calm);
                // Nobody remembers a transaction that wrote nothing.
                let is_asked = self.history.has_effects(id);
                self.doubts.told(id, token.filter(|_| is_asked), true);
                true
            }
            (Err(error), Some(_)) => {
                self.ended_with(id, &error, token, is_calm, Doubt::AskLater);
                false
            }
            (Err(error), None) => {
                // Its commit was not asked for.
                self.failed(id, &error);
                false
            }
        }
    }

    /// Runs a whole transaction in one call, with the library's own retries. What it read, if it was acknowledged.
    pub async fn execute(&mut self, call: Call) -> Option<Executed> {
        let id = self.history.begin(&self.name, call.mode);
        let is_calm = self.is_calm();
        call.writes.iter().for_each(|op| self.history.op(id, op.clone()));
        match self.client.execute(&call.execute).await {
            Ok(executed) => {
                self.history.first_ops(id, call.read(&executed));
                self.acknowledged(id, executed.committed, is_calm);
                Some(executed)
            }
            Err(error) => {
                self.ended_with(id, &error, None, is_calm, Doubt::AskLater);
                None
            }
        }
    }

    fn is_calm(&self) -> bool {
        self.control.phase.get() >= Phase::Calm
    }

    pub(super) fn acknowledged(&mut self, id: usize, committed: Committed, is_calm: bool) {
        self.history.token(id, committed.token);
        self.committed(id, committed.timestamp, is_calm);
        if committed.timestamp > Timestamp::ZERO {
            self.last_commit = Some(committed.timestamp);
            self.doubts.told(id, Some(committed.token), false);
        }
    }

    pub(super) fn committed(&self, id: usize, timestamp: Timestamp, is_calm: bool) {
        self.history.end(id, Outcome::Committed(timestamp));
        if is_calm && let Some(progress) = self.control.progress.borrow_mut().get_mut(&self.name) {
            *progress = Some(self.history.now());
        }
    }

    /// It was not asked to commit, so it is certain that it did not.
    pub(super) fn failed(&mut self, id: usize, error: &Error) {
        self.begin_after(error);
        self.history.end(id, Outcome::Aborted(error.to_string()));
    }

    pub(super) fn ended_with(
        &mut self,
        id: usize,
        error: &Error,
        token: Option<CommitToken>,
        is_calm: bool,
        doubt: Doubt,
    ) {
        if let Some(token) = error.token().or(token) {
            self.history.token(id, token);
        }
        if error.is_definite() {
            self.failed(id, error);
            self.doubts.told(id, token, false);
            return;
        }
        if !self.history.has_effects(id) {
            // There is nothing that could have become of it.
            self.failed(id, error);
            return;
        }
        tracing::debug!(txn = id, %error, "in doubt");
        if let Some(token) = error.token().or(token)
            && doubt == Doubt::AskLater
        {
            self.doubts.unknown(id, token, is_calm);
        }
    }

    fn begin_after(&mut self, error: &Error) {
        self.min_start = match error.kv() {
            Some(KvError::Conflict { with, .. }) => Some(*with),
            Some(KvError::SnapshotTooOld { min_start }) => Some(*min_start),
            _ => None,
        };
    }
}

/// The runs of one transaction that the library retries.
struct Runs<'a> {
    name: &'a str,
    history: &'a History,
    mode: Mode,
    count: Cell<usize>,
    /// The present one, by its place in the history.
    last: Cell<Option<usize>>,
    /// Once everything was done and the library may have asked for its commit.
    complete: RefCell<Option<Txn>>,
}

impl<'a> Runs<'a> {
    fn new(name: &'a str, history: &'a History, mode: Mode) -> Self {
        Self {
            name,
            history,
            mode,
            count: Cell::default(),
            last: Cell::default(),
            complete: RefCell::default(),
        }
    }

    /// The library runs it, perhaps again: it promises that the run before is certainly gone.
    fn next(&self, txn: Txn) -> (Handle, usize) {
        if let Some(before) = self.last.get() {
            let why = "the library runs it again".to_owned();
            self.history.end(before, Outcome::Aborted(why));
        }
        let id = self.history.begin(self.name, self.mode);
        self.last.set(Some(id));
        self.complete.take();
        self.count.set(self.count.get() + 1);
        let handle = Handle {
            history: self.history.clone(),
            id,
            txn,
        };
        (handle, self.count.get())
    }

    fn is_complete(&self, run: &Handle) {
        self.complete.replace(Some(run.txn.clone()));
    }
}

fn options(mode: Mode) -> TxnOptions {
    TxnOptions {
        isolation: if mode.serializable {
            Isolation::Serializable
        } else {
            Isolation::Snapshot
        },
        read_only: mode.read_only,
        at: match mode.past {
            Some(Past::At(at)) => Some(at),
            _ => None,
        },
        max_staleness: match mode.past {
            Some(Past::NotOlderThan(ms)) => Some(Duration::from_millis(ms)),
            _ => None,
        },
        ..TxnOptions::default()
    }
}
