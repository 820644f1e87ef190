//! Which faults a run has, and how often each.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::pick;
use crate::cluster::Role;

/// Mean time between two faults of a kind; `None` when the run has none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A process dies and starts again.
    pub crash: Option<Duration>,
    /// A process is asked to stop, and starts again.
    pub restart: Option<Duration>,
    /// Nodes lose their power, one or many at once.
    pub power_loss: Option<Duration>,
    /// Nodes cannot reach others, both ways.
    pub partition: Option<Duration>,
    /// Nodes cannot reach others, one way.
    pub oneway: Option<Duration>,
    /// Messages between nodes are held back, and then come all at once.
    pub hold: Option<Duration>,
    /// Messages take longer for a while.
    pub slow: Option<Duration>,
    /// Clocks jump within their bound.
    pub clock_jump: Option<Duration>,
    /// A process gets no turn for a while, and then goes on.
    pub pause: Option<Duration>,
    /// A journal node's disk has no room for a while.
    pub disk_full: Option<Duration>,
    /// A journal node's disk fails with EIO: the node stops, and starts again.
    pub disk_error: Option<Duration>,
    /// Disks of journal nodes are slow for a while.
    pub disk_slow: Option<Duration>,
    /// A journal node loses its power in the middle of a sync.
    pub power_cut: Option<Duration>,
    /// A journal node's disk is lost, or damaged and found out, and replaced: once in a run, because more than one at
    /// a time is more than the protocol promises to bear.
    pub disk_loss: Option<Duration>,
    /// A storage node's disk is lost, store and checkpoint: once in a run, and only if another node holds all of its keys. What of the
    /// journal is trimmed is nowhere else.
    pub storage_loss: Option<Duration>,
    /// A process dies, loses its power, stops or waits at a certain place in its code.
    pub points: Option<Duration>,
    /// All nodes of a region lose their power or die together.
    pub region_loss: Option<Duration>,
    /// A region cannot reach the others, or one of them; both ways or one way, once or again and again.
    pub region_cut: Option<Duration>,
    /// Connections live this long on average, then break with everything under way.
    pub cut: Option<Duration>,
    /// Calls and commit requests are lost, late, or come again.
    pub messages: Option<MessageFaults>,
    /// How many processes may be down at once.
    pub max_down: usize,
    /// Only these die or stop; all, if there are none.
    pub stopped: &'static [Role],
    /// Only these are cut off from each other; all, if there are none.
    pub parted: &'static [Role],
    /// Every cut is between one of each of those, the owner among them, and all others of them; and whoever takes over
    /// then may die while it opens.
    pub one_of_each: bool,
    /// How likely it is that a block that was not synced survives a power loss.
    pub unsynced_survives: f64,
}

/// How likely it is that something happens to a message.
#[derive(Clone, Copy, Debug)]
pub struct MessageFaults {
    /// A call or its answer is lost.
    pub lost: f64,
    /// It comes late, after others, and when nobody waits any more.
    pub late: f64,
    /// It comes again.
    pub twice: f64,
}

impl MessageFaults {
    fn new(rng: &mut StdRng) -> Self {
        let mut rate = || *pick(rng, &[0.0, 0.01, 0.05, 0.2]);
        Self {
            lost: rate(),
            late: rate(),
            twice: rate(),
        }
    }
}

impl Faults {
    /// What the seed chooses.
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let mut faults = Self {
            max_down: rng.random_range(1..=9),
            unsynced_survives: *pick(rng, &[0.0, 0.5, 0.9]),
            ..Self::default()
        };
        let kinds = [
            &mut faults.crash,
            &mut faults.restart,
            &mut faults.power_loss,
            &mut faults.partition,
            &mut faults.oneway,
            &mut faults.hold,
            &mut faults.slow,
            &mut faults.clock_jump,
            &mut faults.cut,
            &mut faults.pause,
            &mut faults.disk_full,
            &mut faults.disk_error,
            &mut faults.disk_slow,
            &mut faults.power_cut,
            &mut faults.disk_loss,
            &mut faults.points,
        ];
        // Some runs are calm but for one kind, some have all of them.
        let share = *pick(rng, &[0.15, 0.4, 0.8]);
        for kind in kinds {
            let mean = Duration::from_millis(rng.random_range(400..=6_000));
            *kind = rng.random_bool(share).then_some(mean);
        }
        faults.messages = rng.random_bool(share).then(|| MessageFaults::new(rng));
        faults
    }

    /// With several regions: what becomes of whole regions. Some runs have nothing else.
    pub(super) fn add_regions(&mut self, rng: &mut StdRng) {
        if rng.random_bool(0.3) {
            *self = Self {
                max_down: self.max_down,
                unsynced_survives: self.unsynced_survives,
                ..Self::default()
            };
        }
        for kind in [&mut self.region_loss, &mut self.region_cut] {
            let mean = Duration::from_millis(rng.random_range(1_500..=8_000));
            *kind = rng.random_bool(0.5).then_some(mean);
        }
    }
}
