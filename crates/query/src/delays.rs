//! How far the adjudicators are from this node: what the choice of a home goes by (section 5).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use meridian_types::NodeName;
use tokio::time::Instant;

/// How often a node that is used is measured again.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Round trips, by node.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    nodes: Mutex<BTreeMap<NodeName, Delay>>,
}

#[derive(Debug)]
struct Delay {
    round_trip: Duration,
    asked: Instant,
}

impl Delays {
    /// The round trip to a node; zero when it is not known yet. Any choice that is made by it is correct.
    pub(crate) fn round_trip(&self, node: &NodeName) -> Duration {
        self.lock()
            .get(node)
            .map_or(Duration::ZERO, |delay| delay.round_trip)
    }

    /// Whether the node is to be measured now; then it is not for a while.
    pub(crate) fn is_due(&self, node: &NodeName, now: Instant) -> bool {
        let mut nodes = self.lock();
        match nodes.get_mut(node) {
            Some(delay) if now < delay.asked + MEASURE_EVERY => return false,
            Some(delay) => delay.asked = now,
            None => {
                let delay = Delay {
                    round_trip: Duration::ZERO,
                    asked: now,
                };
                nodes.insert(node.clone(), delay);
            }
        }
        true
    }

    /// A round trip took so long. A shorter one counts at once, a longer one (a queue on the way, perhaps) by and by.
    pub(crate) fn note(&self, node: &NodeName, took: Duration) {
        if let Some(delay) = self.lock().get_mut(node) {
            let known = delay.round_trip;
            delay.round_trip = match took.checked_sub(known) {
                Some(longer) if !known.is_zero() => known + longer / 4,
                _ => took,
            };
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeName, Delay>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_measured_now_and_then_and_follows_what_is_measured() {
        let (delays, node, now) = (Delays::default(), NodeName::from("a"), Instant::now());
        let ms = Duration::from_millis;
        assert!(delays.is_due(&node, now) && !delays.is_due(&node, now));
        assert_eq!(delays.round_trip(&node), ms(0));
        for (took, known) in [(60, 60), (100, 70), (20, 20)] {
            delays.note(&node, ms(took));
            assert_eq!(delays.round_trip(&node), ms(known));
        }
        assert!(delays.is_due(&node, now + MEASURE_EVERY));
        assert_eq!(delays.round_trip(&node), ms(20));
    }
}
