//! What an operator may set of a query processor.

use std::time::Duration;

use meridian_types::limits;
use serde::Deserialize;

/// The configuration of a query processor. Every field has a default that fits a small machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most transactions open at once; one more is refused with OVERLOADED.
    pub max_open_transactions: usize,
    /// Most bytes that all open transactions may hold together: buffered writes, savepoints, open scans.
    pub max_buffered_bytes: usize,
    /// Most reads, commits and other waiting operations under way at once, over all clients.
    pub max_operations: usize,
    /// Most sessions open at once.
    pub max_sessions: usize,
    /// Most operations of one session under way at once; further ones wait in the client's connection.
    pub session_operations: usize,
    /// Most transactions that one session may have open at once.
    pub session_transactions: usize,
    /// Most scans that one session may have open at once.
    pub session_scans: usize,
    /// A session without an open transaction that is silent for this long is ended, in milliseconds.
    pub session_idle_ms: u64,
    /// A session whose client takes no answer for this long is ended, in milliseconds.
    pub slow_client_ms: u64,
    /// A transaction that nobody uses for this long is rolled back, unless it names its own time, in
    /// milliseconds.
    pub idle_timeout_ms: u64,
    /// Oldest age of a transaction, in milliseconds; at most [`limits::MAX_TXN_AGE`].
    pub max_age_ms: u64,
    /// How often idle and old transactions are looked for, in milliseconds.
    pub reap_interval_ms: u64,
    /// How many ended transactions are remembered, so that a repeated Commit gets the same answer.
    pub finished_transactions: usize,
    /// Requests that may wait to be sent to one storage node or adjudicator.
    pub queue_requests: usize,
    /// Most requests of one message to a storage node or adjudicator.
    pub batch_requests: usize,
    /// About the most bytes of one message to a storage node or adjudicator.
    pub batch_bytes: usize,
    /// How long one storage node may take before another one is asked, in milliseconds.
    pub read_attempt_ms: u64,
    /// How long one adjudicator may take to answer a question about an outcome, in milliseconds.
    pub outcome_attempt_ms: u64,
    /// First pause before something is tried again, in milliseconds; doubled each time, with jitter.
    pub retry_min_ms: u64,
    /// Longest such pause, in milliseconds.
    pub retry_max_ms: u64,
    /// About how many bytes one page of a scan carries.
    pub page_bytes: usize,
    /// How long open sessions may go on after shutdown was asked for, in milliseconds.
    pub drain_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open_transactions: 50_000,
            max_buffered_bytes: 512 << 20,
            max_operations: 8_192,
            max_sessions: 10_000,
            session_operations: 256,
            session_transactions: 1_024,
            session_scans: 256,
            session_idle_ms: 600_000,
            slow_client_ms: 30_000,
            idle_timeout_ms: millis(limits::DEFAULT_TXN_IDLE),
            max_age_ms: millis(limits::MAX_TXN_AGE),
            reap_interval_ms: 500,
            finished_transactions: 20_000,
            queue_requests: 1_024,
            batch_requests: 256,
            batch_bytes: 1 << 20,
            read_attempt_ms: 2_000,
            outcome_attempt_ms: 2_000,
            retry_min_ms: 5,
            retry_max_ms: 500,
            page_bytes: limits::SCAN_PAGE_BYTES,
            drain_ms: 3_000,
        }
    }
}

impl Config {
    /// Oldest age of a transaction; storage keeps versions no longer than [`limits::MAX_TXN_AGE`] needs.
    pub(crate) fn max_age(&self) -> Duration {
        Duration::from_millis(self.max_age_ms).min(limits::MAX_TXN_AGE)
    }

    /// How long a transaction may stay unused when its client asks for `asked_ms` (0: the default).
    pub(crate) fn idle_timeout(&self, asked_ms: u64) -> Duration {
        let ms = if asked_ms == 0 {
            self.idle_timeout_ms
        } else {
            asked_ms
        };
        Duration::from_millis(ms).min(self.max_age())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
