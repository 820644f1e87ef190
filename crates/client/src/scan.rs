//! A scan in progress: rows arrive page by page, the next page is under way while one is read.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{self, ScanNext, ScanPage};
use meridian_types::{Key, Timestamp};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use crate::error::{Error, Result};
use crate::session::{Answers, Failure};
use crate::txn::Open;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Key,
    /// The value; empty in a scan of keys only.
    pub value: Bytes,
    /// When the value was committed; [`Timestamp::ZERO`] for the transaction's own write.
    pub timestamp: Timestamp,
}

impl From<v1::Row> for Row {
    fn from(row: v1::Row) -> Self {
        Self {
            key: Key(row.key),
            value: row.value,
            timestamp: Timestamp(row.timestamp),
        }
    }
}

/// Rows of a range, in order. Memory stays bounded however many there are; dropping it ends the scan.
pub struct Scan {
    open: Arc<Open>,
    id: u64,
    /// The request for the page that is under way, if it is not the first.
    asked: Option<u64>,
    answers: Answers,
    pages: mpsc::Receiver<Result<Reply, Failure>>,
    rows: VecDeque<Row>,
    count: u64,
    finished: bool,
}

impl Scan {
    pub(crate) async fn start(open: Arc<Open>, request: v1::ScanRequest) -> Result<Self> {
        // One page is under way at a time, and an error may follow it.
        let (answers, pages) = mpsc::channel(4);
        open.check()?;
        let id = open
            .session
            .stream(open.number, open.deadline(), Op::Scan(request), answers.clone())
            .await
            .map_err(|failure| open.failed(failure, "starting a scan"))?;
        Ok(Self {
            open,
            id,
            asked: None,
            answers,
            pages,
            rows: VecDeque::new(),
            count: 0,
            finished: false,
        })
    }

    /// The next row; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Row>> {
        while self.rows.is_empty() && !self.finished {
            self.fetch().await?;
        }
        Ok(self.rows.pop_front())
    }

    /// The rows of the next page, all at once; empty after the last.
    pub async fn next_page(&mut self) -> Result<Vec<Row>> {
        while self.rows.is_empty() && !self.finished {
            self.fetch().await?;
        }
        Ok(std::mem::take(&mut self.rows).into())
    }

    /// All the rows. Only for results that surely fit into memory.
    pub async fn collect(mut self) -> Result<Vec<Row>> {
        let mut all = Vec::new();
        loop {
            let page = self.next_page().await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The same as a `Stream`.
    pub fn into_stream(self) -> impl Stream<Item = Result<Row>> + Send {
        futures::stream::try_unfold(self, |mut scan| async move {
            Ok(scan.next().await?.map(|row| (row, scan)))
        })
    }

    /// Reads to the end and returns how many rows the server counted.
    pub(crate) async fn into_count(mut self) -> Result<u64> {
        while !self.finished {
            self.fetch().await?;
            self.rows.clear();
        }
        Ok(self.count)
    }

    async fn fetch(&mut self) -> Result<()> {
        let answer = timeout_at(self.open.deadline(), self.pages.recv()).await;
        let page = match answer {
            Ok(Some(Ok(Reply::Page(page)))) => page,
            Ok(Some(Ok(_))) => return self.end(Failure::Kv(unexpected())),
            Ok(Some(Err(failure))) => return self.end(failure),
            Ok(None) => return self.end(Failure::Kv(unexpected())),
            Err(_) => return self.end(Failure::Timeout),
        };
        self.take(page).await
    }

    async fn take(&mut self, page: ScanPage) -> Result<()> {
        self.forget_request();
        self.open.note_snapshot(page.snapshot.as_ref());
        self.rows.extend(page.rows.into_iter().map(Row::from));
        self.count = page.count;
        self.finished = page.last;
        if self.finished {
            self.open.session.forget(self.id);
            return Ok(());
        }
        let more = Op::ScanNext(ScanNext {
            scan: self.id,
            cancel: false,
        });
        let deadline = self.open.deadline();
        // Its error, if there is one, may come under either number.
        let answers = self.answers.clone();
        match self
            .open
            .session
            .stream(self.open.number, deadline, more, answers)
            .await
        {
            Ok(asked) => {
                self.asked = Some(asked);
                Ok(())
            }
            Err(failure) => self.end(failure),
        }
    }

    fn forget_request(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.open.session.forget(asked);
        }
    }

    fn end(&mut self, failure: Failure) -> Result<()> {
        self.finished = true;
        self.rows.clear();
        self.forget_request();
        self.open.session.forget(self.id);
        Err(self.open.failed(failure, "reading a page of a scan"))
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if !self.finished {
            self.forget_request();
            self.open.session.forget(self.id);
            let cancel = Op::ScanNext(ScanNext {
                scan: self.id,
                cancel: true,
            });
            // When the queue is full the scan ends with its transaction instead.
            self.open.session.try_post(self.open.number, cancel);
        }
    }
}

fn unexpected() -> KvError {
    KvError::internal("a scan was answered with something else than a page")
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan")
            .field("id", &self.id)
            .field("count", &self.count)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// An answer of the wrong kind: the server does not keep to the protocol.
pub(crate) fn wrong_answer(to: &str) -> Error {
    KvError::internal(format!("{to} was answered with something else")).into()
}
