//! The owner's side of a stream: what each journal node has, what to send it, what is committed (section 7).
//!
//! ```text
//! probing ──Matched──> streaming (sends ahead of the replies)
//!    ^  └─Mismatch: walk back─┘  │
//!    └──── connection lost ──────┘      Refused, Rejoining: nothing is sent until the owner fences anew
//! ```
//! Positions only: the shell keeps the bytes of the entries, or reads old ones back from a journal node.

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{DiskId, Epoch, Lsn, Position};

use crate::epoch_runs::{EpochRuns, LogGap};
use crate::quorum;

/// One `Append` to send: the entries `first ..= last` after `prev`, none when `last < first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The entry before the first.
    pub prev: Position,
    /// The first entry to send.
    pub first: Lsn,
    /// The last entry to send.
    pub last: Lsn,
    /// The replaced disk that this owner rebuilds, see [`Replication::allow_rejoin`].
    pub rejoin: Option<DiskId>,
}

impl Outgoing {
    /// How many entries it carries.
    pub fn count(&self) -> usize {
        usize::try_from((self.last.0 + 1).saturating_sub(self.first.0)).unwrap_or(usize::MAX)
    }
}

/// What a journal node replied to an `Append`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Accepted and persisted up to this position.
    Matched(Position),
    /// It does not hold `prev`, the entry before those sent; its log ends at `last`.
    Mismatch {
        /// The `prev` of the append that is answered.
        prev: Position,
        /// The end of its log.
        last: Position,
    },
    /// It promised a higher epoch.
    Refused {
        /// That epoch.
        promised: Epoch,
    },
    /// It lost its disk.
    Rejoining {
        /// The new one.
        disk: DiskId,
    },
}

/// Whether the journal still accepts this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By all that answered.
    Accepted,
    /// By a majority, but not by all: go on, and fence anew with an epoch above `above` soon, so that all
    /// replicas count again. Soft state may be kept if nobody else opened in between.
    FenceAnew {
        /// The highest epoch that anybody promised, or this owner's.
        above: Epoch,
    },
    /// Not by a quorum any more: stop deciding at once.
    Deposed {
        /// The highest epoch promised.
        by: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The place where the logs agree is being looked for; one append is under way at most.
    Probing { in_flight: bool },
    /// They agree up to `matched`; everything before `next` is under way.
    Streaming,
    /// It promised a higher epoch.
    Refused { promised: Epoch },
    /// It lost its disk and this owner cannot rebuild it.
    Rejoining,
}

/// What the owner knows of one replica. Invariant: `matched < next <= last + 1`.
#[derive(Clone, Debug)]
struct Replica {
    state: State,
    /// Persisted there and equal to the owner's log, in this epoch.
    matched: Lsn,
    /// The next entry to send.
    next: Lsn,
    /// The committed lsn that the replica can work out from what was sent to it.
    told: Lsn,
    /// A replaced disk that this owner may rebuild.
    rejoin: Option<DiskId>,
}

/// The owner's log and its replicas, for one epoch. A new epoch needs a new one.
#[derive(Clone, Debug)]
pub struct Replication {
    epoch: Epoch,
    quorum: usize,
    log: EpochRuns,
    /// The lsn of this epoch's `Opened`: nothing is committed in this epoch before it is.
    epoch_start: Lsn,
    committed: Lsn,
    replicas: Vec<Replica>,
}

