//! A node's status as metrics: read anew for each scrape, so that nothing is told of what is not there any more.

use meridian_metrics::{Family, Kind, names};
use meridian_rpc::v1::{NodeStatus, OwnedRangeStatus, ServiceStatus};
use metrics_exporter_prometheus::BuildError;

use super::Labels;

/// The figures of services that are metrics, with the values of their labels.
static FIGURES: &[(&str, &str, &Family, &[&str])] = &[
    ("router", "requests_served", &names::ROUTER_REQUESTS, &[]),
    ("router", "sessions_served", &names::ROUTER_SESSIONS, &[]),
    (
        "router",
        "refused_overloaded",
        &names::ROUTER_REFUSED,
        &["overloaded"],
    ),
    (
        "router",
        "refused_draining",
        &names::ROUTER_REFUSED,
        &["draining"],
    ),
    ("router", "answers_broken", &names::ROUTER_BROKEN, &[]),
    ("router", "requests", &names::ROUTER_OPEN_REQUESTS, &[]),
    ("router", "sessions", &names::ROUTER_OPEN_SESSIONS, &[]),
    ("router", "query_processors_ready", &names::ROUTER_READY, &[]),
    ("query", "transactions_begun", &names::QUERY_BEGUN, &[]),
    ("query", "transactions_open", &names::QUERY_OPEN, &[]),
    ("query", "sessions", &names::QUERY_SESSIONS, &[]),
    ("query", "sessions_open", &names::QUERY_OPEN_SESSIONS, &[]),
    ("query", "bytes_held", &names::QUERY_BUFFERED, &[]),
    ("query", "refused_overloaded", &names::QUERY_REFUSED, &[]),
    ("query", "commits", &names::QUERY_COMMITS, &[]),
    ("query", "commits_told_by_journal", &names::QUERY_TOLD_EARLY, &[]),
    ("adjudicator", "queued_requests", &names::ADJUDICATOR_QUEUE, &[]),
    ("journal", "waiting_messages", &names::JOURNAL_WAITING, &[]),
    ("journal", "append_connections", &names::JOURNAL_CONNECTIONS, &[]),
    ("journal", "log_bytes", &names::JOURNAL_LOG, &[]),
    ("journal", "tail_bytes", &names::JOURNAL_TAIL, &[]),
    ("storage", "entries_applied", &names::STORAGE_ENTRIES, &[]),
    ("storage", "versions_applied", &names::STORAGE_VERSIONS, &[]),
    ("storage", "versions_dropped", &names::STORAGE_DROPPED, &[]),
    ("storage", "reads", &names::STORAGE_READS, &[]),
    ("storage", "reads_waited", &names::STORAGE_WAITED, &[]),
    ("storage", "reads_refused", &names::STORAGE_REFUSED, &[]),
    ("storage", "reads_timed_out", &names::STORAGE_TIMED_OUT, &[]),
    ("storage", "reads_open", &names::STORAGE_OPEN, &[]),
    ("storage", "read_bytes_open", &names::STORAGE_OPEN_BYTES, &[]),
    ("storage", "closes_asked", &names::STORAGE_CLOSES, &[]),
    ("storage", "feeds_opened", &names::STORAGE_FEEDS, &[]),
    ("storage", "disk_bytes", &names::STORAGE_BYTES, &[]),
    (
        "storage",
        "checkpoints_written",
        &names::STORAGE_CHECKPOINTS,
        &["written"],
    ),
    (
        "storage",
        "checkpoints_failed",
        &names::STORAGE_CHECKPOINTS,
        &["failed"],
    ),
    (
        "storage",
        "checkpoint_bytes",
        &names::STORAGE_CHECKPOINT_BYTES,
        &[],
    ),
    ("storage", "fills", &names::STORAGE_FILLS, &[]),
    ("storage", "newest_hits", &names::STORAGE_HITS, &[]),
    ("storage", "newest_misses", &names::STORAGE_MISSES, &[]),
];

/// The status, in the form that Prometheus reads.
pub(super) fn status(labels: &Labels, status: &NodeStatus) -> Result<String, BuildError> {
    let recorder = labels.recorder()?;
    metrics::with_local_recorder(&recorder, || record(status));
    Ok(recorder.handle().render())
}

