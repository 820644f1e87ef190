//! The home of an attempt that touches several ranges: it collects the votes and decides (5.2 to 5.4).

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_clock::Interval;
use meridian_protocol::adjudication::{HomeRequest, HomeStep, PrepareRequest, Refusal, Vote};
use meridian_protocol::events;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{Decided, Refused};
use meridian_types::{Attempt, Epoch, Key, KeyRange, Lsn, NodeName, Position, StreamId, Timestamp};
use tokio::time::Instant;

use super::cross::Cross;
use super::owner::Owner;
use crate::exchange::{PeerContent, PeerMessage, PeerVote};
use crate::records;
use crate::request::{DecideWork, Part, ReplyTo, overloaded};

/// An attempt that waits for votes.
pub(super) struct HomeWork {
    start: Timestamp,
    /// The keys that it writes, in all ranges.
    written: Vec<Key>,
    reads: Vec<KeyRange>,
    payload: Bytes,
    /// The other ranges, and where their owners are to be told.
    participants: BTreeMap<StreamId, NodeName>,
    give_up_at: Instant,
    reply: ReplyTo,
}

impl Cross {
    fn insert_home(&mut self, attempt: Attempt, home: HomeWork) {
        self.home_bytes += home.payload.len();
        self.give_ups.add(home.give_up_at, attempt);
        self.homes.insert(attempt, home);
    }

    fn remove_home(&mut self, attempt: &Attempt) -> Option<HomeWork> {
        let home = self.homes.remove(attempt)?;
        self.home_bytes -= home.payload.len();
        self.give_ups.remove(home.give_up_at, *attempt);
        Some(home)
    }
}

impl Owner {
    /// A request to decide an attempt that touches several ranges.
    pub(super) fn begin_home(&mut self, work: DecideWork, now: Interval) {
        let Part::Home(part) = work.part else {
            return;
        };
        let attempt = work.attempt;
        let waiting = self.cross.home_bytes + part.payload.len();
        if waiting > self.ctx.config.max_in_flight_bytes && !self.cross.homes.is_empty() {
            work.reply
                .refused(overloaded("too many transactions wait for votes", 100));
            return;
        }
        let streams: Vec<StreamId> = part.participants.keys().copied().collect();
        let terms = self.prepare_terms(None, now);
        let request = HomeRequest {
            prepare: PrepareRequest {
                attempt,
                start: work.start,
                written: &work.written,
                reads: &work.reads,
            },
            participants: &streams,
        };
        let step = self.adjudication.begin_home(&request, now, &terms);
        let patience = Instant::now() + self.ctx.config.prepare_timeout() / 2;
        let give_up_at = work.deadline.map_or(patience, |deadline| deadline.min(patience));
        let mut written = work.written;
        written.extend(part.elsewhere);
        let home = HomeWork {
            start: work.start,
            written,
            reads: work.reads,
            payload: part.payload,
            participants: part.participants,
            give_up_at,
            reply: work.reply,
        };
        if let Some(before) = self.cross.remove_home(&attempt) {
            // Sent once more: whoever sent it before does not wait any more.
            before.reply.unknown();
        }
        self.cross.insert_home(attempt, home);
        self.take_step(attempt, step);
    }

    /// A vote of the owner of another range, `from`.
    pub(super) fn on_vote(
        &mut self,
        attempt: Attempt,
        start: Timestamp,
        (from, node): (StreamId, NodeName),
        vote: PeerVote,
        took_us: u64,
    ) {
        if let Some(home) = self.cross.homes.get_mut(&attempt)
            && home.participants.contains_key(&from)
            && let Some(measured) = &mut home.reply.measured
        {
            measured.on_vote(from, &node, took_us);
        }
        let vote = match vote {
            PeerVote::Yes { lower, promise } => Vote::Yes { lower, promise },
            PeerVote::No(refused) => Vote::No(from_wire(refused)),
        };
        let now = self.ctx.now();
        let step = self.adjudication.on_vote(&attempt, from, vote, now);
        if let Some(home) = self.cross.homes.get_mut(&attempt) {
            if let Some(known) = home.participants.get_mut(&from) {
                *known = node;
            }
            return self.take_step(attempt, step);
        }
        // A vote that comes late: its sender is told, all others were.
        let voter = BTreeMap::from([(from, node)]);
        match step {
            HomeStep::Known { commit, lsn } => {
                let at = Position {
                    epoch: Epoch(self.epoch_of(lsn)),
                    lsn,
                };
                self.tell_participants(attempt, start, &voter, &PeerContent::Decided { commit, at });
            }
            HomeStep::GaveUp(_) => self.tell_participants(attempt, start, &voter, &PeerContent::Aborted),
            step => self.take_step(attempt, step),
        }
    }

