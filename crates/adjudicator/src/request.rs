//! What is asked of a stream's task, and how it answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::meta::Change;
use bytes::Bytes;
use meridian_protocol::adjudication::Refusal;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{
    ChangeResponse, CloseThroughResponse, Committed, Decision, LocateResponse, OutcomeAnswer, Refused,
    Unknown, decision,
};
use meridian_types::{Attempt, CommitToken, Epoch, Key, KeyRange, NodeName, Timestamp};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A commit attempt on its way to being decided.
pub(crate) struct DecideWork {
    pub(crate) attempt: Attempt,
    pub(crate) start: Timestamp,
    pub(crate) written: Vec<Key>,
    pub(crate) reads: Vec<KeyRange>,
    /// The encoded write set, as the query processor built it.
    pub(crate) payload: Bytes,
    /// What it takes of the queue's memory.
    pub(crate) bytes: usize,
    /// Nobody waits for the answer after this.
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: ReplyTo,
}

/// Where the answer to one request goes: a place in its connection's outgoing queue, reserved when the request
/// was read, so that answering never waits.
pub(crate) struct ReplyTo {
    pub(crate) id: u64,
    pub(crate) place: OwnedPermit<Decision>,
}

impl ReplyTo {
    fn send(self, result: decision::Result) {
        self.place.send(Decision {
            id: self.id,
            result: Some(result),
        });
    }

    pub(crate) fn committed(self, committed: Committed) {
        self.send(decision::Result::Committed(committed));
    }

    pub(crate) fn refused(self, refused: Refused) {
        self.send(decision::Result::Refused(refused));
    }

    pub(crate) fn unknown(self) {
        self.send(decision::Result::Unknown(Unknown {}));
    }
}

/// Everything else that is asked of a stream's task. An asker that went away is noticed by its closed channel.
pub(crate) enum Control {
    Locate(oneshot::Sender<LocateResponse>),
    /// With the journal node whose feed the reader follows.
    CloseThrough(Timestamp, NodeName, oneshot::Sender<CloseThroughResponse>),
    Outcome(CommitToken, oneshot::Sender<OutcomeAnswer>),
    AttemptOutcome(Attempt, Timestamp, oneshot::Sender<OutcomeAnswer>),
    /// Of the range map, at the meta stream.
    Change(Change, oneshot::Sender<ChangeResponse>),
}

impl Control {
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Locate(reply) => reply.is_closed(),
            Self::CloseThrough(_, _, reply) => reply.is_closed(),
            Self::Outcome(_, reply) | Self::AttemptOutcome(_, _, reply) => reply.is_closed(),
            Self::Change(_, reply) => reply.is_closed(),
        }
    }

    /// Answers that this node does not own the stream; `owner` does, as far as is known here.
    pub(crate) fn not_owner(self, stream: u64, owner: Option<&KnownOwner>) {
        let (name, epoch) = named(owner);
        match self {
            Self::Locate(reply) => drop(reply.send(LocateResponse {
                stream,
                owner: name,
                epoch,
            })),
            Self::CloseThrough(_, _, reply) => drop(reply.send(CloseThroughResponse {
                closed: 0,
                owner: name,
                epoch,
                not_owner: true,
            })),
            Self::Change(_, reply) => drop(reply.send(ChangeResponse {
                owner: name,
                not_owner: true,
                ..ChangeResponse::default()
            })),
            Self::Outcome(_, reply) | Self::AttemptOutcome(_, _, reply) => drop(reply.send(OutcomeAnswer {
                outcome: meridian_rpc::internal::outcome_answer::Outcome::NotOwner.into(),
                owner: name,
                epoch,
                ..OutcomeAnswer::default()
            })),
        }
    }
}

/// The owner of a stream as another node or the journal named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownOwner {
    pub(crate) node: NodeName,
    pub(crate) epoch: Epoch,
}

fn named(owner: Option<&KnownOwner>) -> (String, u64) {
    owner.map_or_else(Default::default, |owner| (owner.node.0.clone(), owner.epoch.0))
}

/// A refusal without further particulars.
pub(crate) fn refusal(reason: Reason, message: impl Into<String>) -> Refused {
    Refused {
        reason: reason.into(),
        message: message.into(),
        ..Refused::default()
    }
}

/// Not decided here: another node owns the stream, or nobody that is known.
pub(crate) fn wrong_epoch(owner: Option<&KnownOwner>) -> Refused {
    let (owner, epoch) = named(owner);
    Refused {
        owner,
        epoch,
        ..refusal(
            Reason::WrongEpoch,
            "this node does not own the stream in that epoch",
        )
    }
}

/// Not decided, and not applied: try again.
pub(crate) fn not_ready(why: &str) -> Refused {
    Refused {
        retry_delay_ms: 50,
        ..refusal(Reason::NotReady, why)
    }
}

/// Refused before any work was spent on it.
pub(crate) fn overloaded(what: &str, retry_delay_ms: u64) -> Refused {
    Refused {
        retry_delay_ms,
        ..refusal(Reason::Overloaded, what)
    }
}

/// A refusal of the pure decision, as it travels.
pub(crate) fn to_wire(refused: &Refusal, node: &NodeName) -> Refused {
    let message = refused.to_string();
    match refused {
        Refusal::Forgotten => refusal(Reason::Forgotten, message),
        Refusal::WrongStream { .. } => refusal(Reason::WrongEpoch, message),
        Refusal::WrongEpoch { current } => Refused {
            owner: node.0.clone(),
            epoch: current.0,
            ..refusal(Reason::WrongEpoch, message)
        },
        Refusal::Stopped => refusal(Reason::WrongEpoch, message),
        Refusal::LeaseExpired { .. } => Refused {
            retry_delay_ms: 20,
            ..refusal(Reason::NotReady, message)
        },
        Refusal::StartTooFarAhead { latest } => Refused {
            with: latest.0,
            ..refusal(Reason::StartAhead, message)
        },
        Refusal::SnapshotTooOld { window_low } => Refused {
            with: window_low.0,
            ..refusal(Reason::SnapshotTooOld, message)
        },
        Refusal::ReadsTooLarge { .. } | Refusal::OutOfTime => refusal(Reason::Invalid, message),
        Refusal::Overloaded => Refused {
            retry_delay_ms: 1_000,
            ..refusal(Reason::Overloaded, message)
        },
        Refusal::Conflict { key, with, is_final } => Refused {
            key: key.0.clone(),
            with: with.0,
            ..refusal(if *is_final { Reason::Conflict } else { Reason::Held }, message)
        },
        Refusal::AskHome => refusal(Reason::Held, message),
        Refusal::GaveUp => refusal(Reason::GaveUp, message),
        Refusal::UnknownHome { .. } => Refused {
            retry_delay_ms: 20,
            ..refusal(Reason::NotReady, message)
        },
        Refusal::Barred { .. } => refusal(Reason::Barred, message),
    }
}

/// The bytes that wait to be decided for one stream.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    /// Takes room for `bytes`; one request always fits into an empty budget.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before.saturating_add(bytes) <= self.limit;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}
