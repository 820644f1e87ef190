//! The commit of a transaction: attempts at the owner of its home stream, until one has a definite end
//! (protocol sections 4 and 5, R1, R3).
//!
//! ```text
//! attempt n ── Decide, and Prepare to every other range
//!    ^           ├─> decided ──> committed, as its owner or this region's journal node says ──> R3 ──> told
//!    │           ├─> held, not ready ──> the same attempt again, after a pause
//!    │           ├─> wrong epoch, given up ──> never decided: attempt n + 1 at the owner
//!    │           └─> refused ──> told
//!    └── aborted <── AttemptOutcome <── lost after sending, owner deposed, a participant's no
//!                        └──> committed ──> R3: wait until now.earliest > commit ──> told
//!                        └──> the client's deadline: unknown
//! ```
//! An attempt is sent again only after an answer to the last time, or when it was surely not sent. A refusal that holds
//! only for the moment says nothing of a copy of the request that is still on its way: before the client is told of
//! it, the owner gives the attempt up (I9).
//!
//! | module | what |
//! |---|---|
//! | `attempts` | attempt after attempt |
//! | `send` | one attempt, sent once |
//! | `participants` | its prepares |
//! | `verdict` | what an answer means |
//! | `resolve` | what became of an attempt without an answer |

mod attempts;
mod participants;
mod resolve;
mod send;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::WriteSet;
use meridian_rpc::v1::hop::Kind;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{
    Attempt, CommitToken, Epoch, Key, KeyRange, NodeName, RangeMap, StreamId, Timestamp, Write,
};
use prost::Message;
use tokio::time::Instant;

use crate::plan::Plan;
use crate::processor::Processor;
use crate::trace::Span;
use crate::txn::{CommitStart, Committed, Ending, Txn, Work};

pub(crate) use resolve::Asked;

/// How long after its deadline a commit is still waited for: its own answer is better than ours.
const GRACE: Duration = Duration::from_millis(20);
/// How long the commit wait may go on when nobody waits for it any more.
const LONGEST_COMMIT_WAIT: Duration = Duration::from_secs(60);

/// What asking for a commit led to.
pub(crate) enum CommitStep {
    /// The transaction is ready: tell the token, then [`Processor::launch`].
    Ready(Box<Prepared>),
    /// It needs no commit, or one is under way: [`Processor::commit_result`] knows.
    Decided,
}

/// A transaction about to be committed. Dropped before it was launched, it is rolled back.
pub(crate) struct Prepared {
    guard: CommitGuard,
    start: Timestamp,
    home: StreamId,
    /// Of all ranges, as it goes into the journal.
    write_set: bytes::Bytes,
    written: Vec<Key>,
    reads: Vec<KeyRange>,
    plan: Plan,
    /// The commit, while it is measured.
    span: Span,
}

impl Prepared {
    /// What the client needs to know before any commit message is sent (R1).
    pub(crate) fn token(&self) -> CommitToken {
        CommitToken {
            txn: self.guard.txn.id,
            start: self.start,
            home: Some(self.home),
        }
    }

    /// The name of a new attempt.
    fn next_attempt(&self, home_epoch: Epoch) -> Attempt {
        Attempt {
            txn: self.guard.txn.id,
            number: self.guard.txn.next_attempt(),
            home: self.home,
            home_epoch,
        }
    }

    /// Whether its keys are grouped as the map has them.
    fn follows(&self, map: &RangeMap) -> bool {
        self.plan.map_version == map.version
    }

    /// Groups its keys anew if the map has changed; the home stays (R1).
    fn follow(&mut self, map: &RangeMap) -> KvResult<()> {
        if !self.follows(map) {
            self.plan = Plan::new(map, &self.written, &self.reads)?;
        }
        Ok(())
    }
}

/// Ends the transaction if nobody else does: between asking for the commit and sending it, its caller
/// may go away.
struct CommitGuard {
    txn: Arc<Txn>,
    sent: bool,
}

impl Drop for CommitGuard {
    fn drop(&mut self) {
        if self.sent {
            // Only after a panic or at the end of the runtime: the commit may be under way.
            self.txn.end(Err(KvError::OutcomeUnknown {
                token: self.txn.token(),
            }));
        } else {
            let why = "its client went away before the commit was sent".to_owned();
            self.txn.end(Err(KvError::Aborted { why }));
        }
    }
}

impl Processor {
    /// Takes the transaction's writes for its commit and fixes its start (R1). A transaction that wrote nothing
    /// commits by doing nothing (R7): it read one snapshot, and is serializable as of that.
    pub(crate) async fn prepare_commit(&self, txn: &Arc<Txn>, deadline: Instant) -> KvResult<CommitStep> {
        let span = txn.span(Kind::Commit);
        let CommitStart::Begins(work) = txn.begin_commit()? else {
            return Ok(CommitStep::Decided);
        };
        let guard = CommitGuard {
            txn: txn.clone(),
            sent: false,
        };
        if work.buffer.is_empty() {
            let commit = Timestamp::ZERO;
            // Recorded before anybody can ask for it.
            drop(span);
            txn.end(Ok(Committed {
                commit,
                token: txn.token(),
            }));
            return Ok(CommitStep::Decided);
        }
        match self.plan_commit(guard, work, deadline, span).await {
            Ok(prepared) => Ok(CommitStep::Ready(Box::new(prepared))),
            Err(error) => {
                txn.end(Err::<Committed, KvError>(error));
                Ok(CommitStep::Decided)
            }
        }
    }

