//! Whether a node that runs elsewhere is ready: what a container's health check asks.

use std::path::Path;
use std::time::Duration;

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::Loaded;
use crate::error::Error;

/// A node that takes longer is not ready, whatever it would have said.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the node of the configuration, at its address or at `at`, for `service` (`ready`, `live`, or a role).
///
/// # Errors
/// When it does not answer within two seconds, answers that it is not ready, or has no such service.
pub async fn ask(config: &Path, node: &str, at: Option<&str>, service: &str) -> Result<(), Error> {
    let loaded = Loaded::read(config)?;
    let address = at.unwrap_or(&loaded.file.node(node)?.address).to_owned();
    let failed = |what: String| Error::Usage(format!("{node} at {address}: {what}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| failed(format!("not an address: {error}")))?;
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let asked = async {
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| failed(format!("cannot be reached: {error}")))?;
        let answer = HealthClient::new(channel).check(request).await;
        answer.map_err(|status| failed(status.message().to_owned()))
    };
    let answer = tokio::time::timeout(TIMEOUT, asked).await;
    let answer = answer.map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))??;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(failed(format!("{service}: {}", status.as_str_name()))),
    }
}
