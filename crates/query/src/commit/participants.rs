//! The prepares of an attempt that touches several ranges (5.1).
//!
//! ```text
//! Prepare ──> voted: the home is told
//!    ^  ├──> not looked at, wrong owner, lost ──> the same prepare again, at the owner
//!    │  └──> refused: the home is told, and refuses the attempt
//!    └──────────┘
//! ```
//! A repeated prepare gets the same answer, so it may be sent whenever the last one was not answered.

use std::collections::BTreeMap;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{PrepareRequest, Refused, decision};
use meridian_rpc::owner::Owner;
use meridian_types::{Attempt, Epoch, NodeName, StreamId};
use std::time::Duration;
use tokio::time::Instant;

use super::Prepared;
use super::attempts::Times;
use super::verdict::No;
use crate::plan::Part;
use crate::processor::Processor;
use crate::retry::remaining_ms;
use crate::trace::{Span, prepare_hops};

/// The other ranges' owners.
pub(super) type Voters = BTreeMap<StreamId, Owner>;

impl Processor {
    /// Who is to vote on the transaction. Nothing is sent before all of them are known.
    pub(super) async fn find_voters(&self, prepared: &Prepared, times: Times) -> KvResult<Voters> {
        let others = prepared.plan.others(prepared.home);
        let find = others.map(|(stream, _)| async move {
            let mut backoff = self.retry.backoff();
            let owner = self.find_owner(stream, &mut backoff, times.last_try).await?;
            Ok((stream, owner))
        });
        find.collect::<FuturesUnordered<_>>().try_collect().await
    }

    /// Has all other ranges vote. Ends only with a no.
    pub(super) async fn prepare_all(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        home_node: &NodeName,
        voters: Voters,
        times: Times,
    ) -> No {
        let votes = voters.into_iter().filter_map(|(stream, owner)| {
            let part = prepared.plan.part(stream)?;
            let request = prepare_request(prepared, attempt, stream, part, home_node);
            Some(self.prepare(request, owner, times, &prepared.span))
        });
        let mut votes: FuturesUnordered<_> = votes.collect();
        while let Some(vote) = votes.next().await {
            if let Err(no) = vote {
                return no;
            }
        }
        std::future::pending().await
    }

    /// Has one range vote, whoever owns it.
    async fn prepare(
        &self,
        request: PrepareRequest,
        first: Owner,
        times: Times,
        span: &Span,
    ) -> Result<(), No> {
        let stream = StreamId(request.stream);
        let mut backoff = self.retry.backoff();
        let mut owner = first;
        loop {
            let request = PrepareRequest {
                timeout_ms: remaining_ms(times.last_try),
                ..request.clone()
            };
            let asked = Instant::now();
            let answer = self
                .adjudicators
                .prepare(&owner.node, request, times.last_try)
                .await;
            span.add(|| {
                let trace = match &answer {
                    Ok(Some(decision::Result::Voted(voted))) => voted.trace.clone(),
                    _ => None,
                };
                prepare_hops(&owner.node.0, stream.0, asked.elapsed(), trace)
            });
            let (error, pause) = match answer {
                Ok(Some(decision::Result::Voted(_))) => return Ok(()),
                Ok(Some(decision::Result::Refused(refused))) => {
                    self.learn_owner(stream, &owner, &refused);
                    let pause = Duration::from_millis(refused.retry_delay_ms);
                    let message = refused.message.clone();
                    if let Some(no) = No::from_participant(refused) {
                        return Err(no);
                    }
                    (message, pause)
                }
                Ok(_) => {
                    let error = KvError::internal("an adjudicator answered something else than was asked");
                    return Err(No::for_now(error, Duration::ZERO));
                }
                Err(error) => {
                    self.owners.forget(stream, owner.epoch);
                    (error.what().to_owned(), Duration::ZERO)
                }
            };
            let unavailable = || {
                let error = KvError::unavailable(format!("stream {stream} did not vote in time ({error})"));
                No::for_now(error, Duration::ZERO)
            };
            if !backoff.pause(pause, times.last_try).await {
                return Err(unavailable());
            }
            let found = self.find_owner(stream, &mut backoff, times.last_try).await;
            owner = found.map_err(|_| unavailable())?;
        }
    }

    /// Follows a redirect.
    fn learn_owner(&self, stream: StreamId, asked: &Owner, refused: &Refused) {
        match refused.reason() {
            Reason::WrongEpoch => {
                self.owners.forget(stream, asked.epoch);
                if !refused.owner.is_empty() {
                    self.owners.learn(stream, &refused.owner, Epoch(refused.epoch));
                }
            }
            // Perhaps another one is the owner by now.
            Reason::NotReady => self.owners.forget(stream, asked.epoch),
            _ => {}
        }
    }
}

fn prepare_request(
    prepared: &Prepared,
    attempt: Attempt,
    stream: StreamId,
    part: &Part,
    home_node: &NodeName,
) -> PrepareRequest {
    PrepareRequest {
        id: 0,
        attempt: Some(attempt.into()),
        start: prepared.start.0,
        stream: stream.0,
        keys: part.written.iter().map(|key| key.0.clone()).collect(),
        reads: part.reads.clone(),
        home_node: home_node.0.clone(),
        timeout_ms: 0,
        trace: prepared.span.is_on(),
    }
}
