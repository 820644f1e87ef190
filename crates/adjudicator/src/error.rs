//! Why an adjudicator cannot be started.

use meridian_rpc::ServiceFailure;

/// A configuration with which nothing could work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting must not be zero.
    #[error("{setting} is 0; it must be at least 1")]
    Zero {
        /// The setting's name.
        setting: &'static str,
    },
    /// No journal node was named.
    #[error("no journal nodes are configured: an adjudicator needs the replicas of its streams")]
    NoJournals,
}

impl From<ConfigError> for ServiceFailure {
    fn from(error: ConfigError) -> Self {
        Self {
            role: crate::ROLE,
            what: error.to_string(),
        }
    }
}
