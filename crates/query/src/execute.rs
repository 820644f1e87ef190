//! `Execute`: a whole transaction in one call.

use std::sync::Arc;

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::precondition::Test;
use meridian_rpc::v1::{
    BeginRequest, ExecuteRequest, ExecuteResponse, GetResponse, Mutation, Precondition, Trace,
};
use meridian_types::Key;
use tokio::time::Instant;

use crate::processor::Processor;
use crate::registry::Asked;
use crate::txn::{Committed, Ending, Txn};

/// Rolls the transaction back when the call ends early, unless its commit was asked for.
struct RollBack(Arc<Txn>);

impl Drop for RollBack {
    fn drop(&mut self) {
        self.0.abort("the call that ran it ended");
    }
}

/// What one run came to.
struct Run {
    values: Vec<GetResponse>,
    ending: Ending,
    trace: Option<Trace>,
}

impl Processor {
    /// Preconditions, reads, writes and commit. The preconditions are checked at the snapshot, and again at
    /// commit like reads for update; if one does not hold nothing is written.
    ///
    /// A commit refused because its snapshot is too old is definitely aborted, so the whole is run again, under the same
    /// id, from the snapshot on that can succeed: that is what every transaction meets whose owner died a moment ago (R18).
    pub(crate) async fn execute(
        self: &Arc<Self>,
        request: ExecuteRequest,
        deadline: Instant,
    ) -> KvResult<ExecuteResponse> {
        let mut begin = BeginRequest {
            txn_id: request.txn_id.clone(),
            isolation: request.isolation,
            min_start: request.min_start,
            trace: request.trace,
            ..BeginRequest::default()
        };
        let mut backoff = self.retry.backoff();
        let mut attempts = 0;
        loop {
            let run = self.run_once(&begin, &request, &mut attempts, deadline);
            let Run {
                values,
                ending,
                trace,
            } = run.await?;
            let min_start = match ending {
                Ok(committed) => return Ok(executed(values, committed, trace)),
                Err(KvError::SnapshotTooOld { min_start }) => min_start,
                Err(error) => return Err(error),
            };
            let wait = min_start.since(self.env.clock.now().latest);
            let is_reached = Instant::now().checked_add(wait).is_some_and(|at| at < deadline);
            if !is_reached || !backoff.pause(wait, deadline).await {
                return Err(KvError::SnapshotTooOld { min_start });
            }
            begin.min_start = begin.min_start.max(min_start.0);
        }
    }

    /// Runs it once; an error of the commit is apart from those before it. `attempts`: the number of the last one made.
    async fn run_once(
        self: &Arc<Self>,
        begin: &BeginRequest,
        request: &ExecuteRequest,
        attempts: &mut u32,
        deadline: Instant,
    ) -> KvResult<Run> {
        let txn = self.begin_as(begin, Asked::ToRun)?;
        txn.skip_attempts(*attempts);
        let _roll_back = RollBack(txn.clone());
        self.check_preconditions(&txn, &request.preconditions, deadline)
            .await?;
        let values = if request.reads.is_empty() {
            Vec::new()
        } else {
            txn.issue_get(request.reads.clone(), false)?
                .run(self, deadline)
                .await?
        };
        for Mutation { key, value } in &request.mutations {
            txn.write(key.clone(), value.clone())?;
        }
        let ending = self.commit(&txn, deadline).await;
        *attempts = txn.attempts();
        Ok(Run {
            values,
            ending,
            trace: txn.trace(),
        })
    }

    async fn check_preconditions(
        &self,
        txn: &Arc<Txn>,
        preconditions: &[Precondition],
        deadline: Instant,
    ) -> KvResult<()> {
        if preconditions.is_empty() {
            return Ok(());
        }
        let keys: Vec<Bytes> = preconditions
            .iter()
            .map(|condition| condition.key.clone())
            .collect();
        let values = txn.issue_get(keys, true)?.run(self, deadline).await?;
        for (index, (condition, value)) in preconditions.iter().zip(&values).enumerate() {
            if !holds(condition, value)? {
                return Err(KvError::PreconditionFailed {
                    key: Key(condition.key.clone()),
                    index: index as u64,
                });
            }
        }
        Ok(())
    }
}

fn executed(values: Vec<GetResponse>, committed: Committed, trace: Option<Trace>) -> ExecuteResponse {
    ExecuteResponse {
        values,
        commit_timestamp: committed.commit.0,
        token: Some(committed.token.into()),
        trace,
    }
}

fn holds(condition: &Precondition, found: &GetResponse) -> KvResult<bool> {
    match &condition.test {
        Some(Test::Exists(wanted)) => Ok(found.value.is_some() == *wanted),
        Some(Test::ValueEquals(wanted)) => Ok(found.value.as_ref() == Some(wanted)),
        Some(Test::TimestampEquals(wanted)) => Ok(found.value.is_some() && found.timestamp == *wanted),
        None => Err(KvError::invalid("a precondition names no test")),
    }
}
