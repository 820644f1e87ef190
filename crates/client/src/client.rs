//! The client: transactions with retries, and one-shot calls.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use meridian_rpc::KvError;
use meridian_rpc::v1::admin_client::AdminClient;
use meridian_rpc::v1::change_ranges_request::Change as RangeChange;
use meridian_rpc::v1::faults_client::FaultsClient;
use meridian_rpc::v1::{
    ChangeRangesRequest, ClusterStatusRequest, ClusterStatusResponse, FaultReport, FaultRequest,
};
use meridian_types::{CommitToken, Key, KeyRange, Timestamp, limits};
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service};

use crate::budget::{Backoff, Random, Tokens};
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::execute::{Execute, Executed};
use crate::options::{ScanOptions, TxnOptions};
use crate::outcome::{Outcome, resolve};
use crate::pool::Pool;
use crate::scan::Row;
use crate::session::describe;
use crate::transaction::{Committed, Transaction};
use crate::transport::BoxTransport;
use crate::txn::{Limit, Txn};

const FIRST_DELAY: Duration = Duration::from_millis(4);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// A client of one cluster. Cheap to clone; all clones share sessions and the retry budget.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What all clones share.
pub(crate) struct Inner {
    pub(crate) pool: Pool,
    pub(crate) random: Random,
    pub(crate) tokens: Tokens,
    pub(crate) deadline: Duration,
}

impl Inner {
    /// A call or a transaction succeeded.
    fn succeeded(&self) {
        self.tokens.succeeded();
        self.pool.trouble.clear();
    }
}

impl Client {
    /// Connects to routers, given as `host:port`; the first is preferred.
    ///
    /// # Errors
    /// `Unavailable` when none can be reached.
    pub async fn connect<A: AsRef<str>>(endpoints: impl IntoIterator<Item = A>) -> Result<Self> {
        let builder = endpoints
            .into_iter()
            .fold(Builder::default(), |builder, address| builder.endpoint(address));
        builder.connect().await
    }

