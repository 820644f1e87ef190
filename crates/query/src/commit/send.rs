//! One attempt, sent once: to the home, and at the same time to every other range that it touches (5.1).

use std::pin::pin;
use std::time::Duration;

use meridian_rpc::internal::{DecideRequest, Decided, HomeTrace, Participant, decision};
use meridian_rpc::v1::hop::Kind;
use meridian_rpc::{Known, KvError};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Epoch, Lsn, NodeName, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Prepared;
use super::attempts::Times;
use super::participants::Voters;
use super::verdict::{No, Verdict};
use crate::mux::CallError;
use crate::processor::Processor;
use crate::retry::remaining_ms;
use crate::trace::{HomeCall, hop};

/// How long the home is waited for after another range said no: it is told by that range, and answers with the reason.
const AFTER_NO: Duration = Duration::from_millis(250);

/// How long the home's measurements are waited for, of a transaction that is known to have committed.
const COLLECT: Duration = Duration::from_secs(2);

/// What came of sending an attempt.
pub(super) struct Sent {
    pub(super) verdict: Verdict,
    /// A range that does not take part, if one was heard of.
    pub(super) no: Option<No>,
}

/// An attempt on its way to its home.
#[derive(Clone, Copy)]
struct Call<'a> {
    prepared: &'a Prepared,
    attempt: Attempt,
    node: &'a NodeName,
    times: Times,
    sent: Instant,
}

type Answer = Result<Option<decision::Result>, CallError>;

impl Processor {
    /// Sends an attempt once, and waits for what becomes of it.
    pub(super) async fn send(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        node: &NodeName,
        voters: Voters,
        times: Times,
    ) -> Sent {
        let is_alone = voters.is_empty();
        let call = Call {
            prepared,
            attempt,
            node,
            times,
            sent: Instant::now(),
        };
        let (early, told) = oneshot::channel();
        let request = decide_request(prepared, attempt, &voters, times.deadline);
        let mut answer = pin!(self.adjudicators.decide(node, request, times.deadline, early));
        let mut told = pin!(first(told));
        let mut votes = pin!(self.prepare_all(prepared, attempt, node, voters, times));
        let mut no: Option<No> = None;
        let mut until = if is_alone {
            times.deadline + AFTER_NO
        } else {
            times.last_try
        };
        let verdict = loop {
            tokio::select! {
                biased;
                // First: a stream that broke since says less.
                decided = &mut told => break self.decided(call, &decided, answer).await,
                answer = &mut answer => {
                    call.note(None, home_trace(&answer));
                    break self.answered(prepared, attempt, is_alone, answer, &mut no);
                }
                refused = &mut votes, if no.is_none() => {
                    tracing::debug!(txn = %attempt.txn, error = %refused.error, "a range does not take part");
                    no = Some(refused);
                    until = until.min(Instant::now() + AFTER_NO);
                }
                // Nobody decides any more, or not in time: the attempt is given up.
                () = tokio::time::sleep_until(until) => break Verdict::Unknown,
            }
        };
        Sent { verdict, no }
    }

    /// What the home's answer means, when it was not decided before.
    fn answered(
        &self,
        prepared: &Prepared,
        attempt: Attempt,
        is_alone: bool,
        answer: Answer,
        no: &mut Option<No>,
    ) -> Verdict {
        match answer {
            Ok(Some(decision::Result::Committed(committed))) => {
                Verdict::Committed(Timestamp(committed.commit))
            }
            Ok(Some(decision::Result::Refused(refused))) => {
                match self.refused(prepared.token(), attempt, refused) {
                    // The other ranges may hold what another home waits for: this attempt ends, so that they let go.
                    Verdict::Again(error @ KvError::Conflict { .. }, pause) if !is_alone => {
                        no.get_or_insert(No::for_now(error, pause));
                        Verdict::Unknown
                    }
                    verdict => verdict,
                }
            }
            // The last two are no answers to what was asked.
            Ok(
                Some(
                    decision::Result::Unknown(_) | decision::Result::Decided(_) | decision::Result::Voted(_),
                )
                | None,
            ) => {
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Unknown
            }
            Err(CallError::NotSent(what)) => {
                self.owners.forget(attempt.home, attempt.home_epoch);
                let what = format!("the owner of stream {} was not reached ({what})", attempt.home);
                Verdict::NotSent(KvError::unavailable(what))
            }
            Err(CallError::Lost(what)) => {
                tracing::debug!(txn = %attempt.txn, %what, "no answer to a commit");
                self.owners.forget(attempt.home, attempt.home_epoch);
                Verdict::Unknown
            }
        }
    }

