//! `doctor`: what is wrong with a cluster, or soon will be, and what to do about it.
//!
//! Everything is concluded from one status of all nodes, by [`examine`]; nothing is asked or changed here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::time::Duration;

use meridian_client::proto::{ClusterStatusResponse, NodeStatus};
use serde_json::{Map, Value, json};

use crate::output::{Format, Printer};
use crate::ranges;
use crate::status::{committed, services};
use crate::text::grouped;

mod clocks;
mod journal;

/// Less free space than this part of a disk, or this many bytes, is worth a warning; a tenth of it is a problem.
const LOW_DISK_PART: u64 = 10;
const LOW_DISK_BYTES: u64 = 2 << 30;
/// A storage node further behind than this keeps reads waiting.
const STORAGE_LAG: u64 = 10_000;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Works now; one more thing that goes wrong, or some time, and it does not.
    Warning,
    /// Something does not work.
    Problem,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, in a word: stable, for programs.
    pub kind: &'static str,
    /// What is the matter, and where.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// Collects findings.
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, kind: &'static str, what: String, advice: &str) {
        let advice = advice.to_owned();
        self.0.push(Finding {
            severity,
            kind,
            what,
            advice,
        });
    }
}

/// What can be said about a cluster whose nodes report this, the worst first.
pub fn examine(nodes: &[NodeStatus]) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    reachable(&mut found, nodes);
    versions(&mut found, nodes);
    regions(&mut found, nodes);
    drained(&mut found, nodes);
    clocks::examine(&mut found, nodes);
    journal::examine(&mut found, nodes);
    disks(&mut found, nodes);
    storage(&mut found, nodes);
    found.0.sort_by_key(|finding| Reverse(finding.severity));
    found.0
}

/// Prints what was found. Whether anything needs somebody (notes do not).
pub fn print(printer: &mut Printer, status: &ClusterStatusResponse) -> io::Result<bool> {
    let found = examine(&status.nodes);
    let needs_somebody = found.iter().any(|finding| finding.severity > Severity::Note);
    match printer.format() {
        Format::Json => {
            for finding in &found {
                printer.object(finding_json(finding))?;
            }
        }
        Format::Csv => {
            let rows: Vec<_> = found.iter().map(row).collect();
            printer.columns(None, &["severity", "kind", "what", "advice"], &rows)?;
        }
        Format::Table if found.is_empty() => {
            let nodes = status.nodes.len();
            printer.text(&format!("nothing is wrong that {nodes} nodes could tell"))?;
        }
        Format::Table => {
            for finding in &found {
                let Finding {
                    severity,
                    what,
                    advice,
                    ..
                } = finding;
                printer.text(&format!("{severity}: {what}\n    {advice}"))?;
            }
        }
    }
    Ok(needs_somebody)
}

fn row(finding: &Finding) -> Vec<String> {
    let Finding {
        severity,
        kind,
        what,
        advice,
    } = finding;
    vec![
        severity.to_string(),
        (*kind).to_owned(),
        what.clone(),
        advice.clone(),
    ]
}

