//! How an embedded cluster is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::links::Delay;
use crate::config::{AgreedSettings, Lead, RangeSection, RegionKind, RegionSection};

/// With several regions, commits may land this far ahead, so that reads in all of them need not wait.
const REGIONS_LEAD: Lead = Lead::Auto {
    floor_ms: 0,
    ceiling_ms: 250,
};
/// A lease lasts at least this many of the longest round trip.
const ROUND_TRIPS_PER_LEASE: u32 = 4;

/// How to start an embedded cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept. Created at the first start.
    pub data_dir: PathBuf,
    /// Also serve the router (Kv, Admin, health, reflection) here; the routers of further regions on the ports after it. Port 0
    /// chooses: see [`Cluster::addresses`](super::Cluster::addresses).
    pub listen: Option<SocketAddr>,
    /// All randomness derives from it; drawn from the operating system when `None`.
    pub seed: Option<u64>,
    /// The protocol's bounds.
    pub settings: AgreedSettings,
    /// How far ahead of the present commits land. `None`: as the settings say, but tuned where there are several regions and they
    /// say nothing.
    pub lead: Option<Lead>,
    /// How long the services may take to become ready.
    pub start_timeout: Duration,
    /// The regions. Empty: those that the directory was created with, or one. A directory keeps those it was created with.
    pub regions: Vec<RegionSection>,
    /// The key ranges. Empty: those that the directory was created with, or one. A directory keeps those it was created with.
    pub ranges: Vec<RangeSection>,
    /// How long messages take between regions; [`DEFAULT_DELAY`](super::DEFAULT_DELAY) where nothing is said.
    pub delays: Vec<Delay>,
}

impl Options {
    /// A cluster under this directory, for this process only.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: None,
            seed: None,
            settings: AgreedSettings::default(),
            lead: None,
            start_timeout: Duration::from_secs(60),
            regions: Vec::new(),
            ranges: Vec::new(),
            delays: Vec::new(),
        }
    }

    /// The same, served to others on this address.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// The same, in so many regions: a, b, … and, of three or more, the last a witness called w. One journal node in each; an
    /// active region also has two adjudicators, a storage node, a query processor and a router.
    #[must_use]
    pub fn regions(mut self, count: u8) -> Self {
        let active = if count >= 3 { count - 1 } else { count };
        let region = |name: char, kind| RegionSection {
            name: name.to_string(),
            kind,
        };
        let names = ('a'..='v').take(usize::from(active));
        self.regions = names.map(|name| region(name, RegionKind::Active)).collect();
        if count >= 3 {
            self.regions.push(region('w', RegionKind::Witness));
        }
        self
    }

    /// The same, with these delays between the regions.
    #[must_use]
    pub fn delays(mut self, delays: impl IntoIterator<Item = Delay>) -> Self {
        self.delays.extend(delays);
        self
    }

    /// The same, with all commits this far ahead of the present: with 0 they take their quorum and no longer, and reads of a range
    /// under writes wait for what is in flight.
    #[must_use]
    pub fn lead_ms(mut self, ms: u64) -> Self {
        self.lead = Some(Lead::Fixed { ms });
        self
    }

    /// The same, with a range up to each of these keys (escaped as in a configuration file) and one after the last; they take turns
    /// at which active region they are to be owned in.
    #[must_use]
    pub fn split_at<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        let active: Vec<&str> = self
            .regions
            .iter()
            .filter(|region| region.kind == RegionKind::Active)
            .map(|region| region.name.as_str())
            .collect();
        let mut starts: Vec<String> = keys.into_iter().map(Into::into).collect();
        starts.push(String::new());
        starts.sort();
        starts.dedup();
        let ranges = starts.into_iter().enumerate().map(|(index, start)| RangeSection {
            start,
            region: index
                .checked_rem(active.len())
                .and_then(|turn| active.get(turn))
                .map(|region| (*region).to_owned()),
        });
        self.ranges = ranges.collect();
        self
    }

    /// The settings, fit for regions that lie so far apart.
    pub(super) fn settings_for(&self, region_count: usize, longest_delay: Duration) -> AgreedSettings {
        let mut settings = self.settings.clone();
        if region_count > 1 {
            if settings.lead == AgreedSettings::default().lead {
                settings.lead = REGIONS_LEAD;
            }
            let needed = longest_delay * 2 * ROUND_TRIPS_PER_LEASE;
            settings.lease_ms = settings
                .lease_ms
                .max(u64::try_from(needed.as_millis()).unwrap_or(u64::MAX));
        }
        if let Some(lead) = self.lead {
            settings.lead = lead;
        }
        settings
    }
}
