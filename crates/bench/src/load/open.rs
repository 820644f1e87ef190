//! Open loop: operations arrive at a fixed rate. Each is counted from when it was to begin, so a system that stalls is charged for
//! all that would have arrived meanwhile, and not only for the few that were under way.
//!
//! Arrivals are numbered and their times follow from the number. Workers take the next number each, wait for its time, and do it. So
//! however far the system is behind, no queue grows: the backlog is the difference between two numbers. What is given up is given up by
//! counting: whoever meets an arrival that is too old takes all of that age at once, so that it costs next to nothing of the processors
//! which the system may have to share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Alarm, Event, Sink, Work};

/// When operations arrive: rates that follow each other.
#[derive(Clone, Debug)]
pub struct Schedule {
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    /// The number of its first arrival, and when that is.
    first: u64,
    begin: Duration,
    /// How many arrive, how far apart.
    count: u64,
    gap: Duration,
}

impl Schedule {
    /// Each rate (per second) for so long.
    pub fn new(rates: impl IntoIterator<Item = (f64, Duration)>) -> Self {
        let (mut first, mut begin, mut steps) = (0, Duration::ZERO, Vec::new());
        for (rate, length) in rates {
            let count = (rate * length.as_secs_f64()).round().max(0.0) as u64;
            steps.push(Step {
                first,
                begin,
                count,
                gap: Duration::from_secs_f64(length.as_secs_f64() / count.max(1) as f64),
            });
            first += count;
            begin += length;
        }
        Self { steps }
    }

    /// When the arrival with this number is due, counted from the beginning; `None` behind the last one.
    fn due(&self, number: u64) -> Option<Duration> {
        let step = self
            .steps
            .iter()
            .find(|step| number < step.first + step.count && number >= step.first)?;
        Some(step.begin + step.gap.mul_f64((number - step.first) as f64))
    }

    /// The number of the first arrival that is not due before then: at least that many are, and it may be one too early.
    fn first_from(&self, moment: Duration) -> u64 {
        let begun = self.steps.iter().rev().find(|step| step.begin <= moment);
        begun.map_or(0, |step| {
            let gaps = (moment - step.begin).as_secs_f64() / step.gap.as_secs_f64().max(1e-9);
            step.first + (gaps as u64).min(step.count)
        })
    }
}

