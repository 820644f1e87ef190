//! `meridian.v1.Node`: what a process says of itself.

use std::sync::Arc;

use meridian_clock::SharedClock;
use meridian_rpc::v1::node_server::{Node, NodeServer};
use meridian_rpc::v1::{NodeStatus, NodeStatusRequest};
use meridian_rpc::{Identity, Service};
use tonic::{Request, Response, Status};

/// Answers for one node.
#[derive(Clone)]
pub struct NodeReport {
    identity: Identity,
    region: String,
    address: String,
    clock: SharedClock,
    services: Arc<[Arc<dyn Service>]>,
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
        }
    }

    /// As a gRPC service.
    pub fn server(&self) -> NodeServer<Self> {
        NodeServer::new(self.clone())
    }

    /// The node's state now.
    pub fn report(&self) -> NodeStatus {
        let bound = self.clock.now().bound();
        NodeStatus {
            node: self.identity.node.to_string(),
            region: self.region.clone(),
            cluster_id: self.identity.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_bound: u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX),
            clock_healthy: self.clock.is_healthy(),
            services: self.services.iter().map(|service| service.status()).collect(),
            unreachable: String::new(),
            address: self.address.clone(),
        }
    }
}

#[tonic::async_trait]
impl Node for NodeReport {
    async fn status(&self, _: Request<NodeStatusRequest>) -> Result<Response<NodeStatus>, Status> {
        Ok(Response::new(self.report()))
    }
}
