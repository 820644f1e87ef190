//! The journal: whether every stream has its majority, and with how much to spare.

use std::collections::{BTreeMap, BTreeSet};

use meridian_client::proto::{NodeStatus, StreamStatus};

use super::{Findings, Severity};
use crate::status::{committed, services};
use crate::text::grouped;

/// A replica further behind than this does not help when another one fails.
const LAG: u64 = 1_000;

pub(super) fn examine(found: &mut Findings, nodes: &[NodeStatus]) {
    // A node that does not answer does not say what it is; its name is in the owners' lists of replicas.
    let ready: Vec<&NodeStatus> = services(nodes)
        .filter(|(_, service)| service.role == "journal" && service.state == "ready")
        .map(|(node, _)| node)
        .collect();
    let all = replicas(nodes).max(ready.len());
    let majority = all / 2 + 1;
    if all == 0 {
        return;
    }
    let answering = format!("{} of {all} journal nodes answer", ready.len());
    if ready.len() < majority {
        found.add(
            Severity::Problem,
            "no-quorum",
            format!("{answering}: nothing can be committed"),
            "bring back those that are missing; a disk that is lost is replaced by `meridian init --replace-lost-disk NODE`",
        );
    } else if ready.len() == majority && all > 1 {
        found.add(
            Severity::Warning,
            "quorum-at-risk",
            format!("{answering}: with one less nothing can be committed"),
            "bring back the one that is missing before anything else is taken down",
        );
    }
    for (name, count) in lacking(nodes) {
        found.add(
            Severity::Warning,
            "replica-missing",
            format!("journal node {name} lacks the streams of ranges: {count}"),
            "an owner rebuilds those in use when their range is written to, nobody those of ranges that were split or merged: take no other journal node down",
        );
    }
    for (name, behind) in behind(nodes) {
        found.add(
            Severity::Warning,
            "replica-behind",
            format!("journal node {name} lacks {} entries", grouped(behind)),
            "it catches up from the owners; if that does not end, see its disk and the network to it",
        );
    }
    for (node, service) in services(nodes) {
        if service.role == "storage" && service.figures.get("checkpoint_failing") == Some(&1) {
            let name = &node.node;
            found.add(
                Severity::Warning,
                "journal-not-trimmed",
                format!("storage node {name} cannot write checkpoints: all journal nodes keep what it would lose with its store"),
                "its log says why: make room (the store takes its versions once, each checkpoint once more), or replace the disk and start the node again",
            );
        }
    }
}

/// How many replicas there are, by those that anybody names.
fn replicas(nodes: &[NodeStatus]) -> usize {
    let ranges = services(nodes).flat_map(|(_, service)| &service.ranges);
    ranges.map(|range| range.replicas.len()).max().unwrap_or_default()
}

/// Of journal nodes that are ready, how many streams with entries they know nothing of: a disk was replaced, and nobody has used those ranges since.
fn lacking(nodes: &[NodeStatus]) -> BTreeMap<&str, usize> {
    let journals = || services(nodes).filter(|(_, service)| service.role == "journal");
    let streams = journals().flat_map(|(_, service)| &service.streams);
    let written: BTreeSet<u64> = streams
        .filter(|status| status.committed_lsn > 0)
        .map(|status| status.stream)
        .collect();
    let ready = journals().filter(|(_, service)| service.state == "ready");
    let lacks = ready.map(|(node, service)| {
        let held: BTreeSet<u64> = service
            .streams
            .iter()
            .filter(|status| status.last_lsn > 0)
            .map(|status| status.stream)
            .collect();
        (node.node.as_str(), written.difference(&held).count())
    });
    lacks.filter(|(_, count)| *count > 0).collect()
}

/// The replicas that are far behind in some stream.
fn behind(nodes: &[NodeStatus]) -> BTreeMap<&str, u64> {
    let mut behind: BTreeMap<&str, u64> = BTreeMap::new();
    for (node, service) in services(nodes) {
        for StreamStatus { stream, last_lsn, .. } in &service.streams {
            let lacks = committed(nodes, *stream).saturating_sub(*last_lsn);
            if lacks > LAG {
                *behind.entry(&node.node).or_default() += lacks;
            }
        }
    }
    behind
}
