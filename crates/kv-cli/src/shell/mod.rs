//! Carries out statements, one after another, with the transaction that is open between them.

pub mod interactive;
pub mod regions;
pub mod script;

use std::io::Write;
use std::time::Duration;

use meridian_client::{
    Client, Error, Execute, Key, KvError, Outcome, Row, ScanOptions, Timestamp, Trace, Transaction, Txn,
    TxnOptions,
};

use crate::command::{Command, HELP, Past, Scan, Tracing};
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::text::escape;
use crate::{doctor, faults, measure, ranges, status, trace};
use regions::Regions;

/// A shell: a client, where results go, and the open transaction.
pub struct Shell {
    client: Client,
    regions: Regions,
    printer: Printer,
    open: Option<Open>,
    /// Where the time of transactions goes is said.
    traces: bool,
}

struct Open {
    txn: Transaction,
    read_only: bool,
    writes: u64,
    statements: u64,
}

impl Shell {
    /// A shell without an open transaction.
    pub fn new(client: Client, regions: Regions, printer: Printer) -> Self {
        Self {
            client,
            regions,
            printer,
            open: None,
            traces: false,
        }
    }

    /// The prompt: the region (`a via b`: b serves, because a does not answer), and the transaction's state. `*`: it has
    /// writes; `!`: it is dead.
    pub fn prompt(&self) -> String {
        let region = self.regions.describe(self.client.region());
        let state = match &self.open {
            None => String::new(),
            Some(open) => {
                let kind = if open.read_only { " read" } else { " txn" };
                let mark = match open {
                    open if open.txn.failure().is_some() => "!",
                    open if open.writes > 0 => "*",
                    _ => "",
                };
                format!("{kind}{mark}")
            }
        };
        format!("{region}{state}> ")
    }

    /// Whether a transaction is open.
    pub fn in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Carries out one statement. Remarks go to standard error.
    pub async fn run(&mut self, command: Command) -> Result<(), Failure> {
        if let Some(open) = &mut self.open {
            open.statements += 1;
        }
        let result = match command {
            Command::Begin {
                serializable,
                read_only,
                past,
            } => self.begin(serializable, read_only, past).await,
            Command::Commit => return self.commit().await,
            Command::Rollback => return self.rollback().await,
            Command::Savepoint(name) => match self.txn() {
                Ok(txn) => txn.savepoint(name).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            },
            Command::RollbackTo(name) => self.rollback_to(name).await,
            Command::Get { key, for_update } => self.get(key, for_update).await,
            Command::Put { key, value } => self.put(key, value).await,
            Command::Delete(keys) => self.delete(keys).await,
            Command::DeleteRange(range) => self.delete_range(range).await,
            Command::Scan(scan) => self.scan(scan).await,
            Command::Count(range) => self.count(range).await,
            Command::Outcome(token) => self.outcome(token).await,
            Command::Status => {
                let status = self.client.cluster_status().await?;
                Ok(status::print_status(&mut self.printer, status)?)
            }
            Command::Doctor => self.doctor().await,
            Command::Ranges => {
                let status = self.client.cluster_status().await?;
                Ok(ranges::print(&mut self.printer, status)?)
            }
            Command::Region(region) => self.region(region).await,
            Command::Fault { action, target } => {
                let report = self.client.inject_fault(&action, &target).await?;
                Ok(faults::print(&mut self.printer, &report)?)
            }
            Command::Bench(time) => {
                let clients = self.regions.clients(&self.client).await?;
                measure::measure(&clients, time, &mut self.printer).await
            }
            Command::ChangeRanges(change) => {
                let version = self.client.change_ranges(change).await?;
                Ok(self.printer.number("version", version)?)
            }
            Command::Trace(tracing) => return self.trace(tracing).await,
            Command::Help => Ok(self.printer.text(HELP)?),
            Command::Exit => Ok(()),
        };
        result.map_err(|failure| self.explain(failure))
    }

    async fn trace(&mut self, tracing: Tracing) -> Result<(), Failure> {
        match tracing {
            Tracing::On => self.traces = true,
            Tracing::Off => self.traces = false,
            Tracing::One(command) => {
                if self.open.as_ref().is_some_and(|open| open.txn.trace().is_none()) {
                    return Err(
                        Failure::new(Code::Failed, "the open transaction was not begun with trace")
                            .advise("end it, then: trace begin"),
                    );
                }
                let before = std::mem::replace(&mut self.traces, true);
                let result = Box::pin(self.run(*command)).await;
                self.traces = before;
                return result;
            }
        }
        Ok(())
    }

    /// Says where the time of a transaction went, if it was traced.
    fn tell_trace(&mut self, trace: Option<&Trace>) -> Result<(), Failure> {
        match trace {
            Some(trace) => Ok(trace::print(&mut self.printer, trace)?),
            None => Ok(()),
        }
    }

    /// Something in one call, traced if that is wanted.
    fn execute(&self) -> Execute {
        if self.traces {
            Execute::new().traced()
        } else {
            Execute::new()
        }
    }

