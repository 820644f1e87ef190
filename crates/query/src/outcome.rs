//! `Outcome(token)`: what became of a transaction, whoever ran it (R1, section 5, I9).

use std::collections::BTreeSet;
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
        let mut outcome = Outcome::Aborted;
        let mut unknown = None;
        let mut asked: BTreeSet<StreamId> = BTreeSet::new();
        loop {
            let open: Vec<StreamId> = match token.home {
                Some(home) => vec![home],
                // Those included that were split or merged since: they answer for their transactions.
                None => self.owners.map().streams().into_iter().collect(),
            };
            let open: Vec<StreamId> = open.into_iter().filter(|stream| asked.insert(*stream)).collect();
            if open.is_empty() {
                break;
            }
            let answers = open
                .into_iter()
                .map(|stream| self.outcome_in(&token, stream, deadline));
            let mut answers: FuturesUnordered<_> = answers.collect();
            let mut newest = 0;
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok((Asked::Committed(commit), _)) => {
                        return self.tell_committed(token, commit, deadline).await;
                    }
                    Ok((Asked::Forgotten, _)) => outcome = Outcome::Forgotten,
                    Ok((Asked::Aborted | Asked::Again, version)) => newest = newest.max(version),
                    Err(error) => unknown = Some(error),
                }
            }
            // A stream that has ended does not speak for its successors: those have to be known here, and asked.
            if unknown.is_some() || !self.knows_map(newest, deadline).await {
                unknown = unknown.or(Some(KvError::OutcomeUnknown { token }));
                break;
            }
        }
        if asked.is_empty() {
            return Err(KvError::OutcomeUnknown { token });
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

    /// Waits until the range map is known here in this version or a newer one; whether it is.
    async fn knows_map(&self, version: u64, deadline: Instant) -> bool {
        let mut map = self.owners.map_changes();
        let known = map.wait_for(|map| map.version >= version);
        matches!(tokio::time::timeout_at(deadline, known).await, Ok(Ok(_)))
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

    /// What the owner of one stream says; asked until it answers. Never [`Asked::Again`]. With the version of the range map whose
    /// streams have to be asked as well, or 0.
    async fn outcome_in(
        &self,
        token: &CommitToken,
        stream: StreamId,
        deadline: Instant,
    ) -> KvResult<(Asked, u64)> {
        // A stream that is not in the map here may be in a newer one, which a node that has just started has not seen yet.
        let mut backoff = self.retry.backoff();
        loop {
            if let Ok(Ok(owner)) = tokio::time::timeout_at(deadline, self.owners.owner(stream)).await {
                let answer = self
                    .adjudicators
                    .outcome(&owner.node, token, stream, deadline)
                    .await;
                let map_version = answer.as_ref().map_or(0, |answer| answer.map_version);
                match self.understand(stream, &owner, answer) {
                    Asked::Again => {}
                    answered => return Ok((answered, map_version)),
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
