//! What the loss of a region costs, in seconds: `cargo run --release -p meridian-e2e --example region_loss -- kill --runs 5`.
//!
//! Two active regions and a witness, under an append ledger from both regions that is checked at the end of every run. Region `a` is
//! lost (all its processes killed at once, or paused, or in an embedded cluster with delays all its links cut) and comes back.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)]

use std::time::Duration;

use clap::{Parser, ValueEnum};
use meridian::embedded::{Cluster as Embedded, Delay, Options};
use meridian_e2e::region_loss::{CutOff, Killed, Paused, Placement, Seen, run};
use meridian_e2e::{Cluster, RegionLayout};

#[derive(Parser)]
struct Args {
    /// How the region is lost.
    how: How,
    /// How often.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How many key ranges: every other one prefers region a, the rest b.
    #[arg(long, default_value_t = 4)]
    ranges: usize,
    /// How many seconds the preferred placement is waited for after the return.
    #[arg(long, default_value_t = 30)]
    placed_within: u64,
    /// Restore the placement by hand, as an operator would, as soon as the region is back.
    #[arg(long)]
    by_hand: bool,
    /// One-way delays between the regions, for `cut`.
    #[arg(long, value_delimiter = ',', default_value = "a-b=30ms,a-w=10ms,b-w=25ms")]
    delay: Vec<Delay>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum How {
    /// All its processes are killed at once (`kill -9`), and started again.
    Kill,
    /// All its processes are stopped (SIGSTOP), and go on later.
    Pause,
    /// In an embedded cluster with delays between its regions: all its links are cut, and healed.
    Cut,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args = Args::parse();
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        let seen = once(&args).await;
        println!(
            "{:?} {number}: all ranges written in b after {:.2} s, by clients of a after {:.2} s; placed as preferred {}; \
             {} appends acknowledged, longest gap of a writer {:.2} s, {} errors while a was lost, {} after its return",
            args.how,
            seen.all_writable.as_secs_f64(),
            seen.all_writable_from_a.as_secs_f64(),
            seen.placed.map_or("not in time".to_owned(), |placed| format!(
                "{:.2} s after the return",
                placed.as_secs_f64()
            )),
            seen.written.acknowledged.len(),
            seen.written.longest_gap.as_secs_f64(),
            seen.errors_while_lost,
            seen.errors_after_return.len(),
        );
        for error in seen.errors_after_return.iter().take(5) {
            println!("  after the return: {error}");
        }
        runs.push(seen);
    }
    let of = |what: fn(&Seen) -> Option<Duration>| spread(runs.iter().map(what).collect());
    println!(
        "min / median / max, in seconds, {} runs of {:?}:",
        runs.len(),
        args.how
    );
    println!(
        "  b commits to every range:           {}",
        of(|seen| Some(seen.all_writable))
    );
    println!(
        "  clients of a commit to every range: {}",
        of(|seen| Some(seen.all_writable_from_a))
    );
    println!("  preferred placement after return:   {}", of(|seen| seen.placed));
    println!(
        "  longest gap of one writer:          {}",
        of(|seen| Some(seen.written.longest_gap))
    );
}

async fn once(args: &Args) -> Seen {
    let placed_within = Duration::from_secs(args.placed_within);
    let placement = if args.by_hand {
        Placement::ByHand
    } else {
        Placement::Automatic
    };
    let layout = RegionLayout {
        ranges: args.ranges,
        ..RegionLayout::default()
    };
    match args.how {
        How::Kill => {
            let mut world = Killed(Cluster::start_regions(layout).await);
            run(&mut world, args.ranges, placement, placed_within).await
        }
        How::Pause => {
            let mut world = Paused(Cluster::start_regions(layout).await);
            run(&mut world, args.ranges, placement, placed_within).await
        }
        How::Cut => {
            let directory = tempfile::tempdir().expect("a directory");
            let splits = (1..args.ranges).map(|range| format!("{range}/"));
            let options = Options::new(directory.path()).regions(3).split_at(splits);
            let options = options.delays(args.delay.iter().cloned());
            let mut world = CutOff(Embedded::start(options).await.expect("the cluster starts"));
            let seen = run(&mut world, args.ranges, placement, placed_within).await;
            world.0.shutdown().await;
            seen
        }
    }
}

/// The least, the middle one and the most of those that there are.
fn spread(mut times: Vec<Option<Duration>>) -> String {
    let missing = times.iter().filter(|time| time.is_none()).count();
    times.retain(Option::is_some);
    times.sort();
    let seconds = |time: &Option<Duration>| format!("{:.2}", time.unwrap_or_default().as_secs_f64());
    match (times.first(), times.get(times.len() / 2), times.last()) {
        (Some(least), Some(middle), Some(most)) => {
            let rest = if missing > 0 {
                format!(" ({missing} not in time)")
            } else {
                String::new()
            };
            format!(
                "{} / {} / {}{rest}",
                seconds(least),
                seconds(middle),
                seconds(most)
            )
        }
        _ => "never in time".to_owned(),
    }
}
