//! A clock that stands still until it is set.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Clock, Interval, Timestamp};

/// A clock for tests: it shows what it was last set to, within a fixed bound.
#[derive(Debug)]
pub struct ManualClock {
    reading: AtomicU64,
    latest: AtomicU64,
    bound: Duration,
}

impl ManualClock {
    /// A clock that shows `reading`, give or take `bound`.
    pub fn new(reading: Timestamp, bound: Duration) -> Self {
        let latest = reading.saturating_add(bound).0;
        Self {
            reading: AtomicU64::new(reading.0),
            latest: AtomicU64::new(latest),
            bound,
        }
    }

    /// Sets the reading. `latest` stays where it was if this is a step backwards.
    pub fn set(&self, reading: Timestamp) {
        self.reading.store(reading.0, Ordering::SeqCst);
        self.latest
            .fetch_max(reading.saturating_add(self.bound).0, Ordering::SeqCst);
    }

    /// Moves the reading forwards.
    pub fn advance(&self, by: Duration) {
        self.set(Timestamp(self.reading.load(Ordering::SeqCst)).saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Interval {
        let reading = Timestamp(self.reading.load(Ordering::SeqCst));
        Interval {
            earliest: reading.saturating_sub(self.bound),
            latest: Timestamp(self.latest.load(Ordering::SeqCst)),
        }
    }

    fn max_error(&self) -> Duration {
        Duration::from_secs(1)
    }
}
