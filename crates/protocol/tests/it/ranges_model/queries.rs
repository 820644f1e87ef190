//! The query processors' side: transactions, their attempts, and what their clients are told.

use std::collections::BTreeMap;

use meridian_protocol::adjudication::{AttemptEnd, OutcomeAnswer, Refusal};
use meridian_types::{Attempt, CommitToken, Key, KeyRange, Timestamp, TxnId};
use uuid::Uuid;

use super::messages::{Mail, id};
use super::oracle::{Meaning, Record};
use super::owner::CLOCK_ERROR;
use super::{Who, World};

/// A transaction and its present attempt.
pub struct Txn {
    pub meaning: Meaning,
    pub attempt: Attempt,
    /// Its query processor does nothing more for it.
    pub done: bool,
}

/// Attempts, at most.
const ATTEMPTS: u32 = 6;

impl World {
    pub(super) fn txn_of(&self, attempt: &Attempt) -> (usize, Meaning) {
        let index = attempt.txn.0.as_u128() as usize - 1;
        (index, self.txns[index].meaning.clone())
    }

    fn key(&mut self, range: usize) -> Key {
        Key::from(format!("{range}{}", self.rng.below(8)).as_str())
    }

    pub(super) fn begin(&mut self) {
        let (mut written, mut reads) = (BTreeMap::new(), BTreeMap::new());
        for range in 0..self.current.len() {
            let keys: Vec<Key> = (0..self.rng.below(3)).map(|_| self.key(range)).collect();
            if !keys.is_empty() && !self.rng.one_in(3) {
                written.insert(range, keys);
            }
            if self.rng.one_in(3) {
                reads.insert(range, vec![self.key_range(range)]);
            }
        }
        let touched: Vec<usize> = written.keys().copied().collect();
        if touched.is_empty() {
            return;
        }
        let start = match self.rng.below(6) {
            0 => self.now - self.rng.below(200) as u64,
            _ => self.now + self.rng.below(2 * CLOCK_ERROR as usize) as u64,
        };
        let meaning = Meaning {
            id: TxnId(Uuid::from_u128(self.txns.len() as u128 + 1)),
            start: Timestamp(start),
            home: touched[self.rng.below(touched.len())],
            written,
            reads,
        };
        let attempt = Attempt {
            txn: meaning.id,
            number: 0,
            home: id(meaning.home),
            home_epoch: self.current[meaning.home].real.epoch(),
        };
        self.txns.push(Txn {
            meaning,
            attempt,
            done: false,
        });
        self.begin_attempt(self.txns.len() - 1);
    }

    fn key_range(&mut self, range: usize) -> KeyRange {
        let (a, b) = (self.key(range), self.key(range));
        match self.rng.below(3) {
            0 => KeyRange::new(a.clone().min(b.clone()), a.max(b)),
            _ => KeyRange::point(a),
        }
    }

    /// Only after a definite abort of the one before.
    fn begin_attempt(&mut self, txn: usize) {
        let stale = self.rng.one_in(8);
        let Txn { meaning, attempt, .. } = &mut self.txns[txn];
        attempt.number += 1;
        attempt.home_epoch = self.current[meaning.home].real.epoch();
        if stale && attempt.home_epoch.0 > 1 {
            attempt.home_epoch.0 -= 1;
        }
        self.send_attempt(txn);
    }

    fn send_attempt(&mut self, txn: usize) {
        let (attempt, others) = (self.txns[txn].attempt, self.txns[txn].meaning.others());
        let mut all: Vec<Mail> = others
            .into_iter()
            .map(|range| Mail::Prepare { txn, attempt, range })
            .collect();
        let place = self.rng.below(all.len() + 1);
        all.insert(place, Mail::Decide { txn, attempt });
        all.into_iter().for_each(|mail| self.send(mail));
    }

