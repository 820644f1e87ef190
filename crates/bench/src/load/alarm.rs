//! Waiting for a moment.

use meridian::embedded::Timer;
use tokio::time::{Instant, sleep_until};

/// What wakes arrivals when they are due.
#[derive(Clone)]
pub enum Alarm {
    /// To within a tenth of a millisecond. The runtime's own timers round up to a whole one, which would be part of each latency.
    Exact(Timer),
    /// The runtime's timers, which tests can drive.
    Runtime,
}

impl Alarm {
    /// Returns when it is `due`.
    pub async fn at(&self, due: Instant) {
        match self {
            Self::Exact(timer) => timer.at(due.into_std()).await,
            Self::Runtime => sleep_until(due).await,
        }
    }
}
