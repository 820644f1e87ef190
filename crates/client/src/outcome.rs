//! What became of a transaction whose answer was lost.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::v1::outcome_response::Outcome as ProtoOutcome;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{OutcomeRequest, OutcomeResponse};
use meridian_types::{CommitToken, Timestamp};
use tokio::time::{Instant, sleep_until};

use crate::budget::Backoff;
use crate::client::Inner;
use crate::session::Failure;

/// What became of a transaction. Final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It committed, at this timestamp.
    Committed(Timestamp),
    /// It has not committed and never will.
    Aborted,
    /// Too long ago: nobody remembers.
    Forgotten,
}

/// One question is given up after this, so that a server that hangs is not waited for until the deadline.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_DELAY: Duration = Duration::from_millis(10);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// What became of a commit of this client. Whatever is wrong with the question, it says nothing of the commit: any error
/// leaves the outcome unknown.
pub(crate) async fn resolve_commit(
    client: &Inner,
    token: CommitToken,
    deadline: Instant,
) -> Result<Outcome, KvError> {
    resolve(client, token, deadline, |_| false).await
}

/// Asks until somebody knows, an error is final, or the deadline has passed: then the outcome stays unknown, with the
/// token. Questions do not draw on the retry budget: to leave a commit in doubt is worse, and they are few.
pub(crate) async fn resolve(
    client: &Inner,
    token: CommitToken,
    deadline: Instant,
    is_final: fn(&KvError) -> bool,
) -> Result<Outcome, KvError> {
    let mut backoff = Backoff::new(client.random.clone(), FIRST_DELAY, MAX_DELAY);
    while Instant::now() < deadline {
        let answer = ask(client, token, deadline.min(Instant::now() + PATIENCE)).await;
        let again = match answer {
            Ok(outcome) => return Ok(outcome),
            Err(Failure::Kv(error)) if is_final(&error) => return Err(error),
            Err(Failure::Kv(error)) => {
                client.pool.trouble.failed(&error);
                error.retry_after()
            }
            Err(Failure::Lost(_) | Failure::Timeout | Failure::NotSent | Failure::Refused(_)) => None,
        };
        let pause = Instant::now() + backoff.next(again);
        sleep_until(pause.min(deadline)).await;
    }
    Err(KvError::OutcomeUnknown { token })
}

async fn ask(client: &Inner, token: CommitToken, deadline: Instant) -> Result<Outcome, Failure> {
    let session = client.pool.session(deadline).await.map_err(Failure::Kv)?;
    let question = Op::Outcome(OutcomeRequest {
        token: Some(token.into()),
    });
    match session.call(0, deadline, question).await? {
        Reply::Outcome(answer) => read(&answer).map_err(Failure::Kv),
        _ => Err(Failure::Kv(KvError::internal(
            "a question for an outcome was answered with something else",
        ))),
    }
}

fn read(answer: &OutcomeResponse) -> Result<Outcome, KvError> {
    match answer.outcome() {
        ProtoOutcome::Committed => Ok(Outcome::Committed(Timestamp(answer.commit_timestamp))),
        ProtoOutcome::Aborted => Ok(Outcome::Aborted),
        ProtoOutcome::Forgotten => Ok(Outcome::Forgotten),
        ProtoOutcome::Unspecified => Err(KvError::internal("an outcome that this client does not know")),
    }
}
