//! Answers that wait for a record to be committed: nothing that names an lsn is told before.

use std::collections::BTreeMap;

use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{ChangeResponse, Committed, OutcomeAnswer, RaiseFloorResponse, Refused};
use meridian_types::{Lsn, Timestamp};
use tokio::sync::oneshot;

use crate::request::ReplyTo;

/// An answer that is true once a record is committed.
pub(crate) enum Answer {
    /// To a commit request.
    Committed(ReplyTo, Committed),
    /// To a commit request of a barred transaction.
    Refused(ReplyTo, Refused),
    /// To a question about an outcome.
    Outcome(oneshot::Sender<OutcomeAnswer>, OutcomeAnswer),
    /// To who changes the range map: the version.
    Changed(oneshot::Sender<ChangeResponse>, u64),
    /// R19: to the owner of another stream, which may close once the records before this are committed.
    Raised(oneshot::Sender<RaiseFloorResponse>, RaiseFloorResponse),
    /// A `Lease` record: nobody waits but the owner itself.
    Lease(Timestamp),
}

/// The answers of one owner, by what they wait for.
#[derive(Default)]
pub(crate) struct Waiting {
    by_lsn: BTreeMap<(Lsn, u64), Answer>,
    next: u64,
}

impl Waiting {
    pub(crate) fn push(&mut self, lsn: Lsn, answer: Answer) {
        self.next += 1;
        self.by_lsn.insert((lsn, self.next), answer);
    }

    /// The next answer whose record is committed.
    pub(crate) fn pop(&mut self, committed: Lsn) -> Option<Answer> {
        let first = self
            .by_lsn
            .first_entry()
            .filter(|first| first.key().0 <= committed)?;
        Some(first.remove())
    }

    pub(crate) fn len(&self) -> usize {
        self.by_lsn.len()
    }

    /// Whether these records are in the log, or will be, somebody else has to say.
    pub(crate) fn let_go(&mut self) {
        for (at, answer) in std::mem::take(&mut self.by_lsn) {
            match answer {
                Answer::Committed(reply, _) | Answer::Refused(reply, _) => reply.unknown(),
                // The asker sees that there is no answer.
                Answer::Changed(..) => {}
                Answer::Outcome(reply, answer) => {
                    let _ = reply.send(OutcomeAnswer {
                        outcome: Outcome::Pending.into(),
                        epoch: answer.epoch,
                        ..OutcomeAnswer::default()
                    });
                }
                // It asks again.
                Answer::Raised(..) => {}
                lease @ Answer::Lease(_) => {
                    self.by_lsn.insert(at, lease);
                }
            }
        }
    }
}
