//! True time, which nobody in the cluster knows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::seams;

/// When simulations begin, in seconds since the epoch: 2030-01-01.
const EPOCH_S: u64 = 1_893_456_000;
/// One step of the simulation, in which every node has its turn. Timers have this granularity too.
pub const TICK: Duration = Duration::from_millis(1);

/// True time. It stands still within a tick, also while one node after another has its turn: then whoever comes
/// later in the history never sees an earlier time.
#[derive(Clone)]
pub struct SimTime(Arc<AtomicU64>);

impl SimTime {
    /// The beginning.
    pub fn new() -> Self {
        let time = Self(Arc::default());
        time.set(Duration::ZERO);
        time
    }

    /// Sets the time, for this thread's libc too.
    pub fn set(&self, elapsed: Duration) {
        let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(elapsed_ns, Ordering::Relaxed);
        seams::set_now(self.epoch_ns());
    }

    /// Nanoseconds since the epoch.
    pub fn epoch_ns(&self) -> u64 {
        EPOCH_S * 1_000_000_000 + self.0.load(Ordering::Relaxed)
    }

    /// When every simulation begins, in nanoseconds since the epoch.
    pub fn begin_ns() -> u64 {
        EPOCH_S * 1_000_000_000
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Default for SimTime {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SimTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7.3}", self.elapsed().as_secs_f64())
    }
}
