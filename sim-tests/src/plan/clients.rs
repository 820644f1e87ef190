//! Which clients a run has.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::{Region, Shape, pick};
use crate::workload;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Transfers between accounts, and sums.
    Bank,
    /// Appends to lists.
    Lists,
    /// Reads and writes of registers, blind writes among them.
    Registers,
    /// Writes of new keys, never overwritten.
    Ledger,
    /// New keys that others want to write too: only one may.
    Inserts,
    /// Counters, by reading and writing.
    Counters,
    /// Two keys of which one has to stay as it is: the shape of write skew.
    Pairs,
    /// Ranges with room for so many keys: the shape of a phantom.
    Slots,
    /// Long scans beside writers.
    Pages,
    /// Transactions that go back to savepoints.
    Savepoints,
    /// Clients that die.
    Mortals,
}

impl Kind {
    /// All of them, with how likely each is and how many clients of it there are.
    const ALL: [(Self, f64, usize); 11] = [
        (Self::Lists, 1.0, 2),
        (Self::Ledger, 1.0, 1),
        (Self::Bank, 0.6, 2),
        (Self::Registers, 0.6, 2),
        (Self::Inserts, 0.4, 2),
        (Self::Counters, 0.4, 2),
        (Self::Pairs, 0.5, 2),
        (Self::Slots, 0.4, 2),
        (Self::Pages, 0.4, 2),
        (Self::Savepoints, 0.4, 1),
        (Self::Mortals, 0.5, 2),
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().map(|(kind, ..)| kind)
    }

    /// What its keys begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Bank => workload::BANK,
            Self::Lists => workload::LISTS,
            Self::Registers => workload::REGISTERS,
            Self::Ledger => workload::LEDGER,
            Self::Inserts => workload::INSERTS,
            Self::Counters => workload::COUNTERS,
            Self::Pairs => workload::PAIRS,
            Self::Slots => workload::SLOTS,
            Self::Pages => workload::PAGES,
            Self::Savepoints => workload::SAVEPOINTS,
            Self::Mortals => workload::MORTALS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// A process with clients in it, all of which use one instance of the library.
#[derive(Clone, Debug)]
pub struct ClientHost {
    /// Who works there.
    pub workers: Vec<(Kind, String)>,
    /// Where it is.
    pub region: Region,
    /// Where it connects to, the preferred first: the router, or query processors.
    pub endpoints: Vec<&'static str>,
    /// How many sessions it keeps open.
    pub sessions: usize,
    /// How long a session is used for new transactions.
    pub session_lifetime: Duration,
}

/// All clients of a run.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Where they are.
    pub hosts: Vec<ClientHost>,
}

impl Clients {
    /// What the seed chooses.
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let mut workers = Vec::new();
        for (kind, likely, count) in Kind::ALL {
            if rng.random_bool(likely) {
                workers.extend((1..=count).map(|number| (kind, format!("{kind}-{number}"))));
            }
        }
        workers.shuffle(rng);
        let count = rng.random_range(3..=4);
        let mut hosts: Vec<ClientHost> = (0..count).map(|_| ClientHost::new(rng)).collect();
        for (place, worker) in workers.into_iter().enumerate() {
            if let Some(host) = hosts.get_mut(place % count) {
                host.workers.push(worker);
            }
        }
        hosts.retain(|host| !host.workers.is_empty());
        Self { hosts }
    }

    /// Those alone whose transactions have checked what they read, many of each.
    pub fn checking() -> Self {
        Self::many([Kind::Lists, Kind::Pairs, Kind::Slots, Kind::Registers])
    }

    /// Those alone that have transactions run by one call, many of each.
    pub fn calling() -> Self {
        Self::many([Kind::Inserts, Kind::Counters])
    }

    fn many<const KINDS: usize>(kinds: [Kind; KINDS]) -> Self {
        let hosts = (1..=4).map(|host| ClientHost {
            workers: kinds.map(|kind| (kind, format!("{kind}-{host}"))).into(),
            ..ClientHost::plain()
        });
        Self {
            hosts: hosts.collect(),
        }
    }

    /// What they do, each kind once.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        let workers = self.hosts.iter().flat_map(|host| &host.workers);
        let kinds: BTreeSet<Kind> = workers.map(|(kind, _)| *kind).collect();
        kinds.into_iter()
    }
}

impl ClientHost {
    /// Nobody works there; it connects as most do.
    pub fn plain() -> Self {
        Self {
            workers: Vec::new(),
            region: Region::Local,
            endpoints: vec!["router-1"],
            sessions: 1,
            session_lifetime: Duration::from_secs(600),
        }
    }

    /// Nobody works there; it connects to routers alone.
    pub(super) fn at_routers(region: Region) -> Self {
        Self {
            region,
            endpoints: vec!["router-1", "router-2"],
            ..Self::plain()
        }
    }

    /// Only nodes that are there are connected to, and the first router by whoever finds none.
    pub(super) fn fit(&mut self, shape: &Shape) {
        self.endpoints.retain(|endpoint| shape.has(endpoint));
        if self.endpoints.is_empty() {
            self.endpoints = Self::plain().endpoints;
        }
    }

    /// Into one of several regions: it connects to nodes there, and some hosts to another region's when there is none.
    pub(super) fn move_to(&mut self, region: Region, rng: &mut StdRng) {
        self.region = region;
        let [router, query, far_router, far_query] = match region {
            Region::B => ["router-2", "query-2", "router-1", "query-1"],
            _ => ["router-1", "query-1", "router-2", "query-2"],
        };
        let endpoints: &[&[&'static str]] = &[
            &[router],
            &[router, far_router],
            &[router, far_router],
            &[query, router],
            &[query, far_router],
            &[router, far_query],
        ];
        self.endpoints = pick(rng, endpoints).to_vec();
    }

    fn new(rng: &mut StdRng) -> Self {
        let endpoints: &[&[&str]] = &[
            &["router-1"],
            &["router-1", "query-1"],
            &["query-2", "router-1"],
            &["query-1", "query-2"],
            &["router-2", "router-1"],
            &["router-1", "router-2"],
            &["query-3", "query-1"],
        ];
        Self {
            workers: Vec::new(),
            region: Region::Local,
            endpoints: pick(rng, endpoints).to_vec(),
            sessions: *pick(rng, &[1, 1, 2]),
            session_lifetime: *pick(rng, &[Duration::from_secs(2), Duration::from_secs(600)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::Plan;

    #[test]
    fn every_kind_works_in_many_seeds() {
        let mut seeds: BTreeMap<Kind, usize> = BTreeMap::new();
        for seed in 0..200 {
            let clients = Plan::new(seed, None).clients;
            assert!(clients.hosts.iter().all(|host| !host.workers.is_empty()));
            let workers = clients.hosts.iter().flat_map(|host| &host.workers);
            let mut kinds: Vec<Kind> = workers.map(|(kind, _)| *kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            kinds
                .into_iter()
                .for_each(|kind| *seeds.entry(kind).or_default() += 1);
        }
        assert_eq!(seeds.len(), Kind::ALL.len());
        assert!(seeds.values().all(|count| *count > 50), "{seeds:?}");
    }
}
