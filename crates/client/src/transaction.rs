//! A transaction as a whole: begin, commit, rollback.

use std::ops::Deref;
use std::sync::Arc;

use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{CommitRequest, RollbackRequest};
use meridian_types::{CommitToken, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::client::Inner;
use crate::error::Result;
use crate::options::TxnOptions;
use crate::outcome::{Outcome, resolve_commit};
use crate::session::Failure;
use crate::txn::{Limit, Open, Txn};

/// A transaction that committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When its writes became visible; [`Timestamp::ZERO`] for a transaction that wrote nothing.
    pub timestamp: Timestamp,
    /// Names it in later questions.
    pub token: CommitToken,
}

/// A transaction that was begun by hand, with the operations of [`Txn`]. Dropping it rolls it back.
///
/// ```
/// # use meridian_client::{fake::FakeCluster, Error, TxnOptions};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
/// # let client = FakeCluster::new().client();
/// let txn = client.begin(TxnOptions::default()).await?;
/// txn.put("k", "v").await?;
/// assert_eq!(txn.get("k").await?.as_deref(), Some(&b"v"[..]));
/// let committed = txn.commit().await?;
/// assert_eq!(client.get("k").await?.as_deref(), Some(&b"v"[..]));
/// # let _ = committed;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Transaction {
    txn: Txn,
    client: Arc<Inner>,
}

impl Deref for Transaction {
    type Target = Txn;

    fn deref(&self) -> &Txn {
        &self.txn
    }
}

impl Transaction {
    pub(crate) async fn begin(client: Arc<Inner>, options: TxnOptions, limit: Limit) -> Result<Self> {
        let open = Arc::new(Open::begin(&client, options, limit).await?);
        Ok(Self {
            txn: Txn { open },
            client,
        })
    }

    /// Commits. `Ok` means durable, and visible to every transaction that begins from now on.
    ///
    /// If the answer is lost the outcome is asked for until the deadline. So every error but
    /// `OutcomeUnknown` says for certain that nothing was applied; that one carries the token to ask with.
    pub async fn commit(self) -> Result<Committed> {
        self.txn.open.check()?;
        // One that is traced asks all the same: the answer tells what its reads waited for.
        if self.txn.open.read_only && self.txn.open.lock().calls.is_none() {
            // It commits by doing nothing (R7). Dropping it tells the server.
            let token = self.token();
            return Ok(Committed {
                timestamp: Timestamp::ZERO,
                token,
            });
        }
        let deadline = self.txn.open.deadline();
        let began = Instant::now();
        // Two answers are due: the token, then the result.
        let (answers, mut replies) = mpsc::channel(4);
        let commit = Op::Commit(CommitRequest::default());
        let session = &self.txn.open.session;
        let id = match session
            .stream(self.txn.open.number, deadline, commit, answers)
            .await
        {
            Ok(id) => id,
            Err(Failure::NotSent) => {
                let why = "the deadline passed before the commit was sent".to_owned();
                return Err(KvError::Aborted { why }.into());
            }
            Err(failure) => return Err(self.txn.open.failed(failure, "sending the commit")),
        };
        self.txn.open.lock().ended = true;
        let answer = self.await_commit(&mut replies, deadline, began).await;
        session.forget(id);
        match answer {
            Ok(timestamp) => {
                self.client.pool.trouble.clear();
                Ok(Committed {
                    timestamp,
                    token: self.token(),
                })
            }
            Err(Failure::Kv(error)) if error.is_definite() => Err(error.into()),
            Err(doubt) => self.settle(doubt, deadline).await,
        }
    }

    async fn await_commit(
        &self,
        replies: &mut mpsc::Receiver<Result<Reply, Failure>>,
        deadline: Instant,
        began: Instant,
    ) -> Result<Timestamp, Failure> {
        loop {
            match timeout_at(deadline, replies.recv()).await {
                Ok(Some(Ok(Reply::Committing(token)))) => self.txn.open.lock().learn(Some(&token)),
                Ok(Some(Ok(Reply::Committed(committed)))) => {
                    let mut state = self.txn.open.lock();
                    state.learn(committed.token.as_ref());
                    if let Some(calls) = &mut state.calls {
                        calls.note_commit(began, committed.trace);
                    }
                    return Ok(Timestamp(committed.commit_timestamp));
                }
                Ok(Some(Err(failure))) => return Err(failure),
                Ok(Some(Ok(_)) | None) => {
                    return Err(Failure::Kv(KvError::internal(
                        "commit was answered with something else",
                    )));
                }
                Err(_) => return Err(Failure::Timeout),
            }
        }
    }

    /// The commit was sent and its answer does not say what became of it: asks.
    async fn settle(&self, doubt: Failure, deadline: Instant) -> Result<Committed> {
        if let Failure::Kv(KvError::OutcomeUnknown { token }) = &doubt {
            self.txn.open.lock().learn(Some(&(*token).into()));
        }
        let token = self.token();
        tracing::debug!(txn = %token.txn, ?doubt, "commit in doubt: asking for the outcome");
        match resolve_commit(&self.client, token, deadline).await? {
            Outcome::Committed(timestamp) => Ok(Committed { timestamp, token }),
            Outcome::Aborted => Err(KvError::Aborted {
                why: match doubt {
                    Failure::Lost(why) => format!("the connection was lost at commit: {why}"),
                    Failure::Timeout | Failure::NotSent => "the commit was not decided in time".to_owned(),
                    Failure::Kv(error) | Failure::Refused(error) => error.to_string(),
                },
            }
            .into()),
            Outcome::Forgotten => Err(KvError::OutcomeUnknown { token }.into()),
        }
    }

    /// Rolls back. Nothing was or will be applied, whatever this returns.
    pub async fn rollback(self) -> Result<()> {
        let rollback = Op::Rollback(RollbackRequest::default());
        self.txn.open.lock().ended = true;
        let deadline = self.txn.open.deadline();
        match self
            .txn
            .open
            .session
            .call(self.txn.open.number, deadline, rollback)
            .await
        {
            // A server that does not know it any more has rolled it back.
            Ok(_) | Err(Failure::Lost(_) | Failure::Kv(KvError::TransactionNotFound { .. })) => Ok(()),
            Err(failure) => Err(self.txn.open.failed(failure, "rolling back")),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.txn.open.lock().ended, true) {
            return;
        }
        let rollback = || Op::Rollback(RollbackRequest::default());
        let open = &self.txn.open;
        if open.session.is_lost() || open.session.try_post(open.number, rollback()) {
            return;
        }
        // The queue is full: wait for room, outside of this drop.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let open = open.clone();
            runtime.spawn(async move {
                let _ = open.session.post(open.number, open.deadline(), rollback()).await;
            });
        }
    }
}
