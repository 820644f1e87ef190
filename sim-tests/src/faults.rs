//! What breaks when: draws faults at the plan's rates, applies them between two steps, and repairs them after a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use crate::cluster::{Cluster, Role, Shared, distances};
use crate::seams::derive;

mod clocks;
mod disks;
mod links;
mod points;
mod processes;
mod regions;

pub use clocks::FARTHEST;
use links::{Cut, Links};
use regions::Flap;

/// How often stores write out what they hold, on average.
const FLUSH_MEAN: Duration = Duration::from_millis(700);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Crash,
    Restart,
    PowerLoss,
    Partition,
    Oneway,
    Hold,
    Slow,
    ClockJump,
    Pause,
    DiskFull,
    DiskError,
    DiskSlow,
    PowerCut,
    DiskLoss,
    StorageLoss,
    Point,
    RegionLoss,
    RegionCut,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What puts an end to a fault.
#[derive(Debug)]
enum Repair {
    Start(usize),
    Resume(usize),
    Room(usize),
    DiskSpeed,
    Uncut(u64),
    /// Not for good.
    CutAgain(Flap),
    Speed,
}

/// Breaks things, and repairs them.
pub struct Faults {
    shared: Rc<Shared>,
    rng: StdRng,
    links: Links,
    /// When the next fault of each kind comes, and the mean time between two.
    next: BTreeMap<Kind, (Duration, Duration)>,
    repairs: Vec<(Duration, Repair)>,
    next_flush: Duration,
    /// Nodes that are down, or going down, by index.
    down: Vec<bool>,
    active: bool,
    /// A disk was lost already.
    has_lost_disk: bool,
    /// So was a storage node's.
    has_lost_storage: bool,
    /// How many faults of each kind there were.
    counts: BTreeMap<String, u64>,
}

impl Faults {
    /// Nothing is broken; hosts are the cluster's nodes, then the clients.
    pub fn new(shared: Rc<Shared>, cluster: &Cluster, clients: &[String]) -> Self {
        let rng = StdRng::seed_from_u64(derive(shared.plan.seed, "faults"));
        let names = cluster.nodes.iter().map(|node| node.name().to_owned());
        Self {
            links: Links::new(names.chain(clients.iter().cloned()).collect()),
            down: vec![false; cluster.nodes.len()],
            rng,
            shared,
            next: BTreeMap::new(),
            repairs: Vec::new(),
            next_flush: Duration::ZERO,
            active: false,
            has_lost_disk: false,
            has_lost_storage: false,
            counts: BTreeMap::new(),
        }
    }

