//! What the answers to an attempt mean.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::internal::Refused;
use meridian_rpc::internal::refused::Reason;
use meridian_types::{Attempt, CommitToken, Epoch, Key, Timestamp};

use crate::processor::Processor;

/// What became of an attempt.
pub(super) enum Verdict {
    Committed(Timestamp),
    /// It never will be; another one may.
    NotDecided,
    /// Nor will this one, at an owner that stays the same: another one may, after a pause.
    GivenUp,
    /// The transaction is refused for good.
    Refused(KvError),
    /// It may have committed, or may yet.
    Unknown,
    /// Refused for the moment; the same attempt may be sent again after a pause. The error is what to say at the deadline.
    Again(KvError, Duration),
    /// Refused for the moment, and not worth another try.
    NotNow(KvError),
    /// Surely not sent.
    NotSent(KvError),
}

impl Verdict {
    /// Why the commit is tried once more, if it is: one of [`meridian_metrics::names::RETRIES`].
    pub(super) fn retried_because(&self) -> Option<&'static str> {
        match self {
            Self::NotDecided => Some("another_owner"),
            Self::GivenUp => Some("given_up"),
            Self::Again(KvError::Conflict { .. }, _) => Some("held"),
            Self::Again(..) => Some("not_ready"),
            Self::NotSent(_) => Some("not_sent"),
            Self::Committed(_) | Self::Refused(_) | Self::Unknown | Self::NotNow(_) => None,
        }
    }
}

/// Why one of several ranges does not take part: the attempt will not commit, which its home makes sure of.
pub(super) struct No {
    /// What to tell the client, once the attempt's end is definite.
    pub(super) error: KvError,
    /// Whether another attempt would meet the same.
    pub(super) is_final: bool,
    /// How long another attempt should wait.
    pub(super) pause: Duration,
}

impl Processor {
    /// What a refusal means for the transaction.
    pub(super) fn refused(&self, token: CommitToken, attempt: Attempt, refused: Refused) -> Verdict {
        let pause = Duration::from_millis(refused.retry_delay_ms);
        let with = Timestamp(refused.with);
        let reason = refused.reason();
        let Refused {
            key,
            message,
            owner,
            epoch,
            ..
        } = refused;
        let key = Key(key);
        match reason {
            Reason::WrongEpoch => {
                let current = Epoch(epoch);
                self.owners.forget(attempt.home, attempt.home_epoch);
                if current >= attempt.home_epoch && !owner.is_empty() {
                    self.owners.learn(attempt.home, &owner, current);
                    if current > attempt.home_epoch {
                        Verdict::NotDecided
                    } else {
                        Verdict::GivenUp
                    }
                } else {
                    // It knows of no newer owner: look for one, without haste.
                    let what = format!("stream {} has no owner at the moment", attempt.home);
                    Verdict::Again(KvError::unavailable(what), pause)
                }
            }
            Reason::Conflict => Verdict::Refused(KvError::Conflict { key, with }),
            Reason::Held => Verdict::Again(KvError::Conflict { key, with }, pause),
            Reason::SnapshotTooOld => Verdict::Refused(KvError::SnapshotTooOld { min_start: with }),
            Reason::Forgotten => Verdict::Refused(KvError::OutcomeUnknown { token }),
            Reason::Barred => Verdict::Refused(KvError::Aborted {
                why: "its outcome was asked for before it committed".to_owned(),
            }),
            Reason::Overloaded => Verdict::NotNow(KvError::overloaded(
                named("the adjudicator has too much to do", &message),
                pause.max(Duration::from_millis(10)),
            )),
            Reason::StartAhead => Verdict::NotNow(start_ahead(&message)),
            Reason::Invalid => Verdict::Refused(KvError::invalid(message)),
            Reason::GaveUp => Verdict::GivenUp,
            Reason::NotReady => {
                // Perhaps another one is the owner by now.
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Again(
                    KvError::unavailable(named("the range's owner is not ready", &message)),
                    pause,
                )
            }
            Reason::Unspecified => {
                tracing::error!(txn = %attempt.txn, "a commit was refused without a reason");
                Verdict::Unknown
            }
        }
    }
}

impl No {
    /// Another attempt may succeed after a pause.
    pub(super) fn for_now(error: KvError, pause: Duration) -> Self {
        Self {
            error,
            is_final: false,
            pause,
        }
    }

    fn for_good(error: KvError) -> Self {
        Self {
            error,
            is_final: true,
            pause: Duration::ZERO,
        }
    }

    /// What a participant's refusal means; `None`: it did not look at the request, which may be sent again.
    ///
    /// Nothing of this is definite by itself: another run of the same transaction may have committed, which only the home
    /// knows (I9).
    pub(super) fn from_participant(refused: Refused) -> Option<Self> {
        let pause = Duration::from_millis(refused.retry_delay_ms);
        let with = Timestamp(refused.with);
        let reason = refused.reason();
        let Refused { key, message, .. } = refused;
        let key = Key(key);
        Some(match reason {
            Reason::WrongEpoch | Reason::NotReady | Reason::Overloaded => return None,
            Reason::Held => Self::for_now(KvError::Conflict { key, with }, pause),
            Reason::Conflict => Self::for_good(KvError::Conflict { key, with }),
            Reason::SnapshotTooOld => Self::for_good(KvError::SnapshotTooOld { min_start: with }),
            Reason::StartAhead => Self::for_good(start_ahead(&message)),
            Reason::Invalid => Self::for_good(KvError::invalid(message)),
            Reason::Forgotten => Self::for_good(KvError::Aborted {
                why: named("it began too long ago for one of its ranges", &message),
            }),
            Reason::GaveUp | Reason::Barred | Reason::Unspecified => {
                let why = named("one of its ranges did not take part", &message);
                Self::for_now(KvError::Aborted { why }, pause)
            }
        })
    }
}

fn start_ahead(message: &str) -> KvError {
    KvError::unavailable(named(
        "this node's clock is too far ahead of the adjudicator's",
        message,
    ))
}

fn named(what: &str, message: &str) -> String {
    if message.is_empty() {
        what.to_owned()
    } else {
        format!("{what}: {message}")
    }
}
