//! Clients that append to a ledger, and what must be there afterwards: every append that was acknowledged, each once.
//!
//! An append writes an entry of its own and raises a counter, in one transaction; now and then the two lie in different ranges. Who
//! applied one twice would have raised the counter twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use meridian_client::{Client, ScanOptions, Txn, TxnOptions};
use meridian_types::KeyRange;
use tokio::task::JoinHandle;

/// Longest time one append may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Every so many appends of a writer touch two ranges.
const CROSSING: u64 = 4;

/// What the writers know of their appends.
#[derive(Debug, Default)]
pub struct Written {
    /// Entries whose append was acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// Entries that may be there.
    pub unknown: BTreeSet<String>,
    /// Entries that must not be there, and why.
    pub refused: BTreeMap<String, String>,
    /// When an append ended with an error, and with which.
    pub errors: Vec<(Instant, String)>,
    /// The longest time between two acknowledged appends of one writer.
    pub longest_gap: Duration,
}

impl Written {
    fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown.extend(other.unknown);
        self.refused.extend(other.refused);
        self.errors.extend(other.errors);
        self.longest_gap = self.longest_gap.max(other.longest_gap);
    }
}

/// Writers that append until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Written>>,
}

impl Writers {
    /// One writer for each client and range: it begins with its range and goes on with the others, `pause` between two appends.
    pub fn start(clients: &[Client], ranges: usize, pause: Duration) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let places = (0..clients.len()).flat_map(|client| (0..ranges).map(move |range| (client, range)));
        let tasks = places.enumerate().map(|(number, (client, range))| {
            let writer = Writer {
                client: clients[client].clone(),
                number,
                range,
                ranges,
            };
            tokio::spawn(writer.run(stop.clone(), acknowledged.clone(), pause))
        });
        let tasks = tasks.collect();
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    /// How many appends were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends the writers, each after its append, and answers what they know.
    pub async fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Written::default();
        for task in self.tasks {
            all.add(task.await.expect("a writer does not panic"));
        }
        all
    }
}

struct Writer {
    client: Client,
    number: usize,
    range: usize,
    ranges: usize,
}

impl Writer {
    async fn run(self, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>, pause: Duration) -> Written {
        let mut written = Written::default();
        let mut last = Instant::now();
        for count in 0_u64.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let place = self.range + usize::try_from(count).unwrap_or_default();
            let (range, next) = (place % self.ranges, (place + 1) % self.ranges);
            let counted_in = if count % CROSSING == 0 { next } else { range };
            let entry = format!("{range}/entry/{:02}/{count:08}", self.number);
            let counter = format!("{counted_in}/count/{:02}", self.number);
            match append(&self.client, &entry, &counter).await {
                Ok(()) => {
                    written.longest_gap = written.longest_gap.max(last.elapsed());
                    last = Instant::now();
                    written.acknowledged.insert(entry);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    written.errors.push((Instant::now(), error.to_string()));
                    if error.is_definite() {
                        written.refused.insert(entry, error.to_string());
                    } else {
                        written.unknown.insert(entry);
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
        written
    }
}

async fn append(client: &Client, entry: &str, counter: &str) -> Result<(), meridian_client::Error> {
    let options = TxnOptions {
        deadline: Some(DEADLINE),
        ..TxnOptions::default()
    };
    let append = client.transact_with(options, |txn: Txn| async move {
        let before = number(txn.get(counter).await?.as_deref());
        txn.put(counter, (before + 1).to_string()).await?;
        txn.put(entry, "appended").await
    });
    append.await.map(|_| ())
}

fn number(text: Option<&[u8]>) -> u64 {
    text.map_or(0, |text| {
        std::str::from_utf8(text)
            .expect("digits")
            .parse()
            .expect("a number")
    })
}

/// The ledger in one snapshot.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// All entries.
    pub entries: BTreeSet<String>,
    /// The sum of a writer's counters, by its number.
    pub counted: BTreeMap<String, u64>,
}

/// Reads the whole ledger in one snapshot.
///
/// # Panics
/// When it cannot be read.
pub async fn read(client: &Client, ranges: usize) -> Content {
    let txn = client.begin(TxnOptions::read_only()).await.expect("a snapshot");
    let mut content = Content {
        entries: BTreeSet::new(),
        counted: BTreeMap::new(),
    };
    for range in 0..ranges {
        let scan = |kind: &str| {
            let keys = KeyRange::prefix(format!("{range}/{kind}/").as_str().into());
            txn.scan(keys, ScanOptions::default())
        };
        let entries = scan("entry").await.expect("a scan begins").collect();
        let entries = entries.await.expect("the entries are read");
        content
            .entries
            .extend(entries.into_iter().map(|row| row.key.to_string()));
        let counters = scan("count").await.expect("a scan begins").collect();
        for row in counters.await.expect("the counters are read") {
            let writer = row
                .key
                .to_string()
                .rsplit('/')
                .next()
                .expect("a writer")
                .to_owned();
            *content.counted.entry(writer).or_default() += number(Some(&row.value));
        }
    }
    content
}

/// Asserts that the ledger holds what was acknowledged, nothing that was refused, nothing that was never sent, and everything once.
///
/// # Panics
/// When it does not.
pub fn check(content: &Content, written: &Written) {
    let mut per_writer: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &content.entries {
        let refused = written.refused.get(entry);
        assert!(
            refused.is_none(),
            "{entry} was refused ({refused:?}) and is there"
        );
        assert!(
            written.acknowledged.contains(entry) || written.unknown.contains(entry),
            "{entry} was never sent"
        );
        let writer = entry.split('/').nth(2).expect("a writer");
        *per_writer.entry(writer.to_owned()).or_default() += 1;
    }
    let lost: Vec<_> = written.acknowledged.difference(&content.entries).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(
        content.counted, per_writer,
        "appends were counted twice, or not at all"
    );
}
