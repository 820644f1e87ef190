//! What a process knows of the services that it runs.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tonic::service::RoutesBuilder;

use crate::v1::ServiceStatus;

/// One running service, whichever it is.
pub trait Service: Send + Sync + 'static {
    /// `journal`, `adjudicator`, `storage`, `query` or `router`.
    fn role(&self) -> &'static str;

    /// Adds the service's RPCs to those that the process serves.
    fn register(&self, routes: &mut RoutesBuilder);

    /// What `kv-cli status` shows. Cheap: it may be asked for at any time.
    fn status(&self) -> ServiceStatus;

    /// Whether it can do its work now (readiness); a service that is starting, recovering or draining is
    /// alive but not ready.
    fn is_ready(&self) -> bool;
}

/// A service and the tasks behind it.
pub struct Started {
    /// The service.
    pub service: Arc<dyn Service>,
    /// Ends when the service has stopped: `Ok` after its shutdown was asked for, an error when it could not
    /// go on (a journal node whose disk failed, for example). Then the process must not serve it any more.
    pub stopped: JoinHandle<Result<(), ServiceFailure>>,
}

/// Why a service could not start or go on: what happened, to which file or node, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{role}: {what}")]
pub struct ServiceFailure {
    /// The service.
    pub role: &'static str,
    /// What happened.
    pub what: String,
}
