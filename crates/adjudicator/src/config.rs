//! What an adjudicator is configured with.

use std::time::Duration;

use meridian_protocol::adjudication::AdjudicationLimits;
use meridian_protocol::lead::LeadPolicy;
use meridian_protocol::lease::LeasePolicy;
use serde::Deserialize;

use crate::error::ConfigError;

/// About what one remembered outcome costs, both of its collections together.
const OUTCOME_BYTES: usize = 128;

/// The settings of one adjudicator process. Each process may choose its own; none of them touches safety.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How far a lease reaches ahead, in milliseconds; renewed every third of it while the range is in use. It
    /// bounds how long writes pause after an owner died. At least 4 round trips to the quorum.
    pub lease_length_ms: u64,
    /// A range that nobody used for this many milliseconds lets its lease lapse and sends no closures.
    pub idle_after_ms: u64,
    /// Time between two periodic closures of a range in use (R15), in milliseconds.
    pub closed_interval_ms: u64,
    /// How far ahead of the present transactions commit (R16).
    pub lead: Lead,
    /// How long a measurement counts for the automatic lead, in milliseconds.
    pub lead_window_ms: u64,
    /// An owner that is silent for this many milliseconds is asked whether it is alive before it is replaced.
    pub suspect_after_ms: u64,
    /// Longest random delay before a takeover, in milliseconds: it keeps candidates from duels (R17).
    pub takeover_delay_ms: u64,
    /// How far above its lowest timestamp a transaction across ranges may commit, in milliseconds: what its votes allow. Its
    /// home waits half of this for votes, and other ranges ask a home that is silent for a quarter. Leads of ranges must not
    /// differ by more; at least 4 round trips between regions.
    pub prepare_timeout_ms: u64,
    /// Memory for recent writes, in bytes. More of it lets older transactions commit.
    pub recent_bytes: usize,
    /// Memory for outcomes, in bytes: it should hold those of 10 minutes. Full, commits are refused.
    pub outcome_bytes: usize,
    /// Most commit requests of one stream that wait to be decided; beyond, they are refused as overloaded.
    pub queue_requests: usize,
    /// Most bytes of write sets of one stream that wait to be decided.
    pub queue_bytes: usize,
    /// Most commit requests of one connection that are not answered yet; beyond, the connection is not read.
    pub connection_requests: usize,
    /// About how many bytes one message to a journal node carries (at least one entry).
    pub append_batch_bytes: usize,
    /// Most bytes of decided transactions that are not durable yet; beyond, deciding waits.
    pub max_in_flight_bytes: usize,
    /// Bytes of entries kept for journal nodes that lag; what is older they are sent from another node's log.
    pub tail_bytes: usize,
    /// How long one call to a journal node may take, in milliseconds.
    pub call_timeout_ms: u64,
    /// How long a clean shutdown may take to hand the range over, in milliseconds.
    pub release_timeout_ms: u64,
    /// Memory for the recent writes that a planned move hands to the next owner, in bytes. Transactions that began before the
    /// oldest of them have to begin again after the move; more of them take longer to send, and the range waits for it.
    pub hand_over_bytes: usize,
    /// An owner that is not the preferred one hands the range back when the preferred one has been ready for this many
    /// milliseconds: more than a region that comes and goes stays at a time. Doubled, up to a minute, each time that the range comes
    /// back to this node soon after.
    pub return_after_ms: u64,
}

/// How far ahead of the present transactions commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Lead {
    /// As long as the journal was measured to need, between these bounds.
    Auto {
        /// Never less, in milliseconds.
        floor_ms: u64,
        /// Never more, in milliseconds.
        ceiling_ms: u64,
    },
    /// Always this much.
    Fixed {
        /// In milliseconds.
        ms: u64,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_length_ms: 1_000,
            idle_after_ms: 3_000,
            closed_interval_ms: 20,
            lead: Lead::Auto {
                floor_ms: 0,
                ceiling_ms: 250,
            },
            lead_window_ms: 10_000,
            suspect_after_ms: 1_000,
            takeover_delay_ms: 50,
            prepare_timeout_ms: 1_000,
            recent_bytes: 128 << 20,
            outcome_bytes: 512 << 20,
            queue_requests: 8_192,
            queue_bytes: 64 << 20,
            connection_requests: 4_096,
            append_batch_bytes: 1 << 20,
            max_in_flight_bytes: 64 << 20,
            tail_bytes: 64 << 20,
            call_timeout_ms: 1_000,
            release_timeout_ms: 3_000,
            hand_over_bytes: 16 << 20,
            return_after_ms: 3_000,
        }
    }
}

impl Config {
    /// Refuses values with which nothing could work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("lease_length_ms", self.lease_length_ms),
            ("closed_interval_ms", self.closed_interval_ms),
            ("suspect_after_ms", self.suspect_after_ms),
            ("call_timeout_ms", self.call_timeout_ms),
            ("prepare_timeout_ms", self.prepare_timeout_ms),
            ("queue_requests", self.queue_requests as u64),
            ("queue_bytes", self.queue_bytes as u64),
            ("connection_requests", self.connection_requests as u64),
            ("append_batch_bytes", self.append_batch_bytes as u64),
            ("max_in_flight_bytes", self.max_in_flight_bytes as u64),
            ("outcome_bytes", self.outcome_bytes as u64),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }

    pub(crate) fn lease(&self) -> LeasePolicy {
        LeasePolicy {
            length: Duration::from_millis(self.lease_length_ms),
            idle_after: self.idle_after(),
        }
    }

    pub(crate) fn lead_policy(&self) -> LeadPolicy {
        let (floor_ms, ceiling_ms) = match self.lead {
            Lead::Auto { floor_ms, ceiling_ms } => (floor_ms, ceiling_ms),
            Lead::Fixed { ms } => (ms, ms),
        };
        LeadPolicy {
            floor: Duration::from_millis(floor_ms),
            ceiling: Duration::from_millis(ceiling_ms),
            window: Duration::from_millis(self.lead_window_ms),
            closed_interval: self.closed_interval(),
        }
    }

    pub(crate) fn limits(&self, max_clock_error: Duration) -> AdjudicationLimits {
        AdjudicationLimits {
            recent_writes_bytes: self.recent_bytes,
            outcomes: (self.outcome_bytes / OUTCOME_BYTES).max(1),
            max_clock_error,
            ..AdjudicationLimits::default()
        }
    }

    pub(crate) fn idle_after(&self) -> Duration {
        Duration::from_millis(self.idle_after_ms)
    }

    pub(crate) fn closed_interval(&self) -> Duration {
        Duration::from_millis(self.closed_interval_ms)
    }

    pub(crate) fn suspect_after(&self) -> Duration {
        Duration::from_millis(self.suspect_after_ms)
    }

    pub(crate) fn prepare_timeout(&self) -> Duration {
        Duration::from_millis(self.prepare_timeout_ms)
    }

    pub(crate) fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout_ms)
    }

    pub(crate) fn return_after(&self) -> Duration {
        Duration::from_millis(self.return_after_ms)
    }

    pub(crate) fn release_timeout(&self) -> Duration {
        Duration::from_millis(self.release_timeout_ms)
    }
}
