//! What an operator may set of a router.

use serde::Deserialize;

use crate::error::ConfigError;

/// The configuration of a router. Every field has a default that fits a small machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most sessions open at once; one more is refused with OVERLOADED.
    pub max_sessions: usize,
    /// Most other calls under way at once; one more is refused with OVERLOADED.
    pub max_requests: usize,
    /// What a refused client is told to wait at least, in milliseconds.
    pub retry_after_ms: u64,
    /// How often each query processor is asked whether it is ready, in milliseconds.
    pub probe_interval_ms: u64,
    /// How long it may take to answer that, in milliseconds.
    pub probe_timeout_ms: u64,
    /// How long a node may take to answer for the status of the cluster, in milliseconds.
    pub status_timeout_ms: u64,
    /// How long a client may take to send enough of a request that it can be routed, in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a client may take to send the whole request of a call that is not a session, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long open calls and sessions may go on after shutdown was asked for, in milliseconds; then they are cut.
    pub drain_ms: u64,
    /// How old a session or a connection of a client may become, in milliseconds (at least three quarters of it, by chance): then the client is asked
    /// to open another, so that clients spread over routers that were added, and addresses are looked up again. A session of a client that does
    /// not is cut when no transaction in it can be open any more, 5 minutes later. 0: as old as it likes.
    pub max_connection_age_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_sessions: 10_000,
            max_requests: 4_096,
            retry_after_ms: 100,
            probe_interval_ms: 500,
            probe_timeout_ms: 1_000,
            status_timeout_ms: 2_000,
            header_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            drain_ms: 4_000,
            max_connection_age_ms: 20 * 60 * 1_000,
        }
    }
}

impl Config {
    /// What would refuse everybody.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let bounds = [
            ("max_sessions", self.max_sessions == 0),
            ("max_requests", self.max_requests == 0),
            ("probe_timeout_ms", self.probe_timeout_ms == 0),
            ("header_timeout_ms", self.header_timeout_ms == 0),
            ("request_timeout_ms", self.request_timeout_ms == 0),
        ];
        match bounds.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(ConfigError::Zero { name }),
            None => Ok(()),
        }
    }
}
