//! A random journal: three nodes that crash and lose disks, candidates that depose one another, a network that loses, repeats
//! and reorders. It drives the real `ReplicaLog`, `FenceRound` and `Replication`.
//!
//! I7. An entry that was ever committed stays, at its lsn, in every later epoch.
//! I8. No two owners commit different entries at one lsn.

mod node;
mod owner;

use std::collections::{BTreeMap, BTreeSet};

use meridian_protocol::fencing::{FenceAnswer, FenceRefusal};
use meridian_protocol::replication::Reply;
use meridian_types::{DiskId, Epoch, Lsn, Position};

use crate::rng::{Rng, for_each_seed};
use node::Node;
use owner::Candidate;

pub const REPLICAS: usize = 3;
pub const QUORUM: usize = 2;

/// An entry with its payload, a number that is used once.
pub type Entry = (Position, u64);

/// An append, as it travels.
#[derive(Clone, Debug)]
pub struct Append {
    pub epoch: Epoch,
    pub prev: Position,
    pub entries: Vec<Entry>,
    pub acked: Vec<Lsn>,
    pub rejoin: Option<DiskId>,
}

#[derive(Clone, Debug)]
pub enum Message {
    Fence {
        node: usize,
        candidate: usize,
        epoch: Epoch,
    },
    Fenced {
        candidate: usize,
        node: usize,
        epoch: Epoch,
        disk: DiskId,
        answer: Result<FenceAnswer, FenceRefusal>,
    },
    Confirm {
        node: usize,
        candidate: usize,
        epoch: Epoch,
    },
    Confirmed {
        candidate: usize,
        node: usize,
        epoch: Epoch,
        promised: Epoch,
        disk: Option<DiskId>,
    },
    Append {
        node: usize,
        candidate: usize,
        append: Append,
    },
    Replied {
        candidate: usize,
        node: usize,
        epoch: Epoch,
        reply: Reply,
    },
}

/// What was ever known to be committed, by anybody.
#[derive(Default)]
pub struct Oracle {
    committed: BTreeMap<Lsn, Entry>,
}

impl Oracle {
    /// Somebody knows this entry to be committed (I7, I8).
    pub fn note(&mut self, who: &str, entry: Entry) {
        let known = *self.committed.entry(entry.0.lsn).or_insert(entry);
        assert_eq!(known, entry, "I7/I8: {who} knows another entry to be committed");
    }

    fn highest(&self) -> Lsn {
        self.committed.keys().next_back().copied().unwrap_or_default()
    }
}

