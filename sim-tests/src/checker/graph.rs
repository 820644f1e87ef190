//! Dependencies between transactions, and cycles in them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::tarjan::Tarjan;
use super::{Node, Observed, explain};

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Its version is followed by the other's.
    Ww,
    /// Its version was read by the other.
    Wr,
    /// The version that it read is followed by the other's.
    Rw,
    /// The same, and the other one must have committed later.
    CheckedRw,
    /// It was over when the other began.
    RealTime,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ww => "ww",
            Self::Wr => "wr",
            Self::Rw | Self::CheckedRw => "rw",
            Self::RealTime => "rt",
        })
    }
}

impl Dependency {
    fn is_rw(self) -> bool {
        matches!(self, Self::Rw | Self::CheckedRw)
    }
}

/// Which cycles are looked for.
pub struct Rules {
    /// What they may consist of.
    pub allowed: &'static [Dependency],
    /// Whether two `rw` may follow one another.
    adjacent_rw: bool,
}

impl Rules {
    /// Any cycle of these.
    pub const fn any(allowed: &'static [Dependency]) -> Self {
        Self {
            allowed,
            adjacent_rw: true,
        }
    }

    /// Cycles that snapshot isolation does not allow: those without two `rw` in a row.
    pub const fn snapshot(allowed: &'static [Dependency]) -> Self {
        Self {
            allowed,
            adjacent_rw: false,
        }
    }
}

struct Edge {
    to: usize,
    why: Dependency,
    key: String,
}

/// One step of a cycle.
#[derive(Clone, Debug)]
pub struct Step {
    from: usize,
    why: Dependency,
    key: String,
}

/// The graph. Behind the transactions there is a chain of moments, one for each end, so that real time costs one edge
/// in and one edge out per transaction and not one per pair.
pub struct Graph<'a> {
    nodes: &'a [Node],
    edges: Vec<Vec<Edge>>,
}

impl<'a> Graph<'a> {
    /// All dependencies of what was seen.
    pub fn new(observed: &'a Observed) -> Self {
        let mut graph = Self {
            nodes: &observed.nodes,
            edges: observed.nodes.iter().map(|_| Vec::new()).collect(),
        };
        graph.data(observed);
        graph.real_time(observed);
        graph
    }

    fn data(&mut self, observed: &Observed) {
        let mut writers = BTreeMap::new();
        for (index, node) in observed.nodes.iter().enumerate() {
            for (key, version) in &node.writes {
                writers.insert((key.as_str(), version.as_str()), index);
            }
        }
        let mut followers = BTreeMap::new();
        for (key, versions) in &observed.order {
            let mut before: Option<&str> = None;
            for version in versions {
                let writer = writers.get(&(key.as_str(), version.as_str())).copied();
                if let Some(writer) = writer {
                    followers.insert((key.as_str(), before), writer);
                }
                let earlier = before.and_then(|before| writers.get(&(key.as_str(), before)));
                if let (Some(earlier), Some(writer)) = (earlier, writer) {
                    self.add(*earlier, writer, Dependency::Ww, key);
                }
                before = Some(version);
            }
        }
        for (index, node) in observed.nodes.iter().enumerate() {
            for seen in &node.reads {
                let (key, version) = (seen.key.as_str(), seen.version.as_deref());
                if let Some(writer) = version.and_then(|version| writers.get(&(key, version))) {
                    self.add(*writer, index, Dependency::Wr, key);
                }
                let why = match seen.is_checked {
                    true => Dependency::CheckedRw,
                    false => Dependency::Rw,
                };
                if let Some(follower) = followers.get(&(key, version)) {
                    self.add(index, *follower, why, key);
                }
            }
        }
    }