impl Replication {
    /// An owner of `epoch` that adopted `log` (by [`crate::takeover::choose_log`], read to exactly its
    /// last position) and now copies it to a quorum of the replicas. `last` holds what each replica
    /// answered to the `Fence`, `None` for those that did not. The first [`Self::append`] is `Opened`.
    pub fn new(epoch: Epoch, log: EpochRuns, quorum: usize, last: &[Option<Position>]) -> Self {
        let start = |last: &Option<Position>| {
            let agreeing = agreeing_end(&log, last.unwrap_or(log.last()), log.last().lsn);
            let is_counted = last.is_some() && is_broken(Rule::CurrentEpoch);
            Replica {
                state: State::Probing { in_flight: false },
                matched: if is_counted { agreeing } else { Lsn(0) },
                next: agreeing.next(),
                told: Lsn(0),
                rejoin: None,
            }
        };
        let replicas = last.iter().map(start).collect();
        let epoch_start = log.last().lsn.next();
        Self {
            epoch,
            quorum,
            log,
            epoch_start,
            committed: Lsn(0),
            replicas,
        }
    }

    /// This owner rebuilds the replica's replaced disk: it knew `disk` before it fenced, and all **other**
    /// replicas answered its `Fence` (the caller's duty to check; the safety of the log rests on it).
    pub fn allow_rejoin(&mut self, replica: usize, disk: DiskId) {
        if let Some(replica) = self.replicas.get_mut(replica) {
            replica.rejoin = Some(disk);
        }
    }

    /// The owner's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last entry of the owner's log.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// The highest committed lsn; 0 before `Opened` is committed.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// The lsn of this epoch's `Opened`.
    pub fn epoch_start(&self) -> Lsn {
        self.epoch_start
    }

    /// The epochs of the log's entries.
    pub fn log(&self) -> &EpochRuns {
        &self.log
    }

