//! The settings: those that all nodes must agree on, and those that each process may choose.

use std::path::PathBuf;
use std::time::Duration;

pub use meridian_adjudicator::Lead;
use meridian_types::limits;
use serde::Deserialize;

/// `[cluster.settings]`: the protocol's bounds. A node that disagrees about them endangers what the others
/// promise, so they are written once, for all.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgreedSettings {
    /// A node whose clock may be further off than this takes no new transactions; a timestamp further ahead
    /// is refused (R20). Milliseconds.
    pub max_clock_error_ms: u64,
    /// How far ahead an owner's lease reaches. A lost owner stops writes for about this long. Milliseconds.
    pub lease_ms: u64,
    /// How far in the future commits land (R16): `{ fixed = { ms = 0 } }`, the default, or
    /// `{ auto = { floor_ms = 0, ceiling_ms = 250 } }`, as long as the journal is measured to need. With none,
    /// a commit takes its quorum and no longer, and a read of a range under writes waits for what is in flight.
    /// With enough of it, reads do not wait and every commit takes at least so long.
    pub lead: Lead,
    /// Versions older than this are dropped, except the newest. Seconds.
    pub retention_s: u64,
}

impl Default for AgreedSettings {
    fn default() -> Self {
        Self {
            max_clock_error_ms: 250,
            lease_ms: 1_000,
            lead: Lead::Fixed { ms: 0 },
            // One more second than the age and the deadline add up to: the room for the clocks.
            retention_s: limits::DEFAULT_RETENTION.as_secs() + 1,
        }
    }
}

impl AgreedSettings {
    /// The widest clock error that a node may serve with.
    pub fn max_clock_error(&self) -> Duration {
        Duration::from_millis(self.max_clock_error_ms)
    }

    /// The length of a lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The shortest lead.
    pub fn lead_floor(&self) -> Duration {
        match self.lead {
            Lead::Auto { floor_ms: ms, .. } | Lead::Fixed { ms } => Duration::from_millis(ms),
        }
    }

    /// The longest lead.
    pub fn lead_ceiling(&self) -> Duration {
        match self.lead {
            Lead::Auto { ceiling_ms: ms, .. } | Lead::Fixed { ms } => Duration::from_millis(ms),
        }
    }

    /// R20: how far ahead of its clock a journal node accepts timestamps, at least.
    pub fn furthest_ahead(&self) -> Duration {
        self.lease() + self.lead_ceiling() + self.max_clock_error()
    }

    /// How long versions are kept.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_s)
    }
}

/// `clock = { source = "fixed", bound_us = 500 }`: where a node's time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "source", rename_all = "lowercase", deny_unknown_fields)]
pub enum ClockSource {
    /// The machine's clock, which whoever writes this vouches to be within the bound.
    Fixed {
        /// How far the machine's clock may be from true time. Microseconds.
        bound_us: u64,
    },
}

impl Default for ClockSource {
    /// 10 ms: what a machine that runs an NTP daemon usually keeps with room to spare.
    fn default() -> Self {
        Self::Fixed { bound_us: 10_000 }
    }
}

impl ClockSource {
    /// The bound, as far as it is known beforehand.
    pub fn bound(self) -> Duration {
        match self {
            Self::Fixed { bound_us } => Duration::from_micros(bound_us),
        }
    }
}

/// `[node.settings.<service>]`: what each process may choose for itself. The services' configurations also hold
/// what all nodes must agree on; that is set from `[cluster.settings]` and refused here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceSettings {
    /// `[node.settings.journal]`.
    pub journal: meridian_journal::Config,
    /// `[node.settings.adjudicator]`.
    pub adjudicator: meridian_adjudicator::Config,
    /// `[node.settings.storage]`.
    pub storage: meridian_storage::Config,
    /// `[node.settings.query]`.
    pub query: meridian_query::Config,
    /// `[node.settings.router]`.
    pub router: meridian_router::Config,
}

/// Fields of the services' configurations that are set from elsewhere: service, field, where it belongs.
pub(super) const AGREED: [(&str, &str, &str); 6] = [
    (
        "journal",
        "max_ahead_ms",
        "follows from cluster.settings.lease_ms, lead and max_clock_error_ms",
    ),
    (
        "journal",
        "replace_lost_disk",
        "is what `meridian init --replace-lost-disk` does",
    ),
    (
        "adjudicator",
        "lease_length_ms",
        "belongs into cluster.settings.lease_ms",
    ),
    ("adjudicator", "lead", "belongs into cluster.settings.lead"),
    ("storage", "data_dir", "follows from the node's data_dir"),
    (
        "storage",
        "retention_ms",
        "belongs into cluster.settings.retention_s",
    ),
];

impl ServiceSettings {
    /// The journal's configuration.
    pub(crate) fn journal(&self, agreed: &AgreedSettings) -> meridian_journal::Config {
        let mut config = self.journal.clone();
        // Twice the bound: an honest peer must never meet it.
        let bound = millis(agreed.furthest_ahead() * 2);
        config.max_ahead_ms = bound.max(meridian_journal::Config::default().max_ahead_ms);
        config.replace_lost_disk = false;
        config
    }

    /// The adjudicator's configuration.
    pub(crate) fn adjudicator(&self, agreed: &AgreedSettings) -> meridian_adjudicator::Config {
        let mut config = self.adjudicator.clone();
        config.lease_length_ms = agreed.lease_ms;
        config.lead = agreed.lead;
        config
    }

    /// The storage node's configuration.
    pub(crate) fn storage(&self, agreed: &AgreedSettings, data_dir: PathBuf) -> meridian_storage::Config {
        let mut config = self.storage.clone();
        config.data_dir = data_dir;
        config.retention_ms = millis(agreed.retention());
        config
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