    /// A client on a transport of any kind: anything on which generated gRPC clients run. Connects when it
    /// is first used. Must be called within a tokio runtime.
    pub fn from_transport<T, B>(transport: T) -> Result<Self>
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        T::Future: Send + 'static,
        T::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Builder::default()
            .transport("in process", transport)
            .connect_lazy()
    }

    /// Sets up a client step by step.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The region of the query processor that new transactions get, while one is connected.
    pub fn region(&self) -> Option<String> {
        Some(self.inner.pool.current()?.hello.region.clone())
    }

    /// Runs a transaction: `work` as often as it takes, then commit. The first complete run whose commit
    /// succeeds wins; a run that met a conflict or lost its connection leaves nothing behind.
    ///
    /// Only the database is rolled back between runs, so `work` should have no other effects.
    ///
    /// ```
    /// # use meridian_client::{fake::FakeCluster, Client, Error};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
    /// # let client = FakeCluster::new().client();
    /// let visits = client
    ///     .transact(|txn| async move {
    ///         let before: u64 = match txn.get("visits").await? {
    ///             Some(text) => String::from_utf8_lossy(&text).parse().unwrap_or(0),
    ///             None => 0,
    ///         };
    ///         txn.put("visits", (before + 1).to_string()).await?;
    ///         Ok(before + 1)
    ///     })
    ///     .await?;
    /// assert_eq!(visits, 1);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// What `work` returns, if it is not worth a retry; the last error when the deadline or the retry
    /// budget ends; `OutcomeUnknown` when the deadline ends before it is known whether a commit succeeded.
    pub async fn transact<T, F, W>(&self, work: F) -> Result<T>
    where
        F: FnMut(Txn) -> W,
        W: Future<Output = Result<T>>,
    {
        self.try_transact(TxnOptions::default(), work).await
    }

    /// [`transact`](Self::transact) with options.
    pub async fn transact_with<T, F, W>(&self, options: TxnOptions, work: F) -> Result<T>
    where
        F: FnMut(Txn) -> W,
        W: Future<Output = Result<T>>,
    {
        self.try_transact(options, work).await
    }

    /// [`transact`](Self::transact) for work that fails with errors of its own. When it does, the
    /// transaction is rolled back and the error returned.
    ///
    /// ```
    /// # use meridian_client::{fake::FakeCluster, Client, Error, TxnOptions};
    /// #[derive(Debug)]
    /// enum Refused {
    ///     NoSuchAccount,
    ///     Database(Error),
    /// }
    /// impl From<Error> for Refused {
    ///     fn from(error: Error) -> Self {
    ///         Self::Database(error)
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let client = FakeCluster::new().client();
    /// let closed = client
    ///     .try_transact(TxnOptions::default(), |txn| async move {
    ///         txn.get("account/7").await?.ok_or(Refused::NoSuchAccount)?;
    ///         txn.delete("account/7").await?;
    ///         Ok(())
    ///     })
    ///     .await;
    /// assert!(matches!(closed, Err(Refused::NoSuchAccount)));
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for `transact`.
    pub async fn try_transact<T, E, F, W>(&self, options: TxnOptions, mut work: F) -> Result<T, E>
    where
        F: FnMut(Txn) -> W,
        W: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let mut options = options;
        let mut retries = Retries::new(&self.inner, options.deadline);
        loop {
            let limit = Limit::Until(retries.deadline);
            let txn = match Transaction::begin(self.inner.clone(), options, limit).await {
                Ok(txn) => txn,
                Err(error) => {
                    retries.next(&error).await.map_err(|()| error)?;
                    continue;
                }
            };
            let (error, failed) = match work(txn.clone()).await {
                Ok(value) => match txn.commit().await {
                    Ok(_) => {
                        self.inner.succeeded();
                        return Ok(value);
                    }
                    Err(error) => (error.clone(), E::from(error)),
                },
                Err(failed) => match txn.retryable() {
                    Some(error) => (error.into(), failed),
                    None => return Err(failed),
                },
            };
            retries.next(&error).await.map_err(|()| failed)?;
            options.min_start = options.min_start.max(min_start(&error));
        }
    }

    /// Begins a transaction by hand. Nothing is retried; see [`transact`](Self::transact).
    pub async fn begin(&self, options: TxnOptions) -> Result<Transaction> {
        let each = options.deadline.unwrap_or(self.inner.deadline);
        Transaction::begin(self.inner.clone(), options, Limit::Each(each)).await
    }

    /// The present value of a key.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Bytes>> {
        let executed = self.execute(&Execute::new().get(key)).await?;
        Ok(executed
            .values
            .into_iter()
            .next()
            .flatten()
            .map(|found| found.value))
    }

    /// Sets a key.
    pub async fn put(&self, key: impl Into<Key>, value: impl Into<Bytes>) -> Result<Committed> {
        Ok(self.execute(&Execute::new().put(key, value)).await?.committed)
    }

    /// Deletes a key.
    pub async fn delete(&self, key: impl Into<Key>) -> Result<Committed> {
        Ok(self.execute(&Execute::new().delete(key)).await?.committed)
    }

    /// The rows of a range, all from one snapshot and all in memory; for large ranges see
    /// [`Txn::scan`].
    pub async fn scan(&self, range: KeyRange, options: ScanOptions) -> Result<Vec<Row>> {
        let (range, options) = (&range, &options);
        self.transact_with(TxnOptions::read_only(), |txn| async move {
            txn.scan(range.clone(), options.clone()).await?.collect().await
        })
        .await
    }

    /// How many keys of a range have a value.
    pub async fn count(&self, range: KeyRange) -> Result<u64> {
        let range = &range;
        self.transact_with(TxnOptions::read_only(), |txn| async move {
            txn.count(range.clone()).await
        })
        .await
    }

    /// Runs a whole transaction in one call, with retries like [`transact`](Self::transact).
    ///
    /// ```
    /// # use meridian_client::{fake::FakeCluster, Client, Error, Execute};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Error> {
    /// # let client = FakeCluster::new().client();
    /// let claim = Execute::new().if_exists("lock", false).put("lock", "me");
    /// client.execute(&claim).await?;
    /// let again = client.execute(&claim).await.unwrap_err();
    /// assert_eq!(again.kv().map(|error| error.reason()), Some("PRECONDITION_FAILED"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `PreconditionFailed` names the first precondition that does not hold.
    pub async fn execute(&self, execute: &Execute) -> Result<Executed> {
        execute.check()?;
        let mut retries = Retries::new(&self.inner, None);
        let mut begin_at = Timestamp::ZERO;
        loop {
            match execute.attempt(&self.inner, begin_at, retries.deadline).await {
                Ok(executed) => {
                    self.inner.succeeded();
                    return Ok(executed);
                }
                Err(error) => {
                    retries.next(&error).await.map_err(|()| error.clone())?;
                    begin_at = begin_at.max(min_start(&error).unwrap_or_default());
                }
            }
        }
    }

    /// What became of a transaction. It is barred from committing for good before "aborted" is answered.
    ///
    /// # Errors
    /// `OutcomeUnknown` when nobody could answer before the deadline.
    pub async fn outcome(&self, token: CommitToken) -> Result<Outcome> {
        let deadline = Instant::now() + self.inner.deadline;
        let is_final =
            |error: &KvError| matches!(error, KvError::Invalid { .. } | KvError::WrongCluster { .. });
        Ok(resolve(&self.inner, token, deadline, is_final).await?)
    }

    /// The whole cluster as one router sees it. Tries the endpoints in turn.
    pub async fn cluster_status(&self) -> Result<ClusterStatusResponse> {
        self.ask_in_turn("the status", async |transport| {
            let mut admin = AdminClient::new(transport).max_decoding_message_size(limits::MAX_MESSAGE_BYTES);
            admin.cluster_status(ClusterStatusRequest {}).await
        })
        .await
    }

    /// Changes the key ranges: another owner, a split, a merge. Returns the version of the range map that says so; it takes effect
    /// right after.
    ///
    /// # Errors
    /// `Invalid` when it cannot be done. `Unavailable` when nobody has confirmed it: then it may have been done or not.
    pub async fn change_ranges(&self, change: RangeChange) -> Result<u64> {
        let request = ChangeRangesRequest { change: Some(change) };
        let request = &request;
        let answer = self.ask_in_turn("the ranges to be changed", async |transport| {
            AdminClient::new(transport).change_ranges(request.clone()).await
        });
        Ok(answer.await?.version)
    }

    /// Does something to a cluster that runs in one process, for tests and demonstrations: cuts links, kills nodes; `action` and
    /// `target` are explained at `FaultRequest`. Answers how the cluster is afterwards.
    ///
    /// # Errors
    /// `Invalid` when there is no such action or target; any other cluster does not offer this.
    pub async fn inject_fault(&self, action: &str, target: &str) -> Result<FaultReport> {
        let request = FaultRequest {
            action: action.to_owned(),
            target: target.to_owned(),
        };
        let request = &request;
        self.ask_in_turn("the fault to be done", async |transport| {
            FaultsClient::new(transport).inject(request.clone()).await
        })
        .await
    }

    /// Asks the endpoints until one answers, or says that the question is wrong.
    async fn ask_in_turn<T>(
        &self,
        what: &str,
        ask: impl AsyncFn(BoxTransport) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T> {
        let mut last = Error::from(KvError::unavailable("there is no endpoint"));
        for target in self.inner.pool.targets.iter() {
            last = match timeout(self.inner.deadline, ask(target.transport())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => KvError::from_status(&status).map_or_else(
                    || Error::Transport {
                        endpoint: target.name.clone(),
                        what: describe(&status),
                    },
                    Error::from,
                ),
                Err(_) => KvError::DeadlineExceeded {
                    waiting_for: format!("{what} from {}", target.name),
                }
                .into(),
            };
            if matches!(last.kv(), Some(KvError::Invalid { .. })) {
                break;
            }
        }
        Err(last)
    }
}

