//! Why a router cannot start. What clients meet is `meridian_rpc::KvError`.

use meridian_rpc::ServiceFailure;

/// The service's name in failures and in status.
pub(crate) const ROLE: &str = "router";

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody to route to.
    #[error("no query processor is configured")]
    NoQueryProcessors,
    /// A bound of zero would refuse everything.
    #[error("{name} must be at least 1")]
    Zero {
        /// The field of the configuration.
        name: &'static str,
    },
}

impl From<ConfigError> for ServiceFailure {
    fn from(error: ConfigError) -> Self {
        Self {
            role: ROLE,
            what: error.to_string(),
        }
    }
}
