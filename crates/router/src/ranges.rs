//! Changes of the range map, passed on to the adjudicator that keeps it.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_rpc::internal::change_request::Change;
use meridian_rpc::internal::meta_client::MetaClient;
use meridian_rpc::internal::{
    ChangeRequest, ChangeResponse, DrainRegion, MergeRanges, MoveRange, SplitRange,
};
use meridian_rpc::meta::adjudicators_to_wire;
use meridian_rpc::v1::ChangeRangesRequest;
use meridian_rpc::v1::change_ranges_request::Change as Wanted;
use meridian_rpc::{KvError, error::KvResult};
use meridian_types::{Adjudicators, NodeName};

use crate::router::Router;
use crate::status::Checked;

/// How long one adjudicator may take: it may have to take over the stream of the map first.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The role of those that are asked, as the configuration names it.
const ADJUDICATOR: &str = "adjudicator";

/// Has the map changed. Returns its version.
///
/// Asks one adjudicator after the other, the one that another names first. Nothing is tried again that may have been done: a change
/// of which nothing is known in the end is an error that says so.
pub(crate) async fn change(router: &Router, request: ChangeRangesRequest) -> KvResult<u64> {
    let request = ChangeRequest {
        change: Some(to_internal(router, request)?),
        // So an owner of the map that was replaced, and does not know it, does not refuse by a map that is no longer so.
        known_version: router.map.borrow().version,
    };
    let mut open: VecDeque<NodeName> = adjudicators(router).into_iter().map(|(node, _)| node).collect();
    let mut last = "there is none".to_owned();
    while let Some(node) = open.pop_front() {
        let mut client = MetaClient::new(Checked(router.env.network.transport(&node)));
        let answer = match tokio::time::timeout(TIMEOUT, client.change(request.clone())).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                last = format!("{node}: {}", status.message());
                continue;
            }
            Err(_) => {
                last = format!("{node} did not answer in {TIMEOUT:?}");
                continue;
            }
        };
        let ChangeResponse {
            version,
            refused,
            not_owner,
            owner,
        } = answer;
        if version > 0 {
            return Ok(version);
        }
        if !refused.is_empty() {
            return Err(KvError::invalid(refused));
        }
        last = format!("{node} could not say whether it was done");
        if not_owner {
            last = format!("{node} does not keep the map");
            // Once: two that name each other must not keep this going.
            if let Some(place) = open.iter().position(|name| name.0 == owner)
                && let Some(named) = open.remove(place)
            {
                open.push_front(named);
            }
        }
    }
    Err(KvError::unavailable(format!(
        "it is not known whether the ranges were changed: no adjudicator has confirmed it ({last}); look at the ranges before trying again"
    )))
}

/// Those of the router's configuration, in the order of their names.
fn adjudicators(router: &Router) -> Adjudicators {
    let is_one = |node: &&crate::NodeInfo| node.roles.iter().any(|role| role == ADJUDICATOR);
    let nodes = router.nodes.iter().filter(is_one);
    let mut found: Adjudicators = nodes
        .map(|node| (node.name.clone(), node.region.clone()))
        .collect();
    found.sort();
    found
}

fn to_internal(router: &Router, request: ChangeRangesRequest) -> KvResult<Change> {
    match request.change {
        Some(Wanted::Move(wanted)) => Ok(Change::Move(MoveRange {
            range: wanted.range,
            node: wanted.node,
        })),
        Some(Wanted::Split(key)) => Ok(Change::Split(SplitRange { key })),
        Some(Wanted::Merge(key)) => Ok(Change::Merge(MergeRanges { key })),
        Some(Wanted::Drain(region)) => Ok(Change::Drain(DrainRegion {
            region,
            adjudicators: Some(adjudicators_to_wire(&adjudicators(router))),
        })),
        Some(Wanted::Undrain(region)) => {
            if !router.nodes.iter().any(|node| node.region == region) {
                return Err(KvError::invalid(format!("there is no region {region}")));
            }
            Ok(Change::Undrain(region))
        }
        Some(Wanted::Adopt(_)) => Ok(Change::Adopt(adjudicators_to_wire(&adjudicators(router)))),
        None => Err(KvError::invalid("no change is named")),
    }
}
