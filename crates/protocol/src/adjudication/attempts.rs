//! What became of one attempt (section 5, attempts), and the attempts that this epoch's owner gave up.
//!
//! Giving up need not be durable: no other epoch ever decides the attempt.

use meridian_types::{Attempt, Interval, Lsn, Timestamp};

use super::Adjudication;

/// What the owner says to "what became of this attempt?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptAnswer {
    /// The transaction committed: say so once `lsn` is committed.
    Committed {
        /// When.
        commit: Timestamp,
        /// Where its record is.
        lsn: Lsn,
    },
    /// Its transaction was barred: say *aborted* once the `Barred` record at `lsn` is committed.
    Barred {
        /// Where that record is.
        lsn: Lsn,
    },
    /// It never commits. If it names this epoch, it is barred from now on.
    Aborted,
    /// It is too long ago to tell. Never to be taken for *aborted*.
    Forgotten,
    /// Not decided yet, or not for this owner to say: ask again.
    Pending,
}

impl Adjudication {
    /// Section 5: a query processor or a participant asks what became of one attempt. It never bars the transaction; it
    /// bars an attempt of this epoch that it has not heard of.
    pub fn attempt_outcome(
        &mut self,
        _attempt: &Attempt,
        _start: Timestamp,
        _now: Interval,
    ) -> AttemptAnswer {
        AttemptAnswer::Pending
    }
}
