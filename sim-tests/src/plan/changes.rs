//! How often an operator moves, splits and merges ranges.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::{ClientHost, Clients, Ranges, Region, pick};

/// Changes of the key ranges while a run goes on.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Mean time between two of them.
    pub every: Duration,
    /// How likely each kind is beside the others: moves, splits, merges.
    pub weights: [u32; 3],
    /// Where ranges are split: inside of what transactions touch, or between workloads.
    pub keys: Vec<String>,
    /// Most streams of the run, those that ended included: each is followed by everybody to the end.
    pub most_streams: usize,
    /// Whence they are asked for.
    pub host: ClientHost,
}

impl Changes {
    /// What the seed chooses: none in many runs, all of one kind in some.
    pub(super) fn new(rng: &mut StdRng, clients: &Clients, keys: usize, is_one_range: bool) -> Option<Self> {
        let likely = if is_one_range { 0.4 } else { 0.65 };
        if !rng.random_bool(likely) {
            return None;
        }
        Some(Self {
            every: Duration::from_millis(*pick(rng, &[150, 400, 1_000, 2_500])),
            weights: *pick(rng, &[[1, 1, 1], [2, 2, 1], [1, 2, 2], [1, 0, 0], [0, 1, 1]]),
            keys: Ranges::borders_of(clients, keys),
            most_streams: 24,
            host: ClientHost::at_routers(*pick(rng, &Region::ACTIVE)),
        })
    }

    /// Splits and merges, one after the other.
    pub fn restless(clients: &Clients, keys: usize) -> Self {
        Self {
            every: Duration::from_millis(300),
            weights: [1, 3, 3],
            keys: Ranges::borders_of(clients, keys),
            most_streams: 60,
            host: ClientHost::at_routers(Region::A),
        }
    }
}
