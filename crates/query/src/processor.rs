//! What all calls and sessions of one query processor share.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_rpc::error::KvResult;
use meridian_rpc::handle::TxnHandle;
use meridian_rpc::owner::Owners;
use meridian_rpc::v1::{BeginRequest, BeginResponse};
use meridian_rpc::{CommittedWatch, Env, KvError, convert};
use meridian_types::{CommitToken, Timestamp, TxnId};
use rand::RngCore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adjudicators::Adjudicators;
use crate::begin::{self, Options};
use crate::budget::{Budget, Reservation};
use crate::config::Config;
use crate::figures::Figures;
use crate::mux::MuxLimits;
use crate::registry::{Asked, Registry};
use crate::retry::Retry;
use crate::scan::{Scan, ScanSpec};
use crate::shards::StorageNode;
use crate::storage::StorageNodes;
use crate::txn::Txn;

/// When to come back after too much was found under way.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How often draining looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// One query processor.
pub(crate) struct Processor {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) owners: Owners,
    pub(crate) storage: StorageNodes,
    pub(crate) adjudicators: Arc<Adjudicators>,
    /// What the journal has committed.
    pub(crate) committed: CommittedWatch,
    pub(crate) registry: Arc<Registry>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) retry: Retry,
    pub(crate) figures: Figures,
    /// Nothing new is let in, and the clients of open sessions are told to open others.
    pub(crate) draining: CancellationToken,
    /// Nothing is begun in open sessions either: their clients have had the time to open others.
    refusing: CancellationToken,
    /// Everything ends.
    pub(crate) closed: CancellationToken,
    operations: Arc<Semaphore>,
    pub(crate) sessions: Arc<Semaphore>,
}

impl Processor {
    pub(crate) fn new(
        config: Config,
        env: Env,
        owners: Owners,
        committed: CommittedWatch,
        storage: &[StorageNode],
        draining: CancellationToken,
    ) -> Self {
        let mut rng = env.rng();
        let spread = usize::try_from(rng.next_u32()).unwrap_or_default();
        let retry = Retry::new(&config, rng);
        let closed = CancellationToken::new();
        let limits = MuxLimits {
            queue: config.queue_requests,
            batch: config.batch_requests,
            batch_bytes: config.batch_bytes,
        };
        let read_attempt = Duration::from_millis(config.read_attempt_ms);
        let outcome_attempt = Duration::from_millis(config.outcome_attempt_ms);
        let network = env.network.clone();
        Self {
            owners,
            storage: StorageNodes::new(&network, storage, limits, &retry, &closed, read_attempt, spread),
            adjudicators: Arc::new(Adjudicators::new(
                network,
                limits,
                retry.clone(),
                closed.clone(),
                outcome_attempt,
            )),
            committed,
            registry: Registry::new(config.max_open_transactions, config.finished_transactions),
            budget: Budget::new(config.max_buffered_bytes),
            operations: Arc::new(Semaphore::new(config.max_operations)),
            sessions: Arc::new(Semaphore::new(config.max_sessions)),
            figures: Figures::default(),
            retry,
            draining,
            refusing: CancellationToken::new(),
            closed,
            env,
            config,
        }
    }

    /// Refuses, before any work is spent, when too much is under way.
    pub(crate) fn admit(&self) -> KvResult<OwnedSemaphorePermit> {
        self.operations.clone().try_acquire_owned().map_err(|_| {
            self.figures.refused.fetch_add(1, Ordering::Relaxed);
            let what = format!(
                "{} operations are under way, the limit of this node",
                self.config.max_operations
            );
            KvError::overloaded(what, self.retry.jitter(RETRY_AFTER * 2))
        })
    }

    /// Sessions that are open.
    pub(crate) fn open_sessions(&self) -> usize {
        self.config
            .max_sessions
            .saturating_sub(self.sessions.available_permits())
    }

    /// Whether it takes new transactions (section 2: not with a clock that it cannot trust).
    pub(crate) fn check_ready(&self) -> KvResult<()> {
        if self.draining.is_cancelled() {
            return Err(self.shutting_down());
        }
        self.check_begins()
    }

    fn shutting_down(&self) -> KvError {
        KvError::unavailable(format!("node {} is shutting down", self.env.node))
    }

    /// Whether transactions may begin in what is open.
    fn check_begins(&self) -> KvResult<()> {
        if self.refusing.is_cancelled() {
            return Err(self.shutting_down());
        }
        if !self.env.clock.is_healthy() {
            return Err(KvError::unavailable(format!(
                "the clock of node {} is off by up to {:?}, more than max_clock_error {:?}",
                self.env.node,
                self.env.clock.now().bound(),
                self.env.clock.max_error(),
            )));
        }
        Ok(())
    }

    /// Begins a transaction. Its snapshot is taken later (R1).
    pub(crate) fn begin(&self, request: &BeginRequest) -> KvResult<Arc<Txn>> {
        self.begin_as(request, Asked::ToBegin)
    }

