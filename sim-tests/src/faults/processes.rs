//! Processes that die, stop, lose their power, or get no turn for a while.

use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use turmoil::Sim;

use super::{Faults, Kind, Repair, spread};
use crate::cluster::{Cluster, Role};

/// A process that was asked to stop has this long for it, and is killed when it takes longer.
const GRACE: Duration = Duration::from_secs(4);

impl Faults {
    /// Stops up to `many` nodes in the way of `kind`.
    pub(super) fn take_down(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, kind: Kind, many: usize) {
        let up = (0..self.down.len()).filter(|index| !self.down.get(*index).copied().unwrap_or(true));
        let mut up: Vec<usize> = up.collect();
        let is_all = many == self.down.len();
        let down = self.down.len() - up.len();
        let stopped = self.shared.plan.faults.stopped;
        up.retain(|index| is_one_of(cluster, *index, stopped));
        up.shuffle(&mut self.rng);
        let room = match is_all {
            // Everything loses its power at once, whatever else is down.
            true => many,
            false => many.min(self.shared.plan.faults.max_down.saturating_sub(down)),
        };
        let now = self.shared.time.elapsed();
        let mean = *[50, 500, 3_000].choose(&mut self.rng).unwrap_or(&500);
        for index in up.into_iter().take(room) {
            let Some(node) = cluster.nodes.get(index) else {
                continue;
            };
            self.count(format!("{kind} {}", node.role));
            tracing::info!(node = node.name(), "fault: {kind}");
            match kind {
                Kind::Restart => node.ask_to_stop(),
                Kind::PowerLoss => self.power_off(sim, cluster, index),
                _ => {
                    node.kill();
                    node.disk.process_died(&mut self.rng);
                }
            }
            if let Some(down) = self.down.get_mut(index) {
                *down = true;
            }
            let grace = if kind == Kind::Restart {
                GRACE
            } else {
                Duration::ZERO
            };
            let until = now + grace + spread(&mut self.rng, Duration::from_millis(mean));
            self.repairs.push((until, Repair::Start(index)));
        }
    }

    /// The whole machine: without the last words that the system of a dead process says on its connections.
    pub(super) fn power_off(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, index: usize) {
        let Some(node) = cluster.nodes.get(index) else {
            return;
        };
        self.links.isolate(sim, index, true);
        node.kill();
        sim.crash(node.name());
        let survives = self.shared.plan.faults.unsynced_survives;
        let torn = node.disk.power_failed(&mut self.rng, survives);
        if torn.survived > 0 && torn.survived < torn.unsynced {
            tracing::info!(node = node.name(), ?torn, "the power loss tore a write");
            self.count("Torn".to_owned());
        }
        self.links.isolate(sim, index, false);
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, index: usize) {
        let Some(node) = cluster.nodes.get(index) else {
            return;
        };
        if node.is_running() {
            // It did not stop in time.
            node.kill();
            node.disk.process_died(&mut self.rng);
        } else {
            node.disk.process_ended();
        }
        if !sim.is_host_running(node.name()) {
            sim.bounce(node.name());
        }
        node.start();
        if let Some(down) = self.down.get_mut(index) {
            *down = false;
        }
    }

    /// A process gets no turn for 50 ms to 10 s: owners above all, because they have something to miss.
    pub(super) fn pause(&mut self, cluster: &Cluster) {
        let wants_owner = self.rng.random_bool(0.4);
        let fits = |index: &usize| {
            let node = cluster.nodes.get(*index);
            node.is_some_and(|node| {
                let is_wanted = !wants_owner || node.role == Role::Adjudicator;
                is_wanted && node.is_running() && !node.is_paused()
            })
        };
        let candidates: Vec<usize> = (0..self.down.len()).filter(fits).collect();
        let Some(index) = candidates.choose(&mut self.rng).copied() else {
            return;
        };
        let Some(node) = cluster.nodes.get(index) else {
            return;
        };
        let longest = *[300, 2_000, 10_000].choose(&mut self.rng).unwrap_or(&2_000);
        let pause = Duration::from_millis(self.rng.random_range(50..=longest));
        self.count(format!("{} {}", Kind::Pause, node.role));
        tracing::info!(node = node.name(), ?pause, "fault: {}", Kind::Pause);
        node.pause();
        self.repairs
            .push((self.shared.time.elapsed() + pause, Repair::Resume(index)));
    }
}

/// Whether the host is a node of one of the roles, or none is named.
pub(super) fn is_one_of(cluster: &Cluster, host: usize, roles: &[Role]) -> bool {
    let role = cluster.nodes.get(host).map(|node| node.role);
    roles.is_empty() || role.is_some_and(|role| roles.contains(&role))
}
