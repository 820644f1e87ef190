//! What travels between query processors and owners, and between owners: lost, repeated, in any order.

use std::time::Duration;

use meridian_protocol::adjudication::{
    AttemptAnswer, AttemptEnd, CommitRequest, Decision, HomeRequest, PrepareRequest, Refusal, Vote,
};
use meridian_types::{Attempt, Epoch, Lsn, StreamId, Timestamp};

use super::oracle::{Record, Yes};
use super::owner::Raise;
use super::{Who, World};

#[derive(Clone, Debug)]
pub enum Mail {
    /// To the home: the whole transaction.
    Decide { txn: usize, attempt: Attempt },
    /// To a participant.
    Prepare {
        txn: usize,
        attempt: Attempt,
        range: usize,
    },
    /// To the home.
    Vote {
        attempt: Attempt,
        from: usize,
        vote: Vote,
    },
    /// To a participant: it ended if that record is committed.
    Decided {
        to: usize,
        attempt: Attempt,
        epoch: Epoch,
        lsn: Lsn,
        commit: Timestamp,
    },
    /// To a participant: it ended.
    End {
        to: usize,
        attempt: Attempt,
        end: AttemptEnd,
    },
    /// To the query processor: committed if that record is.
    Record {
        txn: usize,
        attempt: Attempt,
        epoch: Epoch,
        lsn: Lsn,
    },
    /// To the query processor.
    Refused {
        txn: usize,
        attempt: Attempt,
        refusal: Refusal,
    },
    /// To the query processor: definite.
    GaveUp {
        txn: usize,
        attempt: Attempt,
        refusal: Refusal,
    },
    /// To whoever asked.
    Raised {
        to: usize,
        epoch: Epoch,
        from: usize,
        y: Timestamp,
        lsn: Lsn,
    },
}

pub fn id(stream: usize) -> StreamId {
    StreamId(stream as u64 + 1)
}

pub fn index(stream: StreamId) -> usize {
    stream.0 as usize - 1
}

impl World {
    pub(super) fn send(&mut self, mail: Mail) {
        self.mail.push(mail);
    }

    /// One message arrives, is lost, or arrives and will arrive again.
    pub(super) fn deliver(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        // Usually one that waits long.
        let at = match self.rng.one_in(3) {
            true => self.rng.below(self.mail.len()),
            false => 0,
        };
        let mail = self.mail.remove(at);
        let fate = self.rng.below(10);
        if fate < self.loss {
            return;
        }
        if fate == 9 {
            self.send(mail.clone());
        }
        self.take(mail);
    }

