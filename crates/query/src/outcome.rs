//! `Outcome(token)`: what became of a transaction, whoever ran it (R1, section 5, I9).

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use meridian_protocol::events;
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::OutcomeResponse;
use meridian_rpc::v1::outcome_response::Outcome;
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{CommitToken, StreamId, Timestamp};
use tokio::time::Instant;

use crate::commit::Asked;
use crate::processor::Processor;

impl Processor {
    /// The final word on a transaction. *Aborted* means that its home, or when that is not known every stream, has
    /// barred it; *committed* is told only once the commit's time is surely past (R3).
    pub(crate) async fn outcome(&self, token: CommitToken, deadline: Instant) -> KvResult<OutcomeResponse> {
        let streams = match token.home {
            Some(home) => vec![home],
            // Those included that were split or merged since: they answer for their transactions.
            None => self.owners.map().streams().into_iter().collect(),
        };
        if streams.is_empty() {
            return Err(KvError::OutcomeUnknown { token });
        }
        let mut outcome = Outcome::Aborted;
        let asked = streams
            .into_iter()
            .map(|stream| self.outcome_in(&token, stream, deadline));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut unknown = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(Asked::Committed(commit)) => return self.tell_committed(token, commit, deadline).await,
                Ok(Asked::Forgotten) => outcome = Outcome::Forgotten,
                Ok(Asked::Aborted | Asked::Again) => {}
                Err(error) => unknown = Some(error),
            }
        }
        if let Some(error) = unknown {
            return Err(error);
        }
        tracing::info!(txn = %token.txn, ?outcome, "outcome asked for");
        if outcome == Outcome::Aborted {
            log_told(&token, "aborted", Timestamp::ZERO);
        }
        Ok(OutcomeResponse {
            outcome: outcome.into(),
            commit_timestamp: 0,
        })
    }

    /// R3 holds for whoever tells.
    async fn tell_committed(
        &self,
        token: CommitToken,
        commit: Timestamp,
        deadline: Instant,
    ) -> KvResult<OutcomeResponse> {
        let not_past = if is_broken(Rule::CommitWait) {
            Timestamp::ZERO
        } else {
            commit
        };
        let wait = meridian_clock::wait_until_past(&*self.env.clock, not_past);
        match tokio::time::timeout_at(deadline, wait).await {
            Ok(()) => {
                log_told(&token, "committed", commit);
                Ok(OutcomeResponse {
                    outcome: Outcome::Committed.into(),
                    commit_timestamp: commit.0,
                })
            }
            Err(_) => Err(KvError::OutcomeUnknown { token }),
        }
    }

    /// What the owner of one stream says; asked until it answers. Never [`Asked::Again`].
    async fn outcome_in(&self, token: &CommitToken, stream: StreamId, deadline: Instant) -> KvResult<Asked> {
        if self.owners.map().keys(stream).is_none() {
            return Err(KvError::invalid(format!(
                "the token names stream {stream}, which is not known"
            )));
        }
        let mut backoff = self.retry.backoff();
        loop {
            if let Ok(Ok(owner)) = tokio::time::timeout_at(deadline, self.owners.owner(stream)).await {
                let answer = self
                    .adjudicators
                    .outcome(&owner.node, token, stream, deadline)
                    .await;
                match self.understand(stream, &owner, answer) {
                    Asked::Again => {}
                    answered => return Ok(answered),
                }
            }
            if !backoff.pause(Duration::ZERO, deadline).await {
                return Err(KvError::OutcomeUnknown { token: *token });
            }
        }
    }
}

fn log_told(token: &CommitToken, outcome: &str, commit: Timestamp) {
    tracing::trace!(
        target: events::TARGET, event = "told", txn = token.txn.0.as_u128(), outcome, commit = commit.0
    );
}
