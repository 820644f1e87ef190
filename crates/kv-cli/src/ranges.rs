//! `ranges`: the key ranges, who owns them and in which region, and how far the regions lag.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use meridian_client::proto::{ClusterStatusResponse, NodeStatus, OwnedRangeStatus};

use crate::output::{Format, Printer};
use crate::status::{range_json, services};
use crate::text::escape;

/// Prints the key ranges, one line each (those that were split or merged are not shown any more): its owner's view, or while it has none one of those who may take it over.
pub fn print(printer: &mut Printer, mut status: ClusterStatusResponse) -> io::Result<()> {
    status.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    let views = best_views(&status.nodes);
    if printer.format() != Format::Json {
        let rows: Vec<_> = views.iter().map(|view| view_row(&status.nodes, view)).collect();
        printer.columns(None, &VIEW_COLUMNS, &rows)?;
        let drained = drained(&status.nodes);
        if printer.format() == Format::Table && !drained.is_empty() {
            let rows: Vec<_> = drained
                .into_iter()
                .map(|region| vec![region.to_owned()])
                .collect();
            printer.columns(
                Some("\ndrained: nothing is to depend on them"),
                &["region"],
                &rows,
            )?;
        }
        return Ok(());
    }
    for View { node, range } in views {
        let mut object = range_json(range);
        object.insert("node".to_owned(), node.node.clone().into());
        object.insert("region".to_owned(), node.region.clone().into());
        printer.object(object)?;
    }
    Ok(())
}

/// The regions that are drained, as their routers say.
pub(crate) fn drained(nodes: &[NodeStatus]) -> BTreeSet<&str> {
    let told = services(nodes).filter(|(_, service)| service.figures.get("region_drained") == Some(&1));
    told.map(|(node, _)| node.region.as_str()).collect()
}

/// A range as one adjudicator has it.
struct View<'a> {
    node: &'a NodeStatus,
    range: &'a OwnedRangeStatus,
}

/// All ranges, as those have them who know most.
pub(crate) fn all(nodes: &[NodeStatus]) -> impl Iterator<Item = &OwnedRangeStatus> {
    best_views(nodes).into_iter().map(|view| view.range)
}

/// The ranges that have an owner, each with its owner's region.
pub(crate) fn owned(nodes: &[NodeStatus]) -> impl Iterator<Item = (&str, &OwnedRangeStatus)> {
    let owned = best_views(nodes)
        .into_iter()
        .filter(|view| view.range.role == "owner");
    owned.map(|view| (view.node.region.as_str(), view.range))
}

/// Of each range that holds keys the view that is worth most, by range.
fn best_views(nodes: &[NodeStatus]) -> Vec<View<'_>> {
    let worth = |range: &OwnedRangeStatus| {
        let role = ["owner", "recovering"]
            .iter()
            .position(|role| *role == range.role);
        // An owner that was deposed and does not know it yet is of a lower epoch.
        (role.map_or(0, |place| 2 - place), range.epoch)
    };
    let all =
        || services(nodes).flat_map(|(node, service)| service.ranges.iter().map(move |range| (node, range)));
    // For good: who does not know it yet goes by an old map.
    let retired: BTreeSet<u64> = all()
        .filter(|(_, range)| range.retired)
        .map(|(_, range)| range.stream)
        .collect();
    let mut best: BTreeMap<(u64, u64), View<'_>> = BTreeMap::new();
    for (node, range) in all() {
        if !retired.contains(&range.stream) {
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
