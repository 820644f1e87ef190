//! Fault points: places inside of services where something happens just there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use meridian_rpc::FaultPoints;

/// All places, as the services name them.
pub const PLACES: [&str; 15] = [
    "adjudicator: decided",
    "adjudicator: lease renewed",
    "adjudicator: voted",
    "adjudicator: home decided",
    "adjudicator: outcome known",
    "adjudicator: sealed",
    "adjudicator: fenced",
    OPENED,
    "journal: persisted",
    "query: commit to be sent",
    "query: commit answered",
    "storage: applied",
    "storage: checkpoint synced",
    "storage: partly copied",
    "storage: partly loaded",
];

/// Here a new owner has sent its `Opened` record, which is not committed yet.
pub const OPENED: &str = "adjudicator: opened";

const MAX_ARMED: usize = 4;

/// What happens to whoever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process dies there.
    Crash,
    /// The machine loses its power there.
    PowerLoss,
    /// The process is stopped there, and goes on after this.
    Pause(Duration),
    /// Only this task waits.
    Delay(Duration),
}

impl Action {
    /// Its kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "Crash",
            Self::PowerLoss => "PowerLoss",
            Self::Pause(_) => "Pause",
            Self::Delay(_) => "Delay",
        }
    }
}

/// Somebody came to a place where something was to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    /// Who.
    pub node: String,
    /// Where.
    pub place: &'static str,
    /// What is to happen.
    pub action: Action,
}

#[derive(Clone, Copy)]
struct Armed {
    place: &'static str,
    /// So many come past before.
    spared: u32,
    action: Action,
}

/// All fault points of a run. Clones share them.
#[derive(Clone, Default)]
pub struct Points {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    armed: VecDeque<Armed>,
    struck: Vec<Struck>,
    /// How often each place was reached.
    reached: BTreeMap<&'static str, u64>,
    /// Who was last at [`OPENED`].
    opened: Option<String>,
}

impl Points {
    /// From now on `action` happens to whoever comes to the place, after `spared` others. Few places are armed at a time:
    /// one that nobody comes to is forgotten when others have taken its turn.
    pub fn arm(&self, place: &'static str, spared: u32, action: Action) {
        let mut state = self.lock();
        state.armed.retain(|armed| armed.place != place);
        state.armed.push_back(Armed {
            place,
            spared,
            action,
        });
        if state.armed.len() > MAX_ARMED {
            state.armed.pop_front();
        }
    }

    /// Nothing happens any more.
    pub fn disarm(&self) {
        self.lock().armed.clear();
    }

    /// Who came to a place where something was to happen, since this was asked last.
    pub fn struck(&self) -> Vec<Struck> {
        std::mem::take(&mut self.lock().struck)
    }

    /// How often each place was reached.
    pub fn reached(&self) -> BTreeMap<&'static str, u64> {
        self.lock().reached.clone()
    }

    /// The node that began to own the stream last.
    pub fn last_owner(&self) -> Option<String> {
        self.lock().opened.clone()
    }

    /// Those of one node.
    pub fn of(&self, node: &str) -> Arc<dyn FaultPoints> {
        Arc::new(NodePoints {
            node: node.to_owned(),
            points: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct NodePoints {
    node: String,
    points: Points,
}

impl FaultPoints for NodePoints {
    fn reached(&self, place: &'static str) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.points.lock();
        *state.reached.entry(place).or_default() += 1;
        if place == OPENED {
            state.opened = Some(self.node.clone());
        }
        let index = state.armed.iter().position(|armed| armed.place == place)?;
        let armed = state.armed.get_mut(index)?;
        if armed.spared > 0 {
            armed.spared -= 1;
            return None;
        }
        let action = armed.action;
        state.armed.remove(index);
        state.struck.push(Struck {
            node: self.node.clone(),
            place,
            action,
        });
        tracing::info!(place, ?action, "fault point");
        Some(match action {
            // It never comes back.
            Action::Crash | Action::PowerLoss => futures::future::pending().boxed(),
            // By then the process has been stopped, and time has passed when it goes on.
            Action::Pause(_) => tokio::time::sleep(super::time::TICK * 2).boxed(),
            Action::Delay(delay) => tokio::time::sleep(delay).boxed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_comes_after_those_who_are_spared_is_struck_once() {
        let points = Points::default();
        let (one, other) = (points.of("one"), points.of("other"));
        let place = "journal: persisted";
        points.arm(place, 1, Action::Crash);
        assert!(one.reached("query: commit answered").is_none());
        assert!(one.reached(place).is_none());
        assert!(other.reached(place).is_some());
        assert!(other.reached(place).is_none());
        let struck = points.struck();
        assert_eq!(struck.len(), 1);
        assert!(
            struck
                .iter()
                .all(|struck| struck.node == "other" && struck.place == place)
        );
        assert_eq!(points.reached().get(place), Some(&3));
    }
}
