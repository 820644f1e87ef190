//! Clocks: whether their bounds are known, narrow, and right.

use std::time::Duration;

use meridian_client::proto::NodeStatus;

use super::{Findings, Severity, answering, shown};

/// Commits, and reads of what was just written, wait for about the bound: more than this is felt.
const WIDE_BOUND: Duration = Duration::from_millis(20);

pub(super) fn examine(found: &mut Findings, nodes: &[NodeStatus]) {
    for node in answering(nodes) {
        let bound = Duration::from_nanos(node.clock_bound);
        if !node.clock_healthy {
            found.add(
                Severity::Problem,
                "clock-unhealthy",
                format!(
                    "the clock of {} is not synchronised (its bound is {})",
                    node.node,
                    shown(bound)
                ),
                "it takes no new transactions: see to its time service (chronyc tracking, ntpq -p)",
            );
        } else if bound > WIDE_BOUND {
            found.add(
                Severity::Warning,
                "clock-bound-wide",
                format!("the clock of {} is known to {} only", node.node, shown(bound)),
                "every commit waits for about that long: use nearer time servers, or state the bound that they keep to",
            );
        }
        if let Some(apart) = disagrees(node) {
            found.add(
                Severity::Problem,
                "clocks-disagree",
                format!("the clock of {} and the asked router's differ by {} more than their bounds allow", node.node, shown(apart)),
                "one of the two bounds is wrong, and with it strong reads may miss what was just committed: widen it, or set the clock right",
            );
        }
    }
}

/// By how much the node's time lies outside of what the router's clock allows.
fn disagrees(node: &NodeStatus) -> Option<Duration> {
    if node.asked == 0 || node.clock_latest == 0 {
        return None;
    }
    let behind = node.asked.saturating_sub(node.clock_latest);
    let ahead = node.clock_earliest.saturating_sub(node.answered);
    let apart = behind.max(ahead);
    (apart > 0).then(|| Duration::from_nanos(apart))
}