    /// What the clock, the floor or the lease did to the attempts that wait.
    pub(super) fn settle_homes(&mut self) {
        let now = self.ctx.now();
        let deadline = self.adjudication.next_home_deadline();
        let is_past = deadline.is_some_and(|deadline| deadline < now.latest);
        if !std::mem::take(&mut self.cross.are_homes_due) && !is_past {
            return;
        }
        for (attempt, step) in self.adjudication.settle_homes(now) {
            self.take_step(attempt, step);
        }
    }

    fn take_step(&mut self, attempt: Attempt, step: HomeStep) {
        if matches!(step, HomeStep::Waiting) {
            return;
        }
        let Some(home) = self.cross.remove_home(&attempt) else {
            if matches!(step, HomeStep::Commit { .. }) {
                // Cannot be: what waits for votes is kept. Its lsn is lost, so nothing more can be appended.
                tracing::error!(stream = %self.stream, txn = %attempt.txn, "decided without its writes");
                self.deposed = true;
            }
            return;
        };
        match step {
            HomeStep::Waiting => {}
            HomeStep::Commit { commit, lsn } => self.commit_home(attempt, home, commit, lsn),
            HomeStep::Known { commit, lsn } => self.answer_committed(home.reply, commit, lsn),
            HomeStep::GaveUp(refused) => self.end_home(attempt, home, &refused),
            HomeStep::Refused(refused) => self.refuse(home.reply, &refused),
        }
    }

    /// 5.3 and 5.4: one record with all the writes; everybody who waits is told where it is.
    fn commit_home(&mut self, attempt: Attempt, home: HomeWork, commit: Timestamp, lsn: Lsn) {
        let txn = attempt.txn;
        let HomeWork {
            start,
            written,
            reads,
            payload,
            participants,
            mut reply,
            ..
        } = home;
        if let Some(measured) = &mut reply.measured {
            measured.on_all_voted();
        }
        let epoch = self.replication.epoch();
        tracing::trace!(
            target: events::TARGET, event = "decided", stream = self.stream.0, epoch = epoch.0, lsn = lsn.0,
            txn = txn.0.as_u128(), attempt = attempt.number, start = start.0, commit = commit.0, ?written,
            checked = ?reads, participants = ?participants.keys().collect::<Vec<_>>()
        );
        self.quiet.on_write(self.ctx.now());
        self.append(lsn, |at| records::commit(at, txn, commit, payload));
        if let Some(measured) = &mut reply.measured {
            measured.on_appended();
        }
        reply.decided(Decided {
            commit: commit.0,
            lsn: lsn.0,
            epoch: epoch.0,
        });
        self.answer_committed(reply, commit, lsn);
        self.note_unsent("adjudicator: home decided");
        let at = Position { epoch, lsn };
        self.tell_participants(
            attempt,
            start,
            &participants,
            &PeerContent::Decided { commit, at },
        );
    }

    /// The attempt was given up and will never commit: everybody is told.
    fn end_home(&mut self, attempt: Attempt, home: HomeWork, why: &Refusal) {
        self.log_given_up(attempt);
        self.tell_participants(attempt, home.start, &home.participants, &PeerContent::Aborted);
        self.refuse(home.reply, why);
    }

    /// Gives up the attempts whose votes have not come in time.
    pub(super) fn give_up_overdue(&mut self, at: Instant) {
        while let Some(attempt) = self.cross.give_ups.pop(at) {
            self.give_up_attempt(attempt);
        }
    }

    /// Gives up an attempt if it waits for votes.
    pub(super) fn give_up_attempt(&mut self, attempt: Attempt) {
        if !self.adjudication.give_up_home(&attempt) {
            return;
        }
        if let Some(home) = self.cross.remove_home(&attempt) {
            self.end_home(attempt, home, &Refusal::GaveUp);
        }
    }

    /// This epoch ends: what still waits for votes was not decided and never will be.
    pub(super) fn let_homes_go(&mut self) {
        while let Some(attempt) = self.cross.homes.keys().next().copied()
            && let Some(home) = self.cross.remove_home(&attempt)
        {
            self.adjudication.give_up_home(&attempt);
            self.end_home(attempt, home, &Refusal::GaveUp);
        }
    }

    fn tell_participants(
        &mut self,
        attempt: Attempt,
        start: Timestamp,
        participants: &BTreeMap<StreamId, NodeName>,
        content: &PeerContent,
    ) {
        for (stream, node) in participants {
            let message = PeerMessage {
                attempt,
                start,
                content: content.clone(),
            };
            self.post(node, message.into_wire(*stream));
        }
    }
}

/// Why another owner voted no, as far as it matters here: what is definite for the transaction is told, everything else may be
/// different for the next attempt.
fn from_wire(refused: Refused) -> Refusal {
    let with = Timestamp(refused.with);
    match refused.reason() {
        Reason::Conflict => Refusal::Conflict {
            key: Key(refused.key),
            with,
            is_final: true,
        },
        Reason::SnapshotTooOld => Refusal::SnapshotTooOld { window_low: with },
        _ => Refusal::GaveUp,
    }
}
