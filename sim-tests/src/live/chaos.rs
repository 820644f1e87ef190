//! One fault after the other, each mended and recovered from before the next: so that what a fault costs can be told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::board::Board;
use super::docker::Compose;
use super::strikes::{Kind, Strike, Struck};
use crate::seams::derive;

/// Whoever has not recovered by then never will.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Docker is asked as often as this.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The thread of faults.
pub struct Chaos {
    compose: Compose,
    board: Arc<Board>,
    rng: StdRng,
}

impl Chaos {
    /// Nothing has happened.
    pub fn new(compose: Compose, board: Arc<Board>, seed: u64) -> Self {
        Self {
            compose,
            board,
            rng: StdRng::seed_from_u64(derive(seed, "chaos")),
        }
    }

    /// Breaks and mends for so long; when it returns everything is mended. An error when Docker refuses something.
    pub fn run(mut self, lasts: Duration) -> Result<Vec<Struck>, String> {
        let end = self.board.now() + lasts;
        let mut all = Vec::new();
        let mut round = Vec::new();
        while self.board.now() < end {
            if round.is_empty() {
                round = Kind::ROUND.to_vec();
                round.shuffle(&mut self.rng);
            }
            let Some(kind) = round.pop() else { break };
            let containers = self.compose.services()?;
            let services: Vec<&str> = containers.keys().map(String::as_str).collect();
            let Some(strike) = Strike::draw(kind, &services, &mut self.rng) else {
                return Err(format!("no services for {kind:?} among {services:?}"));
            };
            let struck = self.strike(strike, &containers)?;
            eprintln!("{struck}");
            let is_stuck = struck.lasting().is_some();
            all.push(struck);
            if is_stuck {
                break;
            }
            thread::sleep(Duration::from_millis(self.rng.random_range(1_000..4_000)));
        }
        Ok(all)
    }

    fn strike(&self, strike: Strike, containers: &BTreeMap<String, String>) -> Result<Struck, String> {
        let struck: Vec<(&str, &str)> = strike
            .services
            .iter()
            .filter_map(|service| Some((service.as_str(), containers.get(service)?.as_str())))
            .collect();
        let at = self.board.now();
        strike.kind.breaks(&self.compose, &struck)?;
        let broken = self.board.now();
        let recovered = self.recovered(broken, strike.lasts);
        // However soon that was: the fault goes on for its time.
        thread::sleep((broken + strike.lasts).saturating_sub(self.board.now()));
        let mending = self.board.now();
        strike.kind.mends(&self.compose, &struck)?;
        let after = self.recovered(self.board.now(), RECOVERY_LIMIT);
        if after.is_none() {
            let waiting: Vec<String> = self
                .board
                .waiting(mending)
                .map(|probe| format!("{} from {}", probe.key, probe.region))
                .collect();
            eprintln!("not written since: {}", waiting.join(", "));
        }
        Ok(Struck {
            strike,
            at,
            recovered_during: recovered.map(|time| time.saturating_sub(at)),
            recovered_after: after.map(|time| time.saturating_sub(mending)),
            unhealthy: self.unhealthy()?,
        })
    }

    /// Services that do not become healthy. Waiting for them keeps one fault from being added to the one before.
    fn unhealthy(&self) -> Result<Vec<String>, String> {
        let end = self.board.now() + RECOVERY_LIMIT;
        loop {
            let unhealthy = self.compose.unhealthy()?;
            if unhealthy.is_empty() || self.board.now() >= end {
                return Ok(unhealthy);
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    /// When every probe had written what it began since then, if that was within the limit.
    fn recovered(&self, since: Duration, limit: Duration) -> Option<Duration> {
        loop {
            let now = self.board.now();
            if self.board.waiting(since).next().is_none() {
                return Some(now);
            }
            if now >= since + limit {
                return None;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}