fn record(status: &NodeStatus) {
    names::BUILD.gauge(&[&status.version]).set(1.0);
    set(&names::UPTIME, &[], status.uptime_s);
    set(&names::MEMORY, &[], resident_bytes().unwrap_or_default());
    names::CLOCK_BOUND.gauge(&[]).set(seconds(status.clock_bound, 0));
    set(&names::CLOCK_HEALTHY, &[], u64::from(status.clock_healthy));
    if status.disk_bytes > 0 {
        set(&names::DISK, &[], status.disk_bytes);
        set(&names::DISK_FREE, &[], status.disk_free_bytes);
    }
    for service in &status.services {
        let is_ready = u64::from(service.state == "ready");
        set(&names::READY, &[&service.role], is_ready);
        record_figures(service);
        match service.role.as_str() {
            "adjudicator" => record_ranges(&service.ranges, status),
            "journal" => record_streams(service),
            "storage" => {
                record_applied(service, status);
                record_checkpoint(service, status);
            }
            _ => {}
        }
    }
}

fn record_figures(service: &ServiceStatus) {
    for (_, figure, family, values) in FIGURES.iter().filter(|(role, ..)| *role == service.role) {
        set(
            family,
            values,
            service.figures.get(*figure).copied().unwrap_or_default(),
        );
    }
}

/// Those that it owns: what others own, their owners tell.
fn record_ranges(ranges: &[OwnedRangeStatus], status: &NodeStatus) {
    let of = |role: &'static str| {
        ranges
            .iter()
            .filter(move |range| range.role == role && !range.retired)
    };
    set(&names::ADJUDICATOR_OWNED, &[], of("owner").count() as u64);
    set(
        &names::ADJUDICATOR_RECOVERING,
        &[],
        of("recovering").count() as u64,
    );
    for range in of("owner") {
        let (id, stream) = (range.range.to_string(), range.stream.to_string());
        let labels = [id.as_str(), stream.as_str()];
        set(&names::RANGE_EPOCH, &labels, range.epoch);
        set(&names::RANGE_LAST, &labels, range.last_lsn);
        set(&names::RANGE_COMMITTED, &labels, range.committed_lsn);
        let lease = seconds(range.lease_end, status.clock_latest);
        names::RANGE_LEASE.gauge(&labels).set(lease);
        names::RANGE_LEAD.gauge(&labels).set(seconds(range.lead_ns, 0));
        if range.closed > 0 {
            let lag = seconds(status.clock_earliest, range.closed);
            names::RANGE_CLOSED.gauge(&labels).set(lag);
        }
        for (journal, acknowledged) in &range.replicas {
            let labels = [id.as_str(), stream.as_str(), journal.as_str()];
            let lag = range.last_lsn.saturating_sub(*acknowledged);
            set(&names::RANGE_REPLICA_LAG, &labels, lag);
        }
    }
}

fn record_streams(service: &ServiceStatus) {
    for stream in &service.streams {
        let id = stream.stream.to_string();
        set(&names::JOURNAL_EPOCH, &[&id], stream.promised_epoch);
        set(&names::JOURNAL_LAST, &[&id], stream.last_lsn);
        set(&names::JOURNAL_COMMITTED, &[&id], stream.committed_lsn);
        set(&names::JOURNAL_BYTES, &[&id], stream.bytes);
    }
}

fn record_applied(service: &ServiceStatus, status: &NodeStatus) {
    for applied in &service.applied {
        let id = applied.stream.to_string();
        set(&names::STORAGE_APPLIED, &[&id], applied.applied_lsn);
        if applied.closed > 0 {
            let lag = seconds(status.clock_earliest, applied.closed);
            names::STORAGE_CLOSED.gauge(&[&id]).set(lag);
        }
    }
}

fn record_checkpoint(service: &ServiceStatus, status: &NodeStatus) {
    let figure = |name| service.figures.get(name).copied().unwrap_or_default();
    let took = seconds(figure("checkpoint_ms") * 1_000_000, 0);
    names::STORAGE_CHECKPOINT_SECONDS.gauge(&[]).set(took);
    let begun = figure("checkpoint_begun");
    let age = match begun {
        0 => status.uptime_s as f64,
        begun => seconds(status.clock_latest, begun),
    };
    names::STORAGE_CHECKPOINT_AGE.gauge(&[]).set(age);
}

fn set(family: &Family, values: &[&str], value: u64) {
    if family.kind == Kind::Counter {
        family.counter(values).absolute(value);
    } else {
        family.gauge(values).set(value as f64);
    }
}

/// From one time in nanoseconds to another, in seconds; negative when `to` comes first.
fn seconds(to: u64, from: u64) -> f64 {
    (i128::from(to) - i128::from(from)) as f64 / 1e9
}

/// The process's memory that is in RAM, as Linux counts it.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