/// Decides whether to try again, and waits before it.
struct Retries<'a> {
    client: &'a Inner,
    deadline: Instant,
    backoff: Backoff,
}

impl<'a> Retries<'a> {
    fn new(client: &'a Inner, deadline: Option<Duration>) -> Self {
        Self {
            client,
            deadline: Instant::now() + deadline.unwrap_or(client.deadline),
            backoff: Backoff::new(client.random.clone(), FIRST_DELAY, MAX_DELAY),
        }
    }

    /// Waits before the next attempt; an error when there should be none.
    async fn next(&mut self, error: &Error) -> Result<(), ()> {
        // It has waited for as long as there was hope. To wait again would be a queue without bounds, only in another place; and the
        // budget is for what the servers refuse.
        if matches!(error, Error::Refused(_)) {
            return Err(());
        }
        if let Some(error) = error.kv() {
            self.client.pool.trouble.failed(error);
        }
        if !error.is_retryable() {
            return Err(());
        }
        let delay = self.backoff.next(error.retry_after());
        if Instant::now() + delay >= self.deadline {
            return Err(());
        }
        let contention = matches!(error.kv(), Some(KvError::Conflict { .. }));
        if !contention && !self.client.tokens.take() {
            tracing::debug!(%error, "retry budget spent");
            return Err(());
        }
        sleep(delay).await;
        Ok(())
    }
}

/// Where a retry has to begin so as not to meet the same conflict.
fn min_start(error: &Error) -> Option<Timestamp> {
    match error.kv()? {
        KvError::Conflict { with, .. } => Some(*with),
        KvError::SnapshotTooOld { min_start } => Some(*min_start),
        _ => None,
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<_> = self.pool.targets.iter().map(|target| &target.name).collect();
        f.debug_struct("Client")
            .field("endpoints", &endpoints)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
