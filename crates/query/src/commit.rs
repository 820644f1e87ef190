//! The commit of a transaction: attempts at the owner of its home stream, until one has a definite end
//! (protocol sections 4 and 5, R1, R3).
//!
//! ```text
//! attempt n ── Decide ──> committed ──> wait until now.earliest > commit (R3) ──> told
//!    ^                    held, not ready ──> the same attempt again, after a pause
//!    │                    wrong epoch, given up ──> not decided there: attempt n + 1 at the owner
//!    │                    refused ──> told
//!    └── aborted <── AttemptOutcome <── lost after sending, owner deposed
//!                        └──> committed ──> R3
//!                        └──> the client's deadline: unknown
//! ```
//! An attempt is sent again only after an answer to the last time, or when it was surely not sent. A refusal that holds
//! only for the moment says nothing of a copy of the request that is still on its way: before the client is told of
//! it, the owner gives the attempt up (I9).

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::{DecideRequest, ReadRange, Refused, WriteSet, decision, refused::Reason};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, CommitToken, Epoch, Key, KeyRange, RangeMap, StreamId, Timestamp, Write};
use prost::Message;
use tokio::time::Instant;

use crate::mux::CallError;
use crate::processor::Processor;
use crate::retry::{Backoff, remaining_ms};
use crate::txn::{CommitStart, Committed, Ending, Txn, Work};

/// How long after its deadline a commit is still waited for: its own answer is better than ours.
const GRACE: Duration = Duration::from_millis(20);
/// What is kept of the time before the deadline, to have an attempt given up that was refused only for the moment.
const TO_GIVE_UP: Duration = Duration::from_millis(100);
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
    write_set: bytes::Bytes,
    reads: Vec<ReadRange>,
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

/// What became of an attempt.
enum Verdict {
    Committed(Timestamp),
    /// It never will be; another one may.
    NotDecided,
    /// Nor will this one, at an owner that stays the same: another one may, after a pause.
    GivenUp,
    /// The transaction is refused for good.
    Refused(KvError),
    /// It may have committed, or may yet.
    Unknown,
    /// Refused for the moment; the same attempt may be sent again after a pause. The error is what to say at the deadline.
    Again(KvError, Duration),
    /// Refused for the moment, and not worth another try.
    NotNow(KvError),
    /// Surely not sent.
    NotSent(KvError),
}

impl Processor {
    /// Takes the transaction's writes for its commit and fixes its start (R1). A transaction that wrote nothing
    /// commits by doing nothing (R7): it read one snapshot, and is serializable as of that.
    pub(crate) async fn prepare_commit(&self, txn: &Arc<Txn>, deadline: Instant) -> KvResult<CommitStep> {
        let CommitStart::Begins(Work { buffer, reads }) = txn.begin_commit()? else {
            return Ok(CommitStep::Decided);
        };
        let guard = CommitGuard {
            txn: txn.clone(),
            sent: false,
        };
        if buffer.is_empty() {
            let commit = Timestamp::ZERO;
            txn.end(Ok(Committed {
                commit,
                token: txn.token(),
            }));
            return Ok(CommitStep::Decided);
        }
        let prepared = async {
            let start = txn.start(self, deadline).await.map_err(before_commit)?;
            let writes = buffer.into_writes();
            let reads = reads.into_ranges();
            let home = home_of(&self.owners.map(), writes.keys(), &reads)?;
            txn.set_home(home);
            let writes = writes.into_iter().map(|(key, value)| Write { key, value }.into());
            let write_set = WriteSet {
                writes: writes.collect(),
            }
            .encode_to_vec()
            .into();
            let reads = reads.into_iter().map(ReadRange::from).collect();
            Ok((start, home, write_set, reads))
        };
        match prepared.await {
            Ok((start, home, write_set, reads)) => Ok(CommitStep::Ready(Box::new(Prepared {
                guard,
                start,
                home,
                write_set,
                reads,
            }))),
            Err(error) => {
                txn.end(Err::<Committed, KvError>(error));
                Ok(CommitStep::Decided)
            }
        }
    }

