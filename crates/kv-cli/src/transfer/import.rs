//! `import`: batches of records, several transactions under way, acknowledged in the order of the file.
//!
//! ```text
//!   file ── thread reads, parses ──> batches (bounded) ── up to N executes under way ──> acknowledged in order
//! ```
//! What counts as acknowledged is always a beginning of the file, so an import that failed can go on from
//! there. Records of one key are never under way twice: the last one in the file wins, as it should.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meridian_client::{Client, Error, Execute, Key};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::args::Import;
use crate::failure::{Code, Failure};
use crate::output::Format;
use crate::shell::remark;
use crate::transfer::progress::Progress;
use crate::transfer::record::BadLine;
use crate::transfer::{Layout, Reader, Record, is_standard};

/// A batch ends at this many bytes, whatever the number of its records.
const BATCH_BYTES: usize = 1 << 20;

/// Imports a file.
pub async fn import(client: &Client, args: &Import, format: Option<Format>) -> Result<(), Failure> {
    let layout = Layout::of(&args.file, format)?;
    let position = Arc::new(AtomicU64::new(0));
    let (input, total) = open(&args.file, position.clone())?;
    let batches = read(input, layout, args);
    let mut progress = Progress::new("imported", total);
    let result = tokio::select! {
        biased;
        result = send(client, args, batches, &mut progress, &position) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Code::Interrupted, "interrupted")),
    };
    progress.finish();
    match result {
        Ok(()) => {
            remark(&progress.summary());
            Ok(())
        }
        Err(failure) => {
            let done = args.skip + progress.records();
            Err(failure
                .advise(format!("{done} records are acknowledged and kept"))
                .advise(format!(
                    "to go on: kv-cli import {} --skip {done}",
                    args.file.display()
                )))
        }
    }
}

type Input = Box<dyn BufRead + Send>;

fn open(file: &Path, position: Arc<AtomicU64>) -> Result<(Input, Option<u64>), Failure> {
    if is_standard(file) {
        return Ok((counted(std::io::stdin(), position), None));
    }
    let named = |error: std::io::Error| Failure::new(Code::Failed, format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(named)?;
    let metadata = opened.metadata().map_err(named)?;
    if metadata.is_dir() {
        return Err(Failure::new(
            Code::Failed,
            format!("{} is a directory", file.display()),
        ));
    }
    let total = metadata.is_file().then_some(metadata.len());
    Ok((counted(opened, position), total))
}

fn counted(input: impl Read + Send + 'static, position: Arc<AtomicU64>) -> Input {
    Box::new(BufReader::with_capacity(256 << 10, Counted { input, position }))
}

/// Counts the bytes that were read.
struct Counted<R> {
    input: R,
    position: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.position.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    bytes: usize,
}

/// Reads batches on a thread of its own: files have no other interface that does not block. The queue is
/// bounded, so a file of any size fits. Ends after the first bad line.
fn read(input: Input, layout: Layout, args: &Import) -> mpsc::Receiver<Result<Batch, BadLine>> {
    let (sender, receiver) = mpsc::channel(4);
    let (skip, limit) = (args.skip, args.batch);
    std::thread::spawn(move || {
        let mut reader = Reader::new(input, layout);
        let mut batch = Batch::default();
        let mut number = 0;
        loop {
            let next = reader.read();
            let bad = match next {
                Ok(Some(record)) => {
                    number += 1;
                    if number <= skip {
                        continue;
                    }
                    batch.bytes += record.key.0.len() + record.value.len();
                    batch.records.push(record);
                    if (batch.records.len() as u64) < limit && batch.bytes < BATCH_BYTES {
                        continue;
                    }
                    None
                }
                Ok(None) => Some(None),
                Err(bad) => Some(Some(bad)),
            };
            let full = std::mem::take(&mut batch);
            // Nobody listens any more: the import has failed elsewhere.
            if !full.records.is_empty() && sender.blocking_send(Ok(full)).is_err() {
                return;
            }
            match bad {
                None => {}
                Some(None) => return,
                Some(Some(bad)) => {
                    let _ = sender.blocking_send(Err(bad));
                    return;
                }
            }
        }
    });
    receiver
}

/// A transaction under way.
struct Sent {
    keys: BTreeSet<Key>,
    records: u64,
    bytes: u64,
    task: JoinHandle<Result<(), Error>>,
}

async fn send(
    client: &Client,
    args: &Import,
    mut batches: mpsc::Receiver<Result<Batch, BadLine>>,
    progress: &mut Progress,
    position: &AtomicU64,
) -> Result<(), Failure> {
    let mut under_way: VecDeque<Sent> = VecDeque::new();
    let mut trouble = None;
    while let Some(next) = batches.recv().await {
        let batch = match next {
            Ok(batch) => batch,
            Err(BadLine { line, why }) => {
                trouble = Some(Failure::new(Code::Failed, format!("line {line}: {why}")));
                break;
            }
        };
        let keys: BTreeSet<Key> = batch.records.iter().map(|record| record.key.clone()).collect();
        while under_way.len() as u64 >= args.parallel
            || under_way.iter().any(|sent| !sent.keys.is_disjoint(&keys))
        {
            acknowledge(&mut under_way, progress, position).await?;
        }
        let records = batch.records.len() as u64;
        let bytes = batch.bytes as u64;
        under_way.push_back(Sent {
            keys,
            records,
            bytes,
            task: start(client.clone(), batch),
        });
    }
    while !under_way.is_empty() {
        acknowledge(&mut under_way, progress, position).await?;
    }
    trouble.map_or(Ok(()), Err)
}

fn start(client: Client, batch: Batch) -> JoinHandle<Result<(), Error>> {
    // Of several records of one key the last one counts.
    let latest: std::collections::BTreeMap<Key, bytes::Bytes> = batch
        .records
        .into_iter()
        .map(|record| (record.key, record.value))
        .collect();
    let execute = latest
        .into_iter()
        .fold(Execute::new(), |execute, (key, value)| execute.put(key, value));
    tokio::spawn(async move { client.execute(&execute).await.map(|_| ()) })
}

/// Waits for the oldest transaction under way.
async fn acknowledge(
    under_way: &mut VecDeque<Sent>,
    progress: &mut Progress,
    position: &AtomicU64,
) -> Result<(), Failure> {
    let Some(mut sent) = under_way.pop_front() else {
        return Ok(());
    };
    let joined = Pin::new(&mut sent.task).await;
    let result = joined.map_err(|error| Failure::new(Code::Failed, format!("a task failed: {error}")))?;
    result?;
    progress.add(sent.records, sent.bytes, position.load(Ordering::Relaxed));
    Ok(())
}