    /// How many faults of each kind there were.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.counts.clone();
        counts.extend(self.shared.messages.counts());
        counts.extend(self.shared.changes());
        counts
    }

    /// From now on things break.
    pub fn begin(&mut self) {
        self.active = true;
        self.shared.cuts.active.store(true, Ordering::Relaxed);
        self.shared.messages.set_active(true);
        let faults = self.shared.plan.faults;
        let kinds = [
            (Kind::Crash, faults.crash),
            (Kind::Restart, faults.restart),
            (Kind::PowerLoss, faults.power_loss),
            (Kind::Partition, faults.partition),
            (Kind::Oneway, faults.oneway),
            (Kind::Hold, faults.hold),
            (Kind::Slow, faults.slow),
            (Kind::ClockJump, faults.clock_jump),
            (Kind::Pause, faults.pause),
            (Kind::DiskFull, faults.disk_full),
            (Kind::DiskError, faults.disk_error),
            (Kind::DiskSlow, faults.disk_slow),
            (Kind::PowerCut, faults.power_cut),
            (Kind::DiskLoss, faults.disk_loss),
            (Kind::Point, faults.points),
            (Kind::RegionLoss, faults.region_loss),
            (Kind::RegionCut, faults.region_cut),
            (Kind::StorageLoss, faults.storage_loss),
        ];
        let now = self.shared.time.elapsed();
        for (kind, mean) in kinds {
            if let Some(mean) = mean {
                let at = now + spread(&mut self.rng, mean);
                self.next.insert(kind, (at, mean));
            }
        }
    }

    /// Nothing breaks any more, and what is broken is repaired at once.
    pub fn end(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        self.active = false;
        self.shared.cuts.active.store(false, Ordering::Relaxed);
        self.shared.messages.set_active(false);
        self.shared.points.disarm();
        self.next.clear();
        for (_, repair) in std::mem::take(&mut self.repairs) {
            self.repair(sim, cluster, &repair);
        }
        self.set_clocks_right(cluster);
    }

    /// What breaks and what is repaired at this time.
    pub fn step(&mut self, sim: &mut Sim<'_>, cluster: &Cluster) {
        let now = self.shared.time.elapsed();
        self.watch(sim, cluster);
        self.strike_at_points(sim, cluster);
        let (due, later) = std::mem::take(&mut self.repairs)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.repairs = later;
        let due: Vec<(Duration, Repair)> = due;
        for (_, repair) in due {
            self.repair(sim, cluster, &repair);
        }
        if self.next_flush <= now {
            self.flush_stores(cluster);
            self.next_flush = now + spread(&mut self.rng, FLUSH_MEAN);
        }
        let kinds: Vec<Kind> = self
            .next
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .map(|(kind, _)| *kind)
            .collect();
        for kind in kinds {
            if let Some((at, mean)) = self.next.get_mut(&kind) {
                *at = now + spread(&mut self.rng, *mean);
            }
            self.strike(kind, sim, cluster);
        }
    }

    fn flush_stores(&mut self, cluster: &Cluster) {
        for node in cluster.nodes.iter().filter(|node| node.role == Role::Storage) {
            if self.rng.random_bool(0.5)
                && let Err(error) = node.disk.versions.flush()
            {
                self.shared
                    .alarm(format!("{}: cannot flush: {error}", node.name()));
            }
        }
    }

    fn strike(&mut self, kind: Kind, sim: &mut Sim<'_>, cluster: &Cluster) {
        let now = self.shared.time.elapsed();
        match kind {
            Kind::Crash => self.take_down(sim, cluster, kind, 1),
            Kind::Restart => self.take_down(sim, cluster, kind, 1),
            Kind::Pause => self.pause(cluster),
            Kind::DiskFull | Kind::DiskError | Kind::DiskSlow | Kind::PowerCut => {
                self.break_disk(kind, cluster);
            }
            Kind::DiskLoss => self.lose_disk(sim, cluster),
            Kind::StorageLoss => self.lose_storage(sim, cluster),
            Kind::Point => self.arm_point(),
            Kind::PowerLoss => {
                let all = self.down.len();
                let many = *[1, 1, 2, 4, all].choose(&mut self.rng).unwrap_or(&1);
                self.take_down(sim, cluster, kind, many);
            }
            Kind::Partition | Kind::Oneway | Kind::Hold => {
                let groups = self.groups(cluster);
                let cut = match kind {
                    Kind::Partition => Cut::Both,
                    Kind::Oneway => Cut::Oneway,
                    _ => Cut::Hold,
                };
                self.count(kind.to_string());
                tracing::info!(from = %self.links.describe(&groups.0), to = %self.links.describe(&groups.1), "fault: {kind}");
                let id = self.links.cut(sim, cut, groups.0, groups.1);
                let mut mean = *[150, 800, 2_500, 6_000].choose(&mut self.rng).unwrap_or(&800);
                if self.shared.plan.faults.one_of_each {
                    mean = 6_000;
                    self.arm_opening();
                }
                let until = now + spread(&mut self.rng, Duration::from_millis(mean));
                self.repairs.push((until, Repair::Uncut(id)));
            }
            Kind::Slow => {
                let slowest = *[600, 600, 2_000].choose(&mut self.rng).unwrap_or(&600);
                let slow = Duration::from_millis(self.rng.random_range(50..=slowest));
                self.count(kind.to_string());
                tracing::info!(?slow, "fault: {kind}");
                sim.set_max_message_latency(slow);
                distances::apply(sim, &self.shared, self.links.hosts(), slow);
                let until = now + spread(&mut self.rng, Duration::from_secs(1));
                self.repairs.push((until, Repair::Speed));
            }
            Kind::ClockJump => self.jump(cluster),
            Kind::RegionLoss => self.lose_region(sim, cluster),
            Kind::RegionCut => self.cut_region(sim),
        }
    }

    fn repair(&mut self, sim: &mut Sim<'_>, cluster: &Cluster, repair: &Repair) {
        match repair {
            Repair::Start(index) => self.start(sim, cluster, *index),
            Repair::Resume(index) => {
                if let Some(node) = cluster.nodes.get(*index) {
                    tracing::info!(node = node.name(), "repaired: goes on");
                    node.resume();
                }
            }
            Repair::Room(index) => {
                if let Some(node) = cluster.nodes.get(*index) {
                    tracing::info!(node = node.name(), "repaired: room on the disk");
                    node.disk.has_room();
                }
            }
            Repair::DiskSpeed => {
                tracing::info!("repaired: speed of disks");
                for node in &cluster.nodes {
                    node.disk.slow_down(Duration::ZERO);
                }
            }
            Repair::Uncut(id) => {
                tracing::info!(id, "repaired: links");
                self.links.uncut(sim, *id);
            }
            Repair::CutAgain(flap) => self.flap(sim, flap),
            Repair::Speed => {
                tracing::info!("repaired: latency");
                sim.set_max_message_latency(self.shared.plan.latency.1);
                distances::apply(sim, &self.shared, self.links.hosts(), Duration::ZERO);
            }
        }
    }

    /// Two groups of hosts that are cut off from each other.
    fn groups(&mut self, cluster: &Cluster) -> (Vec<usize>, Vec<usize>) {
        let parted = self.shared.plan.faults.parted;
        let mut hosts: Vec<usize> = (0..self.links.len()).collect();
        hosts.retain(|host| processes::is_one_of(cluster, *host, parted));
        hosts.shuffle(&mut self.rng);
        if self.shared.plan.faults.one_of_each {
            let owner = self.shared.points.last_owner();
            let name = |host: &usize| cluster.nodes.get(*host).map(|node| node.name().to_owned());
            hosts.sort_by_key(|host| name(host) != owner);
            let role = |host: &usize| cluster.nodes.get(*host).map(|node| node.role);
            let mut seen = BTreeSet::new();
            return hosts.into_iter().partition(|host| seen.insert(role(host)));
        }
        let first = *[1, 1, 2, hosts.len() / 2].choose(&mut self.rng).unwrap_or(&1);
        // One at least is left.
        let rest = hosts.split_off(first.min(hosts.len().saturating_sub(1)));
        // From all others, or only from some of them.
        let second = match self.rng.random_bool(0.5) {
            true => rest.len(),
            false => self.rng.random_range(1..=rest.len()),
        };
        (hosts, rest.into_iter().take(second).collect())
    }

    fn count(&mut self, what: String) {
        *self.counts.entry(what).or_default() += 1;
    }
}

/// Between nothing and twice the mean.
fn spread(rng: &mut StdRng, mean: Duration) -> Duration {
    mean.mul_f64(rng.random_range(0.0..2.0))
}
