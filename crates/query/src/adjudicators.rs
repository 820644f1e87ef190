//! Calls to adjudicators: commit attempts over one stream per node, questions about outcomes one by one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{
    AttemptQuery, DecideBatch, DecideRequest, OutcomeAnswer, OutcomeQuery, decision,
};
use meridian_rpc::{Network, Transport};
use meridian_types::{Attempt, CommitToken, NodeName, StreamId, Timestamp, limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::mux::{CallError, Incoming, Mux, MuxLimits, Outgoing, Protocol};
use crate::retry::Retry;

/// `Adjudicator.Decide`.
struct Decide;

impl Protocol for Decide {
    type Request = DecideRequest;
    type Reply = Option<decision::Result>;

    fn set_id(request: &mut DecideRequest, id: u64) {
        request.id = id;
    }

    fn id(request: &DecideRequest) -> u64 {
        request.id
    }

    fn size(request: &DecideRequest) -> usize {
        let reads: usize = request
            .reads
            .iter()
            .map(|read| read.start.len() + read.end.len() + 16)
            .sum();
        request.write_set.len() + reads + 96
    }

    fn open(
        transport: Transport,
        requests: Outgoing<DecideRequest>,
    ) -> BoxFuture<'static, Result<Incoming<Self::Reply>, Status>> {
        let batches = requests.map(|requests| DecideBatch {
            requests,
            prepares: Vec::new(),
        });
        let request = tonic::Request::new(batches);
        async move {
            let replies = client(transport).decide(request).await?.into_inner();
            let replies = replies.map(|batch| {
                let decisions = batch?.decisions.into_iter();
                Ok(decisions.map(|decision| (decision.id, decision.result)).collect())
            });
            Ok(replies.boxed())
        }
        .boxed()
    }
}

/// All adjudicators that this node has spoken to.
pub(crate) struct Adjudicators {
    network: Network,
    limits: MuxLimits,
    retry: Retry,
    shutdown: CancellationToken,
    outcome_attempt: Duration,
    streams: Mutex<BTreeMap<NodeName, Arc<Mux<Decide>>>>,
}

impl Adjudicators {
    pub(crate) fn new(
        network: Network,
        limits: MuxLimits,
        retry: Retry,
        shutdown: CancellationToken,
        outcome_attempt: Duration,
    ) -> Self {
        Self {
            network,
            limits,
            retry,
            shutdown,
            outcome_attempt,
            streams: Mutex::default(),
        }
    }

    /// Sends one commit attempt to `node`.
    pub(crate) async fn decide(
        &self,
        node: &NodeName,
        request: DecideRequest,
        deadline: Instant,
    ) -> Result<Option<decision::Result>, CallError> {
        self.stream(node).call(request, deadline).await
    }

    fn stream(&self, node: &NodeName) -> Arc<Mux<Decide>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || {
            let transport = self.network.transport(node);
            Mux::new(transport, self.limits, self.retry.clone(), self.shutdown.clone())
        };
        streams.entry(node.clone()).or_insert_with(open).clone()
    }

    /// What became of one attempt, as `node` knows.
    pub(crate) async fn attempt_outcome(
        &self,
        node: &NodeName,
        attempt: Attempt,
        start: Timestamp,
        deadline: Instant,
    ) -> Result<OutcomeAnswer, String> {
        let query = AttemptQuery {
            attempt: Some(attempt.into()),
            start: start.0,
        };
        let mut client = client(self.network.transport(node));
        self.ask(node, client.attempt_outcome(query), deadline).await
    }

    /// What became of a transaction whose home is `stream`; bars it if it has not committed.
    pub(crate) async fn outcome(
        &self,
        node: &NodeName,
        token: &CommitToken,
        stream: StreamId,
        deadline: Instant,
    ) -> Result<OutcomeAnswer, String> {
        let query = OutcomeQuery {
            txn: token.txn.to_bytes(),
            start: token.start.0,
            stream: stream.0,
        };
        let mut client = client(self.network.transport(node));
        self.ask(node, client.outcome(query), deadline).await
    }

    async fn ask(
        &self,
        node: &NodeName,
        call: impl Future<Output = Result<tonic::Response<OutcomeAnswer>, Status>>,
        deadline: Instant,
    ) -> Result<OutcomeAnswer, String> {
        let deadline = deadline.min(Instant::now() + self.outcome_attempt);
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(format!("{node}: {}", status.message())),
            Err(_) => Err(format!("{node} did not answer in time")),
        }
    }
}

fn client(transport: Transport) -> AdjudicatorClient<Transport> {
    AdjudicatorClient::new(transport)
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
}
