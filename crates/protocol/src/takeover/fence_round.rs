//! Fencing a majority: which answers count.
//!
//! ```text
//! C answers X's Fence e9 ── C loses its disk ── E fences A and B with e8, rebuilds C ── B answers X's Fence e9
//! ```
//! X now holds answers of B and C, a majority; yet E may go on committing with A and the rebuilt C, which knows nothing of its
//! promise. So unless every replica answered, an answer counts only when its replica has confirmed *after the
//! last of them arrived* that it still keeps the promise, on the same disk. (With all answers there is no quorum
//! left for anybody else.)

use std::collections::BTreeMap;

use meridian_types::{DiskId, Epoch, Lsn, Position};

use super::choose_log;
use crate::fencing::FenceAnswer;

/// A fence that a quorum answered: the candidate may adopt a log and open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The replica whose log is adopted.
    pub adopt: usize,
    /// The end of that log: read to exactly this position.
    pub last: Position,
    /// The highest lsn that anybody who answered knows to be committed.
    pub committed: Lsn,
    /// A replica whose replaced disk the new owner may rebuild.
    pub rejoin: Option<(usize, DiskId)>,
}

/// Where a round stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceOutcome {
    /// Wait for more answers.
    Pending,
    /// Ask these replicas whether they keep the promise ([`FenceRound::on_confirmed`]).
    Confirm(Vec<usize>),
    /// Won.
    Won(Fenced),
    /// So many refused that no quorum can answer. Wait a random time, then try with an epoch above this.
    Lost {
        /// The highest epoch promised.
        promised: Epoch,
    },
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    disk: DiskId,
    answer: FenceAnswer,
    confirmed: bool,
}

/// One candidate's fence of one epoch, over all replicas.
#[derive(Clone, Debug)]
pub struct FenceRound {
    epoch: Epoch,
    replicas: usize,
    quorum: usize,
    answers: BTreeMap<usize, Answered>,
    refused: BTreeMap<usize, Epoch>,
    rejoining: Option<(usize, DiskId)>,
}

impl FenceRound {
    /// A candidate that is about to fence with `epoch`. `rejoining` is the replica with a replaced disk that it knows of
    /// **before** it sends the first `Fence`.
    pub fn new(epoch: Epoch, replicas: usize, quorum: usize, rejoining: Option<(usize, DiskId)>) -> Self {
        Self {
            epoch,
            replicas,
            quorum,
            answers: BTreeMap::new(),
            refused: BTreeMap::new(),
            rejoining,
        }
    }

    /// The epoch that is asked for.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A replica gave its promise, on this disk.
    pub fn on_answer(&mut self, replica: usize, disk: DiskId, answer: FenceAnswer) {
        if replica >= self.replicas {
            return;
        }
        self.answers.insert(
            replica,
            Answered {
                disk,
                answer,
                confirmed: false,
            },
        );
        // Confirmations count only from after the last answer.
        for other in self.answers.values_mut() {
            other.confirmed = false;
        }
    }

    /// A replica refused: it promised this epoch before (zero for one that is being rebuilt).
    pub fn on_refused(&mut self, replica: usize, promised: Epoch) {
        if replica < self.replicas {
            self.answers.remove(&replica);
            self.refused.insert(replica, promised);
        }
    }

    /// A replica says, asked after [`FenceOutcome::Confirm`], which epoch it promises and on which disk (`None` while it is being
    /// rebuilt).
    pub fn on_confirmed(&mut self, replica: usize, promised: Epoch, disk: Option<DiskId>) {
        let Some(answered) = self.answers.get_mut(&replica) else {
            return;
        };
        if promised == self.epoch && disk == Some(answered.disk) {
            answered.confirmed = true;
        } else {
            self.on_refused(replica, promised);
        }
    }

    /// Where the round stands.
    pub fn outcome(&self) -> FenceOutcome {
        if self.replicas - self.refused.len() < self.quorum {
            let promised = self.refused.values().copied().max().unwrap_or_default();
            return FenceOutcome::Lost {
                promised: promised.max(self.epoch),
            };
        }
        if self.answers.len() < self.quorum {
            return FenceOutcome::Pending;
        }
        let confirmed = self
            .answers
            .values()
            .filter(|answered| answered.confirmed)
            .count();
        if self.answers.len() < self.replicas && confirmed < self.quorum {
            let open = self.answers.iter().filter(|(_, answered)| !answered.confirmed);
            return FenceOutcome::Confirm(open.map(|(replica, _)| *replica).collect());
        }
        self.won()
    }

    fn won(&self) -> FenceOutcome {
        let logs: Vec<(usize, Position)> = self
            .answers
            .iter()
            .map(|(replica, answered)| (*replica, answered.answer.last))
            .collect();
        let Some(adopt) = choose_log(&logs, self.quorum) else {
            return FenceOutcome::Pending;
        };
        let last = self
            .answers
            .get(&adopt)
            .map(|answered| answered.answer.last)
            .unwrap_or_default();
        let committed = self
            .answers
            .values()
            .map(|a| a.answer.committed)
            .max()
            .unwrap_or_default();
        let rejoin = self.rejoining.filter(|(replica, _)| {
            (0..self.replicas).all(|other| other == *replica || self.answers.contains_key(&other))
                && !self.answers.contains_key(replica)
        });
        FenceOutcome::Won(Fenced {
            adopt,
            last,
            committed,
            rejoin,
        })
    }
}
