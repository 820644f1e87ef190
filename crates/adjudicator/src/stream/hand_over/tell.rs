//! Who has to know that an owner has written its last record.

use std::sync::Arc;
use std::time::Duration;

use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::change_request::Change;
use meridian_rpc::internal::meta_client::MetaClient;
use meridian_rpc::internal::{ChangeRequest, LocateRequest, MapSealed};
use meridian_types::{Lsn, NodeName, StreamId, Timestamp};

use crate::context::Context;

/// How long one node may take to answer; it may have to take over the meta stream first.
const META_TIMEOUT: Duration = Duration::from_secs(2);
const META_PAUSE: Duration = Duration::from_millis(100);

/// Tells the successor to take over, so that nobody who wants the range has to find out first.
pub(super) fn successor(ctx: &Context, stream: StreamId, to: NodeName, timeout: Duration) {
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(&to));
    let request = LocateRequest {
        stream: stream.0,
        passive: false,
    };
    tokio::spawn(async move {
        let asked = tokio::time::timeout(timeout, client.locate(request)).await;
        if !matches!(asked, Ok(Ok(_))) {
            tracing::info!(%stream, %to, "the successor did not answer");
        }
    });
}

/// Tells the owner of the meta stream that the stream has ended, until it is known there.
pub(super) fn sealed(ctx: &Arc<Context>, stream: StreamId, floor: Timestamp, last: Lsn) {
    let ctx = ctx.clone();
    tokio::spawn(async move {
        let shutdown = ctx.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = tell_sealed(&ctx, stream, floor, last) => {}
        }
    });
}

async fn tell_sealed(ctx: &Context, stream: StreamId, floor: Timestamp, last: Lsn) {
    let request = ChangeRequest {
        change: Some(Change::Sealed(MapSealed {
            stream: stream.0,
            floor: floor.0,
            last: last.0,
        })),
    };
    loop {
        let map = ctx.map.borrow().clone();
        for node in map.adjudicators() {
            let mut client = MetaClient::new(ctx.env.network.transport(node));
            match tokio::time::timeout(META_TIMEOUT, client.change(request.clone())).await {
                Ok(Ok(answer)) if answer.get_ref().version > 0 => return,
                Ok(Ok(answer)) if !answer.get_ref().refused.is_empty() => {
                    let why = &answer.get_ref().refused;
                    tracing::warn!(%stream, why, "the end of a stream is not wanted");
                    return;
                }
                // Another one owns the meta stream, or nobody yet.
                _ => {}
            }
        }
        tokio::time::sleep(META_PAUSE).await;
    }
}
