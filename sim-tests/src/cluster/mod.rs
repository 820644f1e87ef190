//! The cluster: five kinds of services, each a process of its own on a host of its own.

pub mod clock;
pub mod disk;
pub mod distances;
pub mod messages;
pub mod node;
pub mod points;
pub mod process;
pub mod sockets;
pub mod time;
pub mod versions;
pub mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_journal::{DiskIdentity, disk as registration};
use meridian_types::{ClusterId, DiskId, NodeName, RangeMap};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use turmoil::Sim;
use uuid::Uuid;

use crate::mutation::World;
use crate::plan::Plan;
use crate::seams::derive;
use crate::trace::Trace;
use clock::SkewedClock;
use disk::Disk;
use messages::Messages;
use node::Node;
use points::Points;
use sockets::Sockets;
use time::SimTime;
use versions::Versions;
use wire::{Cuts, SimDialer};

/// What a node runs.
pub use meridian::config::Role;

/// The widest error that a clock may have: above the widest bound of any plan.
const MAX_CLOCK_ERROR: Duration = Duration::from_millis(250);

/// What all nodes and clients of a run share.
pub struct Shared {
    /// What the seed chose.
    pub plan: Plan,
    /// True time.
    pub time: SimTime,
    /// The log.
    pub trace: Trace,
    /// Connections that break.
    pub cuts: Cuts,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Places inside of services where something is to happen.
    pub points: Points,
    /// A directory for what lies on real disks; not there before it is needed. Nothing depends on its name.
    dir: PathBuf,
    /// What happens to messages.
    pub messages: Messages,
    /// What must not have happened, and was noticed while it did.
    alarms: Mutex<Vec<String>>,
    /// The newest range map that a node has learnt.
    newest_map: RefCell<Arc<RangeMap>>,
    /// How often the operator changed the ranges, by kind.
    changes: RefCell<BTreeMap<String, u64>>,
}

impl Shared {
    /// Nothing has happened yet.
    pub fn new(plan: Plan, time: SimTime, trace: Trace) -> Rc<Self> {
        let mut rng = StdRng::seed_from_u64(derive(plan.seed, "cluster"));
        let first_map = plan.ranges.map(&names(&plan, Role::Adjudicator), &plan.regions);
        Rc::new(Self {
            cuts: Cuts {
                mean: plan.faults.cut,
                active: Arc::new(AtomicBool::new(false)),
            },
            cluster: ClusterId(Uuid::from_u128(rng.random())),
            dir: std::env::temp_dir().join(format!("meridian-sim-{}", std::process::id())),
            messages: Messages::new(plan.faults.messages, plan.seed),
            plan,
            time,
            trace,
            points: Points::default(),
            alarms: Mutex::default(),
            newest_map: RefCell::new(Arc::new(first_map)),
            changes: RefCell::default(),
        })
    }

    /// The names of all nodes that run this.
    pub fn names(&self, role: Role) -> Vec<NodeName> {
        names(&self.plan, role)
    }

    /// A node has learnt of this map.
    pub fn learnt(&self, map: &Arc<RangeMap>) {
        let mut newest = self.newest_map.borrow_mut();
        if map.version > newest.version {
            newest.clone_from(map);
        }
    }

    /// The newest range map that any node has learnt.
    pub fn newest_map(&self) -> Arc<RangeMap> {
        self.newest_map.borrow().clone()
    }

    /// The operator has changed the ranges.
    pub fn count_change(&self, kind: &str) {
        *self.changes.borrow_mut().entry(kind.to_owned()).or_default() += 1;
    }

    /// How often it did, by kind.
    pub fn changes(&self) -> BTreeMap<String, u64> {
        self.changes.borrow().clone()
    }

    /// The range map that all nodes begin with.
    pub fn map(&self) -> RangeMap {
        let plan = &self.plan;
        plan.ranges.map(&self.names(Role::Adjudicator), &plan.regions)
    }

    /// What a client opens connections with.
    pub fn dialer(&self, client: &str) -> SimDialer {
        self.dialer_of(client, None)
    }

