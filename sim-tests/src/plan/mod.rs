//! What a seed chose. Swarm testing: each run enables a random part of everything at random rates, because a run with
//! all faults at once hides what only one of them brings out.

mod changes;
mod clients;
mod faults;
mod ranges;
mod regions;
mod shape;
mod shards;

use std::time::Duration;

use meridian_storage::Engine;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::mutation::Mutation;
use crate::seams::derive;
use crate::workload::OPERATOR;

pub use changes::Changes;
pub use clients::{ClientHost, Clients, Kind};
pub use faults::{Faults, MessageFaults};
pub use ranges::{MAY_CROSS, Ranges};
pub use regions::{Distances, Region, Regions};
pub use shape::Shape;
pub use shards::Shards;

/// The least memory for recent writes where transactions take long because regions are far apart.
const LEAST_RECENT_BYTES_FAR: usize = 64 << 10;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything below, and every random choice of the run, derives from it.
    pub seed: u64,
    /// The rule that is broken on purpose.
    pub mutation: Option<Mutation>,
    /// Where nodes and clients are.
    pub regions: Regions,
    /// How many nodes there are.
    pub shape: Shape,
    /// Which ranges the keys are divided into.
    pub ranges: Ranges,
    /// How often these change.
    pub changes: Option<Changes>,
    /// Which keys storage nodes hold.
    pub shards: Shards,
    /// Storage nodes keep their versions in this engine, on a real disk; in memory if in none.
    pub engine: Option<Engine>,
    /// How often storage nodes write checkpoints, and how many versions of them at once.
    pub checkpoints: (Duration, usize),
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
    /// After how long the preferred owner of a range gets it back.
    pub return_after_ms: u64,
    /// Memory for the recent writes that a planned move hands over.
    pub hand_over_bytes: usize,
    /// The size of a journal's segment.
    pub segment_bytes: u64,
    /// How old what journal nodes trim has to be, if they trim in this run.
    pub trim_min_age_ms: Option<u64>,
    /// Memory for recent writes at an adjudicator: little makes old transactions fail.
    pub recent_bytes: usize,
    /// The size of a page of a scan.
    pub page_bytes: usize,
    /// Memory of a storage node for newest versions: so little that most have to go, or enough for all.
    pub newest_cache_bytes: u64,
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

/// Every ten minutes, so never in a run, or often.
fn checkpoints(rng: &mut StdRng) -> (Duration, usize) {
    let interval = *pick(rng, &[600_000, 4_000, 1_000, 1_000]);
    (Duration::from_millis(interval), *pick(rng, &[3, 10, 1_000]))
}

/// One seed in ten keeps versions on a real disk.
fn engine(rng: &mut StdRng) -> Option<Engine> {
    let is_on_disk = rng.random_bool(0.1);
    is_on_disk.then(|| *pick(rng, &[Engine::Fjall, Engine::Sled]))
}

