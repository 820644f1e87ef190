//! How long a transaction waits before it runs again after a conflict: as long as with Meridian's client library, where the system has
//! no better way.

use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};

use crate::load::Failure;

const FIRST: Duration = Duration::from_millis(4);
const MOST: Duration = Duration::from_millis(500);
/// Meridian's default deadline.
const DEADLINE: Duration = Duration::from_secs(10);

/// Exponential, with full jitter, until the deadline.
pub struct Backoff {
    ceiling: Duration,
    deadline: Instant,
    aborts: u64,
}

impl Backoff {
    /// For a transaction that begins now.
    pub fn new() -> Self {
        Self {
            ceiling: FIRST,
            deadline: Instant::now() + DEADLINE,
            aborts: 0,
        }
    }

    /// How many conflicts there were.
    pub fn aborts(&self) -> u64 {
        self.aborts
    }

    /// Waits before the next run.
    ///
    /// # Errors
    /// When the deadline would have passed.
    pub async fn again(&mut self) -> Result<(), Failure> {
        let delay = self.ceiling.mul_f64(rand::rng().random_range(0.0..1.0));
        self.ceiling = (self.ceiling * 2).min(MOST);
        self.count(delay)?;
        sleep(delay).await;
        Ok(())
    }

    /// Does not wait before the next run.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub fn at_once(&mut self) -> Result<(), Failure> {
        self.count(Duration::ZERO)
    }

    fn count(&mut self, delay: Duration) -> Result<(), Failure> {
        self.aborts += 1;
        if Instant::now() + delay < self.deadline {
            return Ok(());
        }
        Err(Failure::Failed(format!("conflicts for {} s", DEADLINE.as_secs())))
    }
}
