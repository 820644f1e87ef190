//! Where the time of a traced transaction goes, as its query processor sees it.
//!
//! Every duration is taken by one node's monotonic clock. What other nodes took they tell as durations, and what remains of the
//! time that was waited for them is the network's. A transaction that is not traced has spans that do nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_rpc::internal::{HomeTrace, ReadTrace, VoterTrace};
use meridian_rpc::v1;
use meridian_rpc::v1::Hop;
use meridian_rpc::v1::hop::Kind;
use tokio::time::Instant;

/// Hops of one transaction that are told; the rest is counted.
const MAX_HOPS: usize = 64;
/// Of these, hops of reads: the commit has the rest.
const MAX_READ_HOPS: usize = 36;
/// Bytes of a name that another node tells.
const MAX_NAME_BYTES: usize = 128;
/// Journal nodes of one quorum that are told.
const MAX_JOURNALS: usize = 16;

/// What is known of one transaction.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    /// Each operation with its parts, and when it began.
    operations: Vec<(Instant, Vec<Hop>)>,
    hops: usize,
    left_out: u64,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, began: Instant, mut hops: Vec<Hop>) {
        let mut recorded = self.lock();
        let is_commit = hops.first().is_some_and(|hop| hop.kind() == Kind::Commit);
        let most = if is_commit { MAX_HOPS } else { MAX_READ_HOPS };
        let room = most.saturating_sub(recorded.hops);
        recorded.left_out += hops.len().saturating_sub(room) as u64;
        hops.truncate(room);
        recorded.hops += hops.len();
        if !hops.is_empty() {
            recorded.operations.push((began, hops));
        }
    }

    /// All of it, in the order in which the operations began.
    pub(crate) fn told(&self) -> v1::Trace {
        let mut recorded = self.lock();
        recorded.operations.sort_by_key(|(began, _)| *began);
        let hops = recorded.operations.iter().flat_map(|(_, hops)| hops);
        v1::Trace {
            hops: hops.cloned().collect(),
            left_out: recorded.left_out,
        }
    }
}

/// One operation while it runs; it is recorded when this is dropped. Of a transaction that is not traced: nothing.
#[derive(Debug, Default)]
pub(crate) struct Span(Option<Box<Running>>);

#[derive(Debug)]
struct Running {
    recorder: Arc<Recorder>,
    kind: Kind,
    operation: u64,
    began: Instant,
    parts: Mutex<Vec<Hop>>,
}

impl Span {
    /// An operation that begins now.
    pub(crate) fn new(recorder: Option<&Arc<Recorder>>, kind: Kind) -> Self {
        Self(recorder.map(|recorder| {
            Box::new(Running {
                recorder: recorder.clone(),
                kind,
                operation: 0,
                began: Instant::now(),
                parts: Mutex::default(),
            })
        }))
    }

    /// The client's number for it.
    pub(crate) fn number(&mut self, operation: u64) {
        if let Some(running) = &mut self.0 {
            running.operation = operation;
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A part that began then and has ended now.
    pub(crate) fn step(&self, kind: Kind, began: Instant) {
        self.add(|| vec![hop(kind, 1, began.elapsed())]);
    }

    /// Parts that have ended; `parts` is called only if somebody wants to know.
    pub(crate) fn add(&self, parts: impl FnOnce() -> Vec<Hop>) {
        if let Some(running) = &self.0 {
            let mut known = running.parts.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < MAX_HOPS * 2 {
                known.extend(parts());
            }
        }
    }

    /// Whether it has such a part.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.0.as_ref().is_some_and(|running| {
            let known = running.parts.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().any(|part| part.kind() == kind)
        })
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(running) = self.0.take() else { return };
        let mut hops = vec![Hop {
            operation: running.operation,
            ..hop(running.kind, 0, running.began.elapsed())
        }];
        hops.extend(running.parts.into_inner().unwrap_or_else(PoisonError::into_inner));
        running.recorder.add(running.began, hops);
    }
}

