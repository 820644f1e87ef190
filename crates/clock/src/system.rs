//! The machine's clock with a fixed error bound from the configuration.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Clock, Interval, Timestamp};

/// The machine's clock, trusted to be within a fixed bound of true time. Whoever configures the bound
/// vouches for it; if the clock is outside of it, recency (I1) is lost, nothing else.
#[derive(Debug)]
pub struct SystemClock {
    bound: Duration,
    max_error: Duration,
    /// The highest `latest` given out: it never goes backwards, even when the machine's clock does.
    latest: AtomicU64,
}

impl SystemClock {
    /// A clock within `bound` of true time, on a node that serves while the bound is at most `max_error`.
    pub fn new(bound: Duration, max_error: Duration) -> Self {
        Self {
            bound,
            max_error,
            latest: AtomicU64::new(0),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Interval {
        // A clock before 1970 is not set at all; zero keeps the arithmetic sound and is refused as unhealthy.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let reading = Timestamp::ZERO.saturating_add(since_epoch);
        let latest = reading.saturating_add(self.bound).0;
        let before = self.latest.fetch_max(latest, Ordering::Relaxed);
        Interval {
            earliest: reading.saturating_sub(self.bound),
            latest: Timestamp(latest.max(before)),
        }
    }

    fn max_error(&self) -> Duration {
        self.max_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_never_goes_backwards() {
        let clock = SystemClock::new(Duration::from_millis(1), Duration::from_millis(10));
        let far_ahead = clock.now().latest.saturating_add(Duration::from_millis(5));
        clock.latest.store(far_ahead.0, Ordering::Relaxed);
        let now = clock.now();
        assert_eq!(now.latest, far_ahead);
        assert!(now.earliest < far_ahead);
        assert!(
            clock.is_healthy(),
            "2 ms and a step back of at most 5 are within the limit"
        );
        assert!(!SystemClock::new(Duration::from_millis(11), Duration::from_millis(10)).is_healthy());
    }
}
