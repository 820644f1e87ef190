//! How often and how soon to try again: a budget that all calls of a client share, and jittered backoff.
//!
//! A retry takes one token and a success gives back a hundredth, so an outage multiplies a busy client's
//! load by 1.01 in the long run and not by the number of attempts. A conflict does not draw on it: it
//! means that the cluster works and that another transaction got through.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

/// How many retries a client may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Most tokens that can be saved up, and what a client begins with. One retry costs one token.
    pub capacity: f64,
    /// Tokens that each success adds.
    pub per_success: f64,
    /// Tokens that come back each second by themselves, so that a quiet client can retry at all.
    pub per_second: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            capacity: 100.0,
            per_success: 0.01,
            per_second: 1.0,
        }
    }
}

/// The budget's present state.
pub(crate) struct Tokens {
    budget: RetryBudget,
    level: Mutex<(f64, Instant)>,
}

impl Tokens {
    pub(crate) fn new(budget: RetryBudget) -> Self {
        Self {
            budget,
            level: Mutex::new((budget.capacity, Instant::now())),
        }
    }

    /// Pays for one retry; false when the budget is spent.
    pub(crate) fn take(&self) -> bool {
        self.change(|level| {
            let enough = *level >= 1.0;
            if enough {
                *level -= 1.0;
            }
            enough
        })
    }

    /// A call succeeded.
    pub(crate) fn succeeded(&self) {
        self.change(|level| *level += self.budget.per_success);
    }

    fn change<T>(&self, apply: impl FnOnce(&mut f64) -> T) -> T {
        let mut state = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (level, since) = &mut *state;
        let refill = now.duration_since(*since).as_secs_f64() * self.budget.per_second;
        *level = (*level + refill).min(self.budget.capacity);
        *since = now;
        let result = apply(level);
        *level = level.min(self.budget.capacity);
        result
    }
}

/// The client's randomness: jitter and transaction ids. Shared, seeded once.
#[derive(Clone)]
pub(crate) struct Random(Arc<Mutex<StdRng>>);

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let rng = seed.map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64);
        Self(Arc::new(Mutex::new(rng)))
    }

    pub(crate) fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Exponential backoff with full jitter.
pub(crate) struct Backoff {
    random: Random,
    ceiling: Duration,
    max: Duration,
}

impl Backoff {
    /// The first delay is at most `first`, later ones at most `max`.
    pub(crate) fn new(random: Random, first: Duration, max: Duration) -> Self {
        Self {
            random,
            ceiling: first,
            max,
        }
    }

    /// The next delay, never less than what the server asked for.
    pub(crate) fn next(&mut self, at_least: Option<Duration>) -> Duration {
        let jittered = self
            .random
            .with(|rng| self.ceiling.mul_f64(rng.random_range(0.0..1.0)));
        self.ceiling = (self.ceiling * 2).min(self.max);
        // Everybody is told the same delay: the jitter goes on top of it.
        at_least.unwrap_or_default() + jittered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_costs_a_hundredth_of_the_successes_before_it() {
        let tokens = Tokens::new(RetryBudget {
            per_second: 0.0,
            ..RetryBudget::default()
        });
        assert_eq!((0..1_000).filter(|_| tokens.take()).count(), 100);
        for _ in 0..1_010 {
            tokens.succeeded();
        }
        assert_eq!((0..1_000).filter(|_| tokens.take()).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_client_earns_its_retries_by_time() {
        let tokens = Tokens::new(RetryBudget {
            capacity: 3.0,
            ..RetryBudget::default()
        });
        assert_eq!((0..10).filter(|_| tokens.take()).count(), 3);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((0..10).filter(|_| tokens.take()).count(), 2);
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!((0..10).filter(|_| tokens.take()).count(), 3);
    }

    #[test]
    fn delays_grow_are_jittered_and_honour_the_server() {
        let (first, max) = (Duration::from_millis(10), Duration::from_millis(80));
        let mut backoff = Backoff::new(Random::new(Some(1)), first, max);
        let delays: Vec<_> = (0..50).map(|_| backoff.next(None)).collect();
        assert!(delays[0] <= first);
        assert!(delays.iter().all(|delay| *delay <= max));
        assert!(delays.iter().any(|delay| *delay > first * 4));
        assert!(backoff.next(Some(Duration::from_secs(1))) >= Duration::from_secs(1));
    }
}