/// A hop that took so long.
pub(crate) fn hop(kind: Kind, depth: u32, took: Duration) -> Hop {
    Hop {
        kind: kind.into(),
        duration_us: micros(took),
        depth,
        ..Hop::default()
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A read that `node` was asked for, `took` long, and its parts as that node measured them.
pub(crate) fn storage_hops(node: &str, took: Duration, beside: bool, trace: Option<ReadTrace>) -> Vec<Hop> {
    let mut hops = vec![Hop {
        node: node.to_owned(),
        beside,
        ..hop(Kind::Storage, 1, took)
    }];
    if let Some(trace) = trace {
        let parts = [
            (Kind::ClosedWait, trace.closed_wait_us),
            (Kind::Evaluate, trace.evaluate_us),
            (Kind::UncertaintyWait, trace.uncertainty_wait_us),
        ];
        hops.extend(with_network(2, took, parts));
    }
    hops
}

/// Another range's vote, as far as its query processor sees it.
pub(crate) fn prepare_hops(node: &str, stream: u64, took: Duration, trace: Option<VoterTrace>) -> Vec<Hop> {
    let mut hops = vec![Hop {
        node: node.to_owned(),
        stream,
        beside: true,
        ..hop(Kind::Prepare, 1, took)
    }];
    if let Some(trace) = trace {
        if let Some(prepare) = hops.first_mut() {
            prepare.region = name(trace.region);
        }
        hops.extend(with_network(2, took, [(Kind::Decide, trace.took_us)]));
    }
    hops
}

/// What an attempt at the home's owner came to.
pub(crate) struct HomeCall<'a> {
    pub(crate) node: &'a str,
    pub(crate) stream: u64,
    /// Until the decision was heard of, or the answer if that said so first.
    pub(crate) took: Duration,
    /// From then to knowing that the record is durable, and who told.
    pub(crate) learned: Option<(Duration, String)>,
    /// What the home's owner told.
    pub(crate) trace: Option<HomeTrace>,
}

impl HomeCall<'_> {
    pub(crate) fn hops(self) -> Vec<Hop> {
        let trace = self.trace.unwrap_or_default();
        let (node, region) = (self.node.to_owned(), name(trace.region.clone()));
        let here = |hop: Hop| Hop {
            node: node.clone(),
            region: region.clone(),
            stream: self.stream,
            ..hop
        };
        let journal = |depth, beside| Hop {
            by: trace
                .journals
                .iter()
                .take(MAX_JOURNALS)
                .cloned()
                .map(name)
                .collect(),
            beside,
            ..here(us(Kind::Journal, depth, trace.journal_us))
        };
        let is_told = !trace.node.is_empty();
        let mut hops = vec![here(hop(Kind::Home, 1, self.took))];
        let mut inner = trace.queue_us.saturating_add(trace.votes_us);
        inner = inner.saturating_add(trace.decide_us);
        if is_told {
            hops.push(us(Kind::Queue, 2, trace.queue_us));
            if !trace.votes.is_empty() {
                hops.push(us(Kind::Votes, 2, trace.votes_us));
            }
            for vote in trace.votes.iter().take(MAX_HOPS) {
                hops.push(Hop {
                    node: name(vote.node.clone()),
                    stream: vote.stream,
                    beside: true,
                    ..us(Kind::Vote, 3, vote.after_us)
                });
                hops.push(us(Kind::Decide, 4, vote.took_us));
            }
            hops.push(us(Kind::Decide, 2, trace.decide_us));
            if self.learned.is_none() {
                hops.push(journal(2, false));
                inner = inner.saturating_add(trace.journal_us);
            }
            hops.push(us(Kind::Network, 2, micros(self.took).saturating_sub(inner)));
        }
        if let Some((learned, by)) = self.learned {
            hops.push(Hop {
                by: vec![by],
                stream: self.stream,
                ..hop(Kind::Learn, 1, learned)
            });
            if is_told {
                // It began when the record was appended, before its query processor heard of the decision.
                hops.push(journal(2, true));
            }
        }
        hops
    }
}

fn us(kind: Kind, depth: u32, us: u64) -> Hop {
    hop(kind, depth, Duration::from_micros(us))
}

/// The parts that took any time at all or matter, and what remains of the whole.
fn with_network(
    depth: u32,
    whole: Duration,
    parts: impl IntoIterator<Item = (Kind, u64)>,
) -> impl Iterator<Item = Hop> {
    let parts: Vec<_> = parts.into_iter().collect();
    let inner = parts
        .iter()
        .fold(0_u64, |sum, (_, part)| sum.saturating_add(*part));
    let network = (Kind::Network, micros(whole).saturating_sub(inner));
    let all = parts.into_iter().chain([network]);
    all.map(move |(kind, part)| us(kind, depth, part))
}

/// A name that another node told.
fn name(mut name: String) -> String {
    if name.len() > MAX_NAME_BYTES {
        let end = (0..=MAX_NAME_BYTES).rev().find(|at| name.is_char_boundary(*at));
        name.truncate(end.unwrap_or_default());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(recorder: &Arc<Recorder>) {
        let span = Span::new(Some(recorder), Kind::Get);
        span.add(|| storage_hops("st", Duration::from_micros(90), false, Some(ReadTrace::default())));
    }

    #[tokio::test]
    async fn the_hops_are_bounded_and_the_commit_has_its_place() {
        let recorder = Arc::new(Recorder::default());
        (0..100).for_each(|_| read(&recorder));
        let span = Span::new(Some(&recorder), Kind::Commit);
        span.step(Kind::Plan, Instant::now());
        drop(span);
        let told = recorder.told();
        assert_eq!(told.hops.len(), MAX_READ_HOPS + 2);
        assert_eq!(told.hops[MAX_READ_HOPS].kind(), Kind::Commit);
        assert_eq!(told.left_out, 100 * 6 - MAX_READ_HOPS as u64);
    }

    #[test]
    fn what_no_node_measured_is_the_networks() {
        let home = HomeCall {
            node: "adj",
            stream: 3,
            took: Duration::from_micros(1_000),
            learned: None,
            trace: Some(HomeTrace {
                queue_us: 100,
                decide_us: 20,
                journal_us: 500,
                node: "adj".to_owned(),
                region: "ä".repeat(MAX_NAME_BYTES),
                ..HomeTrace::default()
            }),
        };
        let hops = home.hops();
        let network = hops.iter().find(|hop| hop.kind() == Kind::Network);
        assert_eq!(network.map(|hop| hop.duration_us), Some(380));
        assert_eq!(hops[0].region.len(), MAX_NAME_BYTES);
    }
}