    async fn doctor(&mut self) -> Result<(), Failure> {
        let status = self.client.cluster_status().await?;
        if doctor::print(&mut self.printer, &status)? {
            return Err(Failure::new(Code::Failed, "the cluster needs somebody"));
        }
        Ok(())
    }

    /// Says what a failure means for the open transaction.
    fn explain(&self, failure: Failure) -> Failure {
        match &self.open {
            Some(open) if open.txn.failure().is_some() => {
                let mut failure = failure;
                failure.advice = vec![
                    "the transaction is over and nothing of it was applied".to_owned(),
                    "rollback, then begin again".to_owned(),
                ];
                failure
            }
            _ => failure,
        }
    }

    fn txn(&self) -> Result<&Txn, Failure> {
        self.open
            .as_ref()
            .map(|open| &*open.txn)
            .ok_or_else(|| Failure::new(Code::Failed, "no transaction is open").advise("begin opens one"))
    }

    async fn begin(
        &mut self,
        serializable: bool,
        read_only: bool,
        past: Option<Past>,
    ) -> Result<(), Failure> {
        if self.open.is_some() {
            return Err(Failure::new(Code::Failed, "a transaction is open already")
                .advise("commit or rollback ends it; savepoint marks a place in it"));
        }
        let mut options = if serializable {
            TxnOptions::serializable()
        } else {
            TxnOptions::default()
        };
        options.read_only = read_only;
        options.trace = self.traces;
        match past {
            Some(Past::At(timestamp)) => options.at = Some(Timestamp(timestamp)),
            Some(Past::Stale(seconds)) => options.max_staleness = Some(Duration::from_secs(seconds)),
            None => {}
        }
        self.open = Some(Open {
            txn: self.client.begin(options).await?,
            read_only,
            writes: 0,
            statements: 0,
        });
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        self.txn()?;
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let statements = open.statements.saturating_sub(1);
        let traced = Txn::clone(&open.txn);
        match open.txn.commit().await {
            Ok(committed) => {
                self.acknowledge(&committed)?;
                self.tell_trace(traced.trace().as_ref())
            }
            Err(Error::Kv(KvError::Conflict { key, with })) => Err(Failure::new(
                Code::Conflict,
                format!(
                    "conflict on key {}: another transaction wrote it at {with}, after this one's snapshot",
                    escape(key.as_ref())
                ),
            )
            .advise("nothing of this transaction was applied, and it is over")
            .advise(format!(
                "begin again and repeat its {statements} statement{}: they will see the other's write",
                if statements == 1 { "" } else { "s" }
            ))),
            Err(error) => Err(error.into()),
        }
    }

    async fn rollback(&mut self) -> Result<(), Failure> {
        self.txn()?;
        match self.open.take() {
            Some(open) => Ok(open.txn.rollback().await?),
            None => Ok(()),
        }
    }

    async fn rollback_to(&mut self, name: String) -> Result<(), Failure> {
        Ok(self.txn()?.rollback_to(name).await?)
    }

