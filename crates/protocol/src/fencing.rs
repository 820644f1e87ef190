//! One stream at one journal node: what it promises and what it accepts (section 7).
//!
//! ```text
//! Fence ──> on_fence ──> persist the promise ──sync──> answer (last, committed)
//! Append ─> on_append ─> write promise, cut, entries ──sync──> on_persisted, on_acked ──> reply (matched)
//! ```
//! [`ReplicaLog`] holds positions only; the bytes are the shell's. Every decision takes effect here at
//! once and must be written in the order of the decisions; a reply is sent only after a sync that covers
//! everything decided before it, also when its own entries were all skipped (they may be in the queue of
//! the same sync).
//!
//! Caveats: a node that lost its disk ([`ReplicaLog::rejoining`]) knows nothing of what it promised.

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{DiskId, Epoch, Lsn, NodeName, Position};

use crate::epoch_runs::{EpochRuns, LogGap};
use crate::quorum;

/// The answer to a `Fence`, to be sent after the promise is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceAnswer {
    /// The last entry of the log, committed or not.
    pub last: Position,
    /// The highest lsn known to be committed.
    pub committed: Lsn,
}

/// Why a `Fence` is not answered with a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceRefusal {
    /// An epoch at or above the one asked for is promised already.
    #[error("epoch {promised} is promised already")]
    Promised {
        /// The promised epoch.
        promised: Epoch,
    },
    /// The node lost its disk and must not vote until it was rebuilt.
    #[error("the disk {disk} replaces a lost one and is being rebuilt")]
    Rejoining {
        /// The new disk.
        disk: DiskId,
    },
}

/// What a node does with an `Append`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendDecision {
    /// A higher epoch is promised.
    Refused {
        /// The promised epoch.
        promised: Epoch,
    },
    /// The log does not hold `prev`; the owner sends what is missing after (or below) `last`.
    Mismatch {
        /// The last entry of the log.
        last: Position,
    },
    /// The node lost its disk, and this owner was not fenced knowing the new one.
    Rejoining {
        /// The new disk.
        disk: DiskId,
    },
    /// The append contradicts itself (positions with gaps, epochs that decrease or exceed the owner's), or
    /// what the same owner appended before. Nothing was changed.
    Malformed,
    /// The append would cut a committed entry (I7). No correct owner sends it: nothing was changed,
    /// and the node should stop and say so.
    CutsCommitted {
        /// The last committed entry here.
        committed: Lsn,
        /// The first entry that differs.
        at: Position,
    },
    /// Write it, sync, then call [`ReplicaLog::on_persisted`] and reply with `matched`.
    Accepted {
        /// Persist the append's epoch as the promise, together with the entries.
        persist_promise: bool,
        /// How many of the first entries are in the log already; the rest is to be written.
        skip: usize,
        /// Entries after this lsn are replaced: remove them before writing.
        cut_to: Option<Lsn>,
        /// How far the log now equals the owner's: `prev` + entries, whatever follows in the log.
        matched: Position,
        /// The node's rebuilding ends with this append: persist that together with the entries, and
        /// tell it to [`ReplicaLog::on_recovered_rejoined`] after a restart.
        rejoined: bool,
    },
}

/// What a node does with the base that an append names (decision 28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing: it holds that entry, or the append is refused anyway.
    Unneeded,
    /// Its log begins there now: persist that before the entries.
    Begun,
    /// It has another entry there that is committed (I7): as [`AppendDecision::CutsCommitted`].
    CutsCommitted {
        /// The last committed entry here.
        committed: Lsn,
    },
}

/// One stream at one journal node, without payloads.
///
/// Invariants: `committed <= last.lsn`; `matched.lsn <= agreed <= last.lsn`; `last.epoch <= promised`; `promised`
/// and `committed` never decrease.
#[derive(Clone, Debug, Default)]
pub struct ReplicaLog {
    log: EpochRuns,
    promised: Epoch,
    /// Who asked for the promise; `None` when an append brought it.
    promised_to: Option<NodeName>,
    committed: Lsn,
    /// The epoch of the owner whose appends were matched last, and how far its log is known to be equal
    /// to ours and persisted. Positions matched for another epoch say nothing about this one.
    matched: Position,
    /// How far the log equals that owner's, persisted or on its way. Its own log only grows, so it never cuts there.
    agreed: Lsn,
    /// The disk that replaces a lost one, until it holds an `Opened` of an owner that rebuilt it.
    rejoining: Option<DiskId>,
}

impl ReplicaLog {
    /// The log of a stream that this node, which has never lost a disk, has not seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The log of a stream at a node whose disk replaces a lost one: it may have forgotten entries and
    /// promises, so it votes for nobody until an owner has rebuilt it.
    pub fn rejoining(disk: DiskId) -> Self {
        Self {
            rejoining: Some(disk),
            ..Self::default()
        }
    }

    /// The last entry, persisted or on its way to the disk.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// The last entry that was trimmed.
    pub fn base(&self) -> Position {
        self.log.base()
    }

    /// The highest epoch promised.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Who was promised it, if a `Fence` asked (for display only).
    pub fn promised_to(&self) -> Option<&NodeName> {
        self.promised_to.as_ref()
    }

