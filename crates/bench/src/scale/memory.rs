//! Memory: of more and more keys, and of more and more open transactions.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use meridian_client::{Client, Transaction, TxnOptions};
use serde::Serialize;
use tokio::time::sleep;

use super::figures::{ByRole, slopes};
use super::layout::Layout;
use super::{Line, Part, Place, ScaleArgs};
use crate::error::{Error, Result};
use crate::measure::load;
use crate::system::Regions;
use crate::tell;
use crate::workload::keys;

/// What was written is applied, and flushed to disk, after so long.
const SETTLE: Duration = Duration::from_secs(2);
/// Transactions that are begun at a time.
const AT_ONCE: usize = 64;
/// Open transactions that share a session.
const PER_SESSION: u64 = 500;

/// Memory with so much of something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Keys, or open transactions.
    pub count: u64,
    /// Memory of the servers.
    pub rss_mb: ByRole,
}

/// What more of it costs: the slope of all [`Memory`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPer {
    /// Memory of the servers.
    pub rss_mb: ByRole,
}

/// Measures both, of one cluster.
pub(super) async fn run(place: &Place, args: &ScaleArgs) -> Result<(Vec<Line>, Vec<Line>)> {
    let servers = place.start(Layout::default()).await?;
    let (mut by_keys, mut there) = (Vec::new(), 0);
    // Open transactions read and write keys that are there.
    let wanted = if args.has(Part::Memory) {
        args.memory_keys.clone()
    } else {
        vec![args.keys]
    };
    for count in ascending(&wanted) {
        tell(&format!("loading {count} keys"));
        load(
            &servers,
            &Regions::default(),
            there..count,
            args.value_bytes as usize,
            args.seed,
        )
        .await?;
        there = count;
        sleep(SETTLE).await;
        by_keys.push(Memory {
            count,
            rss_mb: servers.resident_mb().rounded(10.0),
        });
    }
    let mut by_open = Vec::new();
    if args.has(Part::Transactions) {
        let most = args.open.iter().max().copied().unwrap_or_default();
        let client = servers.client(usize::try_from(most.div_ceil(PER_SESSION)).unwrap_or(1))?;
        let mut open = Vec::new();
        for count in [0].into_iter().chain(ascending(&args.open)) {
            tell(&format!("opening {count} transactions"));
            open.extend(
                opened(
                    &client,
                    open.len() as u64..count,
                    there,
                    args.value_bytes as usize,
                )
                .await?,
            );
            by_open.push(Memory {
                count,
                rss_mb: servers.resident_mb().rounded(100.0),
            });
        }
    }
    let per_million = per(&by_keys, 1e6).map(Line::MemoryPerMillionKeys);
    let per_thousand = per(&by_open, 1e3).map(Line::MemoryPerThousandTransactions);
    let keys = args
        .has(Part::Memory)
        .then(|| by_keys.into_iter().map(Line::Memory));
    let keys = keys.into_iter().flatten().chain(per_million);
    let transactions = by_open.into_iter().map(Line::Transactions).chain(per_thousand);
    Ok((keys.collect(), transactions.collect()))
}

/// In order, each once.
pub(super) fn ascending(numbers: &[u64]) -> Vec<u64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// Opens transactions, each of which reads a key and writes another one.
async fn opened(
    client: &Client,
    numbers: std::ops::Range<u64>,
    there: u64,
    value_bytes: usize,
) -> Result<Vec<Transaction>> {
    let begun = stream::iter(numbers).map(|number| async move {
        let transaction = client.begin(TxnOptions::default()).await?;
        transaction.get(keys::user(number % there.max(1))).await?;
        let value = vec![b'x'; value_bytes];
        transaction
            .put(keys::user((number + 1) % there.max(1)), value)
            .await?;
        Ok::<_, meridian_client::Error>(transaction)
    });
    let begun: Result<_, meridian_client::Error> = begun.buffer_unordered(AT_ONCE).try_collect().await;
    begun.map_err(Error::system("meridian", "a transaction cannot be opened"))
}

fn per(memory: &[Memory], how_many: f64) -> Option<MemoryPer> {
    let points: Vec<_> = memory
        .iter()
        .map(|memory| (memory.count as f64, memory.rss_mb))
        .collect();
    Some(MemoryPer {
        rss_mb: slopes(&points)?.times(how_many).rounded(100.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_for_a_million() {
        let memory = |count: u64| Memory {
            count,
            rss_mb: ByRole::new(|_| 20.0 + count as f64 / 1e4),
        };
        let more = per(&[memory(50_000), memory(100_000), memory(200_000)], 1e6).unwrap();
        assert_eq!((more.rss_mb.storage, more.rss_mb.total), (100.0, 500.0));
        assert_eq!(per(&[memory(1)], 1e6), None);
        assert_eq!(ascending(&[5, 1, 5]), [1, 5]);
    }
}
