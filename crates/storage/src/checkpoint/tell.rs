//! Tells the journal nodes what the checkpoint holds, so that they may trim (decision 28).

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use meridian_rpc::Network;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::{CheckpointedRequest, CommittedPosition};
use meridian_types::NodeName;
use tokio::time::{sleep, timeout};

use super::Header;
use crate::shared::Shared;

/// How often. A journal node forgets what it was told when it is started again.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs until shutdown.
pub(crate) async fn tell(shared: Arc<Shared>, network: Network, journals: Vec<NodeName>) {
    let shutdown = shared.shutdown.clone();
    let work = async {
        loop {
            if let Some(checkpoint) = shared.checkpoints.sound() {
                let request = request(&shared.node, &checkpoint.header);
                let told = journals
                    .iter()
                    .map(|journal| tell_one(&shared, &network, journal, &request));
                join_all(told).await;
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

fn request(node: &NodeName, header: &Header) -> CheckpointedRequest {
    let positions = header
        .progress
        .iter()
        .map(|(stream, progress)| CommittedPosition {
            stream: stream.0,
            position: Some(progress.position.into()),
        });
    CheckpointedRequest {
        node: node.0.clone(),
        positions: positions.collect(),
    }
}

async fn tell_one(shared: &Shared, network: &Network, journal: &NodeName, request: &CheckpointedRequest) {
    let mut client = JournalClient::new(network.transport(journal));
    let answer = timeout(PAUSE, client.checkpointed(request.clone())).await;
    let why = match answer {
        Ok(Ok(_)) => return,
        Ok(Err(status)) => status.to_string(),
        Err(_) => format!("no answer in {PAUSE:?}"),
    };
    tracing::debug!(node = %shared.node, %journal, why, "a journal node was not told of the checkpoint");
}
