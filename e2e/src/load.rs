//! Everything that clients do, from several regions at once, and everything that they were told went wrong: the append ledger, strong
//! reads, and transactions that are begun by hand, whose every error reaches the caller because nothing runs them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_client::{Client, Error, ScanOptions, TxnOptions};
use meridian_types::KeyRange;
use tokio::task::JoinHandle;

use crate::ledger::{self, Writers, Written};

/// Between two calls of one task.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a transaction that was begun by hand stays open between its operations.
const THINKING: Duration = Duration::from_millis(20);
/// Longest time one call may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Clients at work.
pub struct Load {
    clients: Vec<Client>,
    ranges: usize,
    writers: Writers,
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Calls>>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// What the writers of the ledger know.
    pub written: Written,
    /// Reads, with `transact`.
    pub reads: Calls,
    /// Transactions begun by hand.
    pub by_hand: Calls,
}

/// Calls of one kind.
#[derive(Debug, Default)]
pub struct Calls {
    by_hand: bool,
    /// How many succeeded.
    pub succeeded: u64,
    /// What those ended with that did not.
    pub errors: Vec<(Instant, String)>,
    /// The times between two that succeeded, of each task, with their ends.
    gaps: Vec<(Instant, Duration)>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.errors.extend(other.errors);
        self.gaps.extend(other.gaps);
    }

    /// The longest time between two that succeeded, of one task, of which a part was after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let gaps = self.gaps.iter().filter(|(end, _)| *end >= since);
        gaps.map(|(_, gap)| *gap).max().unwrap_or_default()
    }
}

impl Seen {
    /// # Panics
    /// When any caller was told an error.
    pub fn assert_no_errors(&self) {
        let errors: Vec<_> = self.errors().into_iter().map(|(_, error)| error).collect();
        assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
    }

    /// Every error that any caller was told, with what it did.
    pub fn errors(&self) -> Vec<(Instant, String)> {
        let of = |kind: &'static str, errors: &[(Instant, String)]| {
            let errors = errors
                .iter()
                .map(move |(at, error)| (*at, format!("{kind}: {error}")));
            errors.collect::<Vec<_>>()
        };
        let mut all = of("append", &self.written.errors);
        all.extend(of("read", &self.reads.errors));
        all.extend(of("by hand", &self.by_hand.errors));
        all.sort();
        all
    }
}

impl Load {
    /// Of each client: a writer for every range, a reader, and two who begin their transactions by hand.
    pub fn start(clients: &[Client], ranges: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let failed = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let reads = client.clone();
            let ends = (stop.clone(), failed.clone());
            tasks.push(tokio::spawn(repeat(ends, false, move |count| {
                let client = reads.clone();
                async move { read(&client, count, ranges).await }
            })));
            for hand in 0..2 {
                let begins = client.clone();
                let ends = (stop.clone(), failed.clone());
                let who = format!("{number}-{hand}");
                tasks.push(tokio::spawn(repeat(ends, true, move |count| {
                    let (client, who) = (begins.clone(), who.clone());
                    async move { by_hand(&client, &who, count, ranges).await }
                })));
            }
        }
        Self {
            clients: clients.to_vec(),
            ranges,
            writers: Writers::start(clients, ranges, PAUSE),
            stop,
            failed,
            tasks,
        }
    }

    /// How many reads and transactions by hand ended with an error so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    /// How many appends were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.writers.acknowledged()
    }

    /// Ends it, and checks the ledger with every client.
    ///
    /// # Panics
    /// When the ledger does not hold what was acknowledged, exactly once.
    pub async fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let mut seen = Seen {
            written: self.writers.stop().await,
            ..Seen::default()
        };
        for task in self.tasks {
            let calls = task.await.expect("a client does not panic");
            let kind = if calls.by_hand {
                &mut seen.by_hand
            } else {
                &mut seen.reads
            };
            kind.add(calls);
        }
        for client in &self.clients {
            ledger::check(&ledger::read(client, self.ranges).await, &seen.written);
        }
        seen
    }
}

async fn repeat<F>(
    (stop, failed): (Arc<AtomicBool>, Arc<AtomicU64>),
    by_hand: bool,
    call: impl Fn(u64) -> F,
) -> Calls
where
    F: Future<Output = Result<(), Error>>,
{
    let mut calls = Calls {
        by_hand,
        ..Calls::default()
    };
    let mut last = Instant::now();
    for count in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        match call(count).await {
            Ok(()) => {
                calls.succeeded += 1;
                calls.gaps.push((Instant::now(), last.elapsed()));
                last = Instant::now();
            }
            Err(error) => {
                failed.fetch_add(1, Ordering::SeqCst);
                calls.errors.push((Instant::now(), error.to_string()));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    calls
}

fn options() -> TxnOptions {
    TxnOptions {
        deadline: Some(DEADLINE),
        ..TxnOptions::default()
    }
}

/// One strong read: of a key, or of a few rows.
async fn read(client: &Client, count: u64, ranges: usize) -> Result<(), Error> {
    let range = usize::try_from(count).unwrap_or_default() % ranges;
    let options = TxnOptions {
        read_only: true,
        ..options()
    };
    client
        .transact_with(options, |txn| async move {
            txn.get(format!("{range}/hand/0-0")).await?;
            let keys = KeyRange::prefix(format!("{range}/count/").as_str().into());
            txn.scan(keys, ScanOptions::default().limit(10))
                .await?
                .collect()
                .await
        })
        .await
        .map(|_| ())
}

/// A transaction that takes its time, over two ranges. Nobody else writes its keys, so nothing but the cluster can make it fail.
async fn by_hand(client: &Client, who: &str, count: u64, ranges: usize) -> Result<(), Error> {
    let range = usize::try_from(count).unwrap_or_default() % ranges;
    let other = (range + 1) % ranges;
    let txn = client.begin(options()).await?;
    txn.get(format!("{range}/hand/{who}")).await?;
    txn.put(format!("{range}/hand/{who}"), count.to_string()).await?;
    tokio::time::sleep(THINKING).await;
    txn.get(format!("{other}/hand/{who}")).await?;
    txn.put(format!("{other}/hand/{who}"), count.to_string()).await?;
    tokio::time::sleep(THINKING).await;
    txn.commit().await.map(|_| ())
}
