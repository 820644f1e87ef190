//! Dependencies between transactions, and cycles in them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use super::Observed;

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// Its version is followed by the other's.
    Ww,
    /// Its version was read by the other.
    Wr,
    /// The version that it read is followed by the other's.
    Rw,
    /// It was over when the other began.
    RealTime,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ww => "ww",
            Self::Wr => "wr",
            Self::Rw => "rw",
            Self::RealTime => "rt",
        })
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
pub struct Graph {
    ids: Vec<usize>,
    edges: Vec<Vec<Edge>>,
}

impl Graph {
    /// All dependencies of what was seen.
    pub fn new(observed: &Observed) -> Self {
        let mut graph = Self {
            ids: observed.nodes.iter().map(|node| node.id).collect(),
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
            for (key, version) in &node.reads {
                let version = version.as_deref();
                if let Some(writer) = version.and_then(|version| writers.get(&(key.as_str(), version))) {
                    self.add(*writer, index, Dependency::Wr, key);
                }
                if let Some(follower) = followers.get(&(key.as_str(), version)) {
                    self.add(index, *follower, Dependency::Rw, key);
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
            .map(|(index, node)| (node.began, false, index));
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

    /// A short cycle of these dependencies in which no two `rw` follow one another.
    pub fn cycle(&self, allowed: &[Dependency]) -> Option<Vec<Step>> {
        let components = self.components(allowed);
        // In the smallest knot the shortest cycle is found soonest.
        let knot = components
            .into_iter()
            .filter(|knot| knot.len() > 1)
            .min_by_key(Vec::len)?;
        let cycles = knot
            .iter()
            .take(50)
            .filter_map(|place| self.shortest_from(*place, allowed));
        cycles.min_by_key(Vec::len)
    }

    /// A place is a transaction and whether it was reached by `rw`: then it is not left by one.
    fn next(&self, place: usize, allowed: &[Dependency]) -> impl Iterator<Item = (usize, &Edge)> {
        let by_rw = place % 2 == 1;
        let edges = self.edges.get(place / 2).into_iter().flatten();
        let edges =
            edges.filter(move |edge| allowed.contains(&edge.why) && !(by_rw && edge.why == Dependency::Rw));
        edges.map(|edge| (edge.to * 2 + usize::from(edge.why == Dependency::Rw), edge))
    }

    fn shortest_from(&self, start: usize, allowed: &[Dependency]) -> Option<Vec<Step>> {
        let mut came: BTreeMap<usize, (usize, Step)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(place) = queue.pop_front() {
            for (next, edge) in self.next(place, allowed) {
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

    /// Strongly connected components (Tarjan's, without recursion).
    fn components(&self, allowed: &[Dependency]) -> Vec<Vec<usize>> {
        let count = self.edges.len() * 2;
        let mut search = Tarjan {
            index: vec![None; count],
            low: vec![0; count],
            on_stack: vec![false; count],
            stack: Vec::new(),
            next: 0,
            found: Vec::new(),
        };
        let successors = |place| self.next(place, allowed).map(|(next, _)| next).collect();
        for place in 0..count {
            search.run(place, &successors);
        }
        search.found
    }

    /// `T1 -ww list/1-> T2 -rt-> T1`.
    pub fn describe(&self, cycle: &[Step]) -> String {
        let mut text = String::new();
        for step in cycle {
            if let Some(id) = self.ids.get(step.from) {
                text.push_str(&format!("T{id} -{}", step.why));
                if !step.key.is_empty() {
                    text.push_str(&format!(" {}", step.key));
                }
                text.push_str("-> ");
            }
        }
        let first = cycle.iter().find_map(|step| self.ids.get(step.from));
        first.map_or(text.clone(), |id| format!("{text}T{id}"))
    }

    /// The transactions of a cycle.
    pub fn txns(&self, cycle: &[Step]) -> Vec<usize> {
        cycle
            .iter()
            .filter_map(|step| self.ids.get(step.from).copied())
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

struct Tarjan {
    index: Vec<Option<usize>>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    found: Vec<Vec<usize>>,
}

impl Tarjan {
    fn run(&mut self, root: usize, successors: &dyn Fn(usize) -> Vec<usize>) {
        if self.index[root].is_some() {
            return;
        }
        let mut work = vec![(root, self.enter(root, successors))];
        while let Some((place, mut rest)) = work.pop() {
            match rest.next() {
                Some(next) => {
                    work.push((place, rest));
                    match self.index[next] {
                        None => work.push((next, self.enter(next, successors))),
                        Some(index) if self.on_stack[next] => self.low[place] = self.low[place].min(index),
                        Some(_) => {}
                    }
                }
                None => {
                    self.leave(place);
                    if let Some((parent, _)) = work.last() {
                        self.low[*parent] = self.low[*parent].min(self.low[place]);
                    }
                }
            }
        }
    }

    fn enter(&mut self, place: usize, successors: &dyn Fn(usize) -> Vec<usize>) -> std::vec::IntoIter<usize> {
        self.index[place] = Some(self.next);
        self.low[place] = self.next;
        self.next += 1;
        self.stack.push(place);
        self.on_stack[place] = true;
        successors(place).into_iter()
    }

    fn leave(&mut self, place: usize) {
        if Some(self.low[place]) != self.index[place] {
            return;
        }
        let mut component = Vec::new();
        while let Some(member) = self.stack.pop() {
            self.on_stack[member] = false;
            component.push(member);
            if member == place {
                break;
            }
        }
        self.found.push(component);
    }
}