impl Plan {
    /// What the seed chooses.
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        // Each part draws from its own numbers: what one part comes to choose does not change the others.
        let part = |name: &str| StdRng::seed_from_u64(derive(seed, &format!("plan {name}")));
        let rng = &mut part("settings");
        let slowest = *pick(rng, &[2, 5, 20, 60]);
        let regions = Regions::new(&mut part("regions"));
        let mut plan = Self {
            seed,
            mutation,
            regions,
            shape: Shape::new(&mut part("shape"), &regions),
            ranges: Ranges::default(),
            changes: None,
            shards: Shards::default(),
            // Of that name since there was one engine: seeds stay what they were.
            engine: engine(&mut part("sled")),
            checkpoints: checkpoints(&mut part("checkpoints")),
            clocks_beyond: part("clocks").random_bool(0.12),
            clock_bound: Duration::from_micros(*pick(rng, &[10, 500, 2_000, 10_000, 50_000])),
            latency: (Duration::ZERO, Duration::from_millis(slowest)),
            tcp_capacity: *pick(rng, &[256, 1_024]),
            random_order: rng.random_bool(0.7),
            lead_ms: if rng.random_bool(0.3) {
                None
            } else {
                Some(*pick(rng, &[0, 0, 10, 40]))
            },
            lease_ms: *pick(rng, &[300, 1_000, 3_000]),
            return_after_ms: 0,
            hand_over_bytes: 0,
            segment_bytes: *pick(rng, &[16 << 10, 64 << 10, 256 << 10]),
            trim_min_age_ms: None,
            recent_bytes: *pick(rng, &[4 << 10, 1 << 20, 16 << 20]),
            deadline: Duration::from_millis(*pick(rng, &[1_500, 4_000, 10_000])),
            page_bytes: *pick(&mut part("pages"), &[600, 4 << 10, 256 << 10]),
            newest_cache_bytes: *pick(&mut part("newest cache"), &[1 << 10, 3 << 10, 64 << 20]),
            clients: Clients::new(&mut part("clients")),
            keys: *pick(rng, &[3, 6, 20]),
            think: Duration::from_millis(*pick(rng, &[5, 30, 120])),
            chaos: Duration::from_secs(rng.random_range(8..=20)),
            faults: Faults::new(&mut part("faults")),
        };
        let placement = &mut part("placement");
        plan.return_after_ms = *pick(placement, &[200, 1_000, 3_000]);
        plan.hand_over_bytes = *pick(placement, &[1 << 10, 16 << 20, 16 << 20]);
        let trimming = &mut part("trimming");
        if trimming.random_bool(0.5) {
            plan.trim_min_age_ms = Some(trimming.random_range(1_000..=3_000));
            plan.segment_bytes = *pick(trimming, &[4 << 10, 8 << 10, 16 << 10]);
        }
        let losing = &mut part("storage loss");
        let mean = Duration::from_millis(losing.random_range(2_000..=8_000));
        plan.faults.storage_loss = losing.random_bool(0.3).then_some(mean);
        plan.ranges = Ranges::new(&mut part("ranges"), &plan.clients, plan.keys);
        let is_one_range = plan.ranges.count() == 1;
        plan.changes = Changes::new(&mut part("changes"), &plan.clients, plan.keys, is_one_range);
        plan.shards = Shards::new(
            &mut part("shards"),
            &plan.shape,
            &regions,
            &plan.clients,
            plan.keys,
        );
        if let Some(distances) = regions.distances {
            plan.spread_out(&distances, &mut part("far"));
        }
        for host in &mut plan.clients.hosts {
            host.fit(&plan.shape);
        }
        if plan.clocks_beyond {
            plan.faults.clock_jump.get_or_insert(Duration::from_secs(2));
        }
        if let Some(bias) = mutation.and_then(Mutation::bias) {
            (bias.apply)(&mut plan);
        }
        if let Some(changes) = &mut plan.changes {
            changes.host.fit(&plan.shape);
        }
        plan
    }

    /// Regions are far from one another: what is fit for one place is not fit for several.
    fn spread_out(&mut self, distances: &Distances, rng: &mut StdRng) {
        self.latency.1 = self.latency.1.min(Duration::from_millis(5));
        // At least four round trips to a quorum.
        let shortest = distances.round_trip().as_millis() * 4;
        self.lease_ms = self.lease_ms.max(u64::try_from(shortest).unwrap_or(u64::MAX));
        // Memory for a dozen writes would refuse whoever takes a few round trips, for ever: others write all the time.
        self.recent_bytes = self.recent_bytes.max(LEAST_RECENT_BYTES_FAR);
        for host in &mut self.clients.hosts {
            host.move_to(*pick(rng, &Region::ACTIVE), rng);
        }
        self.faults.add_regions(rng);
    }

    /// Where a node or a client's host is.
    pub fn region_of(&self, host: &str) -> Region {
        let client = host
            .strip_prefix(CLIENT_HOST)
            .and_then(|number| number.parse().ok());
        let client = client.and_then(|number: usize| self.clients.hosts.get(number.checked_sub(1)?));
        let operator = self.changes.as_ref().filter(|_| host == OPERATOR);
        let client = client.or(operator.map(|changes| &changes.host));
        client.map_or_else(|| self.regions.of_node(host), |client| client.region)
    }
}

/// What the names of clients' hosts begin with; a number from one on follows.
pub const CLIENT_HOST: &str = "client-";

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    match from.choose(rng) {
        Some(found) => found,
        None => unreachable!("a choice among nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_keep_versions_in_memory_and_in_either_engine() {
        let engines: Vec<_> = (0..400).map(|seed| Plan::new(seed, None).engine).collect();
        for (engine, least) in [(None, 320), (Some(Engine::Fjall), 8), (Some(Engine::Sled), 8)] {
            let count = engines.iter().filter(|chosen| **chosen == engine).count();
            assert!(count >= least, "{engine:?}: {count}");
        }
    }
}