fn finding_json(finding: &Finding) -> Map<String, Value> {
    let Finding {
        severity,
        kind,
        what,
        advice,
    } = finding;
    let fields = [
        ("severity", json!(severity.to_string())),
        ("kind", json!(kind)),
        ("what", json!(what)),
        ("advice", json!(advice)),
    ];
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// The nodes that answered.
fn answering(nodes: &[NodeStatus]) -> impl Iterator<Item = &NodeStatus> {
    nodes.iter().filter(|node| node.unreachable.is_empty())
}

fn reachable(found: &mut Findings, nodes: &[NodeStatus]) {
    for node in nodes.iter().filter(|node| !node.unreachable.is_empty()) {
        let NodeStatus {
            node,
            address,
            unreachable,
            ..
        } = node;
        let is_foreign = unreachable.starts_with("wrong cluster");
        let (kind, advice) = if is_foreign {
            (
                "wrong-cluster",
                "another cluster's node listens there, or it has another cluster's configuration: compare `id` in both files",
            )
        } else {
            (
                "unreachable",
                "start it, or see whether its address and the network between are right; its log says why it ended",
            )
        };
        found.add(
            Severity::Problem,
            kind,
            format!("{node} at {address} does not answer: {unreachable}"),
            advice,
        );
    }
    let drained = ranges::drained(nodes);
    let is_sent_away = |region: &str, role: &str| role == "router" && drained.contains(region);
    for (node, service) in services(nodes).filter(|(_, service)| service.state != "ready") {
        if is_sent_away(&node.region, &service.role) {
            continue;
        }
        let what = format!(
            "{} of {} is not ready: {}",
            service.role, node.node, service.state
        );
        found.add(
            Severity::Warning,
            "not-ready",
            what,
            "it becomes ready when what it waits for is there; if that lasts, its log says more",
        );
    }
}

fn versions(found: &mut Findings, nodes: &[NodeStatus]) {
    let mut by_version: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in answering(nodes) {
        by_version.entry(&node.version).or_default().push(&node.node);
    }
    if by_version.len() < 2 {
        return;
    }
    let versions: Vec<String> = by_version
        .iter()
        .map(|(version, nodes)| format!("{version}: {}", nodes.join(", ")))
        .collect();
    found.add(
        Severity::Note,
        "version-mix",
        format!("nodes run different versions ({})", versions.join("; ")),
        "finish the upgrade: mixed versions are for its duration only",
    );
}

/// Regions that nothing is to depend on.
fn drained(found: &mut Findings, nodes: &[NodeStatus]) {
    for region in ranges::drained(nodes) {
        let left = ranges::owned(nodes).filter(|(owner, _)| *owner == region).count();
        let what = match left {
            0 => format!("region {region} is drained: it may be stopped"),
            _ => format!("region {region} is drained; ranges that it still owns: {left}"),
        };
        found.add(
            Severity::Note,
            "region-drained",
            what,
            "kv-cli region undrain brings it back; until then a further loss stops commits",
        );
    }
}

/// What every active region needs to serve its clients by itself.
fn regions(found: &mut Findings, nodes: &[NodeStatus]) {
    let drained = ranges::drained(nodes);
    let mut roles: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (node, service) in services(nodes).filter(|(_, service)| service.state == "ready") {
        roles.entry(&node.region).or_default().insert(&service.role);
    }
    for (region, has) in roles
        .iter()
        .filter(|(_, has)| has.contains("query") || has.contains("router"))
        .filter(|(region, _)| !drained.contains(*region))
    {
        for role in ["router", "query", "storage"] {
            if !has.contains(role) {
                found.add(
                    Severity::Warning,
                    "region-incomplete",
                    format!("region {region} has no {role} that is ready"),
                    "its clients are served through another region until it has one",
                );
            }
        }
    }
    let owners =
        services(nodes).filter(|(_, service)| service.role == "adjudicator" && service.state == "ready");
    if owners.count() == 1 {
        found.add(
            Severity::Warning,
            "one-adjudicator",
            "only one adjudicator is ready".to_owned(),
            "if it stops, nothing can be committed until it is back: run at least two",
        );
    }
}

fn disks(found: &mut Findings, nodes: &[NodeStatus]) {
    for node in answering(nodes).filter(|node| node.disk_bytes > 0) {
        let low = (node.disk_bytes / LOW_DISK_PART).min(LOW_DISK_BYTES);
        let severity = match node.disk_free_bytes {
            free if free < low / 10 => Severity::Problem,
            free if free < low => Severity::Warning,
            _ => continue,
        };
        let (free, all) = (node.disk_free_bytes >> 20, node.disk_bytes >> 20);
        let what = format!(
            "the disk of {} is nearly full: {} of {} MiB free",
            node.node,
            grouped(free),
            grouped(all)
        );
        found.add(
            severity,
            "disk-nearly-full",
            what,
            "make room or enlarge it; a full journal node refuses writes, and with a second one all commits stop",
        );
    }
}

fn storage(found: &mut Findings, nodes: &[NodeStatus]) {
    for (node, service) in services(nodes) {
        for applied in &service.applied {
            let behind = committed(nodes, applied.stream).saturating_sub(applied.applied_lsn);
            if behind > STORAGE_LAG {
                let what = format!(
                    "storage node {} is {} entries behind in stream {}",
                    node.node,
                    grouped(behind),
                    applied.stream
                );
                found.add(
                    Severity::Warning,
                    "storage-behind",
                    what,
                    "strong reads there wait; it catches up by itself if it is new, else see its disk and CPU",
                );
            }
        }
    }
}

/// As people write it.
fn shown(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests;
