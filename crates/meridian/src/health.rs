//! `grpc.health.v1`: whether the process lives, and whether it can do its work.
//!
//! | service asked for | SERVING when |
//! |---|---|
//! | `""` and `live` | the process answers at all |
//! | `ready` | every one of its services is ready, and it is not draining |
//! | a role, such as `storage` | that service is ready |
//!
//! A check looks at the services when it is asked; nothing polls while nobody asks.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use meridian_rpc::Service;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// How often a watched service is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Asked for by the name of neither: whether the process answers.
const LIVE: &str = "live";
/// Whether all of the process's services can work.
const READY: &str = "ready";

/// Answers health checks of one node.
#[derive(Clone)]
pub struct NodeHealth {
    services: Arc<[Arc<dyn Service>]>,
    draining: CancellationToken,
}

impl NodeHealth {
    /// The health of these services. Once `draining` is cancelled the node is alive but not ready.
    pub fn new(services: Vec<Arc<dyn Service>>, draining: CancellationToken) -> Self {
        Self {
            services: services.into(),
            draining,
        }
    }

    /// As a gRPC service.
    pub fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    /// Whether all services are ready.
    pub fn is_ready(&self) -> bool {
        !self.draining.is_cancelled() && self.services.iter().all(|service| service.is_ready())
    }

    /// The roles that are not ready.
    pub fn not_ready(&self) -> Vec<&'static str> {
        self.services
            .iter()
            .filter(|service| !service.is_ready())
            .map(|service| service.role())
            .collect()
    }

    fn status(&self, name: &str) -> Option<ServingStatus> {
        let is_serving = match name {
            "" | LIVE => true,
            READY => self.is_ready(),
            role => {
                let service = self.services.iter().find(|service| service.role() == role)?;
                service.is_ready() && !self.draining.is_cancelled()
            }
        };
        Some(if is_serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        })
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        ["", LIVE, READY]
            .into_iter()
            .chain(self.services.iter().map(|service| service.role()))
    }
}

#[tonic::async_trait]
impl Health for NodeHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        match self.status(&name) {
            Some(status) => Ok(Response::new(answer(status))),
            None => {
                let known: Vec<_> = self.names().map(|name| format!("{name:?}")).collect();
                let known = known.join(", ");
                Err(Status::not_found(format!(
                    "no service {name:?} here; there are {known}"
                )))
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Answers at once and then at every change. A service that does not exist (yet) is SERVICE_UNKNOWN, as
    /// the health protocol asks.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let name = request.into_inner().service;
        let watch = Watch {
            health: self.clone(),
            name,
            last: None,
        };
        let changes = futures::stream::unfold(watch, |mut watch| async move {
            let status = watch.next().await?;
            Some((Ok(answer(status)), watch))
        });
        Ok(Response::new(changes.boxed()))
    }
}

/// One watcher's view.
struct Watch {
    health: NodeHealth,
    name: String,
    last: Option<ServingStatus>,
}

impl Watch {
    /// The next status that differs from the last one. `None` once the node drains and the watcher knows.
    async fn next(&mut self) -> Option<ServingStatus> {
        loop {
            let status = self
                .health
                .status(&self.name)
                .unwrap_or(ServingStatus::ServiceUnknown);
            if self.last != Some(status) {
                self.last = Some(status);
                return Some(status);
            }
            if self.health.draining.is_cancelled() {
                return None;
            }
            // Draining ends the wait, so that a watcher does not keep the process from stopping.
            tokio::select! {
                biased;
                () = self.health.draining.cancelled() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use meridian_rpc::v1::ServiceStatus;
    use tonic::service::RoutesBuilder;

    use super::*;

    struct Fake {
        role: &'static str,
        is_ready: AtomicBool,
    }

    impl Service for Fake {
        fn role(&self) -> &'static str {
            self.role
        }

        fn register(&self, _: &mut RoutesBuilder) {}

        fn status(&self) -> ServiceStatus {
            ServiceStatus::default()
        }

        fn is_ready(&self) -> bool {
            self.is_ready.load(Ordering::SeqCst)
        }
    }

    async fn status_of(health: &NodeHealth, service: &str) -> Result<ServingStatus, tonic::Code> {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(Request::new(request)).await;
        answer
            .map(|answer| answer.into_inner().status())
            .map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn live_and_ready_are_told_apart() {
        let slow = Arc::new(Fake {
            role: "storage",
            is_ready: AtomicBool::new(false),
        });
        let quick = Arc::new(Fake {
            role: "query",
            is_ready: AtomicBool::new(true),
        });
        let draining = CancellationToken::new();
        let health = NodeHealth::new(vec![slow.clone(), quick], draining.clone());
        let (serving, not_serving) = (Ok(ServingStatus::Serving), Ok(ServingStatus::NotServing));
        for (service, expected) in [
            ("", serving),
            ("live", serving),
            ("ready", not_serving),
            ("storage", not_serving),
            ("query", serving),
        ] {
            assert_eq!(status_of(&health, service).await, expected, "{service}");
        }
        assert_eq!(status_of(&health, "journal").await, Err(tonic::Code::NotFound));

        let request = HealthCheckRequest {
            service: "ready".to_owned(),
        };
        let mut watch = health.watch(Request::new(request)).await.unwrap().into_inner();
        let mut next = async || watch.next().await.map(|answer| answer.unwrap().status());
        assert_eq!(next().await, Some(ServingStatus::NotServing));
        slow.is_ready.store(true, Ordering::SeqCst);
        assert_eq!(next().await, Some(ServingStatus::Serving));
        draining.cancel();
        assert_eq!(next().await, Some(ServingStatus::NotServing));
        assert_eq!(next().await, None);
        assert_eq!(status_of(&health, "live").await, serving);
        assert_eq!(status_of(&health, "query").await, not_serving);
    }
}
