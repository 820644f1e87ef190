//! For each workload and region: throughput over clients, and how latencies are distributed with the most clients.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::svg::{Axis, Chart, Line, Scale, draw};

/// Draws all results as SVG.
pub fn plot(reports: &[Report]) -> String {
    let mut seen = BTreeSet::new();
    let groups = reports.iter().map(|report| (report.workload, report.region));
    let groups: Vec<_> = groups.filter(|group| seen.insert(*group)).collect();
    let charts: Vec<Chart> = groups
        .into_iter()
        .flat_map(|(workload, region)| {
            let of_group = reports
                .iter()
                .filter(|report| (report.workload, report.region) == (workload, region));
            let of_group: Vec<&Report> = of_group.collect();
            let place = region
                .map(|region| format!(", region {region}"))
                .unwrap_or_default();
            let title = format!("{workload}{place}");
            [throughput(&title, &of_group), latencies(&title, &of_group)]
        })
        .collect();
    draw(&charts, 2)
}

fn systems<'a>(reports: &[&'a Report]) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let names = reports.iter().map(|report| report.system);
    names.filter(|name| seen.insert(*name)).collect()
}

fn axis(title: &str, scale: Scale) -> Axis {
    Axis {
        title: title.to_owned(),
        scale,
        ticks: Vec::new(),
    }
}

fn throughput(title: &str, reports: &[&Report]) -> Chart {
    let line = |name: &str| {
        let own = reports.iter().filter(|report| report.system == name);
        let points: BTreeMap<usize, f64> = own.map(|report| (report.clients, report.ops_per_s)).collect();
        Line {
            name: name.to_owned(),
            points: points
                .into_iter()
                .map(|(clients, rate)| (clients as f64, rate))
                .collect(),
        }
    };
    let clients: BTreeSet<usize> = reports.iter().map(|report| report.clients).collect();
    let ticks = clients.iter().map(|count| (*count as f64, count.to_string()));
    Chart {
        title: title.to_owned(),
        x: Axis {
            ticks: ticks.collect(),
            ..axis("clients", Scale::Log)
        },
        y: axis("operations/s", Scale::Linear),
        lines: systems(reports).into_iter().map(line).collect(),
    }
}

/// Over the share of operations that take longer, so that the slowest have as much room as the rest.
fn latencies(title: &str, reports: &[&Report]) -> Chart {
    let most = reports
        .iter()
        .map(|report| report.clients)
        .max()
        .unwrap_or_default();
    let rarity = |quantile: f64| 1.0 / (1.0 - quantile);
    let line = |name: &str| {
        let own = reports
            .iter()
            .find(|report| report.system == name && report.clients == most);
        let points = own
            .map(|report| report.distribution.as_slice())
            .unwrap_or_default();
        Line {
            name: name.to_owned(),
            points: points
                .iter()
                .map(|(quantile, millis)| (rarity(*quantile), *millis))
                .collect(),
        }
    };
    let shares = [
        (0.5, "50 %"),
        (0.9, "90 %"),
        (0.99, "99 %"),
        (0.999, "99.9 %"),
        (0.9999, "99.99 %"),
    ];
    Chart {
        title: format!("{title}, {most} clients"),
        x: Axis {
            ticks: shares
                .map(|(share, label)| (rarity(share), label.to_owned()))
                .to_vec(),
            ..axis("share of operations", Scale::Log)
        },
        y: axis("latency ms", Scale::Log),
        lines: systems(reports).into_iter().map(line).collect(),
    }
}
