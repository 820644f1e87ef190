//! Calls to adjudicators: commit attempts and their prepares over one stream per node, questions one by one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{
    AttemptQuery, DecideBatch, DecideRequest, LocateRequest, OutcomeAnswer, OutcomeQuery, PrepareRequest,
    ReadRange, decision,
};
use meridian_rpc::{Network, Transport};
use meridian_types::{Attempt, CommitToken, NodeName, StreamId, Timestamp, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::delays::Delays;
use crate::mux::{CallError, Incoming, Mux, MuxLimits, Outgoing, Protocol};
use crate::retry::Retry;

/// How long an answer may take that only measures the way.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(2);

/// `Adjudicator.Decide`.
struct Decide;

/// What goes over it.
pub(crate) enum DecideMessage {
    Decide(DecideRequest),
    Prepare(PrepareRequest),
}

impl Protocol for Decide {
    type Request = DecideMessage;
    type Reply = Option<decision::Result>;

    fn set_id(request: &mut DecideMessage, id: u64) {
        match request {
            DecideMessage::Decide(request) => request.id = id,
            DecideMessage::Prepare(request) => request.id = id,
        }
    }

    fn id(request: &DecideMessage) -> u64 {
        match request {
            DecideMessage::Decide(request) => request.id,
            DecideMessage::Prepare(request) => request.id,
        }
    }

    fn size(request: &DecideMessage) -> usize {
        let reads = |reads: &[ReadRange]| -> usize {
            let bytes = reads.iter().map(|read| read.start.len() + read.end.len() + 16);
            bytes.sum()
        };
        let content = match request {
            DecideMessage::Decide(request) => {
                request.write_set.len() + reads(&request.reads) + 32 * request.participants.len()
            }
            DecideMessage::Prepare(request) => {
                let keys: usize = request.keys.iter().map(|key| key.len() + 4).sum();
                keys + reads(&request.reads)
            }
        };
        content + 128
    }

    fn is_answer(reply: &Self::Reply) -> bool {
        !matches!(reply, Some(decision::Result::Decided(_)))
    }

    fn open(
        transport: Transport,
        requests: Outgoing<DecideMessage>,
    ) -> BoxFuture<'static, Result<Incoming<Self::Reply>, Status>> {
        let batches = requests.map(|messages| {
            let mut batch = DecideBatch::default();
            for message in messages {
                match message {
                    DecideMessage::Decide(request) => batch.requests.push(request),
                    DecideMessage::Prepare(request) => batch.prepares.push(request),
                }
            }
            batch
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
    pub(crate) delays: Delays,
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
            delays: Delays::default(),
            streams: Mutex::default(),
        }
    }

    /// Sends one commit attempt to `node`, the home's owner. `early` is told when it is decided.
    pub(crate) async fn decide(
        &self,
        node: &NodeName,
        request: DecideRequest,
        deadline: Instant,
        early: oneshot::Sender<Option<decision::Result>>,
    ) -> Result<Option<decision::Result>, CallError> {
        let request = DecideMessage::Decide(request);
        self.stream(node).call_with(request, deadline, Some(early)).await
    }

    /// Sends the part of an attempt to `node` that touches its range.
    pub(crate) async fn prepare(
        &self,
        node: &NodeName,
        request: PrepareRequest,
        deadline: Instant,
    ) -> Result<Option<decision::Result>, CallError> {
        self.stream(node)
            .call(DecideMessage::Prepare(request), deadline)
            .await
    }

    /// Measures, in the background and at most now and then, how far `node` is.
    pub(crate) fn measure(self: &Arc<Self>, node: &NodeName, stream: StreamId) {
        let begun = Instant::now();
        if !self.delays.is_due(node, begun) {
            return;
        }
        let (adjudicators, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            let mut client = client(adjudicators.network.transport(&node));
            let question = LocateRequest {
                stream: stream.0,
                passive: true,
            };
            let asked = tokio::time::timeout(MEASURE_TIMEOUT, client.locate(question));
            if let Ok(Ok(_)) = asked.await {
                adjudicators.delays.note(&node, begun.elapsed());
            }
        });
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
            give_up: true,
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
            home_unknown: token.home.is_none(),
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
