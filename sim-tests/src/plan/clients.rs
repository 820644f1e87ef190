//! Which clients a run has.

use rand::Rng;
use rand::rngs::StdRng;

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

impl Clients {
    /// What the seed chooses.
    pub(super) fn new(rng: &mut StdRng) -> Self {
        Self {
            bank: rng.random_range(0..=2),
            lists: rng.random_range(1..=3),
            registers: rng.random_range(0..=2),
            ledger: 1,
        }
    }
}
