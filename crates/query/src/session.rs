//! A session: many transactions of one client over one stream.
//!
//! One task owns the stream's input and runs the operations. Those of one transaction take effect in the
//! order in which they arrive; reads of it may be under way at the same time, a commit or a range deletion
//! waits for the reads before it, and what follows waits for it. Transactions do not wait for one another.
//!
//! ```text
//! input ─> backlog ─> dispatch ──writes──> the transaction, at once
//!             ^           ├──reads───> running ──reply──> output
//!             │           └──behind a commit──> the transaction's queue
//!             └── not read further while too much runs or waits (the client's connection fills up)
//! ```

mod ops;
mod output;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use meridian_rpc::batch::Batches;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{
    SessionClosing, SessionHello, SessionOp, SessionReply, SessionRequest, SessionResponse,
};
use meridian_rpc::{FORMAT_VERSION, KvError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use crate::processor::Processor;
use output::Output;
use table::{Done, Part, ScanSlot, Table};

/// Replies that may wait to be sent.
const OUTPUT_QUEUE: usize = 256;
/// About the most bytes of one message to the client.
const MESSAGE_BYTES: usize = 1 << 20;
/// Most operations of a session that may wait behind commits and range deletions.
const MAX_WAITING: usize = 32;
/// When to come back after too many sessions were found open.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Opens a session; what comes out is the stream to the client.
pub(crate) fn open(
    processor: Arc<Processor>,
    input: Streaming<SessionRequest>,
) -> KvResult<BoxStream<'static, Result<SessionResponse, Status>>> {
    processor.check_ready()?;
    let permit = processor.sessions.clone().try_acquire_owned().map_err(|_| {
        let what = format!(
            "{} sessions are open, the limit of this node",
            processor.config.max_sessions
        );
        KvError::overloaded(what, processor.retry.jitter(RETRY_AFTER))
    })?;
    processor.figures.sessions.fetch_add(1, Ordering::Relaxed);
    let (sender, replies) = mpsc::channel(OUTPUT_QUEUE);
    let hello = SessionHello {
        node: processor.env.node.to_string(),
        region: processor.env.region.clone(),
        now: processor.env.clock.now().latest.0,
        format: FORMAT_VERSION,
        operations: u32::try_from(processor.config.session_operations).unwrap_or(u32::MAX),
    };
    // The queue is empty: there is room.
    let _ = sender.try_send(SessionReply {
        id: 0,
        reply: Some(Reply::Hello(hello)),
    });
    let session = Session {
        output: Output::new(sender, processor.clone()),
        processor,
        table: Table::default(),
        scans: BTreeMap::new(),
        backlog: VecDeque::new(),
        running: FuturesUnordered::new(),
        input_ended: false,
    };
    tokio::spawn(session.run(input, permit));
    let batches = Batches::new(replies, OUTPUT_QUEUE, MESSAGE_BYTES, output::size);
    Ok(batches.map(|replies| Ok(SessionResponse { replies })).boxed())
}

struct Session {
    processor: Arc<Processor>,
    output: Output,
    table: Table,
    /// Open scans by the id of the operation that opened them.
    scans: BTreeMap<u64, ScanSlot>,
    /// Operations received and not looked at yet: at most one message's.
    backlog: VecDeque<SessionOp>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    input_ended: bool,
}

impl Session {
    async fn run(mut self, mut input: Streaming<SessionRequest>, _permit: OwnedSemaphorePermit) {
        let processor = self.processor.clone();
        let output = self.output.clone();
        let idle = Duration::from_millis(processor.config.session_idle_ms);
        let mut told = false;
        loop {
            let began = Instant::now();
            self.dispatch_backlog();
            self.processor.figures.busy.record(began.elapsed());
            if self.input_ended && self.running.is_empty() {
                break;
            }
            let reads_on = !self.input_ended && self.backlog.is_empty();
            tokio::select! {
                biased;
                () = processor.closed.cancelled() => break,
                () = output.closed() => break,
                () = processor.draining.cancelled(), if !told => {
                    told = true;
                    if !output.send(0, Reply::Closing(SessionClosing {})).await {
                        break;
                    }
                }
                Some(done) = self.running.next(), if !self.running.is_empty() => {
                    if !self.finish(done) {
                        break;
                    }
                }
                message = input.message(), if reads_on => match message {
                    Ok(Some(request)) => self.backlog.extend(request.ops),
                    Ok(None) => self.input_ended = true,
                    Err(status) => {
                        tracing::debug!(code = ?status.code(), "session's input broke");
                        break;
                    }
                },
                () = tokio::time::sleep(idle), if self.running.is_empty() => {
                    if !self.table.has_open() {
                        break;
                    }
                }
            }
        }
        // Commits that were sent go on by themselves; everything else is rolled back.
        self.table.roll_back_all();
    }

    /// Whether one more operation may be started or queued.
    fn has_room(&self) -> bool {
        self.running.len() < self.processor.config.session_operations && self.table.waiting() < MAX_WAITING
    }

    fn dispatch_backlog(&mut self) {
        while self.has_room() {
            let Some(op) = self.backlog.pop_front() else {
                return;
            };
            self.dispatch(op);
        }
    }

    /// Notes the end of an operation and starts what waited for it. `false` when the client takes no answers.
    fn finish(&mut self, done: Done) -> bool {
        let Done {
            txn,
            generation,
            part,
            answered,
        } = done;
        let exclusive = matches!(part, Part::Exclusive);
        self.finish_part(txn, part);
        self.table.on_done(txn, generation, exclusive);
        self.start_waiting(txn);
        answered
    }
}
