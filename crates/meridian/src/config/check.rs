//! What is wrong with a configuration as a whole, where, and what to do about it.

mod bounds;
mod regions;
mod storage;

use std::collections::BTreeMap;
use std::fmt;

use super::lines::Lines;
use super::{File, NodeSection, Role};

/// Longest name of a node, in bytes. It travels in a header of every call.
const MAX_NAME_BYTES: usize = 64;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// An error keeps a node from starting; anything else is advice.
    pub is_error: bool,
    /// The line in the file, counted from 1, where it is known.
    pub line: Option<usize>,
    /// The field, as a path.
    pub field: String,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        let kind = if self.is_error { "error" } else { "warning" };
        write!(f, "{kind}: {}: {}", self.field, self.what)
    }
}

/// Everything that is wrong, in the order of the checks. Empty: fit for use.
pub fn check(file: &File, text: &str) -> Vec<Problem> {
    let mut checker = Checker {
        file,
        lines: Lines::new(text),
        problems: Vec::new(),
    };
    checker.names();
    checker.addresses();
    checker.metrics();
    checker.roles();
    checker.directories();
    checker.disk_ids();
    checker.enough_of_each();
    storage::check(&mut checker);
    regions::check(&mut checker);
    bounds::check(&mut checker);
    checker.problems
}

/// What is wrong with regions and ranges alone, of a configuration that was never a file.
pub(crate) fn check_regions(file: &File) -> Vec<Problem> {
    let mut checker = Checker {
        file,
        lines: Lines::new(""),
        problems: Vec::new(),
    };
    regions::check(&mut checker);
    checker.problems
}

