//! For people: one line per result, the systems beside each other.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Report;
use crate::floors::Floors;
use crate::overload::Step;

const HEADER: [&str; 13] = [
    "workload",
    "clients",
    "system",
    "region",
    "ops/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "p99.9 ms",
    "aborts/commit",
    "errors",
    "cpu us/op server + client",
    "rss MB",
];

/// The results in the order in which they are given.
pub fn table(reports: &[Report]) -> String {
    rows_of(&HEADER, 4, reports.iter().map(row))
}

/// Any table. Columns are numbers, and aligned to the right, but for the first ones.
pub(crate) fn rows_of(header: &[&str], words: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= words {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn row(report: &Report) -> Vec<String> {
    let or_dash = |number: Option<f64>, digits: usize| match number {
        Some(number) => format!("{number:.digits$}"),
        None => "-".to_owned(),
    };
    let millis = |millis: f64| format!("{millis:.2}");
    vec![
        report.workload.to_owned(),
        report.clients.to_string(),
        report.system.to_owned(),
        report.region.unwrap_or("-").to_owned(),
        format!("{:.0}", report.ops_per_s),
        millis(report.p50_ms),
        millis(report.p95_ms),
        millis(report.p99_ms),
        millis(report.p999_ms),
        or_dash(report.aborts_per_commit, 3),
        report.errors.to_string(),
        format!(
            "{} + {:.0}",
            or_dash(report.server_cpu_us_per_op, 0),
            report.client_cpu_us_per_op
        ),
        or_dash(report.rss_mb, 0),
    ]
}

/// What one client waits for.
pub fn floors_table(found: &Floors) -> String {
    let Floors {
        fdatasync_us,
        fdatasync_of_three_us,
        unary_us,
        floor_us,
        put_us,
        put_in_floors,
        allowed,
        get_us,
        txn_us,
    } = *found;
    let compared = format!("{put_us}, {put_in_floors:.2} floors (aimed at: at most {allowed})");
    let rows = [
        ("a record written and synced", fdatasync_us.to_string()),
        ("the same, three at a time", fdatasync_of_three_us.to_string()),
        ("a unary call", unary_us.to_string()),
        ("floor of a put: one sync, two calls", floor_us.to_string()),
        ("put", compared),
        ("get", get_us.to_string()),
        ("txn", txn_us.to_string()),
    ];
    let rows = rows.map(|(what, micros)| vec![what.to_owned(), micros]);
    rows_of(&["p50 of one client", "microseconds"], 2, rows)
}

/// The steps of a ramp.
pub fn overload_table(steps: &[Step]) -> String {
    let header = [
        "load",
        "offered/s",
        "goodput/s",
        "answers/s",
        "shed/s",
        "given up/s",
        "errors/s",
        "p50 ms",
        "p99 ms",
        "cores server + client",
    ];
    let row = |step: &Step| {
        let whole = |number: f64| format!("{number:.0}");
        vec![
            format!("{} x peak", step.load),
            whole(step.offered_per_s),
            whole(step.goodput_per_s),
            whole(step.answers_per_s),
            whole(step.shed_per_s),
            whole(step.given_up_per_s),
            whole(step.errors_per_s),
            format!("{:.2}", step.p50_ms),
            format!("{:.2}", step.p99_ms),
            match step.server_cores {
                Some(servers) => format!("{servers:.2} + {:.2}", step.client_cores),
                None => format!("{:.2}", step.client_cores),
            },
        ]
    };
    rows_of(&header, 1, steps.iter().map(row))
}
