//! One attempt, sent once: to the home, and at the same time to every other range that it touches (5.1).

use std::pin::pin;
use std::time::Duration;

use meridian_rpc::internal::{DecideRequest, Decided, Participant, decision};
use meridian_rpc::{Known, KvError};
use meridian_types::{Attempt, Epoch, Lsn, NodeName, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Prepared;
use super::attempts::Times;
use super::participants::Voters;
use super::verdict::{No, Verdict};
use crate::mux::CallError;
use crate::processor::Processor;
use crate::retry::remaining_ms;

/// How long the home is waited for after another range said no: it is told by that range, and answers with the reason.
const AFTER_NO: Duration = Duration::from_millis(250);

/// What came of sending an attempt.
pub(super) struct Sent {
    pub(super) verdict: Verdict,
    /// A range that does not take part, if one was heard of.
    pub(super) no: Option<No>,
}

type Answer = Result<Option<decision::Result>, CallError>;

impl Processor {
    /// Sends an attempt once, and waits for what becomes of it.
    pub(super) async fn send(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        node: &NodeName,
        voters: Voters,
        times: Times,
    ) -> Sent {
        let is_alone = voters.is_empty();
        let (early, told) = oneshot::channel();
        let request = decide_request(prepared, attempt, &voters, times.deadline);
        let mut answer = pin!(self.adjudicators.decide(node, request, times.deadline, early));
        let mut told = pin!(first(told));
        let mut votes = pin!(self.prepare_all(prepared, attempt, node, voters, times));
        let mut no: Option<No> = None;
        let mut until = if is_alone {
            times.deadline + AFTER_NO
        } else {
            times.last_try
        };
        let verdict = loop {
            tokio::select! {
                biased;
                // First: a stream that broke since says less.
                decided = &mut told => break self.decided(prepared, attempt, &decided, answer, times).await,
                answer = &mut answer => break self.answered(prepared, attempt, is_alone, answer, &mut no),
                refused = &mut votes, if no.is_none() => {
                    tracing::debug!(txn = %attempt.txn, error = %refused.error, "a range does not take part");
                    no = Some(refused);
                    until = until.min(Instant::now() + AFTER_NO);
                }
                // Nobody decides any more, or not in time: the attempt is given up.
                () = tokio::time::sleep_until(until) => break Verdict::Unknown,
            }
        };
        Sent { verdict, no }
    }

    /// What the home's answer means, when it was not decided before.
    fn answered(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        is_alone: bool,
        answer: Answer,
        no: &mut Option<No>,
    ) -> Verdict {
        match answer {
            Ok(Some(decision::Result::Committed(committed))) => {
                Verdict::Committed(Timestamp(committed.commit))
            }
            Ok(Some(decision::Result::Refused(refused))) => {
                match self.refused(prepared.token(), attempt, refused) {
                    // The other ranges may hold what another home waits for: this attempt ends, so that they let go.
                    Verdict::Again(error @ KvError::Conflict { .. }, pause) if !is_alone => {
                        no.get_or_insert(No::for_now(error, pause));
                        Verdict::Unknown
                    }
                    verdict => verdict,
                }
            }
            // The last two are no answers to what was asked.
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

    /// 5.4: the record is on its way. Whether it is committed its owner says, or this region's journal node, whichever
    /// comes first; when neither does, it is asked for.
    async fn decided(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        decided: &Decided,
        answer: impl Future<Output = Answer>,
        times: Times,
    ) -> Verdict {
        self.env.reached("query: commit decided").await;
        let (epoch, lsn) = (Epoch(decided.epoch), Lsn(decided.lsn));
        let commit = Timestamp(decided.commit);
        let known = || self.committed.wait(attempt.home, epoch, lsn);
        let silence = Duration::from_millis(self.config.outcome_attempt_ms);
        tokio::select! {
            biased;
            answer = answer => match answer {
                Ok(Some(decision::Result::Committed(committed))) => {
                    return Verdict::Committed(Timestamp(committed.commit));
                }
                _ => self.owners.forget(attempt.home, attempt.home_epoch),
            },
            known = known() => if known == Known::Committed {
                return self.committed_early(commit);
            },
            () = tokio::time::sleep(silence) => {}
        }
        let token = prepared.token();
        tokio::select! {
            biased;
            verdict = self.resolve(&token, attempt, times.deadline) => verdict,
            Known::Committed = known() => self.committed_early(commit),
        }
    }

    fn committed_early(&self, commit: Timestamp) -> Verdict {
        self.figures.count_early_commit();
        Verdict::Committed(commit)
    }
}

/// What is told before the answer; never, if nothing is.
async fn first(told: oneshot::Receiver<Option<decision::Result>>) -> Decided {
    match told.await {
        Ok(Some(decision::Result::Decided(decided))) => decided,
        _ => std::future::pending().await,
    }
}

fn decide_request(
    prepared: &Prepared,
    attempt: Attempt,
    voters: &Voters,
    deadline: Instant,
) -> DecideRequest {
    let part = prepared.plan.part(prepared.home);
    let participants = voters.iter().map(|(stream, owner)| Participant {
        stream: stream.0,
        node: owner.node.0.clone(),
    });
    DecideRequest {
        id: 0,
        attempt: Some(attempt.into()),
        start: prepared.start.0,
        write_set: prepared.write_set.clone(),
        reads: part.map(|part| part.reads.clone()).unwrap_or_default(),
        timeout_ms: remaining_ms(deadline),
        participants: participants.collect(),
    }
}
