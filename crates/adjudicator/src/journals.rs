//! Single calls to journal nodes: `State`, `Fence`, `Read`.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use meridian_rpc::Transport;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::{
    Entry, FenceRequest, FenceResponse, ReadRequest, ReadResponse, StateRequest, StateResponse,
};
use meridian_types::{Epoch, LogBase, Lsn, Position, StreamId, limits};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::context::Context;

/// A client for one replica.
pub(crate) fn client(ctx: &Context, replica: usize) -> JournalClient<Transport> {
    let node = ctx.journals.get(replica).cloned().unwrap_or_default();
    JournalClient::new(ctx.env.network.transport(&node))
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES)
}

/// What one replica knows of a stream; `None` when it does not answer in time.
pub(crate) async fn state(ctx: &Context, replica: usize, stream: StreamId) -> Option<StateResponse> {
    let request = StateRequest {
        streams: vec![stream.0],
    };
    let mut client = client(ctx, replica);
    answered(ctx, replica, "State", client.state(request)).await
}

/// What one replica's log of the stream begins behind, if it was trimmed and the replica answers.
pub(crate) async fn base(ctx: &Context, replica: usize, stream: StreamId) -> Option<LogBase> {
    let answer = state(ctx, replica, stream).await?;
    let mut states = answer.streams.into_iter();
    let state = states.find(|state| state.stream == stream.0)?;
    state.base.map(LogBase::from)
}

/// Asks one replica for the promise.
pub(crate) async fn fence(
    ctx: &Context,
    replica: usize,
    stream: StreamId,
    epoch: Epoch,
) -> Option<FenceResponse> {
    let request = FenceRequest {
        stream: stream.0,
        epoch: epoch.0,
        owner: ctx.env.node.0.clone(),
    };
    let mut client = client(ctx, replica);
    answered(ctx, replica, "Fence", client.fence(request)).await
}

async fn answered<T>(
    ctx: &Context,
    replica: usize,
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Option<T> {
    let failed = match tokio::time::timeout(ctx.config.call_timeout(), answer).await {
        Ok(Ok(answer)) => return Some(answer.into_inner()),
        Ok(Err(status)) => status.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    let node = ctx.journals.get(replica).map(ToString::to_string);
    tracing::debug!(journal = node, call, why = failed, "journal node did not answer");
    None
}

/// A part of a log, read message by message.
pub(crate) struct LogReader {
    messages: Streaming<ReadResponse>,
    timeout: Duration,
    base: Option<LogBase>,
}

impl LogReader {
    /// Entries from `from` to exactly `to`.
    pub(crate) async fn open(
        ctx: &Context,
        replica: usize,
        stream: StreamId,
        from: Lsn,
        to: Position,
        headers_only: bool,
    ) -> Result<Self, Status> {
        let request = ReadRequest {
            stream: stream.0,
            from_lsn: from.0.max(1),
            from_timestamp: 0,
            to: Some(to.into()),
            headers_only,
        };
        let timeout = ctx.config.call_timeout();
        let mut client = client(ctx, replica);
        match tokio::time::timeout(timeout, client.read(request)).await {
            Ok(answer) => Ok(Self {
                messages: answer?.into_inner(),
                timeout,
                base: None,
            }),
            Err(_) => Err(late()),
        }
    }

    /// The next entries; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Entry>>, Status> {
        match tokio::time::timeout(self.timeout, self.messages.message()).await {
            Ok(message) => Ok(message?.map(|message| {
                self.base = self.base.or(message.base.map(LogBase::from));
                message.entries
            })),
            Err(_) => Err(late()),
        }
    }

    /// What the node's log begins behind, if it was trimmed; known once something was read.
    pub(crate) fn base(&self) -> Option<LogBase> {
        self.base
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the journal node did not answer in time")
}

/// How long to wait for the slower nodes once a majority answered.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// What the journal nodes know of a stream, no longer than `grace` after a majority has answered. A node that is being rebuilt
/// holds no promise and does not know what was in the stream: beside it a majority has to answer.
pub(crate) async fn states(ctx: &Context, stream: StreamId, grace: Duration) -> Vec<Option<StateResponse>> {
    let calls = (0..ctx.journals.len()).map(|replica| state(ctx, replica, stream));
    let counts = |answer: &StateResponse| !answer.rejoining;
    gather(calls.collect(), counts, ctx.quorum(), grace).await
}

/// Waits for all calls, but no longer than `grace` once `enough` of them were answered with what counts. The answers
/// are in the order of the calls.
pub(crate) async fn gather<T, F>(
    calls: Vec<F>,
    counts: impl Fn(&T) -> bool,
    enough: usize,
    grace: Duration,
) -> Vec<Option<T>>
where
    F: Future<Output = Option<T>>,
{
    let mut answers: Vec<Option<T>> = calls.iter().map(|_| None).collect();
    let numbered = |(index, call): (usize, F)| async move { (index, call.await) };
    let mut open: FuturesUnordered<_> = calls.into_iter().enumerate().map(numbered).collect();
    let mut until: Option<Instant> = None;
    let mut answered = 0;
    loop {
        let next = match until {
            None => open.next().await,
            Some(until) => tokio::time::timeout_at(until, open.next())
                .await
                .unwrap_or_default(),
        };
        let Some((index, answer)) = next else {
            return answers;
        };
        answered += usize::from(answer.as_ref().is_some_and(&counts));
        if let Some(slot) = answers.get_mut(index) {
            *slot = answer;
        }
        if answered >= enough && until.is_none() {
            until = Some(Instant::now() + grace);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::gather;

    /// One that is near and counts, one that is near and does not, one that is far and counts.
    async fn gathered(counts: impl Fn(&u32) -> bool) -> Vec<Option<u32>> {
        let call = |(delay, answer)| async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            Some(answer)
        };
        let calls = [(1, 1), (2, 0), (120, 3)].map(call);
        gather(calls.into(), counts, 2, Duration::from_millis(50)).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_counts_ends_the_waiting() {
        assert_eq!(gathered(|_| true).await, [Some(1), Some(0), None]);
        assert_eq!(gathered(|answer| *answer > 0).await, [Some(1), Some(0), Some(3)]);
    }
}