    /// The highest lsn known to be committed. All entries up to it are here, and persisted.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// The new disk while the node is being rebuilt.
    pub fn is_rejoining(&self) -> Option<DiskId> {
        self.rejoining
    }

    /// The epoch of the entry at `lsn`; `None` when the log does not hold it (any more).
    pub fn epoch_at(&self, lsn: Lsn) -> Option<Epoch> {
        self.log.epoch_at(lsn)
    }

    /// The position of the entry at `lsn`; `None` when the log does not hold it (any more).
    pub fn position_at(&self, lsn: Lsn) -> Option<Position> {
        self.log.position_at(lsn)
    }

    /// Whether exactly this entry is known to be committed here. Both parts must match: an lsn alone may
    /// be a successor's entry. `None` when the entry was trimmed and its epoch forgotten.
    pub fn knows_committed(&self, entry: Position) -> Option<bool> {
        if entry.lsn > self.committed {
            return Some(false);
        }
        self.log.epoch_at(entry.lsn).map(|epoch| epoch == entry.epoch)
    }

    /// A candidate asks for the promise to refuse every epoch below `epoch`. Persist the promise (and all
    /// entries accepted before) before answering. An equal epoch is refused too: two candidates may have picked the
    /// same number, and a restarted owner fences anew.
    pub fn on_fence(&mut self, epoch: Epoch, owner: NodeName) -> Result<FenceAnswer, FenceRefusal> {
        if let Some(disk) = self.rejoining {
            return Err(FenceRefusal::Rejoining { disk });
        }
        if epoch <= self.promised {
            return Err(FenceRefusal::Promised {
                promised: self.promised,
            });
        }
        self.promised = epoch;
        self.promised_to = Some(owner);
        Ok(FenceAnswer {
            last: self.log.last(),
            committed: self.committed,
        })
    }

    /// An owner's entries, by position. `rejoin` names the disk that the owner, before it fenced, knew to
    /// replace a lost one here; it names it only if all other replicas answered its `Fence`.
    pub fn on_append(
        &mut self,
        epoch: Epoch,
        prev: Position,
        entries: &[Position],
        rejoin: Option<DiskId>,
    ) -> AppendDecision {
        if let Some(disk) = self.rejoining.filter(|disk| rejoin != Some(*disk)) {
            return AppendDecision::Rejoining { disk };
        }
        if epoch < self.promised && !is_broken(Rule::StaleAppend) {
            return AppendDecision::Refused {
                promised: self.promised,
            };
        }
        if !is_well_formed(epoch, prev, entries) {
            return AppendDecision::Malformed;
        }
        // Below the base everything is committed, and so is equal in the log of any owner that may append here (I7).
        let is_trimmed = prev.lsn < self.log.base().lsn;
        let held = self.log.epoch_at(prev.lsn);
        let is_held = held == Some(prev.epoch) || (held.is_some() && is_broken(Rule::PreviousPosition));
        if !is_trimmed && !is_held {
            return AppendDecision::Mismatch {
                last: self.log.last(),
            };
        }
        let skip = self.already_held(entries);
        let new = &entries[skip..];
        let cut_to = match new.first() {
            // Only an entry that differs cuts what follows; an empty or an old append never does.
            Some(first) if first.lsn <= self.log.last().lsn => {
                if epoch == self.matched.epoch && first.lsn <= self.agreed {
                    return AppendDecision::Malformed;
                }
                if first.lsn <= self.committed {
                    return AppendDecision::CutsCommitted {
                        committed: self.committed,
                        at: *first,
                    };
                }
                Some(Lsn(first.lsn.0 - 1))
            }
            _ => None,
        };
        self.accept(epoch, prev, entries, skip, cut_to)
    }

    /// An append names `base`, which is its `prev`, as where its owner's log begins: nobody can send what comes before. A node
    /// that does not hold that entry begins there too; the base is committed, so what the node held instead never was. To be asked
    /// before [`Self::on_append`], which then finds `prev`.
    pub fn on_base(
        &mut self,
        epoch: Epoch,
        base: Position,
        entries: &[Position],
        rejoin: Option<DiskId>,
    ) -> Begin {
        let is_barred = self.rejoining.is_some_and(|disk| rejoin != Some(disk));
        if is_barred || epoch < self.promised || !is_well_formed(epoch, base, entries) {
            return Begin::Unneeded;
        }
        if base.lsn < self.log.base().lsn || self.log.epoch_at(base.lsn) == Some(base.epoch) {
            return Begin::Unneeded;
        }
        if base.lsn <= self.committed {
            return Begin::CutsCommitted {
                committed: self.committed,
            };
        }
        self.on_recovered_base(base);
        Begin::Begun
    }

