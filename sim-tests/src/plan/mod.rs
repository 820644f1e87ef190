//! What a seed chose. Swarm testing: each run enables a random part of everything at random rates, because a run with
//! all faults at once hides what only one of them brings out.

mod clients;
mod faults;
mod shape;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::mutation::Mutation;
use crate::seams::derive;

pub use clients::{ClientHost, Clients, Kind};
pub use faults::{Faults, MessageFaults};
pub use shape::Shape;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything below, and every random choice of the run, derives from it.
    pub seed: u64,
    /// The rule that is broken on purpose.
    pub mutation: Option<Mutation>,
    /// How many nodes there are.
    pub shape: Shape,
    /// Storage nodes keep their versions in sled, on a real disk.
    pub sled: bool,
    /// Clocks may be wrong by far more than their bound while faults go on. Then nobody promises recency any more, but
    /// still all the rest.
    pub clocks_beyond: bool,
    /// How wrong clocks may be.
    pub clock_bound: Duration,
    /// Messages take between these.
    pub latency: (Duration, Duration),
    /// Data segments that a connection may have on the way.
    pub tcp_capacity: usize,
    /// Nodes have their turn in random order.
    pub random_order: bool,
    /// How far in the future transactions commit (R16).
    pub lead_ms: Option<u64>,
    /// The length of a lease.
    pub lease_ms: u64,
    /// The size of a journal's segment.
    pub segment_bytes: u64,
    /// Memory for recent writes at an adjudicator: little makes old transactions fail.
    pub recent_bytes: usize,
    /// The size of a page of a scan.
    pub page_bytes: usize,
    /// How long a call of a client may take.
    pub deadline: Duration,
    /// Clients of each workload.
    pub clients: Clients,
    /// Keys of each workload: few make conflicts.
    pub keys: usize,
    /// The longest pause of a client between two transactions.
    pub think: Duration,
    /// How long faults go on.
    pub chaos: Duration,
    /// Which faults, and how often each.
    pub faults: Faults,
}

impl Plan {
    /// What the seed chooses.
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        // Each part draws from its own numbers: what one part comes to choose does not change the others.
        let part = |name: &str| StdRng::seed_from_u64(derive(seed, &format!("plan {name}")));
        let rng = &mut part("settings");
        let slowest = *pick(rng, &[2, 5, 20, 60]);
        let mut plan = Self {
            seed,
            mutation,
            shape: Shape::new(&mut part("shape")),
            sled: part("sled").random_bool(0.1),
            clocks_beyond: part("clocks").random_bool(0.12),
            clock_bound: Duration::from_micros(*pick(rng, &[10, 500, 2_000, 10_000, 50_000])),
            latency: (Duration::ZERO, Duration::from_millis(slowest)),
            tcp_capacity: *pick(rng, &[64, 1_024]),
            random_order: rng.random_bool(0.7),
            lead_ms: if rng.random_bool(0.3) {
                None
            } else {
                Some(*pick(rng, &[0, 0, 10, 40]))
            },
            lease_ms: *pick(rng, &[300, 1_000, 3_000]),
            segment_bytes: *pick(rng, &[16 << 10, 64 << 10, 256 << 10]),
            recent_bytes: *pick(rng, &[4 << 10, 1 << 20, 16 << 20]),
            deadline: Duration::from_millis(*pick(rng, &[1_500, 4_000, 10_000])),
            page_bytes: *pick(&mut part("pages"), &[600, 4 << 10, 256 << 10]),
            clients: Clients::new(&mut part("clients")),
            keys: *pick(rng, &[3, 6, 20]),
            think: Duration::from_millis(*pick(rng, &[5, 30, 120])),
            chaos: Duration::from_secs(rng.random_range(8..=20)),
            faults: Faults::new(&mut part("faults")),
        };
        for host in &mut plan.clients.hosts {
            host.fit(&plan.shape);
        }
        if plan.clocks_beyond {
            plan.faults.clock_jump.get_or_insert(Duration::from_secs(2));
        }
        if let Some(bias) = mutation.and_then(Mutation::bias) {
            (bias.apply)(&mut plan);
        }
        plan
    }
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    match from.choose(rng) {
        Some(found) => found,
        None => unreachable!("a choice among nothing"),
    }
}
