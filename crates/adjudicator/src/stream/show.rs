//! What `status` and a passive `Locate` see of a stream's task.

use std::sync::PoisonError;

use meridian_rpc::v1::OwnedRangeStatus;
use meridian_types::RangeMapEntry;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};

impl Task {
    /// Publishes what the task is doing now.
    pub(super) fn show(&self) {
        let status = match &self.role {
            Role::Standby => self.not_owner("standby"),
            Role::Recovering => self.not_owner("recovering"),
            Role::Owner(owner) => owner.status(),
        };
        let status = OwnedRangeStatus {
            retired: self.map.borrow().is_retired(self.stream),
            ..status
        };
        *self.handle.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        let successor = self.known_owner.clone().zip(self.hand_over.successor_first());
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
    fn status(&self) -> OwnedRangeStatus {
        let role = match self.phase {
            Phase::Serving | Phase::Refencing { .. } | Phase::Releasing { .. } => "owner",
            Phase::Opening | Phase::Reopening { .. } => "recovering",
        };
        let replicas = self.ctx.journals.iter().zip(self.replication.acked());
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        OwnedRangeStatus {
            stream: self.stream.0,
            epoch: self.replication.epoch().0,
            role: role.to_owned(),
            floor: self.adjudication.floor().0,
            window_low: self.adjudication.window_low().0,
            lease_end: self.adjudication.lease_end().0,
            lead_ns: nanos(self.lead_shown),
            last_lsn: self.replication.last().lsn.0,
            committed_lsn: self.replication.committed().0,
            closed: self.last_closure.as_ref().map_or(0, |closure| closure.closed),
            replicas: replicas.map(|(node, lsn)| (node.0.clone(), lsn.0)).collect(),
            ..described(&self.range)
        }
    }
}
