//! What is asked of a stream's task, and how it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::figures::Figures;
use crate::measured::Measured;
use crate::meta::ChangeOf;
use bytes::Bytes;
use meridian_protocol::adjudication::{HandedOver, Refusal};
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{
    ChangeResponse, CloseThroughResponse, Committed, Decided, Decision, HandOverAnswer, LocateResponse,
    OutcomeAnswer, RaiseFloorResponse, Refused, Unknown, Voted, VoterTrace, decision,
};
use meridian_types::{Attempt, CommitToken, Epoch, Key, KeyRange, NodeName, StreamId, Timestamp};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A commit attempt, or the part of one in this range, on its way to being decided.
pub(crate) struct DecideWork {
    pub(crate) attempt: Attempt,
    pub(crate) start: Timestamp,
    /// The keys that it writes in this range.
    pub(crate) written: Vec<Key>,
    pub(crate) reads: Vec<KeyRange>,
    pub(crate) part: Part,
    /// What it takes of the queue's memory.
    pub(crate) bytes: usize,
    /// Nobody waits for the answer after this.
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: ReplyTo,
}

/// What this range is to the attempt.
pub(crate) enum Part {
    /// Its home, which decides it and logs it.
    Home(HomePart),
    /// Another range that it touches: the vote goes to the home's owner, at this node.
    Participant(NodeName),
}

/// What the home of an attempt is given beside the keys of its own range.
pub(crate) struct HomePart {
    /// The encoded write set of all ranges, as the query processor built it.
    pub(crate) payload: Bytes,
    /// The keys that it writes in the other ranges.
    pub(crate) elsewhere: Vec<Key>,
    /// The streams of the other ranges and their owners, as far as the sender knows. None: it touches this range only.
    pub(crate) participants: BTreeMap<StreamId, NodeName>,
}

/// Where the answer to one request goes: a place in its connection's outgoing queue, reserved when the request
/// was read, so that answering never waits.
pub(crate) struct ReplyTo {
    pub(crate) id: u64,
    pub(crate) place: OwnedPermit<Decision>,
    /// The same queue, for what is told before the answer.
    pub(crate) queue: mpsc::Sender<Decision>,
    /// Which count the answers.
    pub(crate) figures: Arc<Figures>,
    /// Of a request that is traced.
    pub(crate) measured: Option<Box<Measured>>,
}

impl ReplyTo {
    fn send(self, result: decision::Result) {
        self.place.send(Decision {
            id: self.id,
            result: Some(result),
        });
    }

    /// Not the last answer: left out when the queue has no room for it.
    pub(crate) fn decided(&self, decided: Decided) {
        let _ = self.queue.try_send(Decision {
            id: self.id,
            result: Some(decision::Result::Decided(decided)),
        });
    }

    pub(crate) fn voted(self, trace: Option<VoterTrace>) {
        self.figures.count_answer("voted");
        self.send(decision::Result::Voted(Voted { trace }));
    }

    pub(crate) fn committed(self, committed: Committed) {
        self.figures.count_answer("committed");
        self.send(decision::Result::Committed(committed));
    }

    pub(crate) fn refused(self, refused: Refused) {
        self.figures.count_refusal(refused.reason());
        self.send(decision::Result::Refused(refused));
    }

    pub(crate) fn unknown(self) {
        self.figures.count_answer("unknown");
        self.send(decision::Result::Unknown(Unknown {}));
    }
}

/// Everything else that is asked of a stream's task. An asker that went away is noticed by its closed channel.
pub(crate) enum Control {
    Locate(oneshot::Sender<LocateResponse>),
    /// With the journal node whose feed the reader follows.
    CloseThrough(Timestamp, NodeName, oneshot::Sender<CloseThroughResponse>),
    Outcome(CommitToken, oneshot::Sender<OutcomeAnswer>),
    AttemptOutcome(AttemptQuestion, oneshot::Sender<OutcomeAnswer>),
    /// Of the range map, at the meta stream.
    Change(ChangeOf, oneshot::Sender<ChangeResponse>),
    /// R19.
    RaiseFloor(Timestamp, oneshot::Sender<RaiseFloorResponse>),
    /// A planned move to this node.
    HandOver(Arc<HandedOver>, oneshot::Sender<HandOverAnswer>),
}

/// What became of one attempt?
pub(crate) struct AttemptQuestion {
    pub(crate) attempt: Attempt,
    pub(crate) start: Timestamp,
    /// If it waits for votes, it is to be given up.
    pub(crate) give_up: bool,
}

impl Control {
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Locate(reply) => reply.is_closed(),
            Self::CloseThrough(_, _, reply) => reply.is_closed(),
            Self::RaiseFloor(_, reply) => reply.is_closed(),
            Self::HandOver(_, reply) => reply.is_closed(),
            Self::Outcome(_, reply) | Self::AttemptOutcome(_, reply) => reply.is_closed(),
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
                closure: None,
            })),
            Self::Change(_, reply) => drop(reply.send(ChangeResponse {
                owner: name,
                not_owner: true,
                ..ChangeResponse::default()
            })),
            Self::HandOver(_, reply) => drop(reply.send(HandOverAnswer { accepted: false })),
            Self::RaiseFloor(_, reply) => drop(reply.send(RaiseFloorResponse {
                owner: name,
                epoch,
                not_owner: true,
                ..RaiseFloorResponse::default()
            })),
            Self::Outcome(_, reply) | Self::AttemptOutcome(_, reply) => drop(reply.send(OutcomeAnswer {
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
