//! Reads at a timestamp, from whichever storage node of the region answers.
//!
//! The snapshot is fixed before the first read, so that it does not matter which node answers a read, nor
//! whether two of them do: what was lost on the way is simply asked again, elsewhere. A node that does not hold all keys is asked
//! for its own only ([`crate::shards`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use futures::{FutureExt, StreamExt};
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::storage_client::StorageClient;
use meridian_rpc::internal::{
    ClosedQuery, GetKeys, ReadTrace, ScanKeys, ScannedPage, StorageRead, StorageReadBatch, storage_read,
    storage_read_reply,
};
use meridian_rpc::{KvError, Network, Transport, convert, v1};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Key, KeyRange, NodeName, Timestamp, limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::mux::{Incoming, Mux, MuxLimits, Outgoing, Protocol};
use crate::retry::{Retry, remaining_ms};
use crate::shards::{Shards, Share, StorageNode};
use crate::trace::{Span, storage_hops};

/// `Storage.Read`.
struct Read;

impl Protocol for Read {
    type Request = StorageRead;
    type Reply = (Option<storage_read_reply::Result>, Option<ReadTrace>);

    fn set_id(request: &mut StorageRead, id: u64) {
        request.id = id;
    }

    fn id(request: &StorageRead) -> u64 {
        request.id
    }

    fn size(request: &StorageRead) -> usize {
        let content = match &request.read {
            Some(storage_read::Read::Get(get)) => get.keys.iter().map(|key| key.len() + 4).sum(),
            Some(storage_read::Read::Scan(scan)) => {
                let predicates: usize = scan.predicates.iter().map(|test| test.operand.len() + 8).sum();
                scan.start.len() + scan.end.len() + predicates
            }
            Some(storage_read::Read::Closed(closed)) => closed.start.len() + closed.end.len(),
            None => 0,
        };
        content + 48
    }

    fn open(
        transport: Transport,
        requests: Outgoing<StorageRead>,
    ) -> BoxFuture<'static, Result<Incoming<Self::Reply>, Status>> {
        let batches = requests.map(|reads| StorageReadBatch { reads });
        let request = tonic::Request::new(batches);
        async move {
            let mut client = StorageClient::new(transport)
                .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
                .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
            let replies = client.read(request).await?.into_inner();
            let replies = replies.map(|batch| {
                let replies = batch?.replies.into_iter();
                Ok(replies
                    .map(|reply| (reply.id, (reply.result, reply.trace)))
                    .collect())
            });
            Ok(replies.boxed())
        }
        .boxed()
    }
}

/// One storage node.
struct Node {
    name: NodeName,
    keys: KeyRange,
    reads: Arc<Mux<Read>>,
}

/// The operation that a read is a part of, and whether other reads run at the same time.
#[derive(Clone, Copy)]
struct Measured<'a> {
    span: &'a Span,
    beside: bool,
}

/// The storage nodes of the region.
pub(crate) struct StorageNodes {
    nodes: Vec<Node>,
    shards: Shards,
    /// The one asked first: kept while it answers.
    preferred: AtomicUsize,
    attempt: Duration,
    retry: Retry,
}

impl StorageNodes {
    /// Different query processors prefer different nodes, by `spread`.
    pub(crate) fn new(
        network: &Network,
        nodes: &[StorageNode],
        limits: MuxLimits,
        retry: &Retry,
        shutdown: &CancellationToken,
        attempt: Duration,
        spread: usize,
    ) -> Self {
        let stream = |node: &StorageNode| Node {
            name: node.name.clone(),
            keys: node.keys.clone(),
            reads: Mux::new(
                network.transport(&node.name),
                limits,
                retry.clone(),
                shutdown.clone(),
            ),
        };
        Self {
            nodes: nodes.iter().map(stream).collect(),
            shards: Shards::new(nodes),
            preferred: AtomicUsize::new(spread % nodes.len().max(1)),
            attempt,
            retry: retry.clone(),
        }
    }

    /// The values of the keys at the snapshot, in their order.
    pub(crate) async fn get(
        &self,
        at: Timestamp,
        keys: Vec<bytes::Bytes>,
        deadline: Instant,
        span: &Span,
    ) -> KvResult<Vec<v1::GetResponse>> {
        let mut values = vec![v1::GetResponse::default(); keys.len()];
        let shares = self.shards.divide(keys);
        let span = Measured {
            span,
            beside: shares.len() > 1,
        };
        let read = shares
            .into_iter()
            .map(|share| self.get_share(at, share, deadline, span));
        for (places, got) in try_join_all(read).await? {
            for (place, value) in places.into_iter().zip(got) {
                if let Some(slot) = values.get_mut(place) {
                    *slot = value;
                }
            }
        }
        Ok(values)
    }

    /// The values of keys that the same nodes hold, with their places.
    async fn get_share(
        &self,
        at: Timestamp,
        share: Share,
        deadline: Instant,
        span: Measured<'_>,
    ) -> KvResult<(Vec<usize>, Vec<v1::GetResponse>)> {
        let Share { places, keys } = share;
        let Some(first) = keys.first().cloned() else {
            return Ok((places, Vec::new()));
        };
        let read = storage_read::Read::Get(GetKeys { keys });
        match self.read(at, &Key(first), read, deadline, span).await? {
            storage_read_reply::Result::Got(got) if got.values.len() == places.len() => {
                Ok((places, got.values))
            }
            _ => Err(unexpected()),
        }
    }

