//! A client of etcd: the four things that a workload needs, by its KV service.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::super::backoff::Backoff;
use super::super::{Change, Row, unexpected};
use crate::load::Failure;
use proto::kv_client::KvClient;
use proto::{
    Compare, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse, compare, request_op,
    response_op,
};

/// How long a call may take: Meridian's default.
const DEADLINE: Duration = Duration::from_secs(10);
/// etcd takes at most so many operations at once.
const BATCH: usize = 128;

/// Generated from `proto/etcd.proto`.
#[allow(missing_docs, unused_qualifications)]
pub mod proto {
    tonic::include_proto!("etcdserverpb");
}

/// A client on a connection that others may use as well.
pub struct Shared {
    kv: KvClient<Channel>,
}

/// A value and the revision that wrote it; 0 when there is none.
struct Found {
    value: Option<Bytes>,
    revision: i64,
}

impl Found {
    fn of(kvs: Vec<KeyValue>) -> Self {
        match kvs.into_iter().next() {
            Some(found) => Self {
                value: Some(found.value),
                revision: found.mod_revision,
            },
            None => Self {
                value: None,
                revision: 0,
            },
        }
    }
}

impl Shared {
    /// On that connection.
    pub fn new(channel: Channel) -> Self {
        Self {
            kv: KvClient::new(channel),
        }
    }

    async fn range(&self, request: RangeRequest) -> Result<Vec<KeyValue>, Failure> {
        let answer = self.kv.clone().range(timely(request)).await;
        Ok(answer.map_err(failure)?.into_inner().kvs)
    }

    async fn read(&self, key: &Bytes) -> Result<Found, Failure> {
        Ok(Found::of(self.range(one(key)).await?))
    }

    /// Writes if nobody wrote since; or else reads again, in the same call.
    async fn write(
        &self,
        keys: &[Bytes],
        before: &[Found],
        after: Vec<Bytes>,
    ) -> Result<TxnResponse, Failure> {
        let unchanged = |(key, found): (&Bytes, &Found)| Compare {
            result: compare::Result::Equal.into(),
            target: compare::Target::Mod.into(),
            key: key.clone(),
            mod_revision: Some(found.revision),
        };
        let put = |(key, value): (&Bytes, Bytes)| put_op(key.clone(), value);
        let range = |key: &Bytes| RequestOp {
            request: Some(request_op::Request::RequestRange(one(key))),
        };
        let request = TxnRequest {
            compare: keys.iter().zip(before).map(unchanged).collect(),
            success: keys.iter().zip(after).map(put).collect(),
            failure: keys.iter().map(range).collect(),
        };
        let answer = self.kv.clone().txn(timely(request)).await;
        Ok(answer.map_err(failure)?.into_inner())
    }
}

fn one(key: &Bytes) -> RangeRequest {
    RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    }
}

fn put_op(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestPut(PutRequest { key, value })),
    }
}

fn timely<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn failure(status: Status) -> Failure {
    match status.code() {
        // "etcdserver: too many requests".
        Code::ResourceExhausted => Failure::Shed(status.message().to_owned()),
        code => Failure::Failed(format!("{code:?}: {}", status.message())),
    }
}

/// What the reads found that were made instead of the writes.
fn found_again(answer: TxnResponse) -> Vec<Found> {
    let ranges = answer.responses.into_iter().map(|each| match each.response {
        Some(response_op::Response::ResponseRange(range)) => range.kvs,
        Some(response_op::Response::ResponsePut(_)) | None => Vec::new(),
    });
    ranges.map(Found::of).collect()
}

impl super::super::Client for Shared {
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, Failure>> {
        async move { Ok(self.read(&key).await?.value) }.boxed()
    }

    fn put(&self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let answer = self.kv.clone().put(timely(PutRequest { key, value })).await;
            answer.map_err(failure)?;
            Ok(())
        }
        .boxed()
    }

    fn scan(&self, from: Bytes, to: Bytes, limit: u32) -> BoxFuture<'_, Result<Vec<Row>, Failure>> {
        async move {
            let request = RangeRequest {
                key: from,
                range_end: to,
                limit: limit.into(),
            };
            let kvs = self.range(request).await?;
            Ok(kvs.into_iter().map(|found| (found.key, found.value)).collect())
        }
        .boxed()
    }

    fn update<'a>(&'a self, keys: &'a [Bytes], change: &'a Change) -> BoxFuture<'a, Result<u64, Failure>> {
        async move {
            let mut backoff = Backoff::new();
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                found.push(self.read(key).await?);
            }
            loop {
                let before: Vec<_> = found.iter().map(|found| found.value.clone()).collect();
                let after = match change(&before) {
                    Some(after) => after,
                    None => return Err(unexpected(&before)),
                };
                let answer = self.write(keys, &found, after).await?;
                if answer.succeeded {
                    return Ok(backoff.aborts());
                }
                // As the transactions of etcd's own client library do: what was read instead is the newest, and waiting makes it old.
                backoff.at_once()?;
                found = found_again(answer);
            }
        }
        .boxed()
    }

    fn load(&self, rows: Vec<Row>) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            for batch in rows.chunks(BATCH) {
                let request = TxnRequest {
                    success: batch
                        .iter()
                        .cloned()
                        .map(|(key, value)| put_op(key, value))
                        .collect(),
                    ..TxnRequest::default()
                };
                self.kv.clone().txn(timely(request)).await.map_err(failure)?;
            }
            Ok(())
        }
        .boxed()
    }
}
