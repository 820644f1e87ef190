//! One reader's stream: a single task that owns its input, all of its reads, and its output.
//!
//! ```text
//! request ─> closed? ──yes──> running ──chunk by chunk──> answer ─> R4 passed? ──yes──> out
//!              │ no              ^                                      │ no
//!              └─> parked (R5) ──┘                                      └─> parked (R4) ──> out
//! ```
//! When the reader goes away, everything is dropped with the task.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use meridian_protocol::clock_rules::is_too_far_ahead;
use meridian_protocol::events;
use meridian_protocol::visibility::Consulted;
use meridian_rpc::KvError;
use meridian_rpc::convert::range_from_bytes;
use meridian_rpc::error::KvResult;
use meridian_rpc::internal::storage_read::Read;
use meridian_rpc::internal::storage_read_reply::Result as Answer;
use meridian_rpc::internal::{
    ClosedAnswer, ReadTrace, StorageRead, StorageReadBatch, StorageReadReply, StorageReadReplyBatch,
};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{RangeId, Timestamp, limits};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::job::{Job, Step, ranges_of};
use super::parked::{Held, Parked, Wait};
use crate::shared::{Figures, Shared, Ticket};

/// A batch of answers is sent when it holds about so many bytes.
const OUT_BATCH_BYTES: usize = 1 << 20;
/// Answers that wait for the clock (R4) hold at most about so many bytes; then no more requests are taken in.
const MAX_HELD_BYTES: usize = 16 << 20;
/// Reads of one message. More are none that a query processor sends, and each would be refused with an answer of its own.
const MAX_BATCH_READS: usize = 16_384;
/// Versions that are looked at before the task turns to its input again.
const SLICE_STEPS: usize = 512;

pub(super) type Output = mpsc::Sender<Result<StorageReadReplyBatch, Status>>;

/// One read between its request and its answer.
pub(super) struct Reading {
    pub at: Timestamp,
    id: u64,
    came: Instant,
    deadline: Instant,
    ranges: BTreeSet<RangeId>,
    job: Job,
    /// Of a read that is traced.
    measured: Option<Measured>,
    _ticket: Ticket,
}

/// How far a read that is traced has come, and when.
#[derive(Clone, Copy)]
struct Measured {
    closed: Instant,
    evaluated: Instant,
}

impl Reading {
    /// What it took until now, if it is traced.
    fn trace(&self) -> Option<ReadTrace> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.measured.map(|measured| ReadTrace {
            closed_wait_us: micros(measured.closed.saturating_duration_since(self.came)),
            evaluate_us: micros(measured.evaluated.saturating_duration_since(measured.closed)),
            uncertainty_wait_us: micros(measured.evaluated.elapsed()),
        })
    }
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    parked: Parked,
    running: VecDeque<Reading>,
    out: Output,
    replies: Vec<StorageReadReply>,
    reply_bytes: usize,
}

/// Nobody is there any more to be answered.
struct Gone;

impl Connection {
    pub fn new(shared: Arc<Shared>, out: Output) -> Self {
        Self {
            shared,
            parked: Parked::default(),
            running: VecDeque::new(),
            out,
            replies: Vec::new(),
            reply_bytes: 0,
        }
    }

