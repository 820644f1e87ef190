//! Asking the journal nodes what they know of a stream's owner (R17).

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_protocol::takeover::{OwnerView, is_owner_gone};
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{LocateRequest, StreamState};
use meridian_types::{DiskId, Epoch, NodeName, Position, StreamId, Timestamp};

use crate::context::Context;
use crate::journals::{self, GRACE};
use crate::request::KnownOwner;

/// The answers of at least a majority.
pub(super) struct Survey {
    /// By replica: those that hold promises.
    views: BTreeMap<usize, StreamState>,
    /// A replica that lost its disk, with the new one.
    rejoining: Option<(usize, DiskId)>,
}

impl Survey {
    /// Asks all replicas, in a hurry: the majority that is nearest will do. `None` when no majority answered.
    pub(super) async fn take(ctx: &Context, stream: StreamId) -> Option<Self> {
        Self::take_within(ctx, stream, GRACE).await
    }

    /// The same without haste: those that are far away have time to answer as well.
    pub(super) async fn take_whole(ctx: &Context, stream: StreamId) -> Option<Self> {
        Self::take_within(ctx, stream, ctx.config.call_timeout()).await
    }

    async fn take_within(ctx: &Context, stream: StreamId, grace: Duration) -> Option<Self> {
        let answers = journals::states(ctx, stream, grace).await;
        let mut views = BTreeMap::new();
        let mut rejoining = None;
        for (replica, answer) in answers.into_iter().enumerate() {
            let Some(answer) = answer else { continue };
            if answer.rejoining {
                rejoining = DiskId::from_slice(&answer.disk_id).map(|disk| (replica, disk));
                continue;
            }
            // A node that has not seen the stream yet has promised nothing.
            let state = answer.streams.into_iter().find(|state| state.stream == stream.0);
            views.insert(replica, state.unwrap_or_default());
        }
        (views.len() >= ctx.quorum()).then_some(Self { views, rejoining })
    }

    /// The highest epoch that anybody promised.
    pub(super) fn promised(&self) -> Epoch {
        Epoch(
            self.views
                .values()
                .map(|view| view.promised)
                .max()
                .unwrap_or_default(),
        )
    }

    /// How many replicas promise exactly this epoch.
    pub(super) fn promising(&self, epoch: Epoch) -> usize {
        self.views
            .values()
            .filter(|view| view.promised == epoch.0)
            .count()
    }

    /// How many replicas answered and are not being rebuilt.
    pub(super) fn voting(&self) -> usize {
        self.views.len()
    }

    /// A replica whose lost disk was replaced.
    pub(super) fn rejoining(&self) -> Option<(usize, DiskId)> {
        self.rejoining
    }

    /// The owner, if it is not gone. One that has only let its lease lapse, or is silent, is asked itself: an idle owner
    /// answers, a paused one does not.
    pub(super) async fn live_owner(&self, ctx: &Context, stream: StreamId) -> Option<KnownOwner> {
        let owner = self.owner()?;
        if owner.node == ctx.env.node {
            // An earlier life of this process.
            return None;
        }
        let now = ctx.now();
        let views: Vec<OwnerView> = self.views.values().map(owner_view).collect();
        let leased_for_ever = |view: &OwnerView| OwnerView {
            lease_end: Timestamp::MAX,
            ..*view
        };
        let connected_only: Vec<OwnerView> = views.iter().map(leased_for_ever).collect();
        if is_owner_gone(&connected_only, now, ctx.quorum()) {
            return None;
        }
        if self.has_released() {
            // Neither it nor whom it hands the stream to is to be disturbed.
            return ask(ctx, stream, &owner.node).await;
        }
        if !is_owner_gone(&views, now, ctx.quorum()) && !self.is_silent(ctx) {
            return Some(owner);
        }
        ask(ctx, stream, &owner.node)
            .await
            .filter(|named| named.node == owner.node)
    }

    /// The owner of the highest epoch that a replica names and is connected to; else of the highest epoch.
    fn owner(&self) -> Option<KnownOwner> {
        let named = self.views.values().filter(|view| !view.owner.is_empty());
        let best = named.max_by_key(|view| (view.owner_connected, view.promised))?;
        Some(KnownOwner {
            node: NodeName(best.owner.clone()),
            epoch: Epoch(best.promised),
        })
    }

    /// Whether the owner's last word was that it hands over.
    fn has_released(&self) -> bool {
        let end = |view: &&StreamState| view.last.map(Position::from).unwrap_or_default();
        let newest = self.views.values().max_by_key(end);
        newest.is_some_and(|view| view.released_floor > 0)
    }

    fn is_silent(&self, ctx: &Context) -> bool {
        let limit = u64::try_from(ctx.config.suspect_after().as_millis()).unwrap_or(u64::MAX);
        self.views.values().all(|view| view.owner_silent_ms >= limit)
    }
}

fn owner_view(view: &StreamState) -> OwnerView {
    OwnerView {
        connected: view.owner_connected,
        lease_end: Timestamp(view.lease_end),
    }
}

/// Asks an adjudicator whether it owns the stream and is awake, or has handed it to another one just now.
async fn ask(ctx: &Context, stream: StreamId, node: &NodeName) -> Option<KnownOwner> {
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(node));
    let call = client.locate(LocateRequest {
        stream: stream.0,
        passive: true,
    });
    let timeout = ctx.config.suspect_after() / 2;
    let answer = tokio::time::timeout(timeout, call).await.ok()?.ok()?.into_inner();
    (!answer.owner.is_empty()).then_some(KnownOwner {
        node: NodeName(answer.owner),
        epoch: Epoch(answer.epoch),
    })
}