    pub(super) fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Decide { txn, attempt } => self.on_decide(txn, attempt),
            Mail::Prepare { txn, attempt, range } => self.on_prepare(txn, attempt, range),
            Mail::Vote { attempt, from, vote } => {
                let who = self.who(index(attempt.home));
                let now = self.now;
                let owner = self.owner(who);
                let clock = owner.clock(now);
                let step = owner.real.on_vote(&attempt, id(from), vote, clock);
                if !matches!(step, meridian_protocol::adjudication::HomeStep::Refused(_)) {
                    self.on_home_step(who, attempt, step);
                }
            }
            Mail::Decided {
                to,
                attempt,
                epoch,
                lsn,
                commit,
            } => {
                if self.oracle.is_committed(index(attempt.home), epoch, lsn) == Some(true) {
                    let end = AttemptEnd::Committed { commit, lsn };
                    self.on_end(to, &attempt, end);
                }
            }
            Mail::End { to, attempt, end } => self.on_end(to, &attempt, end),
            Mail::Raised {
                to,
                epoch,
                from,
                y,
                lsn,
            } => {
                let zombies = self.zombies[to].iter_mut();
                let mut owners = zombies.chain([&mut self.current[to]]);
                if let Some(owner) = owners.find(|owner| owner.real.epoch() == epoch) {
                    owner.real.on_raised(id(from), y, lsn);
                    self.seen.raised += 1;
                }
            }
            Mail::Record { .. } | Mail::Refused { .. } | Mail::GaveUp { .. } => self.on_answer(mail),
        }
    }

    fn on_end(&mut self, to: usize, attempt: &Attempt, end: AttemptEnd) {
        let who = self.who(to);
        let ended = self.owner(who).real.end_prepare(attempt, end);
        self.seen.aborted += usize::from(ended && end == AttemptEnd::Aborted);
        self.seen.forgotten += usize::from(ended && matches!(end, AttemptEnd::Forgotten { .. }));
    }

    fn on_decide(&mut self, txn: usize, attempt: Attempt) {
        let (terms, now) = (self.terms(), self.now);
        let meaning = self.txns[txn].meaning.clone();
        let who = self.who(meaning.home);
        let owner = self.owner(who);
        let clock = owner.clock(now);
        let (written, reads) = (
            meaning.written.get(&meaning.home).cloned().unwrap_or_default(),
            meaning.reads.get(&meaning.home).cloned().unwrap_or_default(),
        );
        let request = CommitRequest {
            attempt,
            start: meaning.start,
            written: &written,
            reads: &reads,
        };
        let others = meaning.others();
        if !others.is_empty() {
            let participants: Vec<StreamId> = others.iter().map(|range| id(*range)).collect();
            let request = HomeRequest {
                prepare: request,
                participants: &participants,
            };
            let step = owner.real.begin_home(&request, clock, &terms);
            return self.on_home_step(who, attempt, step);
        }
        match owner.real.decide(&request, clock, terms.lead) {
            Decision::Commit { commit, lsn } => {
                let epoch = owner.real.epoch();
                owner.hand_out(lsn, Record::Commit { txn: meaning, commit });
                self.seen.single += usize::from(matches!(who, Who::Current(_)));
                self.tell_decided(txn, attempt, epoch, lsn, commit);
            }
            Decision::Known { commit, lsn } => {
                let epoch = owner.epoch_of(lsn);
                self.tell_decided(txn, attempt, epoch, lsn, commit);
            }
            Decision::Refused(refusal) => self.send(Mail::Refused {
                txn,
                attempt,
                refusal,
            }),
        }
    }

    fn on_prepare(&mut self, txn: usize, attempt: Attempt, range: usize) {
        let (terms, now) = (self.terms(), self.now);
        let meaning = self.txns[txn].meaning.clone();
        let who = self.who(range);
        let owner = self.owner(who);
        let clock = owner.clock(now);
        let (written, reads) = (
            meaning.written.get(&range).cloned().unwrap_or_default(),
            meaning.reads.get(&range).cloned().unwrap_or_default(),
        );
        let request = PrepareRequest {
            attempt,
            start: meaning.start,
            written: &written,
            reads: &reads,
        };
        let before = owner.real.open_prepare(&attempt).cloned();
        let lease_end = owner.real.lease_end();
        let vote = owner.real.prepare(&request, clock, &terms);
        if let Vote::Yes { lower, promise } = vote {
            match before {
                Some(open) => assert_eq!((open.lower, open.promise), (lower, promise), "the same answer"),
                None => self.oracle.votes.entry((attempt, range)).or_default().push(Yes {
                    lower,
                    promise,
                    lease_end,
                }),
            }
        }
        self.send(Mail::Vote {
            attempt,
            from: range,
            vote,
        });
    }

    /// *Decided*, to the query processor and the participants.
    pub(super) fn tell_decided(
        &mut self,
        txn: usize,
        attempt: Attempt,
        epoch: Epoch,
        lsn: Lsn,
        commit: Timestamp,
    ) {
        for to in self.txns[txn].meaning.others() {
            self.send(Mail::Decided {
                to,
                attempt,
                epoch,
                lsn,
                commit,
            });
        }
        self.send(Mail::Record {
            txn,
            attempt,
            epoch,
            lsn,
        });
    }

    pub(super) fn tell_gave_up(&mut self, txn: usize, attempt: Attempt, refusal: Refusal) {
        for to in self.txns[txn].meaning.others() {
            let end = AttemptEnd::Aborted;
            self.send(Mail::End { to, attempt, end });
        }
        self.send(Mail::GaveUp {
            txn,
            attempt,
            refusal,
        });
    }

    /// 5.5: a participant asks about one of its open prepares.
    pub(super) fn ask_about_prepares(&mut self, stream: usize) {
        let who = self.who(stream);
        let open: Vec<Attempt> = self.open_of(who);
        if !open.is_empty() {
            let attempt = open[self.rng.below(open.len())];
            let home = self.who(index(attempt.home));
            self.ask_about(home, stream, &attempt);
        }
    }

    pub(super) fn ask_about_all(&mut self, stream: usize) {
        let home_of = |attempt: &Attempt| Who::Current(index(attempt.home));
        for attempt in self.open_of(Who::Current(stream)) {
            self.settle(home_of(&attempt));
            if let Some(end) = self.outcome_of(home_of(&attempt), &attempt) {
                self.current[stream].real.end_prepare(&attempt, end);
            }
        }
    }

    fn open_of(&mut self, who: Who) -> Vec<Attempt> {
        let open = self.owner(who).real.open_prepares();
        open.map(|open| open.attempt).collect()
    }

    fn ask_about(&mut self, home: Who, stream: usize, attempt: &Attempt) {
        if let Some(end) = self.outcome_of(home, attempt) {
            self.send(Mail::End {
                to: stream,
                attempt: *attempt,
                end,
            });
        }
    }

    /// What an owner of the home says once it may be told.
    pub(super) fn outcome_of(&mut self, home: Who, attempt: &Attempt) -> Option<AttemptEnd> {
        let (_, txn) = self.txn_of(attempt);
        let now = self.now;
        let owner = self.owner(home);
        let clock = owner.clock(now);
        match owner.real.attempt_outcome(attempt, txn.start, clock) {
            AttemptAnswer::Committed { commit, lsn } => {
                (lsn.0 as usize <= owner.known).then_some(AttemptEnd::Committed { commit, lsn })
            }
            AttemptAnswer::Barred { lsn } => (lsn.0 as usize <= owner.known).then_some(AttemptEnd::Aborted),
            AttemptAnswer::Aborted => Some(AttemptEnd::Aborted),
            AttemptAnswer::Forgotten { lsn } => {
                (lsn.0 as usize <= owner.known).then_some(AttemptEnd::Forgotten { home_last: lsn })
            }
            AttemptAnswer::Pending => None,
        }
    }

    /// R19: an owner asks the others.
    pub(super) fn ask_raises(&mut self, stream: usize) {
        let who = self.who(stream);
        let (now, lead) = (self.now, Duration::from_nanos(self.rng.below(60) as u64));
        let owner = self.owner(who);
        let (clock, epoch) = (owner.clock(now), owner.real.epoch());
        for (other, y) in owner.real.wanted_raises(clock, lead) {
            let asked = self.who(index(other));
            let answerer = self.owner(asked);
            let allowance = Duration::from_nanos(100);
            let Some(answer) = answerer
                .real
                .answer_raise_floor(y, answerer.clock(now), allowance)
            else {
                continue;
            };
            let lsn = match answer.lease {
                // One on its way would do as well; the next is simpler.
                Some(end) => answerer.lease(end),
                None => answer.lsn,
            };
            answerer.raises.push(Raise {
                asker: stream,
                asker_epoch: epoch,
                y: answer.floor,
                lsn,
            });
            self.settle(asked);
            self.answer_raises(index(other));
        }
    }

    /// Those whose entries are committed.
    pub(super) fn answer_raises(&mut self, stream: usize) {
        let zombies = self.zombies[stream].iter_mut();
        for owner in zombies.chain([&mut self.current[stream]]) {
            let known = owner.known;
            for raise in owner.raises.extract_if(.., |raise| raise.lsn.0 as usize <= known) {
                self.mail.push(Mail::Raised {
                    to: raise.asker,
                    epoch: raise.asker_epoch,
                    from: stream,
                    y: raise.y,
                    lsn: raise.lsn,
                });
            }
        }
    }
}