    /// 5.4: the record is on its way. Whether it is committed its owner says, or this region's journal node, whichever
    /// comes first; when neither does, it is asked for.
    async fn decided(
        &self,
        call: Call<'_>,
        decided: &Decided,
        answer: impl Future<Output = Answer>,
    ) -> Verdict {
        let heard = Instant::now();
        let attempt = call.attempt;
        let mut answer = pin!(answer);
        self.env.reached("query: commit decided").await;
        let (epoch, lsn) = (Epoch(decided.epoch), Lsn(decided.lsn));
        let commit = Timestamp(decided.commit);
        let known = || self.committed.wait(attempt.home, epoch, lsn);
        let silence = Duration::from_millis(self.config.outcome_attempt_ms);
        tokio::select! {
            biased;
            answer = &mut answer => match answer {
                Ok(Some(decision::Result::Committed(committed))) => {
                    call.note(Some((heard, call.node.0.clone())), committed.trace);
                    return Verdict::Committed(Timestamp(committed.commit));
                }
                _ => self.owners.forget(attempt.home, attempt.home_epoch),
            },
            known = known() => if known == Known::Committed {
                if call.prepared.span.is_on() {
                    self.collect(call, heard, commit, answer).await;
                }
                return self.committed_early(commit);
            },
            () = tokio::time::sleep(silence) => {}
        }
        let token = call.prepared.token();
        tokio::select! {
            biased;
            verdict = self.resolve(&token, attempt, call.times.deadline) => verdict,
            Known::Committed = known() => self.committed_early(commit),
        }
    }

    /// The region's journal node told that a traced transaction has committed, ahead of the home: what the home measured comes with
    /// its answer, which is waited for only now. Meanwhile the commit's timestamp passes.
    async fn collect(
        &self,
        call: Call<'_>,
        heard: Instant,
        commit: Timestamp,
        answer: impl Future<Output = Answer>,
    ) {
        let known = Instant::now();
        let learned = known.saturating_duration_since(heard);
        let not_past = if is_broken(Rule::CommitWait) {
            Timestamp::ZERO
        } else {
            commit
        };
        let wait = async {
            meridian_clock::wait_until_past(&*self.env.clock, not_past).await;
            known.elapsed()
        };
        let until = call.times.deadline.min(known + COLLECT);
        let (waited, answer) = tokio::join!(
            tokio::time::timeout_at(until, wait),
            tokio::time::timeout_at(until, answer)
        );
        let trace = answer.ok().and_then(|answer| home_trace(&answer));
        let by = "this region's journal node".to_owned();
        call.add(heard, Some((learned, by)), trace);
        let whole = known.elapsed();
        let waited = waited.unwrap_or(whole);
        call.prepared.span.add(|| {
            let collected = whole.saturating_sub(waited);
            vec![hop(Kind::CommitWait, 1, waited), hop(Kind::Collect, 1, collected)]
        });
    }

    fn committed_early(&self, commit: Timestamp) -> Verdict {
        self.figures.count_early_commit();
        Verdict::Committed(commit)
    }
}

impl Call<'_> {
    /// It was answered now. `heard`: when the decision was heard of before, and who tells that it is durable.
    fn note(&self, heard: Option<(Instant, String)>, trace: Option<HomeTrace>) {
        let (until, by) = heard.unzip();
        let learned = until.map(|heard| heard.elapsed()).zip(by);
        self.add(until.unwrap_or_else(Instant::now), learned, trace);
    }

    /// The decision was heard of then.
    fn add(&self, until: Instant, learned: Option<(Duration, String)>, trace: Option<HomeTrace>) {
        self.prepared.span.add(|| {
            let call = HomeCall {
                node: &self.node.0,
                stream: self.attempt.home.0,
                took: until.saturating_duration_since(self.sent),
                learned,
                trace,
            };
            call.hops()
        });
    }
}

/// What the home measured, if its answer says.
fn home_trace(answer: &Answer) -> Option<HomeTrace> {
    match answer {
        Ok(Some(decision::Result::Committed(committed))) => committed.trace.clone(),
        _ => None,
    }
}

/// What is told before the answer; never, if nothing is.
async fn first(told: oneshot::Receiver<Option<decision::Result>>) -> Decided {
    match told.await {
        Ok(Some(decision::Result::Decided(decided))) => decided,
        _ => std::future::pending().await,
    }
}

fn decide_request(
    prepared: &Prepared,
    attempt: Attempt,
    voters: &Voters,
    deadline: Instant,
) -> DecideRequest {
    let part = prepared.plan.part(prepared.home);
    let participants = voters.iter().map(|(stream, owner)| Participant {
        stream: stream.0,
        node: owner.node.0.clone(),
    });
    DecideRequest {
        id: 0,
        attempt: Some(attempt.into()),
        start: prepared.start.0,
        write_set: prepared.write_set.clone(),
        reads: part.map(|part| part.reads.clone()).unwrap_or_default(),
        timeout_ms: remaining_ms(deadline),
        participants: participants.collect(),
        trace: prepared.span.is_on(),
    }
}
