//! What became of an attempt, asked of the current owner of its home (section 5).

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::OutcomeAnswer;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::owner::Owner;
use meridian_types::{Attempt, CommitToken, Epoch, StreamId, Timestamp};
use tokio::time::Instant;

use super::verdict::Verdict;
use crate::processor::Processor;
use crate::retry::Backoff;

/// What an owner said about an outcome.
pub(crate) enum Asked {
    Committed(Timestamp),
    Aborted,
    Forgotten,
    /// Not yet, or not this one.
    Again,
}

impl Processor {
    /// The owner of a stream; waits for there to be one.
    pub(super) async fn find_owner(
        &self,
        stream: StreamId,
        backoff: &mut Backoff,
        deadline: Instant,
    ) -> KvResult<Owner> {
        loop {
            let error = match tokio::time::timeout_at(deadline, self.owners.owner(stream)).await {
                Ok(Ok(owner)) => return Ok(owner),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(KvError::unavailable(format!(
                        "no owner of stream {stream} was found in time"
                    )));
                }
            };
            if !backoff.pause(Duration::ZERO, deadline).await {
                return Err(error);
            }
        }
    }

    /// Asks what became of an attempt until somebody knows, or the deadline comes.
    pub(super) async fn resolve(&self, token: &CommitToken, attempt: Attempt, deadline: Instant) -> Verdict {
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
        owner: &Owner,
        answer: Result<OutcomeAnswer, String>,
    ) -> Asked {
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
