//! A client of the real library that notes what it asks and what it is told.

use std::rc::Rc;

use meridian_client::{
    Client, Error, Execute, KvError, Outcome as Fate, Row, ScanOptions, Transaction, Txn, TxnOptions,
};
use meridian_client::{Key, KeyRange, Timestamp};

use super::{Control, Phase};
use crate::cluster::Shared;
use crate::history::{Found, History, Op, Outcome};
use crate::seams::derive;

/// The router's host.
const ROUTER: &str = "router-1";

/// One client.
pub struct Recorder {
    /// Its name, which its values begin with.
    pub name: String,
    client: Client,
    history: History,
    control: Rc<Control>,
    /// Where the next transaction has to begin so as not to meet the same conflict.
    min_start: Option<Timestamp>,
    /// Commits whose outcome is not known.
    doubts: Vec<(usize, meridian_client::CommitToken, bool)>,
}

impl Recorder {
    /// A client that connects when it is first used.
    pub fn new(name: &str, shared: &Shared, history: History, control: Rc<Control>) -> turmoil::Result<Self> {
        let channel = shared
            .dialer(name)
            .channel(ROUTER)
            .ok_or("the router has no address")?;
        let client = Client::builder()
            .transport(ROUTER, channel)
            .seed(derive(shared.plan.seed, &format!("client {name}")))
            .deadline(shared.plan.deadline)
            .connect_lazy()?;
        Ok(Self {
            name: name.to_owned(),
            client,
            history,
            control,
            min_start: None,
            doubts: Vec::new(),
        })
    }

    /// Begins a transaction; `None` when that failed, which is on record.
    pub async fn begin(&mut self, read_only: bool) -> Option<Recorded<'_>> {
        let mut options = if read_only {
            TxnOptions::read_only()
        } else {
            TxnOptions::default()
        };
        options.min_start = self.min_start.take();
        let id = self.history.begin(&self.name);
        let is_calm = self.control.phase.get() >= Phase::Calm;
        match self.client.begin(options).await {
            Ok(txn) => Some(Recorded {
                recorder: self,
                id,
                is_calm,
                txn,
            }),
            Err(error) => {
                self.failed(id, &error);
                None
            }
        }
    }

    /// Writes in one call, with the library's own retries.
    pub async fn execute(&mut self, writes: &[(String, String)]) {
        let id = self.history.begin(&self.name);
        let is_calm = self.control.phase.get() >= Phase::Calm;
        let mut execute = Execute::new();
        for (key, value) in writes {
            execute = execute.put(key.as_str(), value.clone());
            let (key, value) = (key.clone(), value.clone());
            self.history.op(id, Op::Write { key, value });
        }
        match self.client.execute(&execute).await {
            Ok(executed) => {
                self.history.token(id, executed.committed.token);
                self.committed(id, executed.committed.timestamp, is_calm);
            }
            Err(error) => self.ended_with(id, &error, None, is_calm),
        }
    }

    /// Asks until all outcomes are known.
    pub async fn settle(&mut self) {
        for (id, token, is_calm) in std::mem::take(&mut self.doubts) {
            loop {
                match self.client.outcome(token).await {
                    Ok(Fate::Committed(timestamp)) => self.committed(id, timestamp, is_calm),
                    Ok(Fate::Aborted) => self
                        .history
                        .end(id, Outcome::Aborted("says its outcome".to_owned())),
                    Ok(Fate::Forgotten) => {}
                    Err(error) => {
                        tracing::debug!(txn = id, %error, "outcome not known yet");
                        continue;
                    }
                }
                break;
            }
        }
    }

    fn committed(&self, id: usize, timestamp: Timestamp, is_calm: bool) {
        self.history.end(id, Outcome::Committed(timestamp));
        if is_calm && let Some(progress) = self.control.progress.borrow_mut().get_mut(&self.name) {
            *progress = Some(self.history.now());
        }
    }

    /// It was not asked to commit, so it is certain that it did not.
    fn failed(&mut self, id: usize, error: &Error) {
        self.begin_after(error);
        self.history.end(id, Outcome::Aborted(error.to_string()));
    }

    fn ended_with(
        &mut self,
        id: usize,
        error: &Error,
        token: Option<meridian_client::CommitToken>,
        is_calm: bool,
    ) {
        if error.is_definite() {
            self.failed(id, error);
            return;
        }
        tracing::debug!(txn = id, %error, "in doubt");
        if let Some(token) = error.token().or(token) {
            self.history.token(id, token);
            self.doubts.push((id, token, is_calm));
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

/// An open transaction, on record. What fails ends it.
pub struct Recorded<'a> {
    recorder: &'a mut Recorder,
    id: usize,
    is_calm: bool,
    txn: Transaction,
}

impl Recorded<'_> {
    /// Reads a key.
    pub async fn get(&mut self, key: &str) -> Result<Option<String>, Error> {
        let found = self.txn.get_versioned(Key::from(key.as_bytes())).await?;
        let found = found.map(|found| Found {
            value: text(&found.value),
            timestamp: found.timestamp,
        });
        let value = found.as_ref().map(|found| found.value.clone());
        let key = key.to_owned();
        self.recorder.history.op(self.id, Op::Read { key, found });
        Ok(value)
    }

    /// Writes a key.
    pub async fn put(&mut self, key: &str, value: String) -> Result<(), Error> {
        self.txn.put(Key::from(key.as_bytes()), value.clone()).await?;
        let key = key.to_owned();
        self.recorder.history.op(self.id, Op::Write { key, value });
        Ok(())
    }

    /// Reads all keys with a prefix.
    pub async fn scan(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error> {
        let range = KeyRange::prefix(Key::from(prefix.as_bytes()));
        let rows = self
            .txn
            .scan(range, ScanOptions::default())
            .await?
            .collect()
            .await?;
        let named = |row: Row| {
            let found = Found {
                value: text(&row.value),
                timestamp: row.timestamp,
            };
            (text(&row.key.0), found)
        };
        let rows: Vec<(String, Found)> = rows.into_iter().map(named).collect();
        let values = rows
            .iter()
            .map(|(key, found)| (key.clone(), found.value.clone()))
            .collect();
        let prefix = prefix.to_owned();
        self.recorder.history.op(self.id, Op::Scan { prefix, rows });
        Ok(values)
    }

    /// Commits; whether that succeeded.
    pub async fn commit(self) -> bool {
        let Self {
            recorder,
            id,
            is_calm,
            txn,
        } = self;
        let handle: Txn = (*txn).clone();
        match txn.commit().await {
            Ok(committed) => {
                recorder.history.token(id, committed.token);
                recorder.committed(id, committed.timestamp, is_calm);
                true
            }
            Err(error) => {
                recorder.ended_with(id, &error, Some(handle.token()), is_calm);
                false
            }
        }
    }

    /// Ends after an error of an operation.
    pub fn give_up(self, error: &Error) {
        self.recorder.failed(self.id, error);
    }

    /// Rolls back on purpose.
    pub async fn rollback(self) {
        // Nothing is applied whatever it answers.
        let _ = self.txn.rollback().await;
        self.recorder
            .history
            .end(self.id, Outcome::Aborted("rolled back".to_owned()));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