    /// Answers until the reader goes away, or has said all and was answered, or the node shuts down.
    pub async fn run(mut self, mut input: Streaming<StorageReadBatch>) {
        let shutdown = self.shared.shutdown.clone();
        let out = self.out.clone();
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                let status = Status::from(KvError::unavailable(format!("storage node {} stops", self.shared.node)));
                // Only if there is room: nobody waits for a reader that does not read.
                let _ = out.try_send(Err(status));
                return;
            }
            () = out.closed() => Ok(()),
            ended = self.serve(&mut input) => ended,
        };
        if ended.is_err() {
            tracing::debug!(node = %self.shared.node, "reader went away");
        }
    }

    async fn serve(&mut self, input: &mut Streaming<StorageReadBatch>) -> Result<(), Gone> {
        let mut is_open = true;
        let mut closed = self.shared.closed.subscribe();
        let mut map = self.shared.owners.map_changes();
        loop {
            self.settle();
            self.flush().await?;
            if !is_open && self.running.is_empty() && self.parked.is_empty() {
                return Ok(());
            }
            let wake = self.next_wake();
            // Without room everything waits for the clock, which lets answers go.
            let has_room = self.parked.held_bytes() < MAX_HELD_BYTES;
            let is_busy = has_room && !self.running.is_empty();
            tokio::select! {
                biased;
                changed = closed.changed(), if !self.parked.is_empty() => changed.map_err(|_| Gone)?,
                Ok(()) = map.changed(), if !self.parked.is_empty() => self.follow_map(),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                batch = input.next(), if is_open && has_room => match batch {
                    Some(Ok(batch)) => self.admit_all(batch).await?,
                    Some(Err(_)) => return Err(Gone),
                    None => is_open = false,
                },
                () = tokio::task::yield_now(), if is_busy => {}
            }
            self.run_slice();
        }
    }

    /// When something happens by itself: a deadline, or an answer's time.
    fn next_wake(&self) -> Option<Instant> {
        let timely = self.parked.next_time().map(|timestamp| {
            let wait = timestamp.since(self.shared.clock.now().earliest);
            // At least the timer's resolution, so that this never spins; at most a second, for clocks that
            // jump.
            Instant::now() + wait.clamp(Duration::from_millis(1), Duration::from_secs(1))
        });
        [timely, self.parked.next_deadline()].into_iter().flatten().min()
    }

    async fn admit_all(&mut self, batch: StorageReadBatch) -> Result<(), Gone> {
        if batch.reads.len() > MAX_BATCH_READS {
            let error = KvError::LimitExceeded {
                limit: "reads of one message".to_owned(),
                allowed: MAX_BATCH_READS as u64,
                got: batch.reads.len() as u64,
            };
            let _ = self.out.send(Err(error.into())).await;
            return Err(Gone);
        }
        Figures::add(&self.shared.figures.reads, batch.reads.len() as u64);
        for read in batch.reads {
            let id = read.id;
            if let Err(error) = self.admit(read) {
                self.reply(id, Answer::Error(error.to_proto()));
            }
        }
        Ok(())
    }

    fn admit(&mut self, read: StorageRead) -> KvResult<()> {
        let bytes = read.encoded_len();
        let StorageRead {
            id,
            at,
            timeout_ms,
            read,
            trace,
        } = read;
        let map = self.shared.owners.map();
        let read = match read {
            None => return Err(KvError::invalid("a read without a question")),
            Some(Read::Closed(query)) => {
                let keys = range_from_bytes(query.start, query.end);
                self.shared.check_held(&keys)?;
                let ranges = ranges_of(&map, &keys)?;
                let closed = ranges
                    .iter()
                    .map(|range| self.shared.closed(*range))
                    .min()
                    .unwrap_or_default();
                self.reply(id, Answer::Closed(ClosedAnswer { closed: closed.0 }));
                return Ok(());
            }
            Some(read) => read,
        };
        let at = Timestamp(at);
        let now = self.shared.clock.now();
        let allowance = self.shared.clock.max_error();
        if is_too_far_ahead(at, now, allowance) {
            return Err(KvError::invalid(format!(
                "the snapshot {at} lies more than {allowance:?} after this node's time {}",
                now.latest
            )));
        }
        self.shared.admit(at)?;
        let ticket = self.shared.ticket(bytes)?;
        let (job, ranges) = Job::new(read, &map, &self.shared.config)?;
        for keys in job.keys() {
            self.shared.check_held(&keys)?;
        }
        let timeout = match timeout_ms {
            0 => limits::DEFAULT_DEADLINE,
            asked => Duration::from_millis(asked).min(limits::MAX_DEADLINE),
        };
        let came = Instant::now();
        let reading = Reading {
            at,
            id,
            came,
            deadline: came + timeout,
            ranges,
            job,
            measured: trace.then_some(Measured {
                closed: came,
                evaluated: came,
            }),
            _ticket: ticket,
        };
        if !self.start(reading) {
            Figures::add(&self.shared.figures.reads_waited, 1);
        }
        Ok(())
    }

    /// R5: runs the read if all its ranges are closed, else parks it on one that is not. Answers whether it
    /// runs.
    fn start(&mut self, mut reading: Reading) -> bool {
        self.shared.note_read(&reading.ranges, reading.at);
        let open = {
            let closed = self.shared.closed.borrow();
            reading
                .ranges
                .iter()
                .copied()
                .find(|range| !closed.covers([*range], reading.at) && !is_broken(Rule::ClosureWait))
        };
        let Some(range) = open else {
            if let Some(measured) = &mut reading.measured {
                measured.closed = Instant::now();
            }
            self.running.push_back(reading);
            return true;
        };
        self.shared.wants.add(range, reading.at, reading.deadline);
        self.parked
            .park(reading.deadline, Wait::ForClosure(range, reading));
        false
    }

    /// The range map changed: reads that wait for a range that is split or merged by now wait for its successors.
    fn follow_map(&mut self) {
        let map = self.shared.owners.map();
        for range in self.parked.ranges() {
            if map.entries.iter().any(|entry| entry.id == range) {
                continue;
            }
            for mut reading in self.parked.take_closed(range, Timestamp::MAX) {
                match reading.job.ranges(&map) {
                    Ok(ranges) => {
                        reading.ranges = ranges;
                        self.start(reading);
                    }
                    Err(error) => self.reply(reading.id, Answer::Error(error.to_proto())),
                }
            }
        }
    }

    /// Moves on whatever can: reads whose range is closed by now, answers whose time has come, deadlines that
    /// passed.
    fn settle(&mut self) {
        for range in self.parked.ranges() {
            let closed = self.shared.closed.borrow().closed(range);
            for reading in self.parked.take_closed(range, closed) {
                let came = reading.came;
                if self.start(reading) {
                    self.shared.figures.times.wait.record(came.elapsed());
                }
            }
        }
        if self.parked.next_time().is_some() {
            let earliest = self.shared.clock.now().earliest;
            while self.reply_bytes < OUT_BATCH_BYTES
                && let Some(held) = self.parked.take_timely(earliest)
            {
                log_shown(held.reading.at, held.consulted);
                let trace = held.reading.trace();
                self.send(StorageReadReply { trace, ..held.reply });
            }
        }
        let now = Instant::now();
        while let Some(wait) = self.parked.take_expired(now) {
            let (reading, waiting_for) = match wait {
                Wait::ForClosure(range, reading) => {
                    let waiting_for =
                        format!("waiting for range {range} to be closed through {}", reading.at);
                    (reading, waiting_for)
                }
                Wait::ForTime(timestamp, held) => (
                    held.reading,
                    format!("waiting until {timestamp} has passed for certain"),
                ),
            };
            self.expire(&reading, waiting_for);
        }
    }

    fn expire(&mut self, reading: &Reading, waiting_for: String) {
        Figures::add(&self.shared.figures.reads_timed_out, 1);
        let error = KvError::DeadlineExceeded { waiting_for };
        self.reply(reading.id, Answer::Error(error.to_proto()));
    }

    /// Works on the running reads in turn, for about a slice's work or until there is a batch to send.
    fn run_slice(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut steps = 0;
        while steps < SLICE_STEPS
            && self.reply_bytes < OUT_BATCH_BYTES
            && self.parked.held_bytes() < MAX_HELD_BYTES
            && let Some(mut reading) = self.running.pop_front()
        {
            if reading.deadline <= now {
                self.expire(&reading, "reading".to_owned());
                continue;
            }
            let (stepped, cost) = match &mut reading.job {
                Job::Get(get) => {
                    let cost = get.remaining().clamp(1, SLICE_STEPS - steps);
                    (reading.job.step(&*self.shared.store, reading.at, cost), cost)
                }
                // A scan's rows cannot be foreseen: one chunk of it is a slice of its own, or nearly.
                Job::Scan(_) => (
                    reading.job.step(&*self.shared.store, reading.at, SLICE_STEPS),
                    SLICE_STEPS / 4,
                ),
            };
            steps += cost;
            match stepped {
                Ok(Step::More) => self.running.push_back(reading),
                Ok(Step::Done(answer, consulted)) => self.done(reading, answer, consulted),
                Ok(Step::Refused(error)) => self.reply(reading.id, Answer::Error(error.to_proto())),
                Err(error) => {
                    let error = self.shared.store_failed(&error);
                    self.reply(reading.id, Answer::Error(error.to_proto()));
                }
            }
        }
        self.shared.figures.times.read.record(now.elapsed());
    }

    /// Answers, when R6 still allows it and as soon as R4 does.
    fn done(&mut self, mut reading: Reading, answer: Answer, consulted: Consulted) {
        if let Err(error) = self.shared.admit(reading.at) {
            return self.reply(reading.id, Answer::Error(error.to_proto()));
        }
        if let Some(measured) = &mut reading.measured {
            measured.evaluated = Instant::now();
        }
        let reply = StorageReadReply {
            id: reading.id,
            result: Some(answer),
            trace: reading.trace(),
        };
        if consulted.may_answer(self.shared.clock.now()) || is_broken(Rule::UncertaintyWait) {
            log_shown(reading.at, consulted);
            return self.send(reply);
        }
        let deadline = reading.deadline;
        let held = Held {
            bytes: reply.encoded_len(),
            reply,
            reading,
            consulted,
        };
        self.parked
            .park(deadline, Wait::ForTime(consulted.answer_not_before(), held));
    }

    fn reply(&mut self, id: u64, answer: Answer) {
        self.send(StorageReadReply {
            id,
            result: Some(answer),
            trace: None,
        });
    }

    fn send(&mut self, reply: StorageReadReply) {
        self.reply_bytes += reply.encoded_len();
        self.replies.push(reply);
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.replies.is_empty() {
            return Ok(());
        }
        self.reply_bytes = 0;
        let replies = std::mem::take(&mut self.replies);
        self.out
            .send(Ok(StorageReadReplyBatch { replies }))
            .await
            .map_err(|_| Gone)
    }
}

fn log_shown(at: Timestamp, consulted: Consulted) {
    let newest = consulted.answer_not_before();
    tracing::trace!(target: events::TARGET, event = "shown", at = at.0, newest = newest.0);
}
