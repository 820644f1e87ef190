//! What operations cost in one layout after another, and what ranges cost that nobody uses.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::figures::{ByRole, slopes};
use super::layout::Layout;
use super::servers::Servers;
use super::{Line, Part, Place, ScaleArgs};
use crate::error::Result;
use crate::load::{Alarm, Summary};
use crate::measure::{Load, measure, preload};
use crate::system::{Regions, timer};
use crate::tell;
use crate::workload::{Generators, Workload};

const WORKLOADS: [Workload; 3] = [Workload::Put, Workload::Get, Workload::Txn];
/// Operations that may be under way at a time.
const IN_FLIGHT: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);
/// Nothing is sent for a range that was not used for three seconds: a cluster is idle after so long.
const QUIET: Duration = Duration::from_secs(4);

/// What operations cost in one layout.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Key ranges.
    pub ranges: u32,
    /// Adjudicators.
    pub adjudicators: u32,
    /// Storage nodes.
    pub storage_nodes: u32,
    /// Query processors.
    pub query_processors: u32,
    /// What clients did.
    pub workload: &'static str,
    /// Operations that succeeded, per second: those that were to begin, unless the machine cannot do so many.
    pub ops_per_s: f64,
    /// Their latency, from when they were to begin.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// Operations that failed.
    pub errors: u64,
    /// Processor time of the servers for each operation, with what they use anyway, in microseconds.
    pub cpu_us_per_op: ByRole,
}

/// What a cluster costs that nobody uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// Key ranges.
    pub ranges: u32,
    /// Processor time in milliseconds per second.
    pub cpu_ms_per_s: ByRole,
    /// Memory.
    pub rss_mb: ByRole,
}

/// What one more idle range costs: the slope of all [`Idle`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdleRange {
    /// Processor time in microseconds per second.
    pub cpu_us_per_s: ByRole,
    /// Memory.
    pub rss_kb: ByRole,
}

/// Measures the layouts that are asked for. Returns what operations cost, and what idle clusters cost.
pub(super) async fn run(place: &Place, args: &ScaleArgs) -> Result<(Vec<Line>, Vec<Line>)> {
    let alarm = Alarm::Exact(timer()?);
    let is_wanted = |layout: &Layout| args.has(Part::Growth) || is_of_idle(layout, args);
    let (mut growth, mut idle) = (Vec::new(), Vec::new());
    for layout in Layout::series(&args.ranges, &args.nodes)
        .into_iter()
        .filter(is_wanted)
    {
        let servers = place.start(layout).await?;
        preload(&servers, &Regions::default(), args.shape(), args.seed).await?;
        if args.has(Part::Growth) {
            for (number, workload) in (1..).zip(WORKLOADS) {
                let one = operations(&servers, layout, args, &alarm, (workload, number)).await?;
                tell(&format!(
                    "{workload}: {:.0} us of all servers",
                    one.cpu_us_per_op.total
                ));
                growth.push(Line::Growth(one));
            }
        }
        if is_of_idle(&layout, args) {
            idle.push(left_alone(&servers, layout, args.seconds * 2).await);
        }
    }
    let more = idle_range(&idle).map(Line::IdleRange);
    let idle = idle.into_iter().map(Line::Idle).chain(more);
    Ok((growth, idle.collect()))
}

fn is_of_idle(layout: &Layout, args: &ScaleArgs) -> bool {
    args.has(Part::Idle) && layout.is_single() && args.ranges.contains(&layout.ranges)
}

async fn operations(
    servers: &Servers,
    layout: Layout,
    args: &ScaleArgs,
    alarm: &Alarm,
    (workload, number): (Workload, u32),
) -> Result<Growth> {
    let load = Load {
        generators: Generators::new(workload, args.shape(), args.seed, number),
        clients: IN_FLIGHT,
        warm_up: WARM_UP,
        length: args.seconds,
        rate: Some(args.rate),
    };
    let begin = Instant::now() + WARM_UP;
    let (measured, used) = tokio::join!(
        measure(servers, &[None], load, alarm),
        used(servers, begin, args.seconds)
    );
    let (summaries, _) = measured?;
    let summary = summaries.into_values().next();
    let mut growth = Growth {
        ranges: layout.ranges,
        adjudicators: layout.adjudicators,
        storage_nodes: layout.storages,
        query_processors: layout.queries,
        workload: workload.name(),
        ops_per_s: 0.0,
        p50_ms: 0.0,
        p99_ms: 0.0,
        errors: 0,
        cpu_us_per_op: ByRole::default(),
    };
    if let Some(summary) = summary {
        growth.add(&summary, &used, args.seconds);
    }
    Ok(growth)
}

impl Growth {
    fn add(&mut self, summary: &Summary, used: &ByRole, length: Duration) {
        for (kind, count) in &summary.kinds {
            tell(&format!("{}: {count} times: {kind}", self.workload));
        }
        let thousandths = |number: f64| (number * 1e3).round() / 1e3;
        self.ops_per_s = (summary.rate() * 10.0).round() / 10.0;
        self.p50_ms = thousandths(summary.quantile_ms(0.5));
        self.p99_ms = thousandths(summary.quantile_ms(0.99));
        self.errors = summary.errors;
        // Where the machine is too slow the last operations end after the time in which processors are looked at.
        let operations = (summary.rate() * length.as_secs_f64()).max(1.0);
        self.cpu_us_per_op = used.times(1.0 / operations).rounded(10.0);
    }
}

/// Processor time from then on, for so long.
async fn used(servers: &Servers, begin: Instant, length: Duration) -> ByRole {
    sleep_until(begin).await;
    let before = servers.used_micros();
    sleep_until(begin + length).await;
    servers.used_micros().minus(&before)
}

async fn left_alone(servers: &Servers, layout: Layout, length: Duration) -> Idle {
    sleep(QUIET).await;
    let used = used(servers, Instant::now(), length).await;
    let idle = Idle {
        ranges: layout.ranges,
        cpu_ms_per_s: used.times(1e-3 / length.as_secs_f64()).rounded(100.0),
        rss_mb: servers.resident_mb().rounded(10.0),
    };
    tell(&format!(
        "idle: {:.1} ms per second of all servers",
        idle.cpu_ms_per_s.total
    ));
    idle
}

/// Nothing when there are not two numbers of ranges.
fn idle_range(idle: &[Idle]) -> Option<IdleRange> {
    let points = |of: fn(&Idle) -> ByRole| -> Vec<(f64, ByRole)> {
        idle.iter()
            .map(|idle| (f64::from(idle.ranges), of(idle)))
            .collect()
    };
    Some(IdleRange {
        cpu_us_per_s: slopes(&points(|idle| idle.cpu_ms_per_s))?
            .times(1e3)
            .rounded(10.0),
        rss_kb: slopes(&points(|idle| idle.rss_mb))?.times(1024.0).rounded(10.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_idle_range_costs_the_slope() {
        let idle = |ranges: u32| Idle {
            ranges,
            cpu_ms_per_s: ByRole::new(|_| 2.0 + 0.25 * f64::from(ranges)),
            rss_mb: ByRole::new(|_| 10.0 + f64::from(ranges)),
        };
        let more = idle_range(&[idle(1), idle(4), idle(16)]).unwrap();
        assert_eq!(
            (more.cpu_us_per_s.journal, more.cpu_us_per_s.total),
            (250.0, 1_250.0)
        );
        assert_eq!(more.rss_kb.router, 1_024.0);
        assert_eq!(idle_range(&[idle(4)]), None);
    }
}
