//! `status`: what runs where, who owns what, how far everybody is.

use std::io;

use meridian_client::proto::{ClusterStatusResponse, NodeStatus, OwnedRangeStatus, ServiceStatus};
use serde_json::{Map, Value, json};

use crate::doctor::{self, Severity};
use crate::output::{Format, Printer, put_bytes};
use crate::text::{grouped, utc};

/// Prints the whole cluster.
pub fn print_status(printer: &mut Printer, mut status: ClusterStatusResponse) -> io::Result<()> {
    status
        .nodes
        .sort_by(|a, b| (&a.region, &a.node).cmp(&(&b.region, &b.node)));
    let nodes = &status.nodes;
    match printer.format() {
        Format::Json => nodes.iter().try_for_each(|node| printer.object(node_json(node))),
        Format::Csv => printer.columns(None, &NODE_COLUMNS, &node_rows(nodes)),
        Format::Table => {
            printer.columns(None, &NODE_COLUMNS, &node_rows(nodes))?;
            printer.columns(Some("\nranges"), &RANGE_COLUMNS, &range_rows(nodes))?;
            printer.columns(Some("\njournal"), &STREAM_COLUMNS, &stream_rows(nodes))?;
            printer.columns(Some("\nstorage"), &APPLIED_COLUMNS, &applied_rows(nodes))?;
            alarms(printer, nodes)
        }
    }
}

/// What `doctor` would say needs somebody, in short.
fn alarms(printer: &mut Printer, nodes: &[NodeStatus]) -> io::Result<()> {
    let alarms = doctor::examine(nodes);
    let rows: Vec<Vec<String>> = alarms
        .iter()
        .filter(|finding| finding.severity > Severity::Note)
        .map(|finding| vec![finding.severity.to_string(), finding.what.clone()])
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    printer.columns(
        Some("\nalarms (doctor says what to do)"),
        &["severity", "what"],
        &rows,
    )
}

const NODE_COLUMNS: [&str; 7] = ["node", "region", "address", "role", "state", "clock", "version"];
const RANGE_COLUMNS: [&str; 11] = [
    "range",
    "stream",
    "node",
    "role",
    "epoch",
    "lsn",
    "committed",
    "lead",
    "lease until",
    "closed to",
    "replicas",
];
const STREAM_COLUMNS: [&str; 8] = [
    "stream",
    "node",
    "owner",
    "epoch",
    "lsn",
    "committed",
    "behind",
    "bytes",
];
const APPLIED_COLUMNS: [&str; 5] = ["stream", "node", "applied", "behind", "closed to"];

/// Every service with its node.
pub(crate) fn services(nodes: &[NodeStatus]) -> impl Iterator<Item = (&NodeStatus, &ServiceStatus)> {
    nodes
        .iter()
        .flat_map(|node| node.services.iter().map(move |service| (node, service)))
}

/// One line per service; a node that does not answer has one too.
fn node_rows(nodes: &[NodeStatus]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for node in nodes {
        let clock = if node.clock_healthy {
            format!("±{:.1} ms", node.clock_bound as f64 / 1e6)
        } else {
            "unhealthy".to_owned()
        };
        let row = |role: &str, state: &str, clock: &str| {
            [
                &node.node,
                &node.region,
                &node.address,
                role,
                state,
                clock,
                &node.version,
            ]
            .map(str::to_owned)
            .to_vec()
        };
        if node.unreachable.is_empty() {
            rows.extend(
                node.services
                    .iter()
                    .map(|service| row(&service.role, &service.state, &clock)),
            );
        } else {
            rows.push(row("-", &format!("unreachable: {}", node.unreachable), "-"));
        }
    }
    rows
}

fn range_rows(nodes: &[NodeStatus]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (node, service) in services(nodes) {
        for range in &service.ranges {
            let mut replicas: Vec<_> = range.replicas.iter().collect();
            replicas.sort();
            let replicas: Vec<_> = replicas
                .iter()
                .map(|(node, lsn)| format!("{node}:{lsn}"))
                .collect();
            rows.push(vec![
                range.range.to_string(),
                range.stream.to_string(),
                node.node.clone(),
                range.role.clone(),
                range.epoch.to_string(),
                range.last_lsn.to_string(),
                range.committed_lsn.to_string(),
                format!("{:.1} ms", range.lead_ns as f64 / 1e6),
                utc(range.lease_end),
                utc(range.closed),
                replicas.join(" "),
            ]);
        }
    }
    in_order(rows)
}

