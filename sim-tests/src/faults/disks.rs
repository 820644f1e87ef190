//! Disks of journal nodes: full, failing, slow, torn, damaged, lost.

use std::time::Duration;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use turmoil::Sim;

use super::{Faults, Kind, Repair, spread};
use crate::cluster::disk::Broken;
use crate::cluster::{Cluster, Role};

impl Faults {
    fn journals(&self, cluster: &Cluster) -> Vec<usize> {
        let nodes = cluster.nodes.iter().enumerate();
        let journals = nodes.filter(|(_, node)| node.role == Role::Journal);
        journals.map(|(index, _)| index).collect()
    }

    /// Something that a disk, or its node, recovers from.
    pub(super) fn break_disk(&mut self, kind: Kind, cluster: &Cluster) {
        let mut journals = self.journals(cluster);
        journals.shuffle(&mut self.rng);
        let Some((index, node)) = journals
            .first()
            .and_then(|index| Some((*index, cluster.nodes.get(*index)?)))
        else {
            return;
        };
        let now = self.shared.time.elapsed();
        let until = now + spread(&mut self.rng, Duration::from_secs(2));
        tracing::info!(node = node.name(), "fault: {kind}");
        match kind {
            Kind::DiskFull => {
                node.disk.fill(&mut self.rng);
                self.repairs.push((until, Repair::Room(index)));
                self.count(kind.to_string());
            }
            Kind::DiskSlow => {
                let slowest = *[20, 200, 2_000].choose(&mut self.rng).unwrap_or(&200);
                let delay = Duration::from_millis(self.rng.random_range(5..=slowest));
                let many = *[1, 1, journals.len()].choose(&mut self.rng).unwrap_or(&1);
                let slow = journals
                    .iter()
                    .take(many)
                    .filter_map(|index| cluster.nodes.get(*index));
                slow.for_each(|node| node.disk.slow_down(delay));
                self.repairs.push((until, Repair::DiskSpeed));
                self.count(format!("{kind} {many}"));
            }
            Kind::PowerCut => node.disk.lose_power_at_sync(self.rng.random_range(0..=5)),
            _ => {
                let broken = *[Broken::Read, Broken::Write, Broken::Sync]
                    .choose(&mut self.rng)
                    .unwrap_or(&Broken::Sync);
                node.disk.fail(broken, &mut self.rng);
                self.count(format!("{kind} {broken:?}"));
            }
        }
    }

    /// A node's disk is lost, or a bit flips on it while the node is down. Its node comes back once without leave to
    /// begin anew, and must refuse; then with it.
    pub(super) fn lose_disk(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        let journals = self.journals(cluster);
        let Some((index, node)) = journals
            .choose(&mut self.rng)
            .and_then(|index| Some((*index, cluster.nodes.get(*index)?)))
        else {
            return;
        };
        if self.has_lost_disk || self.down.get(index).copied().unwrap_or(true) {
            return;
        }
        self.has_lost_disk = true;
        if self.rng.random_bool(0.5) {
            tracing::info!(node = node.name(), "fault: {}", Kind::DiskLoss);
            self.count(Kind::DiskLoss.to_string());
            self.power_off(sim, cluster, index);
            node.disk.lose();
        } else {
            node.kill();
            node.disk.process_died(&mut self.rng);
            if node.disk.flip_bit(&mut self.rng) {
                self.count("BitFlip".to_owned());
            }
        }
        node.expect_refusal();
        self.restart_later(index);
    }

    /// A storage node begins with an empty disk.
    pub(super) fn lose_storage(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        let storage = || {
            let nodes = cluster.nodes.iter().enumerate();
            nodes.filter(|(_, node)| node.role == Role::Storage)
        };
        let shards = &self.shared.plan.shards;
        let is_held_elsewhere = |index: usize, name: &str| {
            let keys = shards.of(name);
            let mut others = storage().filter(|(other, _)| *other != index);
            others.any(|(_, other)| shards.of(other.name()).intersection(&keys) == Some(keys.clone()))
        };
        let candidates: Vec<usize> = storage()
            .filter(|(index, node)| is_held_elsewhere(*index, node.name()))
            .map(|(index, _)| index)
            .collect();
        let Some((index, node)) = candidates
            .choose(&mut self.rng)
            .and_then(|index| Some((*index, cluster.nodes.get(*index)?)))
        else {
            return;
        };
        if self.has_lost_storage || self.down.get(index).copied().unwrap_or(true) {
            return;
        }
        self.has_lost_storage = true;
        tracing::info!(node = node.name(), "fault: {}", Kind::StorageLoss);
        self.count(Kind::StorageLoss.to_string());
        self.power_off(sim, cluster, index);
        node.lose_store();
        self.restart_later(index);
    }

    /// What came of broken disks: machines without power are switched off, processes that gave up start again, as an
    /// init system sees to.
    pub(super) fn watch(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        for (index, node) in cluster.nodes.iter().enumerate() {
            if let Some(misuse) = node.disk.misuse() {
                self.shared.alarm(format!("{}: {misuse}", node.name()));
            }
            let is_down = self.down.get(index).copied().unwrap_or(true);
            let has_lost_power = node.disk.has_lost_power();
            if has_lost_power {
                self.power_off(sim, cluster, index);
                self.count(format!("{} {}", Kind::PowerCut, node.role));
            } else if node.is_running() || is_down {
                continue;
            } else {
                self.count(format!("GaveUp {}", node.role));
                if node.is_told_to_begin_anew() {
                    self.count("RefusedDisk".to_owned());
                }
            }
            self.restart_later(index);
        }
    }
}