    /// What the process behind these sockets opens connections with.
    fn dialer_of(&self, host: &str, sockets: Option<Sockets>) -> SimDialer {
        let rng = StdRng::seed_from_u64(derive(self.plan.seed, &format!("dialer {host}")));
        SimDialer::new(host, sockets, self.trace.clone(), self.cuts.clone(), rng)
    }

    /// Something happened that must not.
    pub fn alarm(&self, what: String) {
        tracing::error!(what, "ALARM");
        self.alarms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(what);
    }

    /// What must not have happened and did.
    pub fn alarms(&self) -> Vec<String> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the directory on the real disk, if it is there and the cluster that used it was stopped. Not left to `drop`:
    /// whoever holds this may outlive the run.
    pub fn remove_dir(&self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// The names of all nodes that run this.
fn names(plan: &Plan, role: Role) -> Vec<NodeName> {
    let count = plan.shape.count(role);
    (1..=count)
        .map(|number| NodeName(format!("{role}-{number}")))
        .collect()
}

/// All nodes of the cluster, running or not.
pub struct Cluster {
    /// In the order of their roles.
    pub nodes: Vec<Rc<Node>>,
    /// In which order processes have their turn, if the plan wants a random one.
    order: Option<RefCell<StdRng>>,
}

impl Cluster {
    /// A new cluster: empty disks, registered.
    pub fn new(shared: &Rc<Shared>) -> Self {
        let mut rng = StdRng::seed_from_u64(derive(shared.plan.seed, "nodes"));
        let mut nodes = Vec::new();
        for role in Role::ALL {
            for name in shared.names(role) {
                nodes.push(Rc::new(new_node(shared, role, name, &mut rng)));
            }
        }
        let order = StdRng::seed_from_u64(derive(shared.plan.seed, "order"));
        Self {
            nodes,
            order: shared.plan.random_order.then(|| RefCell::new(order)),
        }
    }

    /// Puts the nodes on the network and starts their processes.
    pub fn start(&self, sim: &mut Sim<'_>) {
        for node in &self.nodes {
            let sockets = node.sockets.clone();
            sim.host(node.name().to_owned(), move || sockets.clone().run());
            node.start();
        }
    }

    /// The end: nothing is left of storage nodes on the real disk.
    pub fn stop(&self) {
        for node in self.nodes.iter().filter(|node| node.role == Role::Storage) {
            node.kill();
            node.disk.versions.remove();
        }
    }

    /// One step of every process.
    pub fn turn(&self) {
        let mut order: Vec<&Rc<Node>> = self.nodes.iter().collect();
        if let Some(rng) = &self.order {
            order.shuffle(&mut *rng.borrow_mut());
        }
        for node in order {
            node.turn();
        }
    }
}

fn new_node(shared: &Rc<Shared>, role: Role, name: NodeName, rng: &mut StdRng) -> Node {
    let plan = &shared.plan;
    let mut clock = SkewedClock::new(shared.time.clone(), plan.clock_bound, MAX_CLOCK_ERROR);
    clock.claims_to_be_exact = match role {
        Role::Query => World::CommitWaitSkipped.is_on(plan.mutation),
        Role::Storage => World::UncertaintyWaitSkipped.is_on(plan.mutation),
        _ => false,
    };
    clock.skew(rng.random_range(-1.0..=1.0), rng.random_range(-500..=500));
    let versions = match plan.engine.filter(|_| role == Role::Storage) {
        Some(engine) => Versions::in_dir(engine, shared.dir.join(&name.0)),
        None => Versions::in_memory(),
    };
    let disk = Disk::new(World::SyncLies.is_on(plan.mutation), versions);
    let identity = DiskIdentity {
        cluster: shared.cluster,
        node: name.clone(),
        disk_id: DiskId(Uuid::from_u128(rng.random())),
        rejoining: false,
    };
    if role == Role::Journal
        && let Err(error) = registration::initialise_in(&disk.directory(), &identity)
    {
        shared.alarm(format!("{name}: the disk cannot be registered: {error}"));
    }
    Node::new(shared.clone(), role, identity, Arc::new(clock), disk)
}
