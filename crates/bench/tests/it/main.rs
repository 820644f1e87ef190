//! The tool on the system that needs nothing but itself: Meridian embedded.

use std::time::Duration;

use clap::Parser;
use kv_bench::args::{Action, Cli, OverloadArgs, RunArgs};
use kv_bench::overload::overload;
use kv_bench::run::{Started, compare};
use kv_bench::system::Kind;
use kv_bench::workload::Workload;

fn parsed(line: &str, dir: &std::path::Path) -> Action {
    let words = line.split_whitespace().map(str::to_owned);
    let dir = ["--dir".to_owned(), dir.display().to_string()];
    Cli::try_parse_from(words.chain(dir))
        .expect("a command line that is sound")
        .action
}

fn run_args(line: &str, dir: &std::path::Path) -> RunArgs {
    match parsed(line, dir) {
        Action::Run(args) => args,
        action => panic!("{action:?}"),
    }
}

/// Every workload works, nothing fails, transactions are counted as such; the sum of the accounts is checked by the tool itself, which
/// fails when it is wrong. Nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn every_workload_runs_and_the_bank_keeps_its_money() {
    let dir = tempfile::tempdir().unwrap();
    let line = "kv-bench run --system dev --clients 3 --seconds 0.3 --warm-up 0.05 --rounds 2 --keys 500";
    let args = run_args(line, dir.path());
    let started = Started::start(&[Kind::Dev], &args.site, 3).await.unwrap();
    let mut shown = 0;
    let reports = compare(&started, &args.load.plan(&args.site), |_| shown += 1)
        .await
        .unwrap();
    started.stop().await;
    let workloads: Vec<&str> = reports.iter().map(|report| report.workload).collect();
    assert_eq!(workloads, Workload::ALL.map(Workload::name));
    assert_eq!(shown, reports.len());
    for report in &reports {
        assert!(report.ops_per_s > 0.0 && report.errors == 0, "{report:?}");
        assert!(0.0 < report.p50_ms && report.p50_ms <= report.p99_ms && report.p99_ms <= report.p999_ms);
        let has_transactions = ["txn", "hot", "ycsb-f", "bank"].contains(&report.workload);
        assert_eq!(report.aborts_per_commit.is_some(), has_transactions, "{report:?}");
        // Servers and clients are one process here.
        assert!(report.server_cpu_us_per_op.is_none() && report.rss_mb.is_none());
    }
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "files are left behind"
    );
}

/// With distances, each region has results of its own. An open loop carries out what its rate says.
#[tokio::test(flavor = "multi_thread")]
async fn regions_are_measured_by_themselves_and_a_rate_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let line = "kv-bench run --system dev --workload put --clients 20 --seconds 1 --warm-up 0.2 --rate 40 --keys 100 \
                --regions 3 --delay a-b=10ms,a-w=5ms,b-w=5ms";
    let args = run_args(line, dir.path());
    let started = Started::start(&[Kind::Dev], &args.site, 20).await.unwrap();
    let reports = compare(&started, &args.load.plan(&args.site), |_| ())
        .await
        .unwrap();
    started.stop().await;
    let regions: Vec<_> = reports.iter().map(|report| report.region).collect();
    assert_eq!(regions, [Some("a"), Some("b")]);
    for report in reports {
        assert_eq!((report.rate, report.errors), (Some(40.0), 0));
        // All 40 arrivals were carried out, the last ones perhaps after the second was over.
        assert!(report.ops_per_s > 5.0 && report.ops_per_s <= 40.0, "{report:?}");
        // No commit without the other region or the witness: 5 ms there and 5 ms back.
        assert!(report.p50_ms >= 10.0, "{report:?}");
    }
}

/// Every arrival of the ramp ends in one way or another.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_offered_is_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        "kv-bench overload --system dev --workload get --clients 4 --in-flight 64 --seconds 0.5 --keys 100";
    let Action::Overload(args) = parsed(line, dir.path()) else {
        panic!("{line}");
    };
    let args: OverloadArgs = OverloadArgs {
        patience: Duration::from_millis(200),
        ..args
    };
    let started = Started::start(&[Kind::Dev], &args.site, 4).await.unwrap();
    let results = overload(&started, &args).await.unwrap();
    started.stop().await;
    let (steps, recovery) = &results[0];
    assert!(recovery.peak_per_s > 0.0);
    let loads: Vec<f64> = steps.iter().map(|step| step.load).collect();
    assert_eq!(loads, [0.5, 1.0, 2.0, 5.0, 10.0, 5.0, 2.0, 1.0, 0.5]);
    for step in steps {
        let offered = recovery.peak_per_s * step.load;
        assert!(
            (step.offered_per_s / offered - 1.0).abs() < 0.1,
            "{step:?}, not {offered}"
        );
        let ended = step.goodput_per_s + step.shed_per_s + step.given_up_per_s + step.errors_per_s;
        assert!((ended - step.offered_per_s).abs() <= 4.0, "{step:?}");
    }
}