    /// One page of a scan at the snapshot. It ends where other nodes hold what follows, at the latest.
    pub(crate) async fn scan(
        &self,
        at: Timestamp,
        mut scan: ScanKeys,
        deadline: Instant,
        span: &Span,
    ) -> KvResult<ScannedPage> {
        let wanted = convert::range_from_bytes(scan.start, scan.end);
        let part = self.shards.first(&wanted, scan.reverse);
        let border = if scan.reverse {
            Some(part.start.clone()).filter(|start| *start != wanted.start)
        } else {
            part.end.clone().filter(|_| part.end != wanted.end)
        };
        let key = part.start.clone();
        (scan.start, scan.end) = convert::range_to_bytes(part);
        let read = storage_read::Read::Scan(scan);
        let span = Measured { span, beside: false };
        match (self.read(at, &key, read, deadline, span).await?, border) {
            (storage_read_reply::Result::Page(page), Some(border)) if !page.more => Ok(ScannedPage {
                more: true,
                resume: border.0,
                ..page
            }),
            (storage_read_reply::Result::Page(page), _) => Ok(page),
            _ => Err(unexpected()),
        }
    }

    /// A timestamp up to which some storage node can answer every read of these keys at once.
    pub(crate) async fn closed(&self, keys: &KeyRange, deadline: Instant) -> KvResult<Timestamp> {
        let parts = self.shards.cut(keys).into_iter();
        let asked = try_join_all(parts.map(|part| self.closed_part(part, deadline))).await?;
        Ok(asked.into_iter().min().unwrap_or_default())
    }

    async fn closed_part(&self, part: KeyRange, deadline: Instant) -> KvResult<Timestamp> {
        let key = part.start.clone();
        let (start, end) = convert::range_to_bytes(part);
        let read = storage_read::Read::Closed(ClosedQuery { start, end });
        // A part of choosing the snapshot, which is measured as a whole.
        let span = Measured {
            span: &Span::default(),
            beside: true,
        };
        match self.read(Timestamp::ZERO, &key, read, deadline, span).await? {
            storage_read_reply::Result::Closed(answer) => Ok(Timestamp(answer.closed)),
            _ => Err(unexpected()),
        }
    }

    /// The nodes that hold the part that the key is in, the preferred one first.
    fn holders(&self, key: &Key) -> Vec<usize> {
        let first = self.preferred.load(Ordering::Relaxed);
        let places = (0..self.nodes.len()).filter_map(|step| {
            let place = first.wrapping_add(step).checked_rem(self.nodes.len())?;
            let node = self.nodes.get(place)?;
            (node.keys.contains(key.as_ref()) || is_broken(Rule::HeldKeys)).then_some(place)
        });
        places.collect()
    }

    /// Reads from a node that holds `key`, and so everything that is asked for.
    async fn read(
        &self,
        at: Timestamp,
        key: &Key,
        read: storage_read::Read,
        deadline: Instant,
        Measured { span, beside }: Measured<'_>,
    ) -> KvResult<storage_read_reply::Result> {
        let holders = self.holders(key);
        let mut backoff = self.retry.backoff();
        let mut last = KvError::unavailable(format!("no storage node of this region holds key {key}"));
        for (attempt, place) in holders.iter().copied().cycle().enumerate() {
            let Some(node) = self.nodes.get(place) else {
                return Err(last);
            };
            let until = if holders.len() > 1 {
                deadline.min(Instant::now() + self.attempt)
            } else {
                deadline
            };
            let request = StorageRead {
                id: 0,
                at: at.0,
                timeout_ms: remaining_ms(until),
                read: Some(read.clone()),
                trace: span.is_on(),
            };
            let asked = Instant::now();
            let answer = node.reads.call(request, until).await;
            span.add(|| {
                let trace = answer.as_ref().ok().and_then(|(_, trace)| *trace);
                storage_hops(&node.name.0, asked.elapsed(), beside, trace)
            });
            match answer.map(|(result, _)| result) {
                Ok(Some(storage_read_reply::Result::Error(error))) => match KvError::from_proto(&error) {
                    error if may_work_elsewhere(&error) => last = error,
                    error => return Err(error),
                },
                Ok(Some(result)) => {
                    if attempt > 0 {
                        self.preferred.store(place, Ordering::Relaxed);
                    }
                    return Ok(result);
                }
                Ok(None) => return Err(unexpected()),
                Err(error) => last = KvError::unavailable(format!("storage node {}", error.what())),
            }
            if Instant::now() >= deadline {
                return Err(last);
            }
            let round_ended = (attempt + 1).is_multiple_of(holders.len());
            // Asking overloaded nodes again and again would only keep them so.
            let shed = matches!(last, KvError::Overloaded { .. });
            if round_ended && (shed || !backoff.pause(Duration::ZERO, deadline).await) {
                return Err(last);
            }
        }
        Err(last)
    }
}

/// Whether another storage node, or the same one a moment later, may answer what this error refused.
fn may_work_elsewhere(error: &KvError) -> bool {
    match error {
        KvError::Unavailable { .. }
        | KvError::Overloaded { .. }
        | KvError::DeadlineExceeded { .. }
        | KvError::Internal { .. } => true,
        KvError::Invalid { .. }
        | KvError::LimitExceeded { .. }
        | KvError::TransactionNotFound { .. }
        | KvError::Aborted { .. }
        | KvError::Conflict { .. }
        | KvError::SnapshotTooOld { .. }
        | KvError::PreconditionFailed { .. }
        | KvError::ReadOnly
        | KvError::OutcomeUnknown { .. }
        | KvError::WrongCluster { .. }
        | KvError::UnsupportedFormat { .. } => false,
    }
}

fn unexpected() -> KvError {
    KvError::internal("a storage node answered something else than was asked")
}
