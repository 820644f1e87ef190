//! Which host can send to which, with several cuts at once.

use std::collections::BTreeMap;

use turmoil::Sim;

/// How a link is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing passes.
    Both,
    /// Nothing passes from the first group to the second.
    Oneway,
    /// Everything waits.
    Hold,
}

/// What may pass on the link of two hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    /// Nothing passes from the lower index to the higher.
    blocked_up: bool,
    /// Nothing passes from the higher index to the lower.
    blocked_down: bool,
    held: bool,
}

struct Active {
    cut: Cut,
    from: Vec<usize>,
    to: Vec<usize>,
}

/// The links of all hosts. turmoil knows one state per link, so what several cuts make of it is worked out here.
pub struct Links {
    hosts: Vec<String>,
    cuts: BTreeMap<u64, Active>,
    next: u64,
    isolated: Vec<bool>,
    applied: BTreeMap<(usize, usize), Link>,
}

impl Links {
    /// Everything passes.
    pub fn new(hosts: Vec<String>) -> Self {
        Self {
            isolated: vec![false; hosts.len()],
            hosts,
            cuts: BTreeMap::new(),
            next: 0,
            applied: BTreeMap::new(),
        }
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// All of them.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The names of hosts.
    pub fn describe(&self, hosts: &[usize]) -> String {
        let names: Vec<&str> = hosts
            .iter()
            .filter_map(|host| self.hosts.get(*host))
            .map(String::as_str)
            .collect();
        names.join(" ")
    }

    /// Cuts; the answer names the cut.
    pub fn cut(&mut self, sim: &Sim<'_>, cut: Cut, from: Vec<usize>, to: Vec<usize>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.cuts.insert(id, Active { cut, from, to });
        self.apply(sim);
        id
    }

    /// Takes the cut back.
    pub fn uncut(&mut self, sim: &Sim<'_>, id: u64) {
        self.cuts.remove(&id);
        self.apply(sim);
    }

    /// Cuts a host off from all others, or no longer.
    pub fn isolate(&mut self, sim: &Sim<'_>, host: usize, isolated: bool) {
        if let Some(state) = self.isolated.get_mut(host) {
            *state = isolated;
        }
        self.apply(sim);
    }

    fn wanted(&self, low: usize, high: usize) -> Link {
        let is_isolated = |host: usize| self.isolated.get(host).copied().unwrap_or_default();
        let mut link = Link::default();
        if is_isolated(low) || is_isolated(high) {
            (link.blocked_up, link.blocked_down) = (true, true);
        }
        for active in self.cuts.values() {
            let up = active.from.contains(&low) && active.to.contains(&high);
            let down = active.from.contains(&high) && active.to.contains(&low);
            match active.cut {
                Cut::Both if up || down => (link.blocked_up, link.blocked_down) = (true, true),
                Cut::Oneway => {
                    link.blocked_up |= up;
                    link.blocked_down |= down;
                }
                Cut::Hold if up || down => link.held = true,
                _ => {}
            }
        }
        link
    }

    fn apply(&mut self, sim: &Sim<'_>) {
        for low in 0..self.hosts.len() {
            for high in low + 1..self.hosts.len() {
                let wanted = self.wanted(low, high);
                let applied = self.applied.entry((low, high)).or_default();
                if *applied == wanted {
                    continue;
                }
                *applied = wanted;
                if let (Some(low), Some(high)) = (self.hosts.get(low), self.hosts.get(high)) {
                    set(sim, low, high, wanted);
                }
            }
        }
    }
}

/// Goes through the healthy state, because turmoil does not combine its own.
fn set(sim: &Sim<'_>, low: &str, high: &str, link: Link) {
    match (link.blocked_up, link.blocked_down) {
        (true, true) => sim.partition(low, high),
        (false, false) if link.held => sim.hold(low, high),
        (false, false) => sim.release(low, high),
        (up, _) => {
            sim.release(low, high);
            let (from, to) = if up { (low, high) } else { (high, low) };
            sim.partition_oneway(from, to);
        }
    }
}