    fn real_time(&mut self, observed: &Observed) {
        let ends = observed
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((node.ended?, true, index)));
        let begins = observed
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((node.began?, false, index)));
        let mut events: Vec<_> = ends.chain(begins).collect();
        events.sort_unstable();
        let mut latest = None;
        for (_, is_end, index) in events {
            if is_end {
                let moment = self.edges.len();
                self.edges.push(Vec::new());
                self.add(index, moment, Dependency::RealTime, "");
                if let Some(before) = latest.replace(moment) {
                    self.add(before, moment, Dependency::RealTime, "");
                }
            } else if let Some(moment) = latest {
                self.add(moment, index, Dependency::RealTime, "");
            }
        }
    }

    fn add(&mut self, from: usize, to: usize, why: Dependency, key: &str) {
        if from != to
            && let Some(edges) = self.edges.get_mut(from)
        {
            let key = key.to_owned();
            edges.push(Edge { to, why, key });
        }
    }

    /// A short cycle.
    pub fn cycle(&self, rules: &Rules) -> Option<Vec<Step>> {
        let components = self.components(rules);
        // In the smallest knot the shortest cycle is found soonest.
        let knot = components
            .into_iter()
            .filter(|knot| knot.len() > 1)
            .min_by_key(Vec::len)?;
        let cycles = knot
            .iter()
            .take(50)
            .filter_map(|place| self.shortest_from(*place, rules));
        cycles.min_by_key(Vec::len)
    }

    /// A place is a transaction and whether it was reached by `rw`: then it may have to be left by something else.
    fn next(&self, place: usize, rules: &Rules) -> impl Iterator<Item = (usize, &Edge)> {
        let (allowed, adjacent) = (rules.allowed, rules.adjacent_rw);
        let by_rw = place % 2 == 1;
        let edges = self.edges.get(place / 2).into_iter().flatten();
        let edges = edges.filter(move |edge| allowed.contains(&edge.why) && !(by_rw && edge.why.is_rw()));
        edges.map(move |edge| (edge.to * 2 + usize::from(edge.why.is_rw() && !adjacent), edge))
    }

    fn shortest_from(&self, start: usize, rules: &Rules) -> Option<Vec<Step>> {
        let mut came: BTreeMap<usize, (usize, Step)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(place) = queue.pop_front() {
            for (next, edge) in self.next(place, rules) {
                if came.contains_key(&next) {
                    continue;
                }
                let step = Step {
                    from: place / 2,
                    why: edge.why,
                    key: edge.key.clone(),
                };
                came.insert(next, (place, step));
                if next == start {
                    return Some(path(start, &came));
                }
                queue.push_back(next);
            }
        }
        None
    }

    fn components(&self, rules: &Rules) -> Vec<Vec<usize>> {
        let successors = |place| self.next(place, rules).map(|(next, _)| next).collect();
        Tarjan::components(self.edges.len() * 2, &successors)
    }

    /// `T1 -ww list/1-> T2 -rt-> T1`, and why each of them.
    pub fn describe(&self, cycle: &[Step]) -> String {
        let steps: Vec<&Step> = cycle
            .iter()
            .filter(|step| self.nodes.get(step.from).is_some())
            .collect();
        let mut chain = String::new();
        let mut reasons = String::new();
        for (place, step) in steps.iter().enumerate() {
            let next = steps.get(place + 1).or(steps.first());
            if let (Some(from), Some(to)) = (
                self.nodes.get(step.from),
                next.and_then(|next| self.nodes.get(next.from)),
            ) {
                let space = if step.key.is_empty() { "" } else { " " };
                chain.push_str(&format!("T{} -{}{space}{}-> ", from.id, step.why, step.key));
                reasons.push_str(&format!(
                    "\n      {}",
                    explain::reason(from, to, step.why, &step.key)
                ));
            }
        }
        let first = steps.first().and_then(|step| self.nodes.get(step.from));
        let first = first.map_or(String::new(), |node| format!("T{}", node.id));
        format!("{chain}{first}{reasons}")
    }

    /// The transactions of a cycle.
    pub fn txns(&self, cycle: &[Step]) -> Vec<usize> {
        cycle
            .iter()
            .filter_map(|step| Some(self.nodes.get(step.from)?.id))
            .collect()
    }
}

fn path(start: usize, came: &BTreeMap<usize, (usize, Step)>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut place = start;
    while let Some((before, step)) = came.get(&place) {
        steps.push(step.clone());
        place = *before;
        if place == start {
            break;
        }
    }
    steps.reverse();
    steps
}