    fn accept(
        &mut self,
        epoch: Epoch,
        prev: Position,
        entries: &[Position],
        skip: usize,
        cut_to: Option<Lsn>,
    ) -> AppendDecision {
        if let Some(lsn) = cut_to {
            self.log.cut_after(lsn);
        }
        for entry in &entries[skip..] {
            if self.log.push(*entry).is_err() {
                return AppendDecision::Malformed;
            }
        }
        let persist_promise = epoch > self.promised;
        if persist_promise {
            self.promised = epoch;
            self.promised_to = None;
        }
        if self.matched.epoch != epoch {
            self.matched = Position { epoch, lsn: Lsn(0) };
            self.agreed = Lsn(0);
        }
        let matched = entries.last().copied().unwrap_or(prev);
        self.agreed = self.agreed.max(matched.lsn);
        // The owner's `Opened` is the first entry of its epoch: to hold any is to hold that one.
        let rejoined = self.rejoining.is_some() && self.log.last().epoch == epoch;
        if rejoined {
            self.rejoining = None;
        }
        AppendDecision::Accepted {
            persist_promise,
            skip,
            cut_to,
            matched,
            rejoined,
        }
    }

    /// How many of the entries, from the first on, the log holds with equal (epoch, lsn).
    fn already_held(&self, entries: &[Position]) -> usize {
        let base = self.log.base().lsn;
        let held = |entry: &&Position| entry.lsn < base || self.log.epoch_at(entry.lsn) == Some(entry.epoch);
        entries.iter().take_while(held).count()
    }

    /// The entries of an accepted append of `epoch` are synced up to `matched`.
    pub fn on_persisted(&mut self, epoch: Epoch, matched: Position) {
        if epoch == self.matched.epoch && matched.lsn <= self.log.last().lsn {
            self.matched.lsn = self.matched.lsn.max(matched.lsn);
        }
    }

    /// What the owner of `epoch` told with an append: the persisted lsn of each replica as it knows it.
    /// This node's own place in it (`own_index`) is replaced by what it knows itself. Returns the new committed lsn
    /// when it rose.
    ///
    /// Call it after [`Self::on_persisted`], also with the last vector told before, so that the node learns of
    /// commitment by its own sync. A vector of another epoch than that of the appends matched last is ignored.
    pub fn on_acked(&mut self, epoch: Epoch, acked: &[Lsn], own_index: usize, quorum: usize) -> Option<Lsn> {
        if epoch != self.matched.epoch {
            return None;
        }
        acked.get(own_index)?;
        let own = self.matched.lsn;
        let acked = acked.iter().enumerate();
        let acked = acked.map(|(index, lsn)| if index == own_index { own } else { *lsn });
        let epoch_start = self.log.first_of(epoch)?;
        // Only what this node holds itself: the rest it learns when it has the entries.
        let committed = quorum::committed(acked, quorum, epoch_start)?.min(self.matched.lsn);
        if committed <= self.committed {
            return None;
        }
        self.committed = committed;
        Some(committed)
    }

    /// Forgets the entries up to `lsn` (included), never beyond what is known to be committed.
    pub fn trim(&mut self, lsn: Lsn) {
        self.log.trim(lsn.min(self.committed));
    }
}

/// Rebuilding from the write-ahead log, in the order in which it was written.
impl ReplicaLog {
    /// Everything up to `base` was trimmed, or came as a checkpoint: it is committed. What was recovered
    /// before is replaced.
    pub fn on_recovered_base(&mut self, base: Position) {
        self.log = EpochRuns::after(base);
        self.committed = base.lsn;
    }

    /// An entry. One that is not after the last stands for the cut that came before it; an equal one is
    /// the same entry, written twice. An error means that the file is not what was written.
    pub fn on_recovered_entry(&mut self, entry: Position) -> Result<(), LogGap> {
        if entry.lsn <= self.log.last().lsn {
            if self.log.epoch_at(entry.lsn) == Some(entry.epoch) {
                return Ok(());
            }
            if entry.lsn <= self.committed {
                return Err(LogGap {
                    entry,
                    last: self.log.last(),
                });
            }
            self.log.cut_after(Lsn(entry.lsn.0.saturating_sub(1)));
        }
        self.log.push(entry)?;
        // An entry is never newer than the promise under which it was accepted.
        self.promised = self.promised.max(entry.epoch);
        Ok(())
    }

    /// A promise, by `Fence` or by an append of a higher epoch.
    pub fn on_recovered_promise(&mut self, epoch: Epoch, owner: Option<NodeName>) {
        if epoch > self.promised {
            self.promised = epoch;
            self.promised_to = owner;
        }
    }

    /// A committed lsn that was known before. It counts as far as the log reaches.
    pub fn on_recovered_committed(&mut self, committed: Lsn) {
        self.committed = self.committed.max(committed.min(self.log.last().lsn));
    }

    /// The mark that an [`AppendDecision::Accepted`] with `rejoined` left.
    pub fn on_recovered_rejoined(&mut self) {
        self.rejoining = None;
    }
}

/// Positions without gaps that continue `prev`, epochs that never decrease nor exceed the owner's.
fn is_well_formed(epoch: Epoch, prev: Position, entries: &[Position]) -> bool {
    let mut last = prev;
    for entry in entries {
        if last.lsn.0.checked_add(1) != Some(entry.lsn.0) || entry.epoch < last.epoch {
            return false;
        }
        last = *entry;
    }
    last.epoch <= epoch && epoch > Epoch(0)
}
