//! `status` and `ranges`: what runs where, who owns what, how far everybody is.

use std::collections::BTreeMap;
use std::io;

use meridian_client::proto::{ClusterStatusResponse, NodeStatus, OwnedRangeStatus, ServiceStatus};
use serde_json::{Map, Value, json};

use crate::output::{Format, Printer, put_bytes};
use crate::text::{escape, grouped, utc};

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
            printer.columns(Some("\nstorage"), &APPLIED_COLUMNS, &applied_rows(nodes))
        }
    }
}

/// Prints the key ranges, one line each: its owner's view, or while it has none one of those who may take it over.
pub fn print_ranges(printer: &mut Printer, mut status: ClusterStatusResponse) -> io::Result<()> {
    status.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let views = best_views(&status.nodes);
    if printer.format() != Format::Json {
        let rows: Vec<_> = views.iter().map(|view| view_row(&status.nodes, view)).collect();
        return printer.columns(None, &VIEW_COLUMNS, &rows);
    }
    for View { node, range } in views {
        let mut object = range_json(range);
        object.insert("node".to_owned(), node.node.clone().into());
        object.insert("region".to_owned(), node.region.clone().into());
        printer.object(object)?;
    }
    Ok(())
}

/// A range as one adjudicator has it.
struct View<'a> {
    node: &'a NodeStatus,
    range: &'a OwnedRangeStatus,
}

/// All ranges, as those have them who know most.
pub(crate) fn ranges(nodes: &[NodeStatus]) -> impl Iterator<Item = &OwnedRangeStatus> {
    best_views(nodes).into_iter().map(|view| view.range)
}

/// The ranges that have an owner, each with its owner's region.
pub(crate) fn owned(nodes: &[NodeStatus]) -> impl Iterator<Item = (&str, &OwnedRangeStatus)> {
    let owned = best_views(nodes)
        .into_iter()
        .filter(|view| view.range.role == "owner");
    owned.map(|view| (view.node.region.as_str(), view.range))
}

/// Of each range the view that is worth most, by range.
fn best_views(nodes: &[NodeStatus]) -> Vec<View<'_>> {
    let worth = |range: &OwnedRangeStatus| {
        let role = ["owner", "recovering"]
            .iter()
            .position(|role| *role == range.role);
        // An owner that was deposed and does not know it yet is of a lower epoch.
        (role.map_or(0, |place| 2 - place), range.epoch)
    };
    let mut best: BTreeMap<(u64, u64), View<'_>> = BTreeMap::new();
    for (node, service) in services(nodes) {
        for range in &service.ranges {
            let known = best.get(&(range.range, range.stream));
            if known.is_none_or(|known| worth(known.range) < worth(range)) {
                best.insert((range.range, range.stream), View { node, range });
            }
        }
    }
    best.into_values().collect()
}

const VIEW_COLUMNS: [&str; 11] = [
    "range",
    "from",
    "to",
    "stream",
    "owner",
    "region",
    "epoch",
    "lsn",
    "lead",
    "journals behind",
    "storage behind",
];

fn view_row(nodes: &[NodeStatus], View { node, range }: &View<'_>) -> Vec<String> {
    let is_owned = range.role == "owner";
    let behind = |lsn: u64| range.last_lsn.saturating_sub(lsn);
    let region_of = |name: &str| {
        let found = nodes.iter().find(|node| node.node == name);
        found.map_or("?", |node| node.region.as_str())
    };
    // Several nodes of one region: the one that is furthest behind.
    let mut journals: BTreeMap<&str, u64> = BTreeMap::new();
    for (journal, lsn) in &range.replicas {
        let worst = journals.entry(region_of(journal)).or_default();
        *worst = behind(*lsn).max(*worst);
    }
    let mut stores: BTreeMap<&str, u64> = BTreeMap::new();
    for (store, service) in services(nodes) {
        let applied = service
            .applied
            .iter()
            .filter(|applied| applied.stream == range.stream);
        for applied in applied {
            let worst = stores.entry(&store.region).or_default();
            *worst = range
                .committed_lsn
                .saturating_sub(applied.applied_lsn)
                .max(*worst);
        }
    }
    let shown = |lags: BTreeMap<&str, u64>| {
        let each: Vec<_> = lags
            .iter()
            .map(|(region, lag)| format!("{region}:{lag}"))
            .collect();
        if is_owned { each.join(" ") } else { "-".to_owned() }
    };
    vec![
        range.range.to_string(),
        escape(&range.start),
        escape(&range.end),
        range.stream.to_string(),
        if is_owned {
            node.node.clone()
        } else {
            format!("({})", range.role)
        },
        if is_owned {
            node.region.clone()
        } else {
            "-".to_owned()
        },
        range.epoch.to_string(),
        range.last_lsn.to_string(),
        format!("{:.1} ms", range.lead_ns as f64 / 1e6),
        shown(journals),
        shown(stores),
    ]
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

fn services(nodes: &[NodeStatus]) -> impl Iterator<Item = (&NodeStatus, &ServiceStatus)> {
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
fn committed(nodes: &[NodeStatus], stream: u64) -> u64 {
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

fn range_json(range: &OwnedRangeStatus) -> Map<String, Value> {
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
