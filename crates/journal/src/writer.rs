//! Drives the write-ahead log: everything queued goes out in one write and one sync.

use std::sync::Arc;
use std::time::Duration;

use meridian_metrics::{Histogram, names};
use meridian_rpc::Env;
use tokio::time::Instant;

use crate::error::WriteError;
use crate::journal::{Journal, Work};
use crate::wal::format::Body;
use crate::wal::{Location, Wal};

/// The log and what it is driven for. Holds the directory's lock as long as it writes.
pub struct LogWriter {
    journal: Arc<Journal>,
    wal: Wal,
    has_ended: bool,
    sync: Histogram,
    group: Histogram,
    busy: Histogram,
    /// The world, where somebody may step in before an acknowledgement.
    env: Option<Env>,
    _lock: Arc<dyn Send + Sync>,
}

/// A group, and what came of writing it.
struct Written {
    began: Instant,
    messages: usize,
    records: Vec<Body>,
    result: Result<Vec<Location>, WriteError>,
}

impl Drop for LogWriter {
    /// Whatever becomes of its thread or task: a node without a writer would take appends in and answer none of them.
    fn drop(&mut self) {
        if !self.has_ended {
            self.journal.fail("the log's writer ended unexpectedly");
        }
    }
}

impl LogWriter {
    /// A writer of the log for this node.
    pub fn new(journal: Arc<Journal>, wal: Wal, lock: Arc<dyn Send + Sync>) -> Self {
        Self {
            journal,
            wal,
            has_ended: false,
            sync: names::JOURNAL_SYNC.histogram(&[]),
            group: names::JOURNAL_GROUP.histogram(&[]),
            busy: names::JOURNAL_BUSY.histogram(&[]),
            env: None,
            _lock: lock,
        }
    }

    /// The same writer, for the node of this world.
    pub fn in_world(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    /// Writes on the calling thread until the node is closed or fails.
    pub fn run_on_thread(mut self) -> Result<(), String> {
        let idle = self.idle_sync();
        let mut patience = idle;
        loop {
            match self.journal.wait_for_work(patience) {
                Work::Write(group) => {
                    let written = self.write(group);
                    self.acknowledge(written)?;
                    patience = idle;
                }
                Work::Idle => {
                    self.sync_mark()?;
                    // Nothing to do until there is work again.
                    patience = Duration::MAX;
                }
                Work::Close => return self.end(),
            }
        }
    }

    /// Writes in the calling task until the node is closed or fails.
    pub async fn run_as_task(mut self) -> Result<(), String> {
        let idle = self.idle_sync();
        loop {
            match self.journal.next_work() {
                Work::Write(group) => {
                    let delay = self.wal.delay();
                    if delay > Duration::ZERO {
                        tokio::time::sleep(delay).await;
                    }
                    let written = self.write(group);
                    if let Some(env) = &self.env {
                        env.reached("journal: persisted").await;
                    }
                    self.acknowledge(written)?;
                    tokio::task::yield_now().await;
                }
                Work::Idle => {
                    if tokio::time::timeout(idle, self.journal.woken()).await.is_err() {
                        self.sync_mark()?;
                        // Nothing to do until there is work again.
                        self.journal.woken().await;
                    }
                }
                Work::Close => return self.end(),
            }
        }
    }

    fn idle_sync(&self) -> Duration {
        Duration::from_millis(self.journal.config().idle_sync_ms.max(1))
    }

    fn write(&mut self, group: Vec<Vec<Body>>) -> Written {
        let began = Instant::now();
        let messages = group.len();
        let records: Vec<Body> = group.into_iter().flatten().collect();
        // The trimmer may have found meanwhile that the disk fails.
        let result = match self.journal.failure() {
            Some(what) => Err(WriteError::Failed(what)),
            None => self.wal.append(&records),
        };
        self.sync.record(began.elapsed());
        self.group.record(records.len() as f64);
        Written {
            began,
            messages,
            records,
            result,
        }
    }

    fn acknowledge(&mut self, written: Written) -> Result<(), String> {
        let Written {
            began,
            messages,
            records,
            result,
        } = written;
        match result {
            Ok(locations) => self.journal.complete(messages, records, locations),
            Err(WriteError::Full(why)) => self.journal.refuse(&format!("disk full: {why}")),
            Err(WriteError::Failed(what)) => return self.fail(what),
        }
        self.busy.record(began.elapsed());
        Ok(())
    }

    fn sync_mark(&mut self) -> Result<(), String> {
        match self.wal.sync_mark() {
            Ok(()) => Ok(()),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn end(mut self) -> Result<(), String> {
        let result = match self.journal.failure() {
            Some(what) => Err(what),
            None => self.sync_mark(),
        };
        self.has_ended = true;
        result
    }

    fn fail(&mut self, what: String) -> Result<(), String> {
        self.journal.fail(&what);
        self.has_ended = true;
        Err(what)
    }
}
