//! Which entries of a stream are committed (section 7).
//!
//! An entry is committed when it is of the **current** epoch and persisted on a quorum; entries
//! before it are committed by being below it. Counting copies of an older epoch's entry alone is
//! the classic mistake: such an entry can still be cut by an owner of an epoch in between.

use meridian_types::Lsn;
use meridian_types::mutation::{Rule, is_broken};

/// The smallest number of replicas of which any two sets share one.
pub const fn majority(replicas: usize) -> usize {
    replicas / 2 + 1
}

/// The highest lsn persisted on `quorum` of the replicas, if it is not before `epoch_start`, the
/// first lsn of the current epoch.
///
/// `matched` holds one lsn per replica: how far its log is known to equal the owner's *and* to be
/// persisted. `None` when nothing of the current epoch is on a quorum yet, or `quorum` is zero or
/// more than there are replicas.
///
/// Asked for each reply of each replica: it compares all with all, as there are few, and allocates nothing.
pub fn committed(matched: impl Iterator<Item = Lsn> + Clone, quorum: usize, epoch_start: Lsn) -> Option<Lsn> {
    let quorum = if is_broken(Rule::Quorum) { 1 } else { quorum };
    let is_of_epoch = |lsn: Lsn| lsn >= epoch_start || is_broken(Rule::CurrentEpoch);
    let has_quorum = |lsn: &Lsn| matched.clone().filter(|other| other >= lsn).count() >= quorum;
    let on_quorum = matched.clone().filter(has_quorum).max().filter(|_| quorum > 0)?;
    (is_of_epoch(on_quorum) && on_quorum > Lsn(0)).then_some(on_quorum)
}
