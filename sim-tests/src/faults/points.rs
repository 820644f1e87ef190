//! Faults at certain places inside of services.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use turmoil::Sim;

use super::{Faults, Kind, Repair, spread};
use crate::cluster::Cluster;
use crate::cluster::points::{Action, OPENED, PLACES};

impl Faults {
    /// Something is to happen to whoever comes to a place next.
    pub(super) fn arm_point(&mut self) {
        let Some(place) = PLACES.choose(&mut self.rng).copied() else {
            return;
        };
        let longest = *[50, 500, 5_000].choose(&mut self.rng).unwrap_or(&500);
        let time = Duration::from_millis(self.rng.random_range(5..=longest));
        let action = match self.rng.random_range(0..4) {
            0 => Action::Crash,
            1 => Action::PowerLoss,
            2 => Action::Pause(time),
            _ => Action::Delay(time),
        };
        let spared = *[0, 0, 1, 5, 30].choose(&mut self.rng).unwrap_or(&0);
        self.shared.points.arm(place, spared, action);
    }

    /// The next owner is to die while it opens.
    pub(super) fn arm_opening(&mut self) {
        let spared = self.rng.random_range(1..=6);
        self.shared.points.arm(OPENED, spared, Action::Crash);
    }

    /// What happens to those who came to a place since the last step.
    pub(super) fn strike_at_points(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        let now = self.shared.time.elapsed();
        for struck in self.shared.points.struck() {
            let index = cluster.nodes.iter().position(|node| node.name() == struck.node);
            let Some((index, node)) = index.and_then(|index| Some((index, cluster.nodes.get(index)?))) else {
                continue;
            };
            self.count(format!(
                "{}{} {}",
                Kind::Point,
                struck.action.name(),
                struck.place
            ));
            // One who was struck too early has left no record, so that nothing has come of it.
            if struck.place == OPENED && self.shared.plan.faults.one_of_each && self.rng.random_bool(0.5) {
                self.arm_opening();
            }
            match struck.action {
                Action::Crash => {
                    node.kill();
                    node.disk.process_died(&mut self.rng);
                    self.restart_later(index);
                }
                Action::PowerLoss => {
                    self.power_off(sim, cluster, index);
                    self.restart_later(index);
                }
                Action::Pause(pause) => {
                    node.pause();
                    self.repairs.push((now + pause, Repair::Resume(index)));
                }
                Action::Delay(_) => {}
            }
        }
    }

    /// Starts a node that went down by itself, after a while; one that is to be started anyway is left to that.
    pub(super) fn restart_later(&mut self, index: usize) {
        match self.down.get_mut(index) {
            Some(down) if !*down => *down = true,
            _ => return,
        }
        let until = self.shared.time.elapsed() + spread(&mut self.rng, Duration::from_millis(500));
        self.repairs.push((until, Repair::Start(index)));
    }
}
