//! `overload`: what becomes of a system that is offered more than it can do. First its peak is measured in a closed loop. Then an open
//! loop offers half of that, and more and more up to ten times as much, and goes back in the same steps.
//!
//! An arrival is answered, refused by the system ("shed"), failed, or given up by the client because it could not even begin within its
//! patience: the client has a bound for what may be under way.

mod windows;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::args::OverloadArgs;
use crate::cpu;
use crate::error::Result;
use crate::load::open::Schedule;
use crate::load::{Alarm, open};
use crate::measure::{Load, measure, workers};
use crate::run::Started;
use crate::system::{Wanted, timer};
use crate::tell;
use crate::workload::Generators;
use windows::{Arrivals, WINDOW, Windows};

/// What is offered, in peaks.
const STEPS: [f64; 9] = [0.5, 1.0, 2.0, 5.0, 10.0, 5.0, 2.0, 1.0, 0.5];
/// As many windows in a row must be good.
const GOOD_WINDOWS: usize = 5;
/// A window is good when so large a share of what was offered was answered …
const GOOD_SHARE: f64 = 0.95;
/// … with a p99 of at most so many times that of the first step.
const GOOD_LATENCY: f64 = 3.0;

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
    /// What was answered of it, if later.
    pub goodput_per_s: f64,
    /// Answers that came meanwhile, also to what was offered before.
    pub answers_per_s: f64,
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
    /// Processors that the servers kept busy, if they are processes of their own.
    pub server_cores: Option<f64>,
    /// The same of the clients, which are all of this program.
    pub client_cores: f64,
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
            // The same programs as at the peak, with more to do: more connections would bring more queues.
            connected_as: args.clients as usize,
            tries_again: false,
        };
        let clients = system.connect(wanted).await?;
        let workers = workers(clients, generators(2), 0, u64::from(args.in_flight));
        let schedule = Schedule::new(STEPS.map(|step| (step * peak, args.seconds)));
        let per_step = (args.seconds.as_micros() / WINDOW.as_micros()).max(1) as usize;
        let begin = Instant::now() + WINDOW;
        let windows = Arc::new(Windows::new(begin, per_step * STEPS.len()));
        let pids = system.pids();
        let load = open::run(
            workers,
            schedule,
            begin,
            args.patience,
            alarm.clone(),
            windows.clone(),
        );
        let ((), busy) = tokio::join!(load, busy(&pids, begin, args.seconds));
        for (kind, count) in windows.kinds() {
            tell(&format!("{name}: {count} times: {kind}"));
        }
        let windows = windows.each();
        let steps = steps(name, args.workload.name(), &windows, per_step, &busy);
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

/// Processors that servers and clients keep busy in each step.
async fn busy(servers: &[u32], begin: Instant, length: Duration) -> Vec<(Option<f64>, f64)> {
    let used = || {
        let servers = (!servers.is_empty()).then(|| cpu::used(servers).micros);
        (servers, cpu::used_here().micros)
    };
    let cores = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e6 / length.as_secs_f64();
    sleep_until(begin).await;
    let (mut before, mut busy) = (used(), Vec::new());
    for (_, number) in STEPS.iter().zip(1_u32..) {
        sleep_until(begin + length * number).await;
        let after = used();
        let servers = before.0.zip(after.0).map(|(before, after)| cores(before, after));
        busy.push((servers, cores(before.1, after.1)));
        before = after;
    }
    busy
}

fn steps(
    system: &'static str,
    workload: &'static str,
    windows: &[Arrivals],
    per_step: usize,
    busy: &[(Option<f64>, f64)],
) -> Vec<Step> {
    let seconds = WINDOW.as_secs_f64() * per_step as f64;
    let per_s = |count: u64| (count as f64 / seconds).round();
    let each = windows.chunks(per_step).zip(STEPS).zip(busy);
    each.map(|((windows, load), (server_cores, client_cores))| {
        let all = Arrivals::merge(windows);
        Step {
            system,
            workload,
            load,
            offered_per_s: per_s(all.offered),
            goodput_per_s: per_s(all.answered),
            answers_per_s: per_s(all.answers),
            shed_per_s: per_s(all.shed),
            given_up_per_s: per_s(all.given_up),
            errors_per_s: per_s(all.offered - all.answered - all.shed - all.given_up),
            p50_ms: all.millis(0.5),
            p99_ms: all.millis(0.99),
            server_cores: *server_cores,
            client_cores: *client_cores,
        }
    })
    .collect()
}

/// Whether what was due in these windows was answered as it should be.
fn is_good(window: &Arrivals, p99_ms: f64) -> bool {
    let share = window.answered as f64 / window.offered.max(1) as f64;
    share >= GOOD_SHARE && window.millis(0.99) <= p99_ms
}

/// How long after the last step began everything was as in the first one.
fn recovered(windows: &[Arrivals], per_step: usize) -> Option<Duration> {
    let before = Arrivals::merge(windows.get(..per_step)?);
    let p99_ms = before.millis(0.99) * GOOD_LATENCY;
    let last = windows.get(windows.len().checked_sub(per_step)?..)?;
    let mut runs = last.windows(GOOD_WINDOWS.min(per_step));
    let good = runs.position(|windows| windows.iter().all(|window| is_good(window, p99_ms)))?;
    Some(WINDOW * u32::try_from(good).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Done, Event, Failure, Sink};

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
        let step = steps("dev", "put", &[some], 1, &[(None, 1.0)]).remove(0);
        let counts = (step.offered_per_s, step.goodput_per_s, step.shed_per_s);
        assert_eq!(counts, (110.0, 60.0, 30.0));
        assert_eq!((step.given_up_per_s, step.errors_per_s), (10.0, 10.0));
    }

    #[test]
    fn an_answer_counts_for_when_it_was_due_and_for_when_it_came() {
        let begin = Instant::now();
        let windows = Windows::new(begin, 3);
        windows.record(
            0,
            &Event {
                due: begin + WINDOW / 2,
                ended: begin + WINDOW * 2,
                result: Ok(Done::default()),
            },
        );
        windows.given_up(0, &mut [begin, begin + WINDOW].into_iter(), begin + WINDOW * 2);
        let each = windows.each();
        let counts: Vec<_> = each
            .iter()
            .map(|window| (window.offered, window.answered, window.answers, window.given_up))
            .collect();
        assert_eq!(counts, [(2, 1, 0, 1), (1, 0, 0, 1), (0, 0, 1, 0)]);
    }
}
