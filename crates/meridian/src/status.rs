//! `meridian.v1.Node`: what a process says of itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use meridian_clock::SharedClock;
use meridian_rpc::v1::node_server::{Node, NodeServer};
use meridian_rpc::v1::{NodeStatus, NodeStatusRequest};
use meridian_rpc::{Identity, Service};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

/// Answers for one node.
#[derive(Clone)]
pub struct NodeReport {
    identity: Identity,
    region: String,
    address: String,
    clock: SharedClock,
    services: Arc<[Arc<dyn Service>]>,
    files: Option<PathBuf>,
    started: Instant,
}

impl NodeReport {
    /// The report of a node that runs these services.
    pub fn new(
        identity: Identity,
        region: String,
        address: String,
        clock: SharedClock,
        services: Vec<Arc<dyn Service>>,
    ) -> Self {
        Self {
            identity,
            region,
            address,
            clock,
            services: services.into(),
            files: None,
            started: Instant::now(),
        }
    }

    /// Tells how full the file system of this directory is, too.
    #[must_use]
    pub fn with_files(self, dir: Option<PathBuf>) -> Self {
        Self { files: dir, ..self }
    }

    /// As a gRPC service.
    pub fn server(&self) -> NodeServer<Self> {
        NodeServer::new(self.clone())
    }

    /// The node's state now.
    pub fn report(&self) -> NodeStatus {
        let now = self.clock.now();
        let bound = now.bound();
        let (disk_bytes, disk_free_bytes) = self.files.as_deref().and_then(disk).unwrap_or_default();
        NodeStatus {
            node: self.identity.node.to_string(),
            region: self.region.clone(),
            cluster_id: self.identity.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_bound: u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX),
            clock_healthy: self.clock.is_healthy(),
            services: self.services.iter().map(|service| service.status()).collect(),
            address: self.address.clone(),
            clock_earliest: now.earliest.0,
            clock_latest: now.latest.0,
            disk_bytes,
            disk_free_bytes,
            uptime_s: self.started.elapsed().as_secs(),
            ..NodeStatus::default()
        }
    }
}

/// How large the file system is, and how much of it this process may still use.
fn disk(dir: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some((bytes(stat.f_blocks), bytes(stat.f_bavail)))
}

#[tonic::async_trait]
impl Node for NodeReport {
    async fn status(&self, _: Request<NodeStatusRequest>) -> Result<Response<NodeStatus>, Status> {
        Ok(Response::new(self.report()))
    }
}