/// Has all arrivals of the schedule carried out by the workers: as many as there are may be under way at a time. An arrival whose turn
/// comes later than `patience` after it was due is not begun. Returns when the last one has ended; dropping it stops them.
pub async fn run<S: Sink>(
    workers: Vec<Box<dyn Work>>,
    schedule: Schedule,
    begin: Instant,
    patience: Duration,
    alarm: Alarm,
    sink: Arc<S>,
) {
    let schedule = Arc::new(schedule);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for (number, mut work) in workers.into_iter().enumerate() {
        let (schedule, next, alarm, sink) = (schedule.clone(), next.clone(), alarm.clone(), sink.clone());
        clients.spawn(async move {
            loop {
                let taken = next.fetch_add(1, Ordering::Relaxed);
                let Some(due) = schedule.due(taken) else { return };
                let due = begin + due;
                alarm.at(due).await;
                let now = Instant::now();
                if now > due + patience {
                    let young = schedule.first_from((now - patience).saturating_duration_since(begin));
                    let old = next.fetch_max(young, Ordering::Relaxed)..young;
                    let old = std::iter::once(taken).chain(old);
                    let mut old = old.filter_map(|number| Some(begin + schedule.due(number)?));
                    sink.given_up(number, &mut old, now);
                    // Others have to run meanwhile.
                    tokio::task::coop::consume_budget().await;
                    continue;
                }
                let result = work.step().await;
                let event = Event {
                    due,
                    ended: Instant::now(),
                    result,
                };
                sink.record(number, &event);
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::super::{Done, Failure, Recorder, Window};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Takes a millisecond, but whatever meets the stall waits for its end.
    struct Stalls {
        from: Instant,
        until: Instant,
    }

    impl Work for Stalls {
        fn step(&mut self) -> BoxFuture<'_, Result<Done, Failure>> {
            async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if (self.from..self.until).contains(&Instant::now()) {
                    tokio::time::sleep_until(self.until).await;
                }
                Ok(Done::default())
            }
            .boxed()
        }
    }

    fn stalling(workers: usize, from: Instant, length: Duration) -> Vec<Box<dyn Work>> {
        let stalls = || Stalls {
            from,
            until: from + length,
        };
        let all = (0..workers).map(|_| Box::new(stalls()) as Box<dyn Work>);
        all.collect()
    }

    /// Ten seconds with a stall of one second: a tenth of all arrivals meets it, and the last percent waits for nearly all of it.
    #[tokio::test(start_paused = true)]
    async fn a_stall_shows_in_the_latencies() {
        let begin = Instant::now();
        let window = Window::new(begin, Duration::from_secs(10));
        let recorder = Arc::new(Recorder::open(window));
        let workers = stalling(50, begin + Duration::from_secs(4), Duration::from_secs(1));
        let schedule = Schedule::new([(1_000.0, Duration::from_secs(10))]);
        run(
            workers,
            schedule,
            begin,
            PATIENCE,
            Alarm::Runtime,
            recorder.clone(),
        )
        .await;
        let summary = recorder.summary();
        assert_eq!(summary.operations, 10_000);
        assert_eq!(summary.errors, 0);
        let millis = |quantile| summary.quantile_ms(quantile);
        assert!(millis(0.5) < 3.0, "p50 {}", millis(0.5));
        assert!((850.0..1_010.0).contains(&millis(0.99)), "p99 {}", millis(0.99));
        // In a closed loop the same stall is met once by each client: fifty of tens of thousands.
        let closed = Arc::new(Recorder::closed(Window::new(
            Instant::now(),
            Duration::from_secs(10),
        )));
        let from = Instant::now() + Duration::from_secs(4);
        let end = Instant::now() + Duration::from_secs(10);
        super::super::closed::run(stalling(50, from, Duration::from_secs(1)), end, closed.clone()).await;
        assert!(closed.summary().quantile_ms(0.99) < 3.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_begin_in_time_is_an_error_and_no_latency() {
        let begin = Instant::now();
        let recorder = Arc::new(Recorder::open(Window::new(begin, Duration::from_secs(5))));
        let schedule = Schedule::new([(10.0, Duration::from_secs(5))]);
        // One worker, stuck for the first four seconds; arrivals wait for one.
        let workers = stalling(1, begin, Duration::from_secs(4));
        let patience = Duration::from_secs(1);
        run(
            workers,
            schedule,
            begin,
            patience,
            Alarm::Runtime,
            recorder.clone(),
        )
        .await;
        let summary = recorder.summary();
        assert_eq!(summary.operations + summary.errors, 50);
        // All that were due in the first three seconds, but for the one that was begun at once.
        assert!((28..=30).contains(&summary.errors), "{}", summary.errors);
    }

    #[test]
    fn arrivals_are_due_by_their_numbers() {
        let second = Duration::from_secs(1);
        let schedule = Schedule::new([(2.0, second), (0.0, second), (4.0, second)]);
        let due: Vec<f64> = (0..8)
            .map_while(|number| schedule.due(number))
            .map(|due| due.as_secs_f64())
            .collect();
        assert_eq!(due, [0.0, 0.5, 2.0, 2.25, 2.5, 2.75]);
        let first_from = |seconds| schedule.first_from(Duration::from_secs_f64(seconds));
        let found = [0.0, 0.4, 0.6, 1.5, 2.0, 2.6, 9.0].map(first_from);
        assert_eq!(found, [0, 0, 1, 2, 2, 4, 6]);
    }

    /// Numbers of arrivals, as they are given up and begun.
    #[derive(Default)]
    struct Numbers(std::sync::Mutex<Vec<(Instant, bool)>>);

    impl Sink for Numbers {
        fn record(&self, _: usize, event: &Event) {
            let begun = event.result != Err(Failure::NotBegun);
            self.0.lock().unwrap().push((event.due, begun));
        }
    }

    /// Ten times as much arrives as can be done: each arrival is begun in time or given up, and none both.
    #[tokio::test(start_paused = true)]
    async fn every_arrival_is_told_once() {
        let begin = Instant::now();
        let workers = stalling(10, begin, Duration::ZERO);
        let schedule = Schedule::new([
            (100_000.0, Duration::from_secs(1)),
            (1_000.0, Duration::from_secs(1)),
        ]);
        let numbers = Arc::new(Numbers::default());
        let patience = Duration::from_millis(50);
        run(
            workers,
            schedule.clone(),
            begin,
            patience,
            Alarm::Runtime,
            numbers.clone(),
        )
        .await;
        let mut told = numbers.0.lock().unwrap().clone();
        told.sort_unstable();
        let due: Vec<Instant> = told.iter().map(|(due, _)| *due).collect();
        let all: Vec<Instant> = (0..101_000)
            .map(|number| begin + schedule.due(number).unwrap())
            .collect();
        assert!(due == all, "{} of {}", due.len(), all.len());
        let begun = told.iter().filter(|(_, begun)| *begun).count();
        assert!((5_000..20_000).contains(&begun), "{begun}");
    }
}