    async fn plan_commit(
        &self,
        guard: CommitGuard,
        work: Work,
        deadline: Instant,
        span: Span,
    ) -> KvResult<Prepared> {
        let start = guard
            .txn
            .start(self, &KeyRange::all(), deadline, &span)
            .await
            .map_err(before_commit)?;
        let began = Instant::now();
        let writes = work.buffer.into_writes();
        let written: Vec<Key> = writes.keys().cloned().collect();
        let reads = work.reads.into_ranges();
        let plan = Plan::new(&self.owners.map(), &written, &reads)?;
        let home = plan.choose_home(|stream| self.round_trip(stream))?;
        guard.txn.set_home(home);
        if !plan.is_alone(home) {
            self.measure_delays(&plan);
        }
        let writes = writes.into_iter().map(|(key, value)| Write { key, value }.into());
        let write_set = WriteSet {
            writes: writes.collect(),
        };
        let write_set = write_set.encode_to_vec().into();
        span.step(Kind::Plan, began);
        Ok(Prepared {
            guard,
            start,
            home,
            write_set,
            written,
            reads,
            plan,
            span,
        })
    }

    /// The node that owns a stream, or may: to whom its round trip is measured.
    fn probable_owner(&self, stream: StreamId) -> Option<NodeName> {
        if let Some(owner) = self.owners.known(stream) {
            return Some(owner.node);
        }
        self.owners.map().candidates(stream).into_iter().next()
    }

    fn round_trip(&self, stream: StreamId) -> Duration {
        let owner = self.probable_owner(stream);
        owner.map_or(Duration::ZERO, |owner| {
            self.adjudicators.delays.round_trip(&owner)
        })
    }

    /// For the choice of later homes.
    fn measure_delays(&self, plan: &Plan) {
        for stream in plan.streams() {
            if let Some(owner) = self.probable_owner(stream) {
                self.adjudicators.measure(&owner, stream);
            }
        }
    }

    /// Sends the commit. It goes on to its end even if its caller goes away.
    pub(crate) fn launch(self: &Arc<Self>, mut prepared: Box<Prepared>, deadline: Instant) {
        prepared.guard.sent = true;
        let processor = self.clone();
        tokio::spawn(async move {
            let ending = processor.drive(&mut prepared, deadline).await;
            processor.figures.count(&ending);
            // Recorded before anybody can ask for it.
            drop(std::mem::take(&mut prepared.span));
            prepared.guard.txn.end(ending);
        });
    }

    /// How the commit ended; `OutcomeUnknown` when the deadline comes first.
    pub(crate) async fn commit_result(&self, txn: &Txn, deadline: Instant) -> Ending {
        match txn.wait_for_end(deadline + GRACE).await {
            Some(ending) => ending,
            None => Err(KvError::OutcomeUnknown { token: txn.token() }),
        }
    }

    /// All of it, for callers that need not be told the token first.
    pub(crate) async fn commit(self: &Arc<Self>, txn: &Arc<Txn>, deadline: Instant) -> Ending {
        if let CommitStep::Ready(prepared) = self.prepare_commit(txn, deadline).await? {
            self.launch(prepared, deadline);
        }
        self.commit_result(txn, deadline).await
    }

    async fn drive(&self, prepared: &mut Prepared, deadline: Instant) -> Ending {
        let token = prepared.token();
        let sent = Instant::now();
        let ended = self.attempts(prepared, deadline).await;
        self.figures.attempts.record(sent.elapsed());
        let commit = ended?;
        if is_broken(Rule::CommitWait) {
            return Ok(Committed { commit, token });
        }
        let known = Instant::now();
        let wait = meridian_clock::wait_until_past(&*self.env.clock, commit);
        let waited = tokio::time::timeout_at(deadline + LONGEST_COMMIT_WAIT, wait).await;
        self.figures.commit_wait.record(known.elapsed());
        if !prepared.span.has(Kind::CommitWait) {
            prepared.span.step(Kind::CommitWait, known);
        }
        match waited {
            Ok(()) => Ok(Committed { commit, token }),
            Err(_) => Err(KvError::OutcomeUnknown { token }),
        }
    }
}

/// Before anything was sent, a deadline that passes is a definite end.
fn before_commit(error: KvError) -> KvError {
    match error {
        KvError::DeadlineExceeded { waiting_for } => KvError::Aborted {
            why: format!("the deadline passed before its commit, while waiting for {waiting_for}"),
        },
        other => other,
    }
}
