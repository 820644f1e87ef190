//! What can be done to a cluster of containers.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::docker::Compose;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One container is killed (SIGKILL) and started again later.
    Kill,
    /// One container is stopped as for an update (SIGTERM) and started at once.
    Restart,
    /// One container gets no CPU for a while.
    Pause,
    /// One container is taken out of the network between the regions.
    Cut,
    /// All containers of an active region are killed, and started later.
    RegionKilled,
    /// All containers of an active region are stopped (SIGTERM), and started later.
    RegionStopped,
    /// All containers of an active region get no CPU for a while.
    RegionPaused,
    /// An active region is cut off from the other two.
    RegionCut,
    /// The witness is killed, and started later.
    WitnessKilled,
    /// The witness is cut off.
    WitnessCut,
}

impl Kind {
    /// All of them, those of single containers oftener, for there are more of those.
    pub const ROUND: [Self; 13] = [
        Self::Kill,
        Self::Kill,
        Self::Kill,
        Self::Pause,
        Self::Pause,
        Self::Restart,
        Self::Cut,
        Self::RegionKilled,
        Self::RegionStopped,
        Self::RegionPaused,
        Self::RegionCut,
        Self::WitnessKilled,
        Self::WitnessCut,
    ];

    fn is_of_a_region(self) -> bool {
        matches!(
            self,
            Self::RegionKilled | Self::RegionStopped | Self::RegionPaused | Self::RegionCut
        )
    }

    fn is_of_the_witness(self) -> bool {
        matches!(self, Self::WitnessKilled | Self::WitnessCut)
    }

    /// Breaks these containers, given with the names of their services.
    pub fn breaks(self, compose: &Compose, struck: &[(&str, &str)]) -> Result<(), String> {
        let containers: Vec<&str> = struck.iter().map(|(_, container)| *container).collect();
        match self {
            Self::Kill | Self::RegionKilled | Self::WitnessKilled => compose.on_all(&["kill"], &containers),
            Self::Restart | Self::RegionStopped => compose.on_all(&["stop", "--time", "20"], &containers),
            Self::Pause | Self::RegionPaused => compose.on_all(&["pause"], &containers),
            Self::Cut | Self::RegionCut | Self::WitnessCut => compose.set_cut(struck, true),
        }
    }

    /// Mends what [`Self::breaks`] has broken.
    pub fn mends(self, compose: &Compose, struck: &[(&str, &str)]) -> Result<(), String> {
        let containers: Vec<&str> = struck.iter().map(|(_, container)| *container).collect();
        match self {
            Self::Pause | Self::RegionPaused => compose.on_all(&["unpause"], &containers),
            Self::Cut | Self::RegionCut | Self::WitnessCut => compose.set_cut(struck, false),
            _ => compose.start(&containers),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "a container is killed",
            Self::Restart => "a container is restarted",
            Self::Pause => "a container is paused",
            Self::Cut => "a container is cut off",
            Self::RegionKilled => "a region is killed",
            Self::RegionStopped => "a region is stopped",
            Self::RegionPaused => "a region is paused",
            Self::RegionCut => "a region is cut off",
            Self::WitnessKilled => "the witness is killed",
            Self::WitnessCut => "the witness is cut off",
        })
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What happens.
    pub kind: Kind,
    /// To these services.
    pub services: Vec<String>,
    /// Until it is mended.
    pub lasts: Duration,
}

/// Services are named `<role>-<region>`; the region with a journal node alone is the witness.
fn region_of(service: &str) -> &str {
    service.rsplit_once('-').map_or("", |(_, region)| region)
}

impl Strike {
    /// One of that kind, to some of these services.
    pub fn draw(kind: Kind, services: &[&str], rng: &mut StdRng) -> Option<Self> {
        let count = |region: &str| {
            services
                .iter()
                .filter(|service| region_of(service) == region)
                .count()
        };
        let is_witness = |service: &str| count(region_of(service)) == 1;
        let whole = |region: &str| {
            services
                .iter()
                .copied()
                .filter(|service| region_of(service) == region)
                .collect()
        };
        let struck: Vec<&str> = if kind.is_of_the_witness() {
            services
                .iter()
                .copied()
                .filter(|service| is_witness(service))
                .collect()
        } else {
            let active: Vec<&str> = services
                .iter()
                .copied()
                .filter(|service| !is_witness(service))
                .collect();
            let one = active.choose(rng)?;
            if kind.is_of_a_region() {
                whole(region_of(one))
            } else {
                vec![one]
            }
        };
        let lasts_ms = match kind {
            Kind::Restart => 0,
            _ if kind.is_of_a_region() => rng.random_range(10_000..16_000),
            _ => rng.random_range(1_000..8_000),
        };
        (!struck.is_empty()).then(|| Self {
            kind,
            services: struck.into_iter().map(str::to_owned).collect(),
            lasts: Duration::from_millis(lasts_ms),
        })
    }
}

/// A fault that has been, and what it did to the probes.
#[derive(Clone, Debug)]
pub struct Struck {
    /// The fault.
    pub strike: Strike,
    /// When, since the run began.
    pub at: Duration,
    /// From the command that broke something until every range was written from every region again, while it was still broken.
    pub recovered_during: Option<Duration>,
    /// From the command that mended it until the same; `None` if that did not happen in time.
    pub recovered_after: Option<Duration>,
    /// Services that did not say that they are healthy in time after that.
    pub unhealthy: Vec<String>,
}

impl Struck {
    /// What is still wrong.
    pub fn lasting(&self) -> Option<String> {
        match (self.recovered_after, self.unhealthy.as_slice()) {
            (None, _) => Some(format!(
                "liveness: not every range was written again after {self}"
            )),
            (_, []) => None,
            (_, unhealthy) => Some(format!(
                "liveness: not healthy again: {} after {self}",
                unhealthy.join(", ")
            )),
        }
    }
}

impl fmt::Display for Struck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: Option<Duration>| {
            time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
        };
        write!(
            f,
            "{:>6.1} {} ({}) for {:.1} s: all written again {} after the blow, {} after the repair",
            self.at.as_secs_f64(),
            self.strike.kind,
            self.strike.services.join(", "),
            self.strike.lasts.as_secs_f64(),
            seconds(self.recovered_during),
            seconds(self.recovered_after),
        )
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SERVICES: [&str; 5] = [
        "journal-north",
        "query-north",
        "journal-south",
        "query-south",
        "journal-witness",
    ];

    #[test]
    fn each_kind_strikes_what_it_names() {
        let rng = &mut StdRng::seed_from_u64(5);
        for _ in 0..50 {
            for kind in Kind::ROUND {
                let strike = Strike::draw(kind, &SERVICES, rng).unwrap();
                let regions: Vec<&str> = strike.services.iter().map(|service| region_of(service)).collect();
                let first = regions[0];
                assert!(regions.iter().all(|region| *region == first), "{strike:?}");
                assert_eq!(first == "witness", kind.is_of_the_witness(), "{strike:?}");
                let expected = if kind.is_of_a_region() { 2 } else { 1 };
                assert_eq!(strike.services.len(), expected, "{strike:?}");
            }
        }
        assert_eq!(Strike::draw(Kind::Kill, &[], rng), None);
    }
}