struct Checker<'a> {
    file: &'a File,
    lines: Lines<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn cluster_problem(&mut self, is_error: bool, path: &[&str], what: impl Into<String>) {
        let line = self.lines.cluster(path);
        let field = ["cluster"]
            .iter()
            .chain(path)
            .copied()
            .collect::<Vec<_>>()
            .join(".");
        self.problems.push(Problem {
            is_error,
            line,
            field,
            what: what.into(),
        });
    }

    /// About the n-th of the regions or ranges.
    fn listed_problem(&mut self, list: &str, index: usize, field: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            is_error: true,
            line: self.lines.listed(list, index, field),
            field: format!("cluster.{list} {}, {field}", index + 1),
            what: what.into(),
        });
    }

    fn node_problem(&mut self, is_error: bool, index: usize, path: &[&str], what: impl Into<String>) {
        let line = self
            .lines
            .node(index, path)
            .or_else(|| self.lines.node(index, &["name"]));
        let name = self.file.nodes.get(index).map_or("", |node| node.name.as_str());
        self.problems.push(Problem {
            is_error,
            line,
            field: format!("node {name:?}, {}", path.join(".")),
            what: what.into(),
        });
    }

    fn nodes(&self) -> impl Iterator<Item = (usize, &NodeSection)> {
        self.file.nodes.iter().enumerate()
    }

    /// Reports every node whose key an earlier node has too.
    fn duplicates<K: Ord>(
        &mut self,
        path: &[&str],
        key: impl Fn(&NodeSection) -> Option<K>,
        what: impl Fn(&str) -> String,
    ) {
        let mut first: BTreeMap<K, &str> = BTreeMap::new();
        let mut found = Vec::new();
        let file = self.file;
        for (index, node) in file.nodes.iter().enumerate() {
            let Some(key) = key(node) else { continue };
            match first.get(&key) {
                Some(other) => found.push((index, what(other))),
                None => {
                    first.insert(key, &node.name);
                }
            }
        }
        for (index, what) in found {
            self.node_problem(true, index, path, what);
        }
    }

    fn names(&mut self) {
        let unfit: Vec<usize> = self
            .nodes()
            .filter(|(_, node)| !is_fit_for_a_header(&node.name))
            .map(|(index, _)| index)
            .collect();
        for index in unfit {
            let what = format!(
                "does not fit into a header: use 1 to {MAX_NAME_BYTES} letters, digits, '.', '_' or '-'"
            );
            self.node_problem(true, index, &["name"], what);
        }
        self.duplicates(
            &["name"],
            |node| Some(node.name.clone()),
            |_| "another node has this name already: names must differ".to_owned(),
        );
        let nameless: Vec<usize> = self
            .nodes()
            .filter(|(_, node)| node.region.is_empty())
            .map(|(index, _)| index)
            .collect();
        for index in nameless {
            self.node_problem(
                true,
                index,
                &["region"],
                "is empty: name the region, or leave the field out",
            );
        }
    }

    fn addresses(&mut self) {
        let wrong: Vec<(usize, String)> = self
            .nodes()
            .filter_map(|(index, node)| Some((index, address_problem(&node.address)?)))
            .collect();
        for (index, what) in wrong {
            self.node_problem(true, index, &["address"], what);
        }
        self.duplicates(
            &["address"],
            |node| Some(node.address.clone()),
            |other| format!("node {other:?} has this address already: every node needs its own"),
        );
    }

    fn metrics(&mut self) {
        let wrong: Vec<(usize, String)> = self
            .nodes()
            .filter_map(|(index, node)| Some((index, metrics_problem(node)?)))
            .collect();
        for (index, what) in wrong {
            self.node_problem(true, index, &["metrics"], what);
        }
        self.duplicates(
            &["metrics"],
            |node| Some((host(&node.address).to_owned(), node.metrics.clone()?)),
            |other| {
                format!("node {other:?} of the same machine has this address already: choose another port")
            },
        );
    }

    fn roles(&mut self) {
        let mut found = Vec::new();
        for (index, node) in self.nodes() {
            if node.roles.is_empty() {
                found.push((index, "is empty: name at least one role".to_owned()));
            }
            let mut roles = node.roles.clone();
            roles.sort();
            let before = roles.len();
            roles.dedup();
            if roles.len() != before {
                found.push((index, "names a role twice".to_owned()));
            }
        }
        for (index, what) in found {
            self.node_problem(true, index, &["roles"], what);
        }
    }

    fn directories(&mut self) {
        let without: Vec<(usize, Role)> = self
            .nodes()
            .filter(|(_, node)| node.data_dir.is_none())
            .filter_map(|(index, node)| {
                Some((index, node.roles.iter().copied().find(|role| role.keeps_files())?))
            })
            .collect();
        for (index, role) in without {
            let what = format!("is missing: a {role} node keeps files, name the directory for them");
            self.node_problem(true, index, &["data_dir"], what);
        }
        // The same directory on different machines is fine; on one machine it is not.
        self.duplicates(
            &["data_dir"],
            |node| Some((node.data_dir.clone()?, host(&node.address).to_owned())),
            |other| format!("node {other:?} on the same host has this directory already: each needs its own"),
        );
    }

    fn disk_ids(&mut self) {
        let misplaced: Vec<usize> = self
            .nodes()
            .filter(|(_, node)| node.disk_id.is_some() && !node.has(Role::Journal))
            .map(|(index, _)| index)
            .collect();
        for index in misplaced {
            self.node_problem(
                true,
                index,
                &["disk_id"],
                "only journal nodes have one: remove it",
            );
        }
        self.duplicates(
            &["disk_id"],
            |node| node.disk_id,
            |other| format!("node {other:?} has this disk id already: ids are never shared, let `meridian init` write them"),
        );
    }

    fn enough_of_each(&mut self) {
        for role in Role::ALL {
            let count = self.nodes().filter(|(_, node)| node.has(role)).count();
            if count == 0 {
                let missing = match role {
                    Role::Journal => {
                        "no node has the role journal: without one there is no quorum, name three".to_owned()
                    }
                    other => format!("no node has the role {other}: give it to at least one"),
                };
                self.cluster_problem(true, &[], missing);
            } else if role == Role::Journal && count.is_multiple_of(2) {
                let what = format!(
                    "{count} journal nodes survive no more failures than {} do: use an odd number",
                    count - 1
                );
                self.cluster_problem(false, &[], what);
            }
        }
        let lonely: Vec<(usize, String)> = self
            .nodes()
            .filter(|(_, node)| node.has(Role::Query))
            .filter(|(_, node)| {
                !self
                    .nodes()
                    .any(|(_, other)| other.has(Role::Storage) && other.region == node.region)
            })
            .map(|(index, node)| (index, node.region.clone()))
            .collect();
        for (index, region) in lonely {
            let what =
                format!("region {region:?} has a query processor but no storage node to read from: add one");
            self.node_problem(true, index, &["region"], what);
        }
    }
}

/// Names travel in headers, in file names and on command lines.
fn is_fit_for_a_header(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}

fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

fn address_problem(address: &str) -> Option<String> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Some(format!("{address:?} has no port: write host:port"));
    };
    if host.is_empty() {
        return Some(format!(
            "{address:?} has no host: the other nodes must be able to reach it"
        ));
    }
    match port.parse::<u16>() {
        Ok(0) => Some("port 0 cannot be reached by the others: choose a port".to_owned()),
        Ok(_) => None,
        Err(_) => Some(format!("{port:?} is not a port (1 to 65535)")),
    }
}

/// Metrics are listened for beside the node's address: on another port, unless that is another interface.
fn metrics_problem(node: &NodeSection) -> Option<String> {
    let metrics = node.metrics.as_deref()?;
    if let Some(problem) = address_problem(metrics) {
        return Some(problem);
    }
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    let is_everywhere = matches!(host(metrics), "0.0.0.0" | "[::]");
    let meets =
        port(metrics) == port(&node.address) && (is_everywhere || host(metrics) == host(&node.address));
    meets.then(|| "is the node's own address: choose another port".to_owned())
}

#[cfg(test)]
mod tests;
