//! Attempt after attempt, all with the same start and the same home, until one has a definite end.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_rpc::v1::hop::Kind;
use meridian_types::{Attempt, CommitToken, Timestamp};
use tokio::time::Instant;

use super::Prepared;
use super::send::Sent;
use super::verdict::Verdict;
use crate::processor::Processor;

/// What is kept of the time before the deadline, to have an attempt given up that was refused only for the moment.
const TO_GIVE_UP: Duration = Duration::from_millis(100);

/// Until when a commit is tried.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// Nobody waits any longer.
    pub(super) deadline: Instant,
    /// No new try after this: what is left is to have the last one given up.
    pub(super) last_try: Instant,
}

impl Times {
    fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        Self {
            deadline,
            last_try: deadline - (left / 4).min(TO_GIVE_UP),
        }
    }
}

/// Where the transaction's attempts stand.
struct Course {
    /// The attempt that is being made.
    current: Option<Attempt>,
    /// It was sent, and may be decided should another copy of the request reach its owner.
    is_open: bool,
    /// What to say when there is no time for another try.
    refused: KvError,
}

impl Course {
    fn open(&self) -> Option<Attempt> {
        self.current.filter(|_| self.is_open)
    }

    /// The attempt surely never commits.
    fn close(&mut self) {
        (self.current, self.is_open) = (None, false);
    }
}

impl Processor {
    /// The transaction's attempts, and what to tell its client of their end.
    pub(super) async fn attempts(&self, prepared: &mut Prepared, deadline: Instant) -> KvResult<Timestamp> {
        let mut course = Course {
            current: None,
            is_open: false,
            refused: too_late(),
        };
        let ended = self
            .try_until(prepared, Times::until(deadline), &mut course)
            .await;
        match (ended, course.open()) {
            (Err(error), Some(attempt)) if error.is_definite() => {
                // The error promises that it never commits.
                let ended = self.give_up(&prepared.token(), attempt, deadline).await?;
                ended.ok_or(error)
            }
            (ended, _) => ended,
        }
    }

    async fn try_until(
        &self,
        prepared: &mut Prepared,
        times: Times,
        course: &mut Course,
    ) -> KvResult<Timestamp> {
        let token = prepared.token();
        let mut backoff = self.retry.backoff();
        loop {
            let asked = Instant::now();
            let owner = self
                .find_owner(prepared.home, &mut backoff, times.last_try)
                .await?;
            // Another epoch, or another set of ranges, is another attempt.
            let map = self.owners.map();
            let goes_on = |attempt: Attempt| attempt.home_epoch == owner.epoch && prepared.follows(&map);
            if course.current.is_some_and(|attempt| !goes_on(attempt))
                && let Some(commit) = self.end_current(&token, course, times).await?
            {
                return Ok(commit);
            }
            prepared.follow(&map)?;
            let voters = self.find_voters(prepared, times).await?;
            prepared.span.step(Kind::FindOwners, asked);
            // A request that left after its deadline could outlive every memory of what the client was told meanwhile.
            if Instant::now() >= times.deadline {
                return Err(course.refused.clone());
            }
            let attempt = *course
                .current
                .get_or_insert_with(|| prepared.next_attempt(owner.epoch));
            self.env.reached("query: commit to be sent").await;
            let Sent { mut verdict, no } = self.send(prepared, attempt, &owner.node, voters, times).await;
            self.env.reached("query: commit answered").await;
            if !matches!(verdict, Verdict::NotSent(_)) {
                course.is_open = true;
            }
            if matches!(verdict, Verdict::Unknown) {
                tracing::debug!(txn = %token.txn, stream = %attempt.home, epoch = %attempt.home_epoch, "commit in doubt");
                verdict = self.resolve(&token, attempt, times.deadline).await;
            }
            let is_over = matches!(verdict, Verdict::NotDecided | Verdict::GivenUp);
            let (verdict, at_least) = match no {
                Some(no) if is_over && no.is_final => (Verdict::Refused(no.error), Duration::ZERO),
                Some(no) if is_over => {
                    course.refused = no.error;
                    (Verdict::GivenUp, no.pause)
                }
                _ => (verdict, Duration::ZERO),
            };
            if let Some(why) = verdict.retried_because() {
                self.figures.count_retry(why);
            }
            let pause = match verdict {
                Verdict::Committed(commit) => return Ok(commit),
                Verdict::Unknown => return Err(KvError::OutcomeUnknown { token }),
                Verdict::NotNow(error) => return Err(error),
                Verdict::Refused(error) => {
                    course.close();
                    return Err(error);
                }
                Verdict::NotDecided => {
                    course.close();
                    continue;
                }
                Verdict::GivenUp => {
                    course.close();
                    at_least
                }
                Verdict::Again(error, pause) => {
                    course.refused = error;
                    pause
                }
                Verdict::NotSent(error) => {
                    course.refused = error;
                    Duration::ZERO
                }
            };
            let failed = Instant::now();
            if !backoff.pause(pause, times.last_try).await {
                return Err(course.refused.clone());
            }
            prepared.span.step(Kind::Retry, failed);
        }
    }

    /// Another attempt is begun only after a definite end of the one before. The commit, if that is what became of it.
    async fn end_current(
        &self,
        token: &CommitToken,
        course: &mut Course,
        times: Times,
    ) -> KvResult<Option<Timestamp>> {
        let open = course.open();
        course.close();
        match open {
            Some(attempt) => self.give_up(token, attempt, times.deadline).await,
            None => Ok(None),
        }
    }

    /// Has the owner give an attempt up, so that it surely never commits. The commit, if that is what became of it.
    async fn give_up(
        &self,
        token: &CommitToken,
        attempt: Attempt,
        deadline: Instant,
    ) -> KvResult<Option<Timestamp>> {
        match self.resolve(token, attempt, deadline).await {
            Verdict::Committed(commit) => Ok(Some(commit)),
            Verdict::NotDecided => Ok(None),
            _ => Err(KvError::OutcomeUnknown { token: *token }),
        }
    }
}

/// The deadline passed while no attempt was under way.
fn too_late() -> KvError {
    KvError::Aborted {
        why: "the deadline passed before its commit was decided".to_owned(),
    }
}
