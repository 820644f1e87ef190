//! Why a query processor cannot start. What clients meet is `meridian_rpc::KvError`.

use meridian_rpc::ServiceFailure;

/// The service's name in failures and in status.
pub(crate) const ROLE: &str = "query";

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The name does not fit into transaction handles.
    #[error("node name {name:?} has {got} bytes; transaction handles hold at most {allowed}")]
    NodeName {
        /// The name.
        name: String,
        /// Its length in bytes.
        got: usize,
        /// The most that fits.
        allowed: usize,
    },
    /// Reads could be answered by nobody.
    #[error("no storage node is configured for region {region}")]
    NoStorage {
        /// The node's region.
        region: String,
    },
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
