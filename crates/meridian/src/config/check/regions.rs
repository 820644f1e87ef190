//! Regions and ranges that contradict the nodes, or each other.

use std::collections::BTreeSet;

use meridian_types::Key;

use super::{Checker, is_fit_for_a_header};
use crate::config::{RegionKind, Role};

pub(super) fn check(checker: &mut Checker<'_>) {
    names(checker);
    placement(checker);
    replicas(checker);
    ranges(checker);
}

/// Every region once, every node in one of them.
fn names(checker: &mut Checker<'_>) {
    let file = checker.file;
    let regions = &file.cluster.regions;
    let mut seen = BTreeSet::new();
    for (index, region) in regions.iter().enumerate() {
        if !is_fit_for_a_header(&region.name) {
            let what = "does not fit into messages: use letters, digits, '.', '_' or '-'";
            checker.listed_problem("region", index, "name", what);
        }
        if !seen.insert(&region.name) {
            let what = format!("region {:?} is there already: name it once", region.name);
            checker.listed_problem("region", index, "name", what);
        }
    }
    if regions.is_empty() {
        return;
    }
    for (index, node) in file.nodes.iter().enumerate() {
        if !seen.contains(&node.region) {
            let listed: Vec<_> = regions.iter().map(|region| region.name.as_str()).collect();
            let what = format!(
                "{:?} is not among the regions ({}): add it there, or correct it here",
                node.region,
                listed.join(", ")
            );
            checker.node_problem(true, index, &["region"], what);
        }
    }
    if regions.iter().all(|region| region.kind == RegionKind::Witness) {
        let what = "all regions are witnesses: nobody could read or write, make one active";
        checker.cluster_problem(true, &["region"], what);
    }
}

/// Active regions have all parts, witnesses have journal nodes only.
fn placement(checker: &mut Checker<'_>) {
    let file = checker.file;
    for (index, node) in file.nodes.iter().enumerate() {
        let surplus = node.roles.iter().find(|role| **role != Role::Journal);
        if let (RegionKind::Witness, Some(role)) = (file.region_kind(&node.region), surplus) {
            let what = format!(
                "region {:?} is a witness, which has journal nodes only: take the role {role} away, or make it active",
                node.region
            );
            checker.node_problem(true, index, &["roles"], what);
        }
    }
    for (index, region) in file.cluster.regions.iter().enumerate() {
        let has = |role| {
            let mut nodes = file.nodes.iter().filter(|node| node.region == region.name);
            nodes.any(|node| node.has(role))
        };
        let needed: &[Role] = match region.kind {
            RegionKind::Active => &Role::ALL,
            RegionKind::Witness => &[Role::Journal],
        };
        let missing: Vec<&str> = needed
            .iter()
            .filter(|role| !has(**role))
            .map(|role| role.name())
            .collect();
        if !missing.is_empty() {
            let what = format!(
                "is {}, and no node in it has the role {}: add one",
                region.kind.name(),
                missing.join(", ")
            );
            checker.listed_problem("region", index, "kind", what);
        }
    }
}

/// In a cluster of several regions each stream has one replica in each, so that no region is a majority.
fn replicas(checker: &mut Checker<'_>) {
    let file = checker.file;
    if file.regions().len() < 2 {
        return;
    }
    let mut first = BTreeSet::new();
    let mut surplus = Vec::new();
    for (index, node) in file.nodes.iter().enumerate() {
        if node.has(Role::Journal) && !first.insert(&node.region) {
            surplus.push((index, node.region.clone()));
        }
    }
    for (index, region) in surplus {
        let what = format!(
            "region {region:?} has a journal node already: with several regions there is one in each, so that the loss of \
             a region leaves a majority"
        );
        checker.node_problem(true, index, &["roles"], what);
    }
}

/// The ranges hold every key once, and may be owned where they are to be.
fn ranges(checker: &mut Checker<'_>) {
    let file = checker.file;
    let ranges = &file.cluster.ranges;
    let mut starts: BTreeSet<Key> = BTreeSet::new();
    for (index, range) in ranges.iter().enumerate() {
        match range.start_key() {
            None => {
                let what = "has a malformed escape: \\xNN, \\n, \\r, \\t, \\\\, \\' and \\\" exist";
                checker.listed_problem("range", index, "start", what);
            }
            Some(start) => {
                if !starts.insert(start) {
                    let what = format!("another range begins at {:?} already", range.start);
                    checker.listed_problem("range", index, "start", what);
                }
            }
        }
        let Some(region) = &range.region else { continue };
        let can_own = file
            .nodes
            .iter()
            .any(|node| node.region == *region && node.has(Role::Adjudicator));
        if !can_own {
            let what = format!("no adjudicator is in region {region:?}: name one that has them");
            checker.listed_problem("range", index, "region", what);
        }
    }
    if !ranges.is_empty() && !starts.contains(&Key::default()) {
        let what = "no range holds the smallest keys: let one begin with start = \"\"";
        checker.listed_problem("range", 0, "start", what);
    }
}