    /// A query processor that heard nothing sends once more or asks.
    pub(super) fn poke(&mut self) {
        let recent = self.txns.len().min(8);
        if recent == 0 {
            return;
        }
        let txn = self.txns.len() - 1 - self.rng.below(recent);
        if self.txns[txn].done {
            return;
        }
        if self.rng.one_in(2) {
            return self.send_attempt(txn);
        }
        let attempt = self.txns[txn].attempt;
        let home = self.who(self.txns[txn].meaning.home);
        if let Some(end) = self.outcome_of(home, &attempt) {
            match end {
                AttemptEnd::Committed { .. } => self.told(txn, true),
                AttemptEnd::Forgotten { .. } => self.txns[txn].done = true,
                AttemptEnd::Aborted => self.after_abort(txn, None),
            }
        }
    }

    fn told(&mut self, txn: usize, committed: bool) {
        let Txn { meaning, done, .. } = &mut self.txns[txn];
        *done = true;
        match committed {
            true => self.oracle.told_committed.insert(meaning.id),
            false => self.oracle.told_aborted.insert(meaning.id),
        };
    }

    /// The present attempt never commits: another one, or the client is told.
    fn after_abort(&mut self, txn: usize, why: Option<&Refusal>) {
        let again = !matches!(
            why,
            Some(Refusal::Conflict { is_final: true, .. } | Refusal::SnapshotTooOld { .. })
        );
        if again && self.txns[txn].attempt.number < ATTEMPTS {
            self.begin_attempt(txn);
        } else {
            self.told(txn, false);
        }
    }

    pub(super) fn on_answer(&mut self, mail: Mail) {
        let (Mail::Record { txn, attempt, .. }
        | Mail::Refused { txn, attempt, .. }
        | Mail::GaveUp { txn, attempt, .. }) = &mail
        else {
            return;
        };
        let (txn, attempt) = (*txn, *attempt);
        if self.txns[txn].done {
            return;
        }
        let is_present = self.txns[txn].attempt == attempt;
        match mail {
            Mail::Record { epoch, lsn, .. } => {
                let home = self.txns[txn].meaning.home;
                if self.oracle.is_committed(home, epoch, lsn) == Some(true) {
                    let record = &self.oracle.committed[home][lsn.0 as usize - 1].record;
                    let id = self.txns[txn].meaning.id;
                    assert!(
                        matches!(record, Record::Commit { txn, .. } if txn.id == id),
                        "I9: {record:?}"
                    );
                    self.told(txn, true);
                }
            }
            // A barred transaction's client is told once that is durable.
            Mail::GaveUp {
                refusal: Refusal::Barred { .. },
                ..
            } => self.txns[txn].done = true,
            Mail::GaveUp { refusal, .. } if is_present => self.after_abort(txn, Some(&refusal)),
            Mail::Refused { refusal, .. } if is_present => match refusal {
                Refusal::Barred { .. } | Refusal::Forgotten => self.txns[txn].done = true,
                refusal if refusal.is_definite_abort(attempt.home_epoch) => {
                    self.after_abort(txn, Some(&refusal));
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// A client asks for its transaction, whatever its query processor does.
    pub(super) fn ask_outcome(&mut self) {
        let recent = self.txns.len().min(20);
        if recent == 0 {
            return;
        }
        let txn = self.txns.len() - 1 - self.rng.below(recent);
        let meaning = self.txns[txn].meaning.clone();
        let who = Who::Current(meaning.home);
        let token = CommitToken {
            txn: meaning.id,
            start: meaning.start,
            home: Some(id(meaning.home)),
        };
        let now = self.now;
        let owner = self.owner(who);
        let clock = owner.clock(now);
        match owner.real.outcome(&token, clock) {
            OutcomeAnswer::Committed { commit, lsn } => {
                let entry = &owner.log[lsn.0 as usize - 1];
                let is_right = matches!(&entry.record, Record::Commit { txn, commit: at }
                    if txn.id == meaning.id && *at == commit);
                assert!(is_right, "I9: {entry:?} is told to be {meaning:?}");
            }
            // Told by `replicate_to` when it is durable.
            OutcomeAnswer::Bar { lsn } => {
                let txn = meaning.id;
                owner.hand_out(lsn, Record::Barred { txn });
            }
            OutcomeAnswer::Aborted { .. } | OutcomeAnswer::Forgotten | OutcomeAnswer::Unavailable => {}
        }
        self.settle(who);
    }
}
