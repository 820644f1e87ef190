//! `overload`: what becomes of a system that is offered more than it can do. First its peak is measured in a closed loop. Then an open
//! loop offers half of that, and more and more up to ten times as much, and goes back in the same steps.
//!
//! An arrival is answered, refused by the system ("shed"), failed, or given up by the client because it could not even begin within its
//! patience: the client has a bound for what may be under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::OverloadArgs;
use crate::error::Result;
use crate::load::open::Schedule;
use crate::load::{Alarm, Event, Failure, Sink, count_kind, open, record};
use crate::measure::{Load, measure, workers};
use crate::run::Started;
use crate::system::{Wanted, timer};
use crate::tell;
use crate::workload::Generators;

/// What is offered, in peaks.
const STEPS: [f64; 9] = [0.5, 1.0, 2.0, 5.0, 10.0, 5.0, 2.0, 1.0, 0.5];
/// Recovery is looked for in windows of this length.
const WINDOW: Duration = Duration::from_millis(100);
/// As many windows in a row must be good.
const GOOD_WINDOWS: usize = 5;
/// A window is good when so large a share of what was offered was answered …
const GOOD_SHARE: f64 = 0.95;
/// … with a p99 of at most so many times that of the first step.
const GOOD_LATENCY: f64 = 3.0;
/// A longer latency counts as this one. Microseconds.
const MOST_MICROS: u64 = 600_000_000;

/// One step of the ramp.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The system.
    pub system: &'static str,
    /// The workload.
    pub workload: &'static str,
    /// What was offered, in peaks.
    pub load: f64,
    /// What was offered, per second.
    pub offered_per_s: f64,
    /// What was answered of it.
    pub goodput_per_s: f64,
    /// What the system refused.
    pub shed_per_s: f64,
    /// What the client gave up before it began.
    pub given_up_per_s: f64,
    /// What failed otherwise.
    pub errors_per_s: f64,
    /// Latency of what was answered, from when it was to begin.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// The system.
    pub system: &'static str,
    /// The workload.
    pub workload: &'static str,
    /// Operations per second in the closed loop.
    pub peak_per_s: f64,
    /// From when half of the peak was offered again until it was answered as before; none when it never was.
    pub recovery_s: Option<f64>,
}

/// What became of the arrivals of some time.
#[derive(Clone, Debug)]
struct Arrivals {
    offered: u64,
    answered: u64,
    shed: u64,
    given_up: u64,
    latencies: Histogram<u64>,
}

impl Arrivals {
    fn new() -> Self {
        let latencies = match Histogram::new_with_bounds(1, MOST_MICROS, 2) {
            Ok(latencies) => latencies,
            Err(error) => unreachable!("constant bounds: {error}"),
        };
        Self {
            offered: 0,
            answered: 0,
            shed: 0,
            given_up: 0,
            latencies,
        }
    }

    fn add(&mut self, event: &Event) {
        self.offered += 1;
        match &event.result {
            Ok(_) => {
                self.answered += 1;
                record(&mut self.latencies, event.latency());
            }
            Err(Failure::Shed(_)) => self.shed += 1,
            Err(Failure::NotBegun) => self.given_up += 1,
            Err(Failure::Failed(_)) => {}
        }
    }

    fn merge<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::new();
        for one in all {
            sum.offered += one.offered;
            sum.answered += one.answered;
            sum.shed += one.shed;
            sum.given_up += one.given_up;
            // All have the same bounds.
            let _ = sum.latencies.add(&one.latencies);
        }
        sum
    }

    fn millis(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    fn is_good(&self, p99_ms: f64) -> bool {
        let share = self.answered as f64 / self.offered.max(1) as f64;
        share >= GOOD_SHARE && self.millis(0.99) <= p99_ms
    }
}

/// Arrivals by the window in which they were due.
struct Windows {
    begin: Instant,
    each: Mutex<Vec<Arrivals>>,
    /// What was said by whatever failed or was refused, and how often.
    kinds: Mutex<BTreeMap<String, u64>>,
}

impl Windows {
    fn new(begin: Instant, count: usize) -> Self {
        let each = (0..count).map(|_| Arrivals::new());
        Self {
            begin,
            each: Mutex::new(each.collect()),
            kinds: Mutex::default(),
        }
    }
}

impl Sink for Windows {
    fn record(&self, _: usize, event: &Event) {
        // Of those given up there are ten times as many as of all others; they have a column of their own.
        if let Err(failure) = &event.result
            && !matches!(failure, Failure::NotBegun)
        {
            let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            count_kind(&mut kinds, &failure.to_string(), 1);
        }
        let offset = event.due.saturating_duration_since(self.begin);
        let index = offset.as_micros() / WINDOW.as_micros();
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let window = usize::try_from(index).ok().and_then(|index| each.get_mut(index));
        if let Some(window) = window {
            window.add(event);
        }
    }
}

