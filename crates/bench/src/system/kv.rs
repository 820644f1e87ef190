//! Clients of Meridian, embedded or not: its client library, as programs use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_client::{Client, Error, Execute, Key, KeyRange, KvError, RetryBudget, ScanOptions};

use super::{Change, Row, Wanted, unexpected};
use crate::load::Failure;

/// Clients that share a session.
const PER_SESSION: usize = 16;
/// The most sessions.
const MAX_SESSIONS: usize = 32;
/// Rows that are loaded at once.
const BATCH: usize = 1_000;

/// A retry budget that has nothing to spend: what is refused because of load is told at once. Conflicts do not draw on it.
const NO_RETRIES: RetryBudget = RetryBudget {
    capacity: 0.0,
    per_success: 0.0,
    per_second: 0.0,
};

/// How many sessions, or connections of etcd, so many clients share.
pub fn connections(clients: usize) -> usize {
    clients.div_ceil(PER_SESSION).clamp(1, MAX_SESSIONS)
}

/// Sessions and retries as they are wanted, for one of so many clients that share the work.
pub fn builder(wanted: Wanted, parts: usize) -> meridian_client::Builder {
    let each = wanted.connected_as.div_ceil(parts.max(1));
    let builder = Client::builder().sessions(connections(each));
    if wanted.tries_again {
        return builder;
    }
    builder.retry_budget(NO_RETRIES)
}

/// So many clients, which share these in turn.
pub fn shared(clients: &[Client], count: usize) -> Vec<Arc<dyn super::Client>> {
    let each = clients.iter().cycle().take(count);
    each.map(|client| Arc::new(Kv(client.clone())) as Arc<dyn super::Client>)
        .collect()
}

struct Kv(Client);

fn failure(error: Error) -> Failure {
    match error.kv() {
        Some(KvError::Overloaded { what, .. }) => Failure::Shed(what.clone()),
        // Its message names the transaction, and here only their number is of interest.
        Some(KvError::OutcomeUnknown { .. }) => Failure::Failed("outcome unknown at the deadline".to_owned()),
        _ => Failure::Failed(error.to_string()),
    }
}

/// Why a transaction ended.
enum Ended {
    Kv(Error),
    Unexpected(Failure),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Kv(error)
    }
}

impl super::Client for Kv {
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Bytes>, Failure>> {
        async { self.0.get(key).await.map_err(failure) }.boxed()
    }

    fn put(&self, key: Bytes, value: Bytes) -> BoxFuture<'_, Result<(), Failure>> {
        async {
            self.0.put(key, value).await.map_err(failure)?;
            Ok(())
        }
        .boxed()
    }

    fn scan(&self, from: Bytes, to: Bytes, limit: u32) -> BoxFuture<'_, Result<Vec<Row>, Failure>> {
        async move {
            let range = KeyRange {
                start: Key(from),
                end: Some(Key(to)),
            };
            let options = ScanOptions::default().limit(u64::from(limit));
            let rows = self.0.scan(range, options).await.map_err(failure)?;
            Ok(rows.into_iter().map(|row| (row.key.0, row.value)).collect())
        }
        .boxed()
    }

    fn update<'a>(&'a self, keys: &'a [Bytes], change: &'a Change) -> BoxFuture<'a, Result<u64, Failure>> {
        async move {
            let runs = &AtomicU64::new(0);
            let updated = self.0.try_transact(Default::default(), |txn| async move {
                runs.fetch_add(1, Ordering::Relaxed);
                let mut before = Vec::with_capacity(keys.len());
                for key in keys {
                    before.push(txn.get(key.clone()).await?);
                }
                let after = change(&before).ok_or_else(|| Ended::Unexpected(unexpected(&before)))?;
                for (key, value) in keys.iter().zip(after) {
                    txn.put(key.clone(), value).await?;
                }
                Ok::<_, Ended>(())
            });
            match updated.await {
                Ok(()) => Ok(runs.load(Ordering::Relaxed).saturating_sub(1)),
                Err(Ended::Kv(error)) => Err(failure(error)),
                Err(Ended::Unexpected(failure)) => Err(failure),
            }
        }
        .boxed()
    }

    fn load(&self, rows: Vec<Row>) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            for batch in rows.chunks(BATCH) {
                let put = |execute: Execute, (key, value): &Row| execute.put(key.clone(), value.clone());
                let execute = batch.iter().fold(Execute::new(), put);
                self.0.execute(&execute).await.map_err(failure)?;
            }
            Ok(())
        }
        .boxed()
    }
}
