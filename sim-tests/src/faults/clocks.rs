//! Clocks that jump, within their bound or beyond it.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Faults, Kind};
use crate::cluster::Cluster;

/// How far clocks are off at most when they do not keep their bound.
pub const FARTHEST: Duration = Duration::from_secs(10);

impl Faults {
    /// One clock jumps, and runs too fast or too slow from then on.
    pub(super) fn jump(&mut self, cluster: &Cluster) {
        let Some(node) = cluster.nodes.choose(&mut self.rng) else {
            return;
        };
        let drift_ppm = self.rng.random_range(-500..=500);
        if self.shared.plan.clocks_beyond && self.rng.random_bool(0.6) {
            let farthest_ms = *[300, 2_000, FARTHEST.as_millis()]
                .choose(&mut self.rng)
                .unwrap_or(&2_000);
            let farthest_ns = i64::try_from(farthest_ms * 1_000_000).unwrap_or(i64::MAX);
            let offset_ns = self.rng.random_range(-farthest_ns..=farthest_ns);
            self.count("ClockBeyondBound".to_owned());
            tracing::info!(
                node = node.name(),
                offset_ns,
                drift_ppm,
                "fault: a clock leaves its bound"
            );
            node.clock.break_bound(offset_ns, drift_ppm);
            return;
        }
        // Often as wrong as it may be.
        let offset = *[-1.0, 1.0, 0.0, self.rng.random_range(-1.0..=1.0)]
            .choose(&mut self.rng)
            .unwrap_or(&0.0);
        self.count(Kind::ClockJump.to_string());
        tracing::info!(
            node = node.name(),
            offset,
            drift_ppm,
            "fault: {}",
            Kind::ClockJump
        );
        node.clock.skew(offset, drift_ppm);
    }

    /// No clock is beyond its bound any more.
    pub(super) fn set_clocks_right(&mut self, cluster: &Cluster) {
        if self.shared.plan.clocks_beyond {
            tracing::info!("repaired: clocks");
            cluster.nodes.iter().for_each(|node| node.clock.skew(0.0, 0));
        }
    }
}
