//! Latencies, counts and errors of one measurement.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::{Event, Failure, Sink};

/// Workers share recorders, so that many of them need little memory and few wait for each other.
const SHARDS: usize = 16;
/// Errors are told apart by what they say, up to so many kinds.
const MAX_KINDS: usize = 20;
/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// A longer latency counts as this one. Microseconds.
const MOST_MICROS: u64 = 3_600_000_000;

/// The part of a run that counts.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its beginning: the end of the warm-up.
    pub begin: Instant,
    /// Its end.
    pub end: Instant,
}

impl Window {
    /// From there on, for so long.
    pub fn new(begin: Instant, length: Duration) -> Self {
        Self {
            begin,
            end: begin + length,
        }
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.end - self.begin
    }
}

/// What came of a measurement. Those of several rounds can be merged.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Latencies of operations that succeeded, in microseconds.
    latencies: Histogram<u64>,
    /// Operations that succeeded.
    pub operations: u64,
    /// Transactions that committed.
    pub commits: u64,
    /// How often those had to run again.
    pub aborts: u64,
    /// Operations that failed.
    pub errors: u64,
    /// What they said, and how often.
    pub kinds: BTreeMap<String, u64>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Summary {
    fn new() -> Self {
        Self {
            latencies: histogram(),
            operations: 0,
            commits: 0,
            aborts: 0,
            errors: 0,
            kinds: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// Adds what came of another round.
    pub fn merge(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.latencies.add(&other.latencies);
        self.operations += other.operations;
        self.commits += other.commits;
        self.aborts += other.aborts;
        self.errors += other.errors;
        for (kind, count) in &other.kinds {
            count_kind(&mut self.kinds, kind, *count);
        }
        self.elapsed += other.elapsed;
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that so large a share of the operations does not exceed, in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// How often a transaction had to be run again, on average; `None` when there were none.
    pub fn aborts_per_commit(&self) -> Option<f64> {
        (self.commits > 0).then(|| self.aborts as f64 / self.commits as f64)
    }

    fn add(&mut self, event: &Event) {
        match &event.result {
            Ok(done) => {
                self.operations += 1;
                self.commits += u64::from(done.is_transaction);
                self.aborts += done.aborts;
                record(&mut self.latencies, event.latency());
            }
            Err(failure) => {
                self.errors += 1;
                count_kind(&mut self.kinds, &failure.to_string(), 1);
            }
        }
    }
}

/// Adds a latency, in microseconds.
pub(crate) fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    latencies.saturating_record(micros.max(1));
}

/// No latencies yet.
pub(crate) fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, MOST_MICROS, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds: {error}"),
    }
}

/// Counts what was said. Many messages name a key or a node, so there could be as many kinds as errors: there are not.
pub(crate) fn count_kind(kinds: &mut BTreeMap<String, u64>, what: &str, count: u64) {
    let mut kind: String = what.chars().take(160).collect();
    if kind.len() < what.len() {
        kind.push('…');
    }
    if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
        kind = "others".to_owned();
    }
    *kinds.entry(kind).or_default() += count;
}

/// Takes note of the operations that fall into the window.
pub struct Recorder {
    window: Window,
    by_due: bool,
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    summary: Summary,
    last: Option<Instant>,
}

impl Recorder {
    /// Of a closed loop: counts what ends in the window.
    pub fn closed(window: Window) -> Self {
        Self::new(window, false)
    }

    /// Of an open loop: counts what is due in the window, whenever it ends.
    pub fn open(window: Window) -> Self {
        Self::new(window, true)
    }

    fn new(window: Window, by_due: bool) -> Self {
        let shard = || Shard {
            summary: Summary::new(),
            last: None,
        };
        let shards = (0..SHARDS).map(|_| Mutex::new(shard()));
        Self {
            window,
            by_due,
            shards: shards.collect(),
        }
    }

    /// What came of it. The time is that of the window, or until the last operation of an open loop ended that was late.
    pub fn summary(&self) -> Summary {
        let (mut all, mut last) = (Summary::new(), self.window.end);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            all.merge(&shard.summary);
            last = last.max(shard.last.unwrap_or(last));
        }
        all.elapsed = last - self.window.begin;
        all
    }
}

impl Sink for Recorder {
    fn record(&self, worker: usize, event: &Event) {
        let Window { begin, end } = self.window;
        let moment = if self.by_due { event.due } else { event.ended };
        if moment < begin || moment >= end {
            return;
        }
        let Some(shard) = self.shards.get(worker % SHARDS) else {
            return;
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.summary.add(event);
        if event.result != Err(Failure::NotBegun) {
            shard.last = shard.last.max(Some(event.ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Done;
    use super::*;

    fn event(due: Instant, millis: u64) -> Event {
        Event {
            due,
            ended: due + Duration::from_millis(millis),
            result: Ok(Done {
                aborts: 1,
                is_transaction: true,
            }),
        }
    }

    #[test]
    fn only_what_falls_into_the_window_counts() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let window = Window::new(begin + second, second);
        let (closed, open) = (Recorder::closed(window), Recorder::open(window));
        // The warm-up's last operation ends in the window; the window's last one ends behind it.
        for (worker, at) in [(0, 900), (1, 1_500), (40, 1_900)] {
            let event = event(begin + Duration::from_millis(at), 200);
            closed.record(worker, &event);
            open.record(worker, &event);
        }
        assert_eq!((closed.summary().operations, open.summary().operations), (2, 2));
        assert_eq!(closed.summary().elapsed, second);
        assert_eq!(open.summary().elapsed, Duration::from_millis(1_100));
        assert_eq!(open.summary().aborts_per_commit(), Some(1.0));
    }

    #[test]
    fn rounds_are_merged() {
        let begin = Instant::now();
        let round = |millis| {
            let recorder = Recorder::closed(Window::new(begin, Duration::from_secs(1)));
            (0..100).for_each(|worker| recorder.record(worker, &event(begin, millis)));
            recorder.summary()
        };
        let mut both = round(1);
        both.merge(&round(100));
        assert_eq!(both.operations, 200);
        assert!((both.rate() - 100.0).abs() < 1e-6);
        assert!((both.quantile_ms(0.5) - 1.0).abs() < 0.01 && (both.quantile_ms(0.51) - 100.0).abs() < 0.1);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut kinds = BTreeMap::new();
        for number in 0..1_000 {
            count_kind(&mut kinds, &format!("error {number}"), 1);
        }
        assert_eq!(kinds.len(), MAX_KINDS + 1);
        assert_eq!(kinds.values().sum::<u64>(), 1_000);
    }
}
