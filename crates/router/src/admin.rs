//! The status of the whole cluster, gathered from every node; and changes of its ranges.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use meridian_rpc::KvError;
use meridian_rpc::v1::admin_server::Admin;
use meridian_rpc::v1::node_client::NodeClient;
use meridian_rpc::v1::{
    ChangeRangesRequest, ChangeRangesResponse, ClusterStatusRequest, ClusterStatusResponse, NodeStatus,
    NodeStatusRequest,
};
use tonic::{Request, Response, Status};

use crate::NodeInfo;
use crate::ranges;
use crate::router::Router;
use crate::status::Checked;

/// Nodes asked at once.
const CONCURRENCY: usize = 32;

/// The Admin service.
pub(crate) struct AdminService(pub(crate) Arc<Router>);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn cluster_status(
        &self,
        _: Request<ClusterStatusRequest>,
    ) -> Result<Response<ClusterStatusResponse>, Status> {
        let router = &self.0;
        let asked: Vec<_> = router
            .nodes
            .iter()
            .map(|node| ask(router.clone(), node.clone()))
            .collect();
        let nodes = stream::iter(asked).buffered(CONCURRENCY).collect().await;
        Ok(Response::new(ClusterStatusResponse { nodes }))
    }

    async fn change_ranges(
        &self,
        request: Request<ChangeRangesRequest>,
    ) -> Result<Response<ChangeRangesResponse>, Status> {
        let version = ranges::change(&self.0, request.into_inner()).await?;
        Ok(Response::new(ChangeRangesResponse { version }))
    }
}

/// One node's status, or why there is none.
async fn ask(router: Arc<Router>, node: NodeInfo) -> NodeStatus {
    let timeout = Duration::from_millis(router.config.status_timeout_ms);
    let mut client = NodeClient::new(Checked(router.env.network.transport(&node.name)));
    let asked = router.env.clock.now().earliest.0;
    let unreachable = match tokio::time::timeout(timeout, client.status(NodeStatusRequest {})).await {
        Ok(Ok(status)) => {
            return NodeStatus {
                address: node.address,
                asked,
                answered: router.env.clock.now().latest.0,
                ..status.into_inner()
            };
        }
        Ok(Err(status)) => match KvError::from_status(&status) {
            Some(error) => error.to_string(),
            None => format!("{:?}: {}", status.code(), status.message()),
        },
        Err(_) => format!("no answer within {timeout:?}"),
    };
    NodeStatus {
        node: node.name.to_string(),
        region: node.region,
        address: node.address,
        unreachable,
        ..NodeStatus::default()
    }
}
