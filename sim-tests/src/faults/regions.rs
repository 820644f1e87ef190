//! What becomes of whole regions: lost with everything in them, or cut off from the others, on one side or on both, for
//! good or again and again.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use turmoil::Sim;

use super::links::Cut;
use super::{Faults, Kind, Repair, spread};
use crate::cluster::Cluster;
use crate::plan::Region;

/// A cut that comes and goes.
#[derive(Clone, Debug)]
pub(super) struct Flap {
    cut: Cut,
    from: Vec<usize>,
    to: Vec<usize>,
    /// The mean time of each state.
    each: Duration,
    /// So many times more.
    left: u32,
}

impl Faults {
    /// All nodes of a region die together, or lose their power; they come back one after the other.
    pub(super) fn lose_region(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        let Some(region) = Region::SEVERAL.choose(&mut self.rng).copied() else {
            return;
        };
        let has_power = self.rng.random_bool(0.3);
        let now = self.shared.time.elapsed();
        let mean = Duration::from_millis(*[300, 2_000, 5_000].choose(&mut self.rng).unwrap_or(&2_000));
        let away = spread(&mut self.rng, mean);
        tracing::info!(%region, has_power, ?away, "fault: {}", Kind::RegionLoss);
        self.count(format!("{} {region}", Kind::RegionLoss));
        for (index, node) in cluster.nodes.iter().enumerate() {
            let is_there = self.shared.plan.region_of(node.name()) == region;
            if !is_there || self.down.get(index).copied().unwrap_or(true) {
                continue;
            }
            match has_power {
                true => {
                    node.kill();
                    node.disk.process_died(&mut self.rng);
                }
                false => self.power_off(sim, cluster, index),
            }
            if let Some(down) = self.down.get_mut(index) {
                *down = true;
            }
            let until = now + away + spread(&mut self.rng, Duration::from_millis(100));
            self.repairs.push((until, Repair::Start(index)));
        }
    }

    /// Cuts a region off from both others, or the link between two of them.
    pub(super) fn cut_region(&mut self, sim: &Sim<'_>) {
        let mut regions = Region::SEVERAL;
        let first = self.rng.random_range(0..regions.len());
        regions.rotate_left(first);
        let [alone, others @ ..] = regions;
        let others = match self.rng.random_range(0..4) {
            0 | 1 => &others[..],
            2 => &others[..1],
            _ => &others[1..],
        };
        let (mut from, mut to) = (self.hosts_in(&[alone]), self.hosts_in(others));
        if self.rng.random_bool(0.5) {
            std::mem::swap(&mut from, &mut to);
        }
        let cut = *[Cut::Both, Cut::Both, Cut::Oneway, Cut::Oneway, Cut::Hold]
            .choose(&mut self.rng)
            .unwrap_or(&Cut::Both);
        let (each, left) = match self.rng.random_bool(0.25) {
            true => (Duration::from_millis(200), self.rng.random_range(3..=12)),
            false => (
                Duration::from_millis(*[300, 2_000, 5_000].choose(&mut self.rng).unwrap_or(&2_000)),
                0,
            ),
        };
        self.count(format!("{} {cut:?}", Kind::RegionCut));
        let flap = Flap {
            cut,
            from,
            to,
            each,
            left,
        };
        self.flap(sim, &flap);
    }

    /// Cuts, to be repaired, and perhaps to be cut again after that.
    pub(super) fn flap(&mut self, sim: &Sim<'_>, flap: &Flap) {
        if !self.active {
            return;
        }
        let Flap {
            cut, from, to, each, ..
        } = flap;
        tracing::info!(
            from = %self.links.describe(from), to = %self.links.describe(to), ?cut, again = flap.left,
            "fault: {}", Kind::RegionCut
        );
        let id = self.links.cut(sim, *cut, from.clone(), to.clone());
        let until = self.shared.time.elapsed() + spread(&mut self.rng, *each);
        self.repairs.push((until, Repair::Uncut(id)));
        if let Some(left) = flap.left.checked_sub(1) {
            let again = until + spread(&mut self.rng, *each);
            let flap = Flap { left, ..flap.clone() };
            self.repairs.push((again, Repair::CutAgain(flap)));
        }
    }

    /// Nodes and clients in these regions.
    fn hosts_in(&self, regions: &[Region]) -> Vec<usize> {
        let hosts = self.links.hosts().iter().enumerate();
        let there = hosts.filter(|(_, host)| regions.contains(&self.shared.plan.region_of(host)));
        there.map(|(index, _)| index).collect()
    }
}