    /// Begins a transaction, to run all of it or not.
    pub(crate) fn begin_as(&self, request: &BeginRequest, asked: Asked) -> KvResult<Arc<Txn>> {
        self.check_begins()?;
        let now = self.env.clock.now().latest;
        let options = Options::new(request, &self.config, now)?;
        let id = if request.txn_id.is_empty() {
            self.retry.with_rng(|rng| self.env.new_txn_id(rng))
        } else {
            let id = convert::txn_id(&request.txn_id)?;
            check_id(id, asked, now)?;
            id
        };
        let held = self.budget.reserve();
        let begun = self
            .registry
            .begin(id, asked, |slot| Txn::new(id, options, now, held, slot));
        match &begun {
            Ok(_) => self.figures.begun.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.figures.refused.fetch_add(1, Ordering::Relaxed),
        };
        begun
    }

    /// Whether a transaction of this id is refused because the id was made too long ago.
    pub(crate) fn is_held_up(&self, id: &[u8]) -> bool {
        let made_at = convert::txn_id(id).ok().and_then(begin::made_at);
        made_at.is_some_and(|made_at| begin::is_held_up(made_at, self.env.clock.now().latest))
    }

    /// What Begin answers.
    pub(crate) fn begun(&self, txn: &Txn) -> BeginResponse {
        let handle = TxnHandle {
            node: self.env.node.clone(),
            txn: txn.id,
        };
        BeginResponse {
            transaction: handle.encode(),
            token: Some(txn.token().into()),
        }
    }

    /// The transaction that a handle names. One of another node is not known here.
    pub(crate) fn find(&self, handle: &[u8]) -> KvResult<Arc<Txn>> {
        let handle = TxnHandle::decode(handle)?;
        if handle.node != self.env.node {
            let txn = handle.txn.to_string();
            return Err(KvError::TransactionNotFound { txn });
        }
        self.registry.get(handle.txn)
    }

    /// An empty part of the memory budget.
    pub(crate) fn reserve(&self) -> Reservation {
        self.budget.reserve()
    }

    /// Deletes what the transaction sees in a range; how many keys that were. All of them, or none.
    pub(crate) async fn delete_range(
        &self,
        txn: &Arc<Txn>,
        spec: ScanSpec,
        deadline: Instant,
    ) -> KvResult<u64> {
        if txn.options.read_only {
            return Err(KvError::ReadOnly);
        }
        // One more than fits is enough to name the limit.
        let most = meridian_types::limits::MAX_TXN_KEYS + 1;
        let spec = ScanSpec {
            limit: Some(most as u64),
            keys_only: true,
            ..spec
        };
        let mut held = self.reserve();
        let mut scan: Scan = txn.issue_scan(spec, self.reserve())?;
        let mut keys = Vec::new();
        let mut bytes = 0;
        loop {
            let page = scan.next_page(self, deadline).await?;
            for row in page.rows {
                bytes += row.key.len() + crate::buffer::ENTRY_OVERHEAD;
                keys.push(row.key);
            }
            held.resize(bytes)?;
            if page.last {
                break;
            }
        }
        let deleted = keys.len() as u64;
        txn.delete_all(keys)?;
        Ok(deleted)
    }

    /// Rolls back what is idle or too old, until everything is closed.
    pub(crate) async fn reap(&self) {
        let interval = Duration::from_millis(self.config.reap_interval_ms.max(1));
        loop {
            tokio::time::sleep(interval).await;
            for txn in self.registry.unfinished() {
                txn.reap(self.config.max_age());
            }
        }
    }

    /// After shutdown was asked for: lets clients go elsewhere and open transactions end, within a bound. For half of the time
    /// transactions may begin in sessions that are still open: a client needs a moment to open another.
    pub(crate) async fn drain(&self) {
        let began = Instant::now();
        let patience = Duration::from_millis(self.config.drain_ms);
        loop {
            let passed = began.elapsed();
            let all_left = self.sessions.available_permits() >= self.config.max_sessions;
            if all_left || passed >= patience / 2 {
                self.refusing.cancel();
            }
            let is_idle = self.refusing.is_cancelled() && self.registry.open() == 0;
            if is_idle || passed >= patience {
                break;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        for txn in self.registry.unfinished() {
            txn.abort("its query processor is shutting down");
        }
    }
}

/// Refuses a request that a stopped machine or a full queue held up for minutes. Of the transaction of that id this says
/// nothing: another request may have run it.
fn check_id(id: TxnId, asked: Asked, now: Timestamp) -> KvResult<()> {
    match begin::made_at(id) {
        Some(made_at) if begin::is_held_up(made_at, now) => Err(match asked {
            Asked::ToRun => KvError::OutcomeUnknown {
                token: CommitToken {
                    txn: id,
                    start: made_at,
                    home: None,
                },
            },
            Asked::ToBegin => KvError::Aborted {
                why: format!(
                    "its id was made {:?} ago, by itself; begin again with a new one",
                    now.since(made_at)
                ),
            },
        }),
        _ => Ok(()),
    }
}