struct World {
    rng: Rng,
    nodes: Vec<Node>,
    candidates: Vec<Candidate>,
    network: Vec<Message>,
    /// Messages that are on their way for long: past whole takeovers.
    delayed: Vec<Message>,
    oracle: Oracle,
    highest_epoch: u64,
    values: u64,
    disks: u128,
    steps_per_fault: usize,
    most_entries: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let nodes = (0..REPLICAS)
            .map(|index| Node::new(index, node::disk(index as u128 + 1)))
            .collect();
        let candidates = (0..3).map(Candidate::new).collect();
        Self {
            rng: Rng::new(seed),
            nodes,
            candidates,
            network: Vec::new(),
            delayed: Vec::new(),
            oracle: Oracle::default(),
            highest_epoch: 0,
            values: 0,
            disks: REPLICAS as u128,
            steps_per_fault: [8, 20, 60][seed as usize % 3],
            most_entries: [1, 2, 6][seed as usize / 3 % 3],
        }
    }

    fn step(&mut self) {
        if !self.delayed.is_empty() && self.rng.one_in(60) {
            let late = self.delayed.swap_remove(self.rng.below(self.delayed.len()));
            self.network.push(late);
        }
        if self.rng.one_in(self.steps_per_fault) {
            return self.fault();
        }
        match self.rng.below(100) {
            0..50 => (0..1 + self.rng.below(4)).for_each(|_| self.deliver(true)),
            50..70 => {
                let node = self.rng.below(REPLICAS);
                self.sync(node);
            }
            70..78 => self.append(),
            78..90 => self.send(),
            90..95 => (0..3).for_each(|candidate| self.learn(candidate)),
            // Now and then somebody notices that there is no owner, or that its fence gets no answers.
            _ if self.candidates.iter().all(Candidate::is_idle) => self.begin_fence(),
            _ if self.candidates.iter().any(Candidate::is_owner) || !self.rng.one_in(10) => {}
            _ => self.begin_fence(),
        }
    }

    fn fault(&mut self) {
        match self.rng.below(10) {
            0..2 => self.lose(),
            2..4 => self.crash_node(),
            4 => self.wipe_node(),
            5..8 => self.begin_fence(),
            8 => self.disconnect(),
            _ => {
                let candidate = self.rng.below(self.candidates.len());
                self.candidates[candidate].crash();
            }
        }
    }

    fn deliver(&mut self, faults: bool) {
        if self.network.is_empty() {
            return;
        }
        let index = self.rng.below(self.network.len());
        if faults && self.rng.one_in(25) {
            let late = self.network.swap_remove(index);
            self.delayed.push(late);
            return;
        }
        let message = if faults && self.rng.one_in(16) {
            self.network[index].clone()
        } else {
            self.network.swap_remove(index)
        };
        match message {
            Message::Fence {
                node,
                candidate,
                epoch,
            } => self.nodes[node].on_fence(candidate, epoch),
            Message::Confirm {
                node,
                candidate,
                epoch,
            } => {
                let confirmed = self.nodes[node].on_confirm(candidate, epoch);
                self.network.push(confirmed);
            }
            Message::Append {
                node,
                candidate,
                append,
            } => {
                if let Some(reply) = self.nodes[node].on_append(candidate, append) {
                    self.network.push(reply);
                }
            }
            Message::Fenced { candidate, .. }
            | Message::Confirmed { candidate, .. }
            | Message::Replied { candidate, .. } => {
                let out = self.candidates[candidate].on_message(message, &mut self.oracle);
                self.network.extend(out);
            }
        }
    }

    fn lose(&mut self) {
        if !self.network.is_empty() {
            let index = self.rng.below(self.network.len());
            self.network.swap_remove(index);
        }
    }

    fn sync(&mut self, node: usize) {
        let out = self.nodes[node].sync(&mut self.oracle);
        self.network.extend(out);
    }

    fn crash_node(&mut self) {
        let node = self.rng.below(REPLICAS);
        let survive = self.rng.next();
        self.nodes[node].crash(survive);
    }

    /// One lost disk at a time: two are more than a majority of three survives.
    fn wipe_node(&mut self) {
        if self.nodes.iter().all(|node| !node.is_rejoining()) {
            self.disks += 1;
            let node = self.rng.below(REPLICAS);
            self.nodes[node].wipe(node::disk(self.disks));
        }
    }

    fn begin_fence(&mut self) {
        let candidate = self.rng.below(self.candidates.len());
        // Sometimes too low, sometimes a number that another one is using.
        let epoch = (self.highest_epoch + self.rng.below(4) as u64)
            .saturating_sub(1)
            .max(1);
        self.fence_with(candidate, epoch);
    }

    fn fence_with(&mut self, candidate: usize, epoch: u64) {
        self.highest_epoch = self.highest_epoch.max(epoch);
        let rejoining = self
            .nodes
            .iter()
            .find_map(|node| node.rejoining().map(|disk| (node.index(), disk)));
        let out = self.candidates[candidate].begin(Epoch(epoch), rejoining);
        self.network.extend(out);
    }

    /// Mostly an owner, if there is one.
    fn somebody(&mut self) -> usize {
        let owners: Vec<usize> = (0..3)
            .filter(|index| self.candidates[*index].is_owner())
            .collect();
        if owners.is_empty() {
            self.rng.below(3)
        } else {
            owners[self.rng.below(owners.len())]
        }
    }

    fn append(&mut self) {
        let candidate = self.somebody();
        self.values += 1;
        self.candidates[candidate].append(self.values);
    }

    fn send(&mut self) {
        let candidate = self.somebody();
        for _ in 0..2 {
            let node = self.rng.below(REPLICAS);
            let at_most = self.rng.below(self.most_entries + 1);
            let out = self.candidates[candidate].send(node, at_most);
            self.network.extend(out);
        }
    }

    fn disconnect(&mut self) {
        let candidate = self.rng.below(self.candidates.len());
        let node = self.rng.below(REPLICAS);
        self.candidates[candidate].disconnect(node);
    }

    /// A candidate that won its fence reads the log that it adopts.
    fn learn(&mut self, candidate: usize) {
        self.values += 1;
        self.candidates[candidate].adopt(&self.nodes, self.values);
    }

    /// The faults end: one more takeover must succeed, hold everything that was committed, and tell every node.
    fn heal(&mut self) {
        self.network.clear();
        for candidate in &mut self.candidates {
            candidate.crash();
        }
        for node in 0..REPLICAS {
            self.sync(node);
        }
        self.network.clear();
        let epoch = self.highest_epoch + 1;
        self.fence_with(0, epoch);
        for _ in 0..400 {
            while !self.network.is_empty() {
                self.deliver(false);
            }
            for node in 0..REPLICAS {
                self.sync(node);
            }
            self.learn(0);
            for node in 0..REPLICAS {
                let out = self.candidates[0].send(node, 3);
                self.network.extend(out);
            }
        }
        let end = self.candidates[0].check_log(&self.oracle.committed);
        assert_eq!(self.oracle.highest(), end, "the last owner commits its whole log");
        for node in &self.nodes {
            assert!(
                !node.is_rejoining(),
                "a healthy owner rebuilds node {}",
                node.index()
            );
            assert_eq!(
                node.committed(),
                end,
                "R15: node {} learns that all is committed",
                node.index()
            );
        }
    }
}

#[test]
fn committed_entries_stay_and_nobody_commits_another() {
    for_each_seed(200, |seed| {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step();
        }
        world.heal();
    });
}

#[test]
fn the_model_does_commit_rebuild_and_take_over() {
    let (mut committed, mut epochs, mut rebuilt) = (0, 0, 0);
    for seed in 0..30 {
        let mut world = World::new(seed);
        (0..1_500).for_each(|_| world.step());
        let entries = &world.oracle.committed;
        committed += entries.len();
        epochs += entries
            .values()
            .map(|entry| entry.0.epoch)
            .collect::<BTreeSet<_>>()
            .len();
        rebuilt += world.nodes.iter().map(|node| node.rebuilt).sum::<usize>();
    }
    let seen = format!("{committed} entries of {epochs} epochs, {rebuilt} disks rebuilt");
    println!("{seen}");
    assert!(
        committed > 300 && epochs > 50 && rebuilt > 15,
        "{seen}: the model is idle"
    );
}