/// Runs the ramp. Each step is shown when all is done, as an arrival may be answered in a later one.
///
/// # Errors
/// Clients cannot be connected.
pub async fn overload(started: &Started, args: &OverloadArgs) -> Result<Vec<(Vec<Step>, Recovery)>> {
    let alarm = Alarm::Exact(timer()?);
    let mut all = Vec::new();
    for system in &started.systems {
        let name = system.kind().name();
        let generators = |number| Generators::new(args.workload, args.site.shape(), args.site.seed, number);
        let load = Load {
            generators: generators(1),
            clients: args.clients as usize,
            warm_up: args.seconds / 2,
            length: args.seconds,
            rate: None,
        };
        let region = started.regions.of_clients().into_iter().flatten().next();
        let (summaries, _) = measure(system.as_ref(), &[region], load, &alarm).await?;
        let peak = summaries
            .values()
            .next()
            .map_or(1.0, |summary| summary.rate().max(1.0));
        tell(&format!("{name}: peak {peak:.0}/s, ramping to ten times as much"));
        let wanted = Wanted {
            region,
            count: args.in_flight as usize,
            tries_again: false,
        };
        let clients = system.connect(wanted).await?;
        let workers = workers(clients, generators(2), 0, u64::from(args.in_flight));
        let schedule = Schedule::new(STEPS.map(|step| (step * peak, args.seconds)));
        let per_step = (args.seconds.as_micros() / WINDOW.as_micros()).max(1) as usize;
        let begin = Instant::now() + WINDOW;
        let windows = Arc::new(Windows::new(begin, per_step * STEPS.len()));
        open::run(
            workers,
            schedule,
            begin,
            args.patience,
            alarm.clone(),
            windows.clone(),
        )
        .await;
        for (kind, count) in &*windows.kinds.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(&format!("{name}: {count} times: {kind}"));
        }
        let windows = windows
            .each
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let steps = steps(name, args.workload.name(), &windows, per_step);
        let recovery = Recovery {
            system: name,
            workload: args.workload.name(),
            peak_per_s: peak.round(),
            recovery_s: recovered(&windows, per_step).map(|time| time.as_secs_f64()),
        };
        all.push((steps, recovery));
    }
    Ok(all)
}

fn steps(system: &'static str, workload: &'static str, windows: &[Arrivals], per_step: usize) -> Vec<Step> {
    let seconds = WINDOW.as_secs_f64() * per_step as f64;
    let per_s = |count: u64| (count as f64 / seconds).round();
    let each = windows.chunks(per_step).zip(STEPS);
    each.map(|(windows, load)| {
        let all = Arrivals::merge(windows);
        Step {
            system,
            workload,
            load,
            offered_per_s: per_s(all.offered),
            goodput_per_s: per_s(all.answered),
            shed_per_s: per_s(all.shed),
            given_up_per_s: per_s(all.given_up),
            errors_per_s: per_s(all.offered - all.answered - all.shed - all.given_up),
            p50_ms: all.millis(0.5),
            p99_ms: all.millis(0.99),
        }
    })
    .collect()
}

/// How long after the last step began everything was as in the first one.
fn recovered(windows: &[Arrivals], per_step: usize) -> Option<Duration> {
    let before = Arrivals::merge(windows.get(..per_step)?);
    let p99_ms = before.millis(0.99) * GOOD_LATENCY;
    let last = windows.get(windows.len().checked_sub(per_step)?..)?;
    let mut runs = last.windows(GOOD_WINDOWS.min(per_step));
    let good = runs.position(|windows| windows.iter().all(|window| window.is_good(p99_ms)))?;
    Some(WINDOW * u32::try_from(good).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Done;

    fn window(answered: u64, refused: u64, millis: u64) -> Arrivals {
        let mut arrivals = Arrivals::new();
        let due = Instant::now();
        let event = |result| Event {
            due,
            ended: due + Duration::from_millis(millis),
            result,
        };
        (0..answered).for_each(|_| arrivals.add(&event(Ok(Done::default()))));
        (0..refused).for_each(|_| arrivals.add(&event(Err(Failure::Shed("full".to_owned())))));
        arrivals
    }

    #[test]
    fn recovery_is_when_windows_stay_good() {
        let good = || window(100, 0, 2);
        let mut windows = vec![good(); 10];
        windows.extend(vec![window(10, 90, 2); 10]);
        let mut last = vec![window(100, 0, 50), good(), window(50, 50, 2)];
        last.extend(vec![good(); 7]);
        windows.extend(last);
        assert_eq!(recovered(&windows, 10), Some(Duration::from_millis(300)));
        windows.truncate(20);
        assert_eq!(recovered(&windows, 10), None);
    }

    #[test]
    fn what_was_offered_is_answered_refused_given_up_or_failed() {
        let mut some = window(6, 3, 1);
        let due = Instant::now();
        for failure in [Failure::NotBegun, Failure::Failed("broken".to_owned())] {
            some.add(&Event {
                due,
                ended: due,
                result: Err(failure),
            });
        }
        let step = steps("dev", "put", &[some], 1).remove(0);
        let counts = (step.offered_per_s, step.goodput_per_s, step.shed_per_s);
        assert_eq!(counts, (110.0, 60.0, 30.0));
        assert_eq!((step.given_up_per_s, step.errors_per_s), (10.0, 10.0));
    }
}
