//! The keys of storage nodes: between them, the nodes of a region must hold all.

use std::collections::BTreeSet;

use meridian_types::{Key, KeyRange};

use super::Checker;
use crate::config::{KeysSection, NodeSection, Role};

pub(super) fn check(checker: &mut Checker<'_>) {
    let file = checker.file;
    for (index, node) in file.nodes.iter().enumerate() {
        if let Some(what) = problem(node) {
            checker.node_problem(true, index, &["storage_keys"], what);
        }
    }
    let readers = file.nodes.iter().filter(|node| node.has(Role::Query));
    let regions: BTreeSet<&str> = readers.map(|node| node.region.as_str()).collect();
    for region in regions {
        let storage = || {
            let nodes = file.nodes.iter().enumerate();
            nodes.filter(move |(_, node)| node.has(Role::Storage) && node.region == region)
        };
        let held = storage()
            .filter_map(|(_, node)| node.storage_keys.range())
            .collect();
        if let (Some(key), Some((index, _))) = (first_missing(held), storage().next()) {
            let what = format!(
                "no storage node of region {region:?} holds key {key}: between them they must hold all keys"
            );
            checker.node_problem(true, index, &["storage_keys"], what);
        }
    }
}

fn problem(node: &NodeSection) -> Option<&'static str> {
    let said = node.storage_keys != KeysSection::default();
    match node.storage_keys.range() {
        None => Some("an escape is malformed: bytes are written \\xNN, a backslash \\\\"),
        Some(keys) if keys.is_empty() => Some("ends before it begins: no key is in it"),
        Some(_) if said && !node.has(Role::Storage) => Some("only storage nodes hold keys: remove it"),
        Some(_) => None,
    }
}

/// The first key that is in none of the ranges.
fn first_missing(mut held: Vec<KeyRange>) -> Option<Key> {
    held.sort();
    let mut covered = Key::default();
    for keys in held {
        if keys.start > covered {
            break;
        }
        covered = covered.max(keys.end?);
    }
    Some(covered)
}
