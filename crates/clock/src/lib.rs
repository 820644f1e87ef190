//! Clocks with known error bounds (protocol section 2).
//!
//! Every service is handed a [`SharedClock`]; nothing else in the project reads the time of day.
//! Timeouts are another matter: they use tokio's monotonic timer.
#![forbid(unsafe_code)]

mod manual;
mod system;

use std::sync::Arc;
use std::time::Duration;

pub use manual::ManualClock;
pub use meridian_types::{Interval, Timestamp};
pub use system::SystemClock;

/// A source of time that knows how wrong it may be.
pub trait Clock: Send + Sync + 'static {
    /// True time lies within the answer. `latest` never goes backwards at one node.
    fn now(&self) -> Interval;

    /// Whether the bound is narrow enough to serve with; an unhealthy node takes no new transactions.
    fn is_healthy(&self) -> bool {
        self.now().bound() <= self.max_error()
    }

    /// The widest bound that this node may serve with (`max_clock_error` of the configuration).
    fn max_error(&self) -> Duration;
}

/// The clock as services share it.
pub type SharedClock = Arc<dyn Clock>;

/// Returns once `now.earliest > timestamp` (commit wait, R3).
pub async fn wait_until_past(clock: &dyn Clock, timestamp: Timestamp) {
    loop {
        let earliest = clock.now().earliest;
        if earliest > timestamp {
            return;
        }
        pause(timestamp.since(earliest) + Duration::from_nanos(1)).await;
    }
}

/// Returns once `now.earliest >= timestamp` (uncertainty wait, R4).
pub async fn wait_until(clock: &dyn Clock, timestamp: Timestamp) {
    if timestamp > Timestamp::ZERO {
        wait_until_past(clock, Timestamp(timestamp.0 - 1)).await;
    }
}

/// Sleeps, rounded up to the timer's millisecond. Never spins: under simulated time only sleeping lets it pass.
async fn pause(duration: Duration) {
    // A bound on one sleep, so that a clock that jumps is noticed.
    tokio::time::sleep(duration.min(Duration::from_secs(1))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn commit_wait_ends_only_after_the_timestamp_is_surely_past() {
        let clock = Arc::new(ManualClock::new(Timestamp(1_000), Duration::from_nanos(100)));
        let waiter = tokio::spawn({
            let clock = clock.clone();
            async move { wait_until_past(&*clock, Timestamp(1_000)).await }
        });
        for now in [1_000, 1_099, 1_100] {
            clock.set(Timestamp(now));
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(!waiter.is_finished(), "at {now} true time may still be 1000");
        }
        clock.set(Timestamp(1_101));
        waiter.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn uncertainty_wait_ends_when_the_timestamp_is_surely_reached() {
        let clock = Arc::new(ManualClock::new(Timestamp(1_099), Duration::from_nanos(100)));
        let waiter = tokio::spawn({
            let clock = clock.clone();
            async move { wait_until(&*clock, Timestamp(1_000)).await }
        });
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(!waiter.is_finished());
        clock.set(Timestamp(1_100));
        waiter.await.unwrap();
    }
}
