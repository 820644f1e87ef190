//! What the probes have found: for each range, from each region, whether writes get through.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One key in each range of the cluster under test, where no workload has keys.
pub const KEYS: [&str; 4] = ["a-probe", "c-probe", "m-probe", "z-probe"];

/// One probe: a client of a region that writes to a range again and again.
#[derive(Debug)]
pub struct Probe {
    /// Where the client is.
    pub region: String,
    /// The key in the range.
    pub key: &'static str,
    /// When the last of its writes that was acknowledged began, in microseconds, and one.
    last_began_us: AtomicU64,
}

/// All probes, shared by clients and faults.
#[derive(Debug)]
pub struct Board {
    began: Instant,
    probes: Vec<Probe>,
}

impl Board {
    /// From each region into each range.
    pub fn new<'a>(regions: impl Iterator<Item = &'a str>) -> Self {
        let probes = regions.flat_map(|region| {
            KEYS.map(|key| Probe {
                region: region.to_owned(),
                key,
                last_began_us: AtomicU64::new(0),
            })
        });
        Self {
            probes: probes.collect(),
            began: Instant::now(),
        }
    }

    /// Since the run began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// All of them.
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// A write that began then was acknowledged.
    pub fn acknowledged(&self, probe: usize, began: Duration) {
        if let Some(probe) = self.probes.get(probe) {
            let began_us = u64::try_from(began.as_micros()).unwrap_or(u64::MAX - 1);
            probe.last_began_us.fetch_max(began_us + 1, Ordering::AcqRel);
        }
    }

    /// Probes none of whose writes that began since then was acknowledged yet.
    pub fn waiting(&self, since: Duration) -> impl Iterator<Item = &Probe> {
        let since_us = since.as_micros();
        self.probes
            .iter()
            .filter(move |probe| u128::from(probe.last_began_us.load(Ordering::Acquire)) <= since_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_waits_until_a_write_that_began_later_is_acknowledged() {
        let board = Board::new(["north", "south"].into_iter());
        let waiting = |ms| board.waiting(Duration::from_millis(ms)).count();
        assert_eq!(waiting(0), 8, "nothing was acknowledged");
        for probe in 0..8 {
            board.acknowledged(probe, Duration::from_millis(5));
        }
        assert_eq!((waiting(4), waiting(5), waiting(6)), (0, 0, 8));
        board.acknowledged(3, Duration::from_millis(7));
        board.acknowledged(3, Duration::from_millis(6));
        assert_eq!(
            (waiting(6), waiting(7)),
            (7, 7),
            "an earlier one does not count again"
        );
    }
}