    /// Sends the commit. It goes on to its end even if its caller goes away.
    pub(crate) fn launch(self: &Arc<Self>, mut prepared: Box<Prepared>, deadline: Instant) {
        prepared.guard.sent = true;
        let processor = self.clone();
        tokio::spawn(async move {
            let ending = processor.drive(&prepared, deadline).await;
            processor.figures.count(&ending);
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

    async fn drive(&self, prepared: &Prepared, deadline: Instant) -> Ending {
        let token = prepared.token();
        let commit = self.attempts(prepared, deadline).await?;
        if is_broken(Rule::CommitWait) {
            return Ok(Committed { commit, token });
        }
        let wait = meridian_clock::wait_until_past(&*self.env.clock, commit);
        match tokio::time::timeout_at(deadline + LONGEST_COMMIT_WAIT, wait).await {
            Ok(()) => Ok(Committed { commit, token }),
            Err(_) => Err(KvError::OutcomeUnknown { token }),
        }
    }

    /// The transaction's attempts, and what to tell its client of their end.
    async fn attempts(&self, prepared: &Prepared, deadline: Instant) -> KvResult<Timestamp> {
        let mut open = None;
        let ended = self.try_until(prepared, deadline, &mut open).await;
        match (ended, open) {
            (Err(error), Some(attempt)) if error.is_definite() => {
                self.give_up(&prepared.token(), attempt, error, deadline).await
            }
            (ended, _) => ended,
        }
    }

    /// Attempt after attempt, all with the same start and the same home. `open` is the one that was sent and that its owner
    /// may still decide, should another copy of the request reach it.
    async fn try_until(
        &self,
        prepared: &Prepared,
        deadline: Instant,
        open: &mut Option<Attempt>,
    ) -> KvResult<Timestamp> {
        let token = prepared.token();
        let mut backoff = self.retry.backoff();
        let last_try = deadline - (deadline.saturating_duration_since(Instant::now()) / 4).min(TO_GIVE_UP);
        let mut number = 0;
        let mut epoch = None;
        let mut refused = too_late();
        loop {
            let owner = self.find_owner(prepared.home, &mut backoff, last_try).await?;
            // A request that left after its deadline could outlive every memory of what the client was told meanwhile.
            if Instant::now() >= deadline {
                return Err(refused);
            }
            // Another epoch is another attempt. Should the last one have been decided after all, its outcome is in the log that the
            // new owner adopted.
            if epoch != Some(owner.epoch) {
                number += 1;
                epoch = Some(owner.epoch);
            }
            let attempt = Attempt {
                txn: token.txn,
                number,
                home: prepared.home,
                home_epoch: owner.epoch,
            };
            self.env.reached("query: commit to be sent").await;
            let mut verdict = self.send(prepared, attempt, &owner.node, deadline).await;
            self.env.reached("query: commit answered").await;
            if !matches!(verdict, Verdict::NotSent(_)) {
                *open = Some(attempt);
            }
            if matches!(verdict, Verdict::Unknown) {
                tracing::info!(txn = %token.txn, stream = %prepared.home, epoch = %owner.epoch, "commit lost after sending");
                verdict = self.resolve(&token, attempt, deadline).await;
            }
            let pause = match verdict {
                Verdict::Committed(commit) => return Ok(commit),
                Verdict::Unknown => return Err(KvError::OutcomeUnknown { token }),
                Verdict::NotNow(error) => return Err(error),
                Verdict::Refused(error) => {
                    *open = None;
                    return Err(error);
                }
                Verdict::NotDecided => {
                    (*open, epoch) = (None, None);
                    continue;
                }
                Verdict::GivenUp => {
                    (*open, epoch) = (None, None);
                    Duration::ZERO
                }
                Verdict::Again(error, pause) => {
                    refused = error;
                    pause
                }
                Verdict::NotSent(error) => {
                    refused = error;
                    Duration::ZERO
                }
            };
            if !backoff.pause(pause, last_try).await {
                return Err(refused);
            }
        }
    }

    /// Has the owner give an attempt up before the client is told `error`, which promises that it never commits.
    async fn give_up(
        &self,
        token: &CommitToken,
        attempt: Attempt,
        error: KvError,
        deadline: Instant,
    ) -> KvResult<Timestamp> {
        match self.resolve(token, attempt, deadline).await {
            Verdict::Committed(commit) => Ok(commit),
            Verdict::NotDecided => Err(error),
            _ => Err(KvError::OutcomeUnknown { token: *token }),
        }
    }

    /// The owner of the home; waits for there to be one.
    async fn find_owner(
        &self,
        home: StreamId,
        backoff: &mut Backoff,
        deadline: Instant,
    ) -> KvResult<meridian_rpc::owner::Owner> {
        loop {
            let error = match tokio::time::timeout_at(deadline, self.owners.owner(home)).await {
                Ok(Ok(owner)) => return Ok(owner),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(KvError::unavailable(format!(
                        "no owner of stream {home} was found in time"
                    )));
                }
            };
            if !backoff.pause(Duration::ZERO, deadline).await {
                return Err(error);
            }
        }
    }

    /// Sends one attempt once.
    async fn send(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        node: &meridian_types::NodeName,
        deadline: Instant,
    ) -> Verdict {
        let request = DecideRequest {
            id: 0,
            attempt: Some(attempt.into()),
            start: prepared.start.0,
            write_set: prepared.write_set.clone(),
            reads: prepared.reads.clone(),
            timeout_ms: remaining_ms(deadline),
            participants: Vec::new(),
        };
        match self.adjudicators.decide(node, request, deadline).await {
            Ok(Some(decision::Result::Committed(committed))) => {
                Verdict::Committed(Timestamp(committed.commit))
            }
            Ok(Some(decision::Result::Refused(refused))) => self.refused(prepared, attempt, refused),
            // The last two are not sent to what was asked.
            Ok(
                Some(
                    decision::Result::Unknown(_) | decision::Result::Decided(_) | decision::Result::Voted(_),
                )
                | None,
            ) => {
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Unknown
            }
            Err(CallError::NotSent(what)) => {
                self.owners.forget(attempt.home, attempt.home_epoch);
                let what = format!("the owner of stream {} was not reached ({what})", attempt.home);
                Verdict::NotSent(KvError::unavailable(what))
            }
            Err(CallError::Lost(what)) => {
                tracing::debug!(txn = %attempt.txn, %what, "no answer to a commit");
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Unknown
            }
        }
    }

    /// What a refusal means for the transaction.
    fn refused(&self, prepared: &Prepared, attempt: Attempt, refused: Refused) -> Verdict {
        let pause = Duration::from_millis(refused.retry_delay_ms);
        let with = Timestamp(refused.with);
        let reason = refused.reason();
        let Refused {
            key,
            message,
            owner,
            epoch,
            ..
        } = refused;
        let key = Key(key);
        match reason {
            Reason::WrongEpoch => {
                let current = Epoch(epoch);
                self.owners.forget(attempt.home, attempt.home_epoch);
                if current >= attempt.home_epoch && !owner.is_empty() {
                    self.owners.learn(attempt.home, &owner, current);
                    if current > attempt.home_epoch {
                        Verdict::NotDecided
                    } else {
                        Verdict::GivenUp
                    }
                } else {
                    // It knows of no newer owner: look for one, without haste.
                    let what = format!("stream {} has no owner at the moment", attempt.home);
                    Verdict::Again(KvError::unavailable(what), pause)
                }
            }
            Reason::Conflict => Verdict::Refused(KvError::Conflict { key, with }),
            Reason::Held => Verdict::Again(KvError::Conflict { key, with }, pause),
            Reason::SnapshotTooOld => Verdict::Refused(KvError::SnapshotTooOld { min_start: with }),
            Reason::Forgotten => Verdict::Refused(KvError::OutcomeUnknown {
                token: prepared.token(),
            }),
            Reason::Barred => Verdict::Refused(KvError::Aborted {
                why: "its outcome was asked for before it committed".to_owned(),
            }),
            Reason::Overloaded => Verdict::NotNow(KvError::overloaded(
                named("the adjudicator has too much to do", &message),
                pause.max(Duration::from_millis(10)),
            )),
            Reason::StartAhead => Verdict::NotNow(KvError::unavailable(named(
                "this node's clock is too far ahead of the adjudicator's",
                &message,
            ))),
            Reason::Invalid => Verdict::Refused(KvError::invalid(message)),
            Reason::GaveUp => Verdict::GivenUp,
            Reason::NotReady => {
                // Perhaps another one is the owner by now.
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Again(
                    KvError::unavailable(named("the range's owner is not ready", &message)),
                    pause,
                )
            }
            Reason::Unspecified => {
                tracing::error!(txn = %attempt.txn, "a commit was refused without a reason");
                Verdict::Unknown
            }
        }
    }

    /// Asks what became of an attempt until somebody knows, or the deadline comes.
    async fn resolve(&self, token: &CommitToken, attempt: Attempt, deadline: Instant) -> Verdict {
        let mut backoff = self.retry.backoff();
        loop {
            let Ok(owner) = self.find_owner(attempt.home, &mut backoff, deadline).await else {
                return Verdict::Unknown;
            };
            let answer = self
                .adjudicators
                .attempt_outcome(&owner.node, attempt, token.start, deadline)
                .await;
            match self.understand(attempt.home, &owner, answer) {
                Asked::Committed(commit) => return Verdict::Committed(commit),
                Asked::Aborted => return Verdict::NotDecided,
                Asked::Forgotten => return Verdict::Unknown,
                Asked::Again => {
                    if !backoff.pause(Duration::ZERO, deadline).await {
                        return Verdict::Unknown;
                    }
                }
            }
        }
    }

    /// One answer about an outcome; learns who the owner is on the way.
    pub(crate) fn understand(
        &self,
        stream: StreamId,
        owner: &meridian_rpc::owner::Owner,
        answer: Result<meridian_rpc::internal::OutcomeAnswer, String>,
    ) -> Asked {
        use meridian_rpc::internal::outcome_answer::Outcome;
        let answer = match answer {
            Ok(answer) => answer,
            Err(what) => {
                tracing::debug!(%stream, %what, "no answer about an outcome");
                self.owners.forget(stream, owner.epoch);
                return Asked::Again;
            }
        };
        match answer.outcome() {
            Outcome::Committed => Asked::Committed(Timestamp(answer.commit)),
            Outcome::Aborted => Asked::Aborted,
            Outcome::Forgotten => Asked::Forgotten,
            Outcome::NotOwner => {
                self.owners.forget(stream, owner.epoch);
                if !answer.owner.is_empty() {
                    self.owners.learn(stream, &answer.owner, Epoch(answer.epoch));
                }
                Asked::Again
            }
            Outcome::Pending | Outcome::Unspecified => Asked::Again,
        }
    }
}

/// What an owner said about an outcome.
pub(crate) enum Asked {
    Committed(Timestamp),
    Aborted,
    Forgotten,
    /// Not yet, or not this one.
    Again,
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

/// The deadline passed while no attempt was under way.
fn too_late() -> KvError {
    KvError::Aborted {
        why: "the deadline passed before its commit was decided".to_owned(),
    }
}

fn named(what: &str, message: &str) -> String {
    if message.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {message}")
    }
}

/// The stream that orders all keys of the transaction.
fn home_of<'a>(
    map: &RangeMap,
    written: impl Iterator<Item = &'a Key>,
    reads: &[KeyRange],
) -> KvResult<StreamId> {
    let mut home = None;
    let mut add = |stream: StreamId| match home.replace(stream) {
        Some(other) if other != stream => Err(KvError::invalid(format!(
            "the transaction touches streams {other} and {stream}; commits across ranges are not supported yet"
        ))),
        _ => Ok(()),
    };
    for key in written {
        let entry = map.lookup(key);
        let entry = entry.ok_or_else(|| KvError::unavailable(format!("no range holds key {key}")))?;
        add(entry.stream)?;
    }
    for range in reads {
        map.overlapping(range).try_for_each(|entry| add(entry.stream))?;
    }
    home.ok_or_else(|| KvError::internal("a commit without writes has no home"))
}
