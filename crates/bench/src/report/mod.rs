//! Results, as a table, as JSON and drawn.

mod json;
mod plot;
mod svg;
mod table;

pub use json::line;
pub use plot::plot;
pub(crate) use table::rows_of;
pub use table::{floors_table, overload_table, table};

use serde::Serialize;

use crate::load::Summary;
use crate::system::{Kind, Region};
use crate::workload::Workload;

/// One result: a system under a workload with so many clients, in one region. The names of the fields are those of the JSON form,
/// which is stable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The system.
    pub system: &'static str,
    /// The workload.
    pub workload: &'static str,
    /// Clients in the region.
    pub clients: usize,
    /// The region of the clients; none when there are no distances.
    pub region: Option<&'static str>,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Latency, with all retries; in an open loop from when the operation was to begin.
    pub p50_ms: f64,
    /// The same.
    pub p95_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub p999_ms: f64,
    /// How often a transaction had to run again; none when there were no transactions.
    pub aborts_per_commit: Option<f64>,
    /// Operations that failed. They are in no other figure.
    pub errors: u64,
    /// Processor time of the servers; none where they are in this process.
    pub server_cpu_us_per_op: Option<f64>,
    /// Processor time of this process: clients, and the delays between regions.
    pub client_cpu_us_per_op: f64,
    /// Memory of the servers at the end; none where they are in this process.
    pub rss_mb: Option<f64>,
    /// Open loop: the operations that were to begin per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Latencies for drawing: the share of operations, and what it does not exceed.
    #[serde(skip)]
    pub distribution: Vec<(f64, f64)>,
}

/// What was measured where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The workload.
    pub workload: Workload,
    /// Clients in each region.
    pub clients: usize,
    /// The system.
    pub system: Kind,
    /// The region.
    pub region: Option<Region>,
}

/// What it cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Processor time of the servers, if they can be told from the clients.
    pub server_micros: Option<u64>,
    /// Processor time of this process.
    pub client_micros: u64,
    /// Memory of the servers.
    pub rss_mb: Option<f64>,
    /// The operations that this was for, those of all regions.
    pub operations: u64,
}

impl Cost {
    /// Adds that of another round.
    pub fn merge(&mut self, other: &Self) {
        let both = self.server_micros.zip(other.server_micros);
        self.server_micros = both.map(|(one, other)| one + other);
        self.client_micros += other.client_micros;
        self.rss_mb = other.rss_mb;
        self.operations += other.operations;
    }
}

impl Report {
    /// Puts it together.
    pub fn new(cell: Cell, summary: &Summary, cost: &Cost, rate: Option<f64>) -> Self {
        let per_op = |micros: u64| rounded(micros as f64 / cost.operations.max(1) as f64, 10.0);
        let millis = |quantile| rounded(summary.quantile_ms(quantile), 1_000.0);
        let quantiles = [
            0.0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999,
        ];
        let distribution = quantiles.map(|quantile| (quantile, millis(quantile)));
        Self {
            system: cell.system.name(),
            workload: cell.workload.name(),
            clients: cell.clients,
            region: cell.region.map(Region::name),
            ops_per_s: rounded(summary.rate(), 10.0),
            p50_ms: millis(0.5),
            p95_ms: millis(0.95),
            p99_ms: millis(0.99),
            p999_ms: millis(0.999),
            aborts_per_commit: summary
                .aborts_per_commit()
                .map(|aborts| rounded(aborts, 10_000.0)),
            errors: summary.errors,
            server_cpu_us_per_op: cost.server_micros.map(per_op),
            client_cpu_us_per_op: per_op(cost.client_micros),
            rss_mb: cost.rss_mb.map(|megabytes| rounded(megabytes, 10.0)),
            rate,
            distribution: if summary.operations == 0 {
                Vec::new()
            } else {
                distribution.to_vec()
            },
        }
    }
}

fn rounded(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}
