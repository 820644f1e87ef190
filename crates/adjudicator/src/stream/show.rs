//! What `status` and a passive `Locate` see of a stream's task.

use std::sync::PoisonError;

use meridian_rpc::v1::OwnedRangeStatus;
use meridian_types::RangeMapEntry;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};

impl Task {
    /// Publishes what the task is doing now.
    pub(super) fn show(&self) {
        let mut shown = self.handle.status.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.role {
            Role::Standby => *shown = self.not_owner("standby"),
            Role::Recovering => *shown = self.not_owner("recovering"),
            Role::Owner(owner) if owner.is_described_by(&shown) => owner.update(&mut shown),
            Role::Owner(owner) => *shown = owner.status(),
        }
        shown.retired = self.map.borrow().is_retired(self.stream);
        drop(shown);
        let first = self.hand_over.successor_first();
        let successor = first.and_then(|first| Some((self.known_owner.clone()?, first)));
        *self
            .handle
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = successor;
    }

    fn not_owner(&self, role: &str) -> OwnedRangeStatus {
        let (range, _) = self.ctx.range(self.stream);
        OwnedRangeStatus {
            stream: self.stream.0,
            role: role.to_owned(),
            ..range.as_ref().map(described).unwrap_or_default()
        }
    }
}

/// What the range map says of the range.
fn described(range: &RangeMapEntry) -> OwnedRangeStatus {
    let end = range.keys.end.clone().unwrap_or_default();
    OwnedRangeStatus {
        range: range.id.0,
        stream: range.stream.0,
        start: range.keys.start.0.clone(),
        end: end.0,
        candidates: range.candidates.iter().map(ToString::to_string).collect(),
        ..OwnedRangeStatus::default()
    }
}

impl Owner {
    fn role(&self) -> &'static str {
        match self.phase {
            Phase::Serving | Phase::Refencing { .. } | Phase::Releasing { .. } => "owner",
            Phase::Opening | Phase::Reopening { .. } => "recovering",
        }
    }

    fn status(&self) -> OwnedRangeStatus {
        let mut status = OwnedRangeStatus {
            stream: self.stream.0,
            epoch: self.replication.epoch().0,
            role: self.role().to_owned(),
            ..described(&self.range)
        };
        self.update(&mut status);
        status
    }

    /// Whether what was shown last differs in figures only: it is shown after every batch of events.
    fn is_described_by(&self, shown: &OwnedRangeStatus) -> bool {
        let range = &self.range;
        let end = range.keys.end.as_ref().map(AsRef::as_ref).unwrap_or_default();
        let candidates = range.candidates.iter().map(|node| &node.0);
        (shown.stream, shown.epoch, &*shown.role) == (self.stream.0, self.replication.epoch().0, self.role())
            && (shown.range, &*shown.start, &*shown.end) == (range.id.0, range.keys.start.as_ref(), end)
            && shown.candidates.iter().eq(candidates)
    }

    /// The figures.
    fn update(&self, shown: &mut OwnedRangeStatus) {
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        shown.floor = self.adjudication.floor().0;
        shown.window_low = self.adjudication.window_low().0;
        shown.lease_end = self.adjudication.lease_end().0;
        shown.lead_ns = nanos(self.lead_shown);
        shown.last_lsn = self.replication.last().lsn.0;
        shown.committed_lsn = self.replication.committed().0;
        shown.closed = self.last_closure.as_ref().map_or(0, |closure| closure.closed);
        for (node, lsn) in self.ctx.journals.iter().zip(self.replication.acked()) {
            match shown.replicas.get_mut(&node.0) {
                Some(shown) => *shown = lsn.0,
                None => drop(shown.replicas.insert(node.0.clone(), lsn.0)),
            }
        }
    }
}