    /// The transaction to read in: the open one, or one for this statement.
    async fn reader(&self) -> Result<Reader<'_>, Failure> {
        Ok(match &self.open {
            Some(open) => Reader::Open(&open.txn),
            None => {
                let options = TxnOptions {
                    trace: self.traces,
                    ..TxnOptions::read_only()
                };
                Reader::Own(self.client.begin(options).await?)
            }
        })
    }

    async fn region(&mut self, region: Option<String>) -> Result<(), Failure> {
        let Some(region) = region else {
            let names = self.regions.names(&self.client).await?;
            return Ok(self.printer.columns(None, &["region"], &names)?);
        };
        if self.open.is_some() {
            return Err(
                Failure::new(Code::Failed, "a transaction is open, and belongs to its region")
                    .advise("commit or rollback ends it"),
            );
        }
        self.client = self.regions.go(&region, &self.client).await?;
        Ok(())
    }

    async fn get(&mut self, key: Key, for_update: bool) -> Result<(), Failure> {
        let mut trace = None;
        let value = match &self.open {
            Some(open) if for_update => open.txn.get_for_update(key.clone()).await?,
            Some(open) => open.txn.get(key.clone()).await?,
            None if for_update => {
                return Err(
                    Failure::new(Code::Failed, "for update makes sense in a transaction only")
                        .advise("begin opens one"),
                );
            }
            None => {
                let executed = self.client.execute(&self.execute().get(key.clone())).await?;
                trace = executed.trace;
                let found = executed.values.into_iter().next().flatten();
                found.map(|found| found.value)
            }
        };
        self.tell_age();
        match value {
            Some(value) => {
                let mut rows = self.printer.rows(false);
                let row = Row {
                    key,
                    value,
                    timestamp: Timestamp::ZERO,
                };
                rows.row(&row)?;
                rows.finish()?;
            }
            None => {
                remark(&format!("{} has no value", escape(key.as_ref())));
                self.printer.nothing(key.as_ref())?;
            }
        }
        self.tell_trace(trace.as_ref())
    }

    async fn put(&mut self, key: Key, value: Vec<u8>) -> Result<(), Failure> {
        match &mut self.open {
            Some(open) => {
                open.txn.put(key, value).await?;
                open.writes += 1;
                Ok(())
            }
            None => {
                let executed = self.client.execute(&self.execute().put(key, value)).await?;
                self.acknowledge(&executed.committed)?;
                self.tell_trace(executed.trace.as_ref())
            }
        }
    }

    async fn delete(&mut self, keys: Vec<Key>) -> Result<(), Failure> {
        match &mut self.open {
            Some(open) => {
                for key in keys {
                    open.txn.delete(key).await?;
                    open.writes += 1;
                }
                Ok(())
            }
            None => {
                let deletes = keys
                    .into_iter()
                    .fold(self.execute(), |execute, key| execute.delete(key));
                let executed = self.client.execute(&deletes).await?;
                self.acknowledge(&executed.committed)?;
                self.tell_trace(executed.trace.as_ref())
            }
        }
    }

    async fn delete_range(&mut self, range: meridian_client::KeyRange) -> Result<(), Failure> {
        let mut trace = None;
        let deleted = match &mut self.open {
            Some(open) => {
                let deleted = open.txn.delete_range(range).await?;
                open.writes += deleted;
                deleted
            }
            None => {
                let range = &range;
                let options = TxnOptions {
                    trace: self.traces,
                    ..TxnOptions::default()
                };
                let work = |txn: Txn| async move { Ok((txn.delete_range(range.clone()).await?, txn)) };
                let (deleted, txn) = self.client.transact_with(options, work).await?;
                trace = txn.trace();
                deleted
            }
        };
        self.printer.number("deleted", deleted)?;
        self.tell_trace(trace.as_ref())
    }

    async fn scan(&mut self, scan: Scan) -> Result<(), Failure> {
        let options = ScanOptions {
            limit: scan.limit,
            reverse: scan.reverse,
            keys_only: scan.keys_only,
            ..ScanOptions::default()
        };
        let reader = self.reader().await?;
        let mut found = reader.txn().scan(scan.range, options).await?;
        // Kept until all pages are read; only then may it be rolled back.
        let own = match reader {
            Reader::Open(_) => None,
            Reader::Own(txn) => Some(txn),
        };
        let mut rows = self.printer.rows(scan.keys_only);
        loop {
            let page = match found.next_page().await {
                Ok(page) => page,
                Err(error) => {
                    rows.finish()?;
                    return Err(Failure::from(error).advise("the rows above are not all there are"));
                }
            };
            if page.is_empty() {
                break;
            }
            page.iter().try_for_each(|row| rows.row(row))?;
        }
        rows.finish()?;
        self.tell_age();
        let trace = match own {
            Some(txn) => finish_reading(txn).await?,
            None => None,
        };
        self.tell_trace(trace.as_ref())
    }

    async fn count(&mut self, range: meridian_client::KeyRange) -> Result<(), Failure> {
        let reader = self.reader().await?;
        let count = reader.txn().count(range).await?;
        let trace = match reader {
            Reader::Open(_) => None,
            Reader::Own(txn) => finish_reading(txn).await?,
        };
        self.tell_age();
        self.printer.number("count", count)?;
        self.tell_trace(trace.as_ref())
    }

    /// Says how old what was read in the open transaction is, if it reads the past.
    fn tell_age(&self) {
        if let Some(snapshot) = self.open.as_ref().and_then(|open| open.txn.snapshot()) {
            remark(&format!("as of {}, {:?} ago", snapshot.timestamp, snapshot.age));
        }
    }

    async fn outcome(&mut self, token: meridian_client::CommitToken) -> Result<(), Failure> {
        let outcome = self.client.outcome(token).await?;
        self.printer.outcome(outcome)?;
        match outcome {
            Outcome::Forgotten => Err(Failure::new(
                Code::Unknown,
                "the transaction is too old: nobody remembers what became of it",
            )),
            Outcome::Committed(_) | Outcome::Aborted => Ok(()),
        }
    }

    fn acknowledge(&mut self, committed: &meridian_client::Committed) -> Result<(), Failure> {
        if self.printer.prints_acknowledgements() {
            return Ok(self.printer.committed(committed)?);
        }
        remark(&match committed.timestamp {
            Timestamp::ZERO => "ok, nothing to write".to_owned(),
            timestamp => format!("ok, committed at {timestamp}"),
        });
        Ok(())
    }
}

/// Ends a transaction that has read; one that is traced by its commit, which tells what the reads waited for.
async fn finish_reading(txn: Transaction) -> Result<Option<Trace>, Failure> {
    if txn.trace().is_none() {
        return Ok(None);
    }
    let traced = Txn::clone(&txn);
    txn.commit().await?;
    Ok(traced.trace())
}

enum Reader<'a> {
    Open(&'a Transaction),
    Own(Transaction),
}

impl Reader<'_> {
    fn txn(&self) -> &Txn {
        match self {
            Self::Open(txn) => txn,
            Self::Own(txn) => txn,
        }
    }
}

/// A line on standard error.
pub fn remark(line: &str) {
    // Nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
