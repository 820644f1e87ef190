//! What a seed chose. Swarm testing: each run enables a random part of everything at random rates, because a run with
//! all faults at once hides what only one of them brings out.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::mutation::Mutation;
use crate::seams::derive;

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything below, and every random choice of the run, derives from it.
    pub seed: u64,
    /// The rule that is broken on purpose.
    pub mutation: Option<Mutation>,
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

/// How many clients run each workload.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// Transfers between accounts, and sums.
    pub bank: usize,
    /// Appends to lists.
    pub lists: usize,
    /// Reads and writes of registers, blind writes among them.
    pub registers: usize,
    /// Writes of new keys, never overwritten.
    pub ledger: usize,
}

/// Mean time between two faults of a kind; `None` when the run has none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A process dies and starts again.
    pub crash: Option<Duration>,
    /// A process is asked to stop, and starts again.
    pub restart: Option<Duration>,
    /// Nodes lose their power, one or many at once.
    pub power_loss: Option<Duration>,
    /// Nodes cannot reach others, both ways.
    pub partition: Option<Duration>,
    /// Nodes cannot reach others, one way.
    pub oneway: Option<Duration>,
    /// Messages between nodes are held back, and then come all at once.
    pub hold: Option<Duration>,
    /// Messages take longer for a while.
    pub slow: Option<Duration>,
    /// Clocks jump within their bound.
    pub clock_jump: Option<Duration>,
    /// Connections live this long on average, then break with everything under way.
    pub cut: Option<Duration>,
    /// How many processes may be down at once.
    pub max_down: usize,
    /// How likely it is that a block that was not synced survives a power loss.
    pub unsynced_survives: f64,
}

impl Plan {
    /// What the seed chooses.
    pub fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut rng = StdRng::seed_from_u64(derive(seed, "plan"));
        let rng = &mut rng;
        let slowest = *pick(rng, &[2, 5, 20, 60]);
        Self {
            seed,
            mutation,
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
            clients: Clients {
                bank: rng.random_range(0..=2),
                lists: rng.random_range(1..=3),
                registers: rng.random_range(0..=2),
                ledger: 1,
            },
            keys: *pick(rng, &[3, 6, 20]),
            think: Duration::from_millis(*pick(rng, &[5, 30, 120])),
            chaos: Duration::from_secs(rng.random_range(8..=20)),
            faults: Faults::new(rng, mutation),
        }
    }
}

impl Faults {
    fn new(rng: &mut StdRng, mutation: Option<Mutation>) -> Self {
        let mut faults = Self {
            max_down: rng.random_range(1..=9),
            unsynced_survives: *pick(rng, &[0.0, 0.5, 0.9]),
            ..Self::default()
        };
        let kinds = [
            &mut faults.crash,
            &mut faults.restart,
            &mut faults.power_loss,
            &mut faults.partition,
            &mut faults.oneway,
            &mut faults.hold,
            &mut faults.slow,
            &mut faults.clock_jump,
            &mut faults.cut,
        ];
        // Some runs are calm but for one kind, some have all of them.
        let share = *pick(rng, &[0.15, 0.4, 0.8]);
        for kind in kinds {
            let mean = Duration::from_millis(rng.random_range(400..=6_000));
            *kind = rng.random_bool(share).then_some(mean);
        }
        // A clock that is never wrong, or a disk that never loses power, hides what is broken.
        match mutation {
            Some(Mutation::SyncLies) => {
                faults.power_loss = Some(Duration::from_secs(2));
                faults.unsynced_survives = 0.0;
            }
            Some(Mutation::CommitWaitSkipped | Mutation::UncertaintyWaitSkipped) => {
                faults.clock_jump = Some(Duration::from_secs(1));
            }
            None => {}
        }
        faults
    }
}

fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    match from.choose(rng) {
        Some(found) => found,
        None => unreachable!("a choice among nothing"),
    }
}
