//! How far regions are from one another: messages between two of them take their time.

use std::time::Duration;

use turmoil::Sim;

use super::Shared;

/// From now on messages between hosts of different regions take at least the way between the two, and at most so much longer
/// than they may at best.
pub fn apply(sim: &Sim<'_>, shared: &Shared, hosts: &[String], longer: Duration) {
    let Some(distances) = shared.plan.regions.distances else {
        return;
    };
    for (place, one) in hosts.iter().enumerate() {
        for other in hosts.iter().skip(place + 1) {
            let (here, there) = (shared.plan.region_of(one), shared.plan.region_of(other));
            if here != there {
                let way = distances.between(here, there);
                // This sets the shortest as well as the longest.
                sim.set_link_latency(one.as_str(), other.as_str(), way);
                let longest = way + distances.spread + longer;
                sim.set_link_max_message_latency(one.as_str(), other.as_str(), longest);
            }
        }
    }
}