    /// The `acked` vector of the next append: what each replica has persisted, as known here.
    pub fn acked(&self) -> impl ExactSizeIterator<Item = Lsn> + Clone + '_ {
        self.replicas.iter().map(|replica| replica.matched)
    }

    /// Up to where the replica can work out that the log is committed, once it has what was sent to it (R16).
    pub fn told(&self, replica: usize) -> Lsn {
        self.replicas.get(replica).map_or(Lsn(0), |peer| peer.told)
    }

    /// The lowest lsn that some replica has not acknowledged: the shell keeps the bytes of the entries from there
    /// on, as far as its memory allows.
    pub fn lowest_needed(&self) -> Lsn {
        self.replicas
            .iter()
            .map(|replica| replica.matched.next())
            .min()
            .unwrap_or(Lsn(1))
    }

    /// The next entry that [`Self::next_to_send`] would send to the replica: the shell works out how many
    /// fit into a message.
    pub fn next_entry(&self, replica: usize) -> Option<Lsn> {
        self.replicas.get(replica).map(|peer| peer.next)
    }

    /// Whether the replica takes entries from this owner: it neither promised a higher epoch nor lost its disk.
    pub fn accepts(&self, replica: usize) -> bool {
        self.replicas.get(replica).is_some_and(|peer| match peer.state {
            State::Probing { .. } | State::Streaming => true,
            State::Refused { .. } | State::Rejoining => false,
        })
    }

    /// How many entries are under way to the replica: sent, and not acknowledged. The shell bounds it.
    pub fn in_flight(&self, replica: usize) -> u64 {
        self.replicas.get(replica).map_or(0, |peer| match peer.state {
            State::Streaming => peer.next.0.saturating_sub(peer.matched.next().0),
            _ => 0,
        })
    }

    /// Adds the next entry to the log; the shell keeps its bytes under the returned position.
    pub fn append(&mut self) -> Position {
        let entry = Position {
            epoch: self.epoch,
            lsn: self.log.last().lsn.next(),
        };
        let pushed = self.log.push(entry);
        debug_assert!(
            pushed.is_ok(),
            "the owner's epoch is not below any in the log it adopted"
        );
        entry
    }

    /// What to send to a replica now, with at most `max_entries`; it counts as sent. `None` when there is
    /// nothing: all is under way, or the node does not accept this owner.
    ///
    /// An empty append is returned when the replica could learn from `acked` that more is committed than it
    /// could from the last (R15, R16).
    pub fn next_to_send(&mut self, replica: usize, max_entries: usize) -> Option<Outgoing> {
        let last = self.log.last().lsn;
        let base = self.log.base().lsn;
        let news = self.committed_as_seen_by(replica);
        let peer = self.replicas.get_mut(replica)?;
        if peer.next <= base {
            return None;
        }
        let up_to = Lsn(peer.next.0.saturating_add(max_entries as u64) - 1).min(last);
        let first = peer.next;
        match peer.state {
            State::Probing { in_flight: false } => peer.state = State::Probing { in_flight: true },
            State::Streaming if first <= last || news > peer.told => peer.next = up_to.next(),
            _ => return None,
        }
        let rejoin = peer.rejoin;
        let prev = self.log.position_at(Lsn(first.0 - 1))?;
        self.note_told(replica);
        Some(Outgoing {
            prev,
            first,
            last: up_to,
            rejoin,
        })
    }

    /// Whether the replica lags behind what the owner's log still holds: it needs a checkpoint, or the owner reads
    /// more of the log ([`Self::extend_back`]).
    pub fn needs_checkpoint(&self, replica: usize) -> bool {
        self.replicas
            .get(replica)
            .is_some_and(|peer| peer.next <= self.log.base().lsn)
    }

    /// The journal nodes that hold this log hold nothing before the entry after `base`, which is committed: the log begins there,
    /// and so does every replica that lacks more. `false` when the log does not hold that entry, and nothing was changed.
    /// What is still under way to a replica is answered as ever.
    pub fn begin_at(&mut self, base: Position) -> bool {
        if base.lsn < self.log.base().lsn || self.log.epoch_at(base.lsn) != Some(base.epoch) {
            return false;
        }
        self.log.trim(base.lsn);
        for peer in &mut self.replicas {
            peer.next = peer.next.max(base.lsn.next());
        }
        true
    }

    /// The epochs of entries before the first that is known here, as read from a journal node that holds this log:
    /// `older` ends with its base.
    pub fn extend_back(&mut self, older: EpochRuns) -> Result<(), LogGap> {
        self.log.prepend(older)
    }

    /// A reply of a journal node to an append of this `epoch`; one to another epoch is ignored. Returns the new
    /// committed lsn when it rose. Look at [`Self::standing`] after a refusal.
    pub fn on_reply(&mut self, replica: usize, epoch: Epoch, reply: Reply) -> Option<Lsn> {
        if epoch != self.epoch {
            return None;
        }
        match reply {
            Reply::Matched(position) => self.on_matched(replica, position),
            Reply::Mismatch { prev, last } => {
                self.on_mismatch(replica, prev, last);
                None
            }
            Reply::Refused { promised } => {
                if let Some(peer) = self.replicas.get_mut(replica).filter(|_| promised > epoch) {
                    peer.state = State::Refused { promised };
                }
                None
            }
            Reply::Rejoining { disk } => {
                self.on_rejoining(replica, disk);
                None
            }
        }
    }

    /// The connection broke: what was under way may be lost, and is sent again.
    pub fn on_disconnected(&mut self, replica: usize) {
        let Some(peer) = self.replicas.get_mut(replica) else {
            return;
        };
        match peer.state {
            State::Probing { .. } => peer.state = State::Probing { in_flight: false },
            State::Streaming => {
                peer.state = State::Probing { in_flight: false };
                peer.next = peer.matched.next();
            }
            State::Refused { .. } | State::Rejoining => {}
        }
        peer.told = Lsn(0);
    }

    /// Whether the journal still accepts this owner.
    pub fn standing(&self) -> Standing {
        let mut accepting = self.replicas.len();
        let mut highest = self.epoch;
        let mut rejoining = false;
        for peer in &self.replicas {
            match peer.state {
                State::Refused { promised } => {
                    accepting -= 1;
                    highest = highest.max(promised);
                }
                State::Rejoining => rejoining = true,
                State::Probing { .. } | State::Streaming => {}
            }
        }
        if accepting < self.quorum {
            Standing::Deposed { by: highest }
        } else if rejoining || accepting < self.replicas.len() {
            Standing::FenceAnew { above: highest }
        } else {
            Standing::Accepted
        }
    }

    /// Whether a quorum may still take this epoch's entries as things are. A node whose disk was replaced takes none of an epoch that was
    /// fenced before it was known: so an owner that does not fence anew gets nowhere with one of these and one that has refused.
    pub fn can_commit(&self) -> bool {
        let takes = |peer: &&Replica| matches!(peer.state, State::Probing { .. } | State::Streaming);
        self.replicas.iter().filter(takes).count() >= self.quorum
    }

    /// Forgets the epochs of entries up to `lsn`, which must be trimmed everywhere.
    pub fn trim(&mut self, lsn: Lsn) {
        self.log.trim(lsn.min(self.committed));
    }

    fn on_matched(&mut self, replica: usize, position: Position) -> Option<Lsn> {
        // A position that is not in the log cannot be a reply to what was sent.
        if position.lsn > self.log.last().lsn || self.is_contradicted_by(position) {
            return None;
        }
        let peer = self.replicas.get_mut(replica)?;
        peer.matched = peer.matched.max(position.lsn);
        peer.next = peer.next.max(peer.matched.next());
        peer.state = State::Streaming;
        let committed = quorum::committed(self.acked(), self.quorum, self.epoch_start)?;
        if committed <= self.committed {
            return None;
        }
        self.committed = committed;
        Some(committed)
    }

    fn is_contradicted_by(&self, position: Position) -> bool {
        self.log
            .epoch_at(position.lsn)
            .is_some_and(|epoch| epoch != position.epoch)
    }

    fn on_mismatch(&mut self, replica: usize, prev: Position, last: Position) {
        let Some(peer) = self.replicas.get_mut(replica) else {
            return;
        };
        // What matched once is persisted there: this answers an append from before that.
        if matches!(peer.state, State::Refused { .. } | State::Rejoining) || prev.lsn <= peer.matched {
            return;
        }
        let limit = Lsn(prev.lsn.0.saturating_sub(1));
        peer.next = if prev.lsn <= self.log.base().lsn {
            // Its log ends before what is known here: see `needs_checkpoint`.
            prev.lsn
        } else {
            agreeing_end(&self.log, last, limit).max(peer.matched).next()
        };
        peer.state = State::Probing { in_flight: false };
    }

    fn on_rejoining(&mut self, replica: usize, disk: DiskId) {
        let Some(peer) = self.replicas.get_mut(replica) else {
            return;
        };
        // What it had acknowledged is lost: it counts for nothing until it is rebuilt.
        peer.matched = Lsn(0);
        peer.told = Lsn(0);
        peer.state = match peer.rejoin {
            // It answers an append from before this owner was told to rebuild it.
            Some(ours) if ours == disk => State::Probing { in_flight: false },
            _ => State::Rejoining,
        };
    }

    /// The committed lsn that the replica can work out once it has persisted what was sent to it.
    fn committed_as_seen_by(&self, replica: usize) -> Lsn {
        let replicas = self.replicas.iter().enumerate();
        let seen = replicas.map(|(index, peer)| match index == replica {
            true => Lsn(peer.next.0 - 1),
            false => peer.matched,
        });
        quorum::committed(seen, self.quorum, self.epoch_start).unwrap_or_default()
    }

    fn note_told(&mut self, replica: usize) {
        let seen = self.committed_as_seen_by(replica);
        if let Some(peer) = self.replicas.get_mut(replica) {
            peer.told = seen;
        }
    }
}

/// The highest lsn, not after `limit`, at which a log that ends at `last` may hold the same entry as
/// `log`: entries of ours with an epoch above `last.epoch` cannot be there.
fn agreeing_end(log: &EpochRuns, last: Position, limit: Lsn) -> Lsn {
    log.last_not_above(last.epoch, limit.min(last.lsn))
}
