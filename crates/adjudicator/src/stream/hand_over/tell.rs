//! Who has to know that an owner has written its last record.

use std::sync::Arc;
use std::time::Duration;

use meridian_protocol::adjudication::HandedOver;
use meridian_rpc::internal::ChangeRequest;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::change_request::Change;
use meridian_rpc::internal::meta_client::MetaClient;
use meridian_rpc::meta::sealed_to_wire;
use meridian_types::{End, NodeName, StreamId};

use crate::context::Context;
use crate::handed;

/// How long one node may take to answer; it may have to take over the meta stream first.
const META_TIMEOUT: Duration = Duration::from_secs(2);
const META_PAUSE: Duration = Duration::from_millis(100);
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// Sends the state to the successor, which then takes over. Whether it has accepted.
pub(super) fn successor(
    ctx: &Context,
    to: NodeName,
    state: Arc<HandedOver>,
    timeout: Duration,
) -> impl Future<Output = bool> + Send + use<> {
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(&to));
    async move {
        let (stream, parts) = (state.stream, handed::to_parts(&state));
        let call = client.hand_over(futures::stream::iter(parts));
        let answer = tokio::time::timeout(timeout, call).await;
        match answer {
            Ok(Ok(answer)) if answer.get_ref().accepted => return true,
            Ok(Ok(_)) => tracing::info!(%stream, %to, "the successor cannot take the stream"),
            Ok(Err(status)) => tracing::info!(%stream, %to, %status, "the successor did not take the stream"),
            Err(_) => tracing::info!(%stream, %to, "the successor did not answer"),
        }
        false
    }
}

/// Tells the owner of the meta stream that the stream has ended, until it is known there.
pub(super) fn sealed(ctx: &Arc<Context>, stream: StreamId, end: End) {
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let shutdown = ctx.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tell_sealed(&ctx, stream, &end) => {}
        }
    });
}

async fn tell_sealed(ctx: &Context, stream: StreamId, end: &End) {
    ctx.env.reached("adjudicator: sealed").await;
    loop {
        let map = ctx.map.borrow().clone();
        let request = ChangeRequest {
            // The map that wants the stream's end, or a later one.
            known_version: map.version,
            change: Some(Change::Sealed(sealed_to_wire(stream, end))),
        };
        for node in map.adjudicators() {
            let mut client = MetaClient::new(ctx.env.network.transport(node));
            match tokio::time::timeout(META_TIMEOUT, client.change(request.clone())).await {
                Ok(Ok(answer)) if answer.get_ref().version > 0 => return,
                Ok(Ok(answer)) if !answer.get_ref().refused.is_empty() => {
                    // No map from this one's version on refuses it but for its size: then there may be room later.
                    let why = &answer.get_ref().refused;
                    tracing::warn!(%stream, why, "the end of a stream is refused; it is told again");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                // Another one owns the meta stream, or nobody yet.
                _ => {}
            }
        }
        tokio::time::sleep(META_PAUSE).await;
    }
}
