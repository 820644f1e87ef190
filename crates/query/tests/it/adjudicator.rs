//! The adjudicators' stand-ins: nodes that own ranges, and decide with the one core of the world.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use meridian_protocol::adjudication::OutcomeAnswer as Answer;
use meridian_rpc::internal::adjudicator_server::Adjudicator;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::{
    AttemptQuery, CloseThroughRequest, CloseThroughResponse, DecideBatch, DecideRequest, Decided,
    Decision as Reply, DecisionBatch, ExchangeBatch, ExchangeEnd, LocateRequest, LocateResponse,
    OutcomeAnswer, OutcomeQuery, PrepareRequest, RaiseFloorRequest, RaiseFloorResponse, Refused, Unknown,
    Voted, decision, refused::Reason,
};
use meridian_types::{Attempt, CommitToken, Key, KeyRange, StreamId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::world::{Core, HOME, Prepared, Script, Then, VoteScript, World};

type Stream<T> = BoxStream<'static, Result<T, Status>>;
/// Answers to one request, in order; an error breaks the stream.
type Answers = mpsc::UnboundedSender<Result<decision::Result, Status>>;

/// One adjudicator process.
#[derive(Clone)]
pub struct FakeAdjudicator {
    pub world: World,
    pub name: &'static str,
}

fn broken() -> Result<decision::Result, Status> {
    Err(Status::internal("broken by the script"))
}

fn attempt_of(name: Option<&meridian_rpc::internal::AttemptName>) -> Attempt {
    Attempt::try_from(name.unwrap()).unwrap()
}

impl FakeAdjudicator {
    /// Decides one attempt, as its script says.
    async fn decide_one(&self, request: &DecideRequest, answers: &Answers) {
        let attempt = attempt_of(request.attempt.as_ref());
        let script = {
            let mut core = self.world.core();
            core.attempts.push((attempt, Timestamp(request.start)));
            if core.owners[&attempt.home] != self.name {
                return drop(answers.send(Ok(self.not_owner(&core, attempt.home))));
            }
            core.scripts.pop_front()
        };
        if let Some(Script::Slow(pause)) = script {
            tokio::time::sleep(pause).await;
        }
        let answer = match script {
            Some(Script::LoseRequest) => broken(),
            Some(Script::Refuse(reason)) => Ok(self.world.core().refuse(reason)),
            Some(Script::NewEpoch) => {
                let mut core = self.world.core();
                core.epoch = core.epoch.next();
                Ok(core.refuse(Reason::WrongEpoch))
            }
            Some(Script::Silent) => return,
            _ => {
                if let Err(refused) = self.wait_for_votes(attempt, request).await {
                    Ok(decision::Result::Refused(refused))
                } else {
                    let mut core = self.world.core();
                    self.end(script, core.decide(request, &self.world.clock), &core, answers)
                }
            }
        };
        let _ = answers.send(answer);
    }

    /// What is answered to an attempt that was looked at.
    fn end(
        &self,
        script: Option<Script>,
        decided: decision::Result,
        core: &Core,
        answers: &Answers,
    ) -> Result<decision::Result, Status> {
        match script {
            Some(Script::LoseReply) => return broken(),
            Some(Script::RefuseAndDecide(reason)) => return Ok(core.refuse(reason)),
            Some(Script::Unknown) => return Ok(decision::Result::Unknown(Unknown {})),
            _ => {}
        }
        if let decision::Result::Committed(committed) = &decided {
            let _ = answers.send(Ok(decision::Result::Decided(Decided {
                commit: committed.commit,
                lsn: committed.lsn,
                epoch: committed.epoch,
            })));
        }
        match script {
            // An answer that nobody reads.
            Some(Script::Decided(Then::Silent)) => Ok(decision::Result::Decided(Decided::default())),
            Some(Script::Decided(Then::Break)) => broken(),
            _ => Ok(decided),
        }
    }

    fn not_owner(&self, core: &Core, stream: StreamId) -> decision::Result {
        decision::Result::Refused(Refused {
            owner: core.owners[&stream].to_owned(),
            ..core.refused(Reason::WrongEpoch)
        })
    }

    /// 5.2: until all other ranges have voted, one says no, or the time is over.
    async fn wait_for_votes(&self, attempt: Attempt, request: &DecideRequest) -> Result<(), Refused> {
        let until = Instant::now() + self.world.core().vote_timeout;
        loop {
            {
                let mut core = self.world.core();
                let votes: Vec<_> = request
                    .participants
                    .iter()
                    .map(|participant| core.votes.get(&(attempt, StreamId(participant.stream))).cloned())
                    .collect();
                if core.barred_attempts.contains(&attempt) {
                    return Err(core.refused(Reason::GaveUp));
                }
                if core.adjudication.outcomes().get(attempt.txn).is_some()
                    || votes.iter().all(|vote| matches!(vote, Some(Ok(_))))
                {
                    return Ok(());
                }
                let no = votes.into_iter().flatten().find_map(Result::err);
                if no.is_some() || Instant::now() >= until {
                    core.barred_attempts.insert(attempt);
                    let gave_up = core.refused(Reason::GaveUp);
                    let is_final =
                        |no: &Refused| matches!(no.reason(), Reason::Conflict | Reason::SnapshotTooOld);
                    return Err(no.filter(is_final).unwrap_or(gave_up));
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// 5.1 at another range.
    fn prepare_one(&self, request: PrepareRequest, answers: &Answers) {
        let attempt = attempt_of(request.attempt.as_ref());
        let stream = StreamId(request.stream);
        let mut core = self.world.core();
        core.prepares.push((attempt, stream, self.name));
        assert_ne!(request.home_node, "");
        if core.owners[&stream] != self.name {
            return drop(answers.send(Ok(self.not_owner(&core, stream))));
        }
        let part = Prepared {
            keys: request.keys.into_iter().map(Key).collect(),
            reads: request.reads.into_iter().map(KeyRange::from).collect(),
        };
        let vote = (attempt, stream);
        let voted = Ok(decision::Result::Voted(Voted::default()));
        let script = core
            .vote_scripts
            .get_mut(&stream)
            .and_then(|scripts| scripts.pop_front());
        let answer = match script {
            None => {
                core.votes.entry(vote).or_insert(Ok(part));
                voted
            }
            Some(VoteScript::No(reason)) => {
                let refused = core.refused(reason);
                core.votes.insert(vote, Err(refused.clone()));
                Ok(decision::Result::Refused(refused))
            }
            Some(VoteScript::Refuse(reason)) => Ok(core.refuse(reason)),
            Some(VoteScript::LoseReply) => {
                core.votes.insert(vote, Ok(part));
                broken()
            }
            Some(VoteScript::LoseRequest) => broken(),
            Some(VoteScript::Moved(node)) => {
                core.owners.insert(stream, node);
                Ok(self.not_owner(&core, stream))
            }
            Some(VoteScript::LoseVote) => voted,
            Some(VoteScript::Silent) => return,
        };
        let _ = answers.send(answer);
    }

    /// Runs one request and sends its answers, each in a message of its own.
    async fn answer(
        id: u64,
        mut answers: mpsc::UnboundedReceiver<Result<decision::Result, Status>>,
        sender: mpsc::Sender<Result<DecisionBatch, Status>>,
    ) {
        while let Some(answer) = answers.recv().await {
            let reply = answer.map(|result| DecisionBatch {
                decisions: vec![Reply {
                    id,
                    result: Some(result),
                }],
            });
            let _ = sender.send(reply).await;
        }
    }

    fn take_pending(core: &mut Core) -> Option<Response<OutcomeAnswer>> {
        core.pending = core.pending.checked_sub(1)?;
        Some(Response::new(OutcomeAnswer {
            outcome: Outcome::Pending.into(),
            ..OutcomeAnswer::default()
        }))
    }
}

#[tonic::async_trait]
impl Adjudicator for FakeAdjudicator {
    type DecideStream = Stream<DecisionBatch>;

    async fn locate(&self, request: Request<LocateRequest>) -> Result<Response<LocateResponse>, Status> {
        let (delay, owner, epoch) = {
            let core = self.world.core();
            let stream = StreamId(request.get_ref().stream);
            let delay = core.delays.get(self.name).copied().unwrap_or_default();
            (delay, core.owners[&stream].to_owned(), core.epoch.0)
        };
        tokio::time::sleep(delay).await;
        Ok(Response::new(LocateResponse {
            stream: request.get_ref().stream,
            owner,
            epoch,
        }))
    }

    async fn decide(
        &self,
        request: Request<Streaming<DecideBatch>>,
    ) -> Result<Response<Self::DecideStream>, Status> {
        let mut input = request.into_inner();
        let (sender, replies) = mpsc::channel(64);
        let node = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = input.message().await {
                for request in batch.requests {
                    let (node, (answers, answered)) = (node.clone(), mpsc::unbounded_channel());
                    tokio::spawn(Self::answer(request.id, answered, sender.clone()));
                    tokio::spawn(async move { node.decide_one(&request, &answers).await });
                }
                for request in batch.prepares {
                    let (answers, answered) = mpsc::unbounded_channel();
                    tokio::spawn(Self::answer(request.id, answered, sender.clone()));
                    node.prepare_one(request, &answers);
                }
            }
        });
        // An error ends the stream, as a broken connection does.
        let broken = futures::stream::unfold(
            (ReceiverStream::new(replies), false),
            |(mut stream, ended)| async move {
                if ended {
                    return None;
                }
                let next = stream.next().await?;
                let ended = next.is_err();
                Some((next, (stream, ended)))
            },
        );
        Ok(Response::new(broken.boxed()))
    }

    async fn close_through(
        &self,
        _: Request<CloseThroughRequest>,
    ) -> Result<Response<CloseThroughResponse>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }

    async fn outcome(&self, request: Request<OutcomeQuery>) -> Result<Response<OutcomeAnswer>, Status> {
        let query = request.into_inner();
        let mut core = self.world.core();
        if let Some(pending) = Self::take_pending(&mut core) {
            return Ok(pending);
        }
        let token = CommitToken {
            txn: meridian_types::TxnId::from_slice(&query.txn).unwrap(),
            start: Timestamp(query.start),
            home: Some(HOME),
        };
        let (outcome, commit) = match core.adjudication.outcome(&token, self.world.clock.now()) {
            Answer::Committed { commit, .. } => (Outcome::Committed, commit.0),
            Answer::Bar { .. } | Answer::Aborted { .. } => (Outcome::Aborted, 0),
            Answer::Forgotten => (Outcome::Forgotten, 0),
            Answer::Unavailable => (Outcome::Pending, 0),
        };
        Ok(Response::new(OutcomeAnswer {
            outcome: outcome.into(),
            commit,
            ..OutcomeAnswer::default()
        }))
    }

    async fn attempt_outcome(
        &self,
        request: Request<AttemptQuery>,
    ) -> Result<Response<OutcomeAnswer>, Status> {
        let attempt = Attempt::try_from(request.get_ref().attempt.as_ref().unwrap()).unwrap();
        let mut core = self.world.core();
        if let Some(pending) = Self::take_pending(&mut core) {
            return Ok(pending);
        }
        let received = core.attempts.len();
        core.asked.push((attempt, received));
        let known = core.adjudication.outcomes().get(attempt.txn);
        let answer = match known {
            Some(meridian_protocol::outcomes::Outcome::Committed { commit, .. }) => OutcomeAnswer {
                outcome: Outcome::Committed.into(),
                commit: commit.0,
                ..OutcomeAnswer::default()
            },
            _ => {
                core.barred_attempts.insert(attempt);
                OutcomeAnswer {
                    outcome: Outcome::Aborted.into(),
                    ..OutcomeAnswer::default()
                }
            }
        };
        Ok(Response::new(answer))
    }
    async fn ready(
        &self,
        _: Request<meridian_rpc::internal::ReadyRequest>,
    ) -> Result<Response<meridian_rpc::internal::ReadyResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn hand_over(
        &self,
        _: Request<Streaming<meridian_rpc::internal::HandOverPart>>,
    ) -> Result<Response<meridian_rpc::internal::HandOverAnswer>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn exchange(&self, _: Request<Streaming<ExchangeBatch>>) -> Result<Response<ExchangeEnd>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }

    async fn raise_floor(
        &self,
        _: Request<RaiseFloorRequest>,
    ) -> Result<Response<RaiseFloorResponse>, Status> {
        Err(Status::unimplemented("not asked by query processors"))
    }
}