/// Rows by the number in their first column, then by the rest.
fn in_order(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.sort_by_cached_key(|row| (row.first().and_then(|id| id.parse::<u64>().ok()), row.clone()));
    rows
}

/// The highest position that any journal node knows to be committed in the stream.
pub(crate) fn committed(nodes: &[NodeStatus], stream: u64) -> u64 {
    let streams = services(nodes).flat_map(|(_, service)| &service.streams);
    streams
        .filter(|status| status.stream == stream)
        .map(|status| status.committed_lsn)
        .max()
        .unwrap_or_default()
}

fn stream_rows(nodes: &[NodeStatus]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (node, service) in services(nodes) {
        for stream in &service.streams {
            let behind = committed(nodes, stream.stream).saturating_sub(stream.last_lsn);
            rows.push(vec![
                stream.stream.to_string(),
                node.node.clone(),
                stream.owner.clone(),
                stream.promised_epoch.to_string(),
                stream.last_lsn.to_string(),
                stream.committed_lsn.to_string(),
                behind.to_string(),
                grouped(stream.bytes),
            ]);
        }
    }
    in_order(rows)
}

fn applied_rows(nodes: &[NodeStatus]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (node, service) in services(nodes) {
        for applied in &service.applied {
            let behind = committed(nodes, applied.stream).saturating_sub(applied.applied_lsn);
            rows.push(vec![
                applied.stream.to_string(),
                node.node.clone(),
                applied.applied_lsn.to_string(),
                behind.to_string(),
                utc(applied.closed),
            ]);
        }
    }
    in_order(rows)
}

fn node_json(node: &NodeStatus) -> Map<String, Value> {
    let services: Vec<Value> = node.services.iter().map(service_json).collect();
    object(json!({
        "node": node.node,
        "region": node.region,
        "address": node.address,
        "cluster_id": node.cluster_id,
        "version": node.version,
        "unreachable": (!node.unreachable.is_empty()).then_some(&node.unreachable),
        "clock_bound_ns": node.clock_bound,
        "clock_healthy": node.clock_healthy,
        "disk_bytes": node.disk_bytes,
        "disk_free_bytes": node.disk_free_bytes,
        "uptime_s": node.uptime_s,
        "services": services,
    }))
}

fn service_json(service: &ServiceStatus) -> Value {
    let streams: Vec<Value> = service
        .streams
        .iter()
        .map(|stream| {
            json!({
                "stream": stream.stream,
                "promised_epoch": stream.promised_epoch,
                "owner": stream.owner,
                "last_epoch": stream.last_epoch,
                "last_lsn": stream.last_lsn,
                "committed_lsn": stream.committed_lsn,
                "lease_end": stream.lease_end.to_string(),
                "bytes": stream.bytes,
            })
        })
        .collect();
    let applied: Vec<Value> = service
        .applied
        .iter()
        .map(|applied| {
            json!({
                "stream": applied.stream,
                "applied_lsn": applied.applied_lsn,
                "closed": applied.closed.to_string(),
            })
        })
        .collect();
    let ranges: Vec<Value> = service
        .ranges
        .iter()
        .map(|range| range_json(range).into())
        .collect();
    let figures: Map<String, Value> = service
        .figures
        .iter()
        .map(|(name, figure)| (name.clone(), (*figure).into()))
        .collect();
    json!({
        "role": service.role,
        "state": service.state,
        "streams": streams,
        "ranges": ranges,
        "applied": applied,
        "figures": figures,
    })
}

pub(crate) fn range_json(range: &OwnedRangeStatus) -> Map<String, Value> {
    let replicas: Map<String, Value> = range
        .replicas
        .iter()
        .map(|(node, lsn)| (node.clone(), (*lsn).into()))
        .collect();
    let mut object = object(json!({
        "range": range.range,
        "stream": range.stream,
        "role": range.role,
        "epoch": range.epoch,
        "floor": range.floor.to_string(),
        "window_low": range.window_low.to_string(),
        "lease_end": range.lease_end.to_string(),
        "lead_ns": range.lead_ns,
        "last_lsn": range.last_lsn,
        "committed_lsn": range.committed_lsn,
        "closed": range.closed.to_string(),
        "replicas": replicas,
        "candidates": range.candidates,
        "retired": range.retired,
    }));
    // Keys as everywhere: base64 where they are no text.
    put_bytes(&mut object, "start", &range.start);
    put_bytes(&mut object, "end", &range.end);
    object
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
