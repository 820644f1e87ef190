//! A range that an attempt touches and that is not its home: it votes, and applies the outcome (5.1, 5.4, 5.5).

use std::time::Duration;

use futures::FutureExt;
use meridian_clock::Interval;
use meridian_protocol::adjudication::{AttemptEnd, PrepareRequest, PrepareTerms, Vote};
use meridian_protocol::events;
use meridian_rpc::committed::Known;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{AttemptQuery, OutcomeAnswer, Refused};
use meridian_types::{Attempt, Epoch, Lsn, NodeName, Position, StreamId, Timestamp};
use tokio::time::Instant;

use super::cross::Background;
use super::owner::Owner;
use super::way::WayHome;
use crate::context::Context;
use crate::exchange::{PeerContent, PeerMessage, PeerVote};
use crate::request::{DecideWork, Part, to_wire};

/// Questions to homes that may be under way at once.
const MAX_QUESTIONS: usize = 64;
/// How long one question may take: the home may have to be taken over first.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// A yes whose outcome is not known yet.
pub(super) struct OpenVote {
    start: Timestamp,
    voted_at: Instant,
    ask_at: Instant,
    /// The home is being asked.
    is_asking: bool,
    /// Its record is being waited for.
    is_watching: bool,
}

impl Owner {
    /// What a vote depends on beside the request. `home` is `None` at the home itself.
    pub(super) fn prepare_terms(&mut self, home: Option<StreamId>, now: Interval) -> PrepareTerms {
        let lead = self.lead_now(now).commit;
        let to_home = home.and_then(|home| self.cross.to_home.get(&home));
        PrepareTerms {
            lead,
            to_home: to_home.map(WayHome::usual).unwrap_or_default(),
            prepare_timeout: self.ctx.config.prepare_timeout(),
        }
    }

    /// Votes on an attempt (5.1).
    pub(super) fn prepare(&mut self, work: DecideWork, now: Interval) {
        let Part::Participant(home_node) = &work.part else {
            return;
        };
        let home_node = home_node.clone();
        let attempt = work.attempt;
        let request = PrepareRequest {
            attempt,
            start: work.start,
            written: &work.written,
            reads: &work.reads,
        };
        let terms = self.prepare_terms(Some(attempt.home), now);
        match self.adjudication.prepare(&request, now, &terms) {
            Vote::Yes { lower, promise } => self.vote_yes(work, &home_node, lower, promise),
            Vote::No(refused) => {
                tracing::trace!(txn = %attempt.txn, stream = %self.stream, %refused, "voted no");
                let wire = to_wire(&refused, &self.ctx.env.node);
                self.vote_no(work, &home_node, wire);
            }
        }
    }

    fn vote_yes(&mut self, work: DecideWork, home_node: &NodeName, lower: Timestamp, promise: Timestamp) {
        let DecideWork {
            attempt,
            start,
            written,
            reads,
            reply,
            ..
        } = work;
        tracing::trace!(
            target: events::TARGET, event = "voted", stream = self.stream.0, epoch = self.replication.epoch().0,
            txn = attempt.txn.0.as_u128(), attempt = attempt.number, home = attempt.home.0,
            home_epoch = attempt.home_epoch.0, start = start.0, lower = lower.0, promise = promise.0, ?written,
            checked = ?reads
        );
        self.quiet.on_write(self.ctx.now());
        let now = Instant::now();
        let ask_at = now + self.patience();
        let cross = &mut self.cross;
        // A vote that is asked for again is the same vote.
        cross.votes.entry(attempt).or_insert_with(|| {
            cross.questions.add(ask_at, attempt);
            OpenVote {
                start,
                voted_at: now,
                ask_at,
                is_asking: false,
                is_watching: false,
            }
        });
        let measured = reply.measured.as_ref();
        let trace = measured.map(|measured| measured.voter(&self.ctx.env.region));
        let took_us = trace.as_ref().map_or(0, |trace| trace.took_us);
        let vote = PeerVote::Yes { lower, promise };
        self.send_vote(attempt, start, home_node, vote, took_us);
        reply.voted(trace);
    }

    /// Votes no, and tells the query processor why. What says nothing about the attempt is no vote: it may be asked again.
    fn vote_no(&mut self, work: DecideWork, home_node: &NodeName, refused: Refused) {
        if !matches!(
            refused.reason(),
            Reason::WrongEpoch | Reason::NotReady | Reason::Overloaded
        ) {
            let vote = PeerVote::No(refused.clone());
            self.send_vote(work.attempt, work.start, home_node, vote, 0);
        }
        work.reply.refused(refused);
    }

    /// The votes that were handed over are this owner's now. What became of the attempts was perhaps told to the one before: they are
    /// asked about at once.
    pub(super) fn resume_votes(&mut self) {
        let now = Instant::now();
        let cross = &mut self.cross;
        for open in self.adjudication.open_prepares() {
            cross.questions.add(now, open.attempt);
            let vote = OpenVote {
                start: open.start,
                voted_at: now,
                ask_at: now,
                is_asking: false,
                is_watching: false,
            };
            cross.votes.insert(open.attempt, vote);
        }
    }

    fn send_vote(
        &mut self,
        attempt: Attempt,
        start: Timestamp,
        home_node: &NodeName,
        vote: PeerVote,
        took_us: u64,
    ) {
        let content = PeerContent::Vote {
            from: self.stream,
            node: self.ctx.env.node.clone(),
            vote,
            took_us,
        };
        let message = PeerMessage {
            attempt,
            start,
            content,
        };
        self.post(home_node, message.into_wire(attempt.home));
        self.note_unsent("adjudicator: voted");
    }

    /// How long to wait for word from a home before asking it.
    pub(super) fn patience(&self) -> Duration {
        self.ctx.config.prepare_timeout() / 4
    }

    /// The home has decided: it is an outcome once the record is committed, as far as this region's journal node knows (5.4).
    pub(super) fn on_decided(&mut self, attempt: Attempt, commit: Timestamp, at: Position) {
        let patience = self.patience();
        let Some(vote) = self.cross.votes.get_mut(&attempt) else {
            return;
        };
        if std::mem::replace(&mut vote.is_watching, true) {
            return;
        }
        let (watch, env) = (self.ctx.committed.clone(), self.ctx.env.clone());
        let look = async move {
            let known = watch.wait(attempt.home, at.epoch, at.lsn);
            let known = tokio::time::timeout(patience, known).await;
            env.reached("adjudicator: outcome known").await;
            Background::Watched {
                attempt,
                commit,
                at,
                is_committed: known == Ok(Known::Committed),
            }
        };
        self.background.push(look.boxed());
    }

    /// The home has given up.
    pub(super) fn on_aborted(&mut self, attempt: &Attempt) {
        self.end_vote(attempt, AttemptEnd::Aborted);
    }

    /// A journal node of this region was asked for the record that decides the attempt.
    pub(super) fn on_watched(
        &mut self,
        attempt: Attempt,
        commit: Timestamp,
        at: Position,
        is_committed: bool,
    ) {
        if is_committed {
            let lsn = at.lsn;
            self.end_vote(&attempt, AttemptEnd::Committed { commit, lsn });
        } else if let Some(vote) = self.cross.votes.get_mut(&attempt) {
            vote.is_watching = false;
            self.ask(attempt);
        }
    }

    /// Asks the homes of attempts that nothing was heard of for long (5.5).
    pub(super) fn ask_about_votes(&mut self, at: Instant) {
        while let Some(attempt) = self.cross.questions.pop(at) {
            let again = at + self.patience();
            if let Some(vote) = self.cross.votes.get_mut(&attempt) {
                vote.ask_at = again;
                self.cross.questions.add(again, attempt);
                self.ask(attempt);
            }
        }
    }

    /// Asks the home's present owner what became of an attempt; it may have to be taken over first. If too many questions
    /// are open already, it is asked another time.
    fn ask(&mut self, attempt: Attempt) {
        let Some(vote) = self.cross.votes.get_mut(&attempt) else {
            return;
        };
        if vote.is_asking || self.cross.asking >= MAX_QUESTIONS {
            return;
        }
        vote.is_asking = true;
        self.cross.asking += 1;
        let (ctx, start) = (self.ctx.clone(), vote.start);
        let question = async move {
            let answer = attempt_outcome(&ctx, attempt, start).await;
            Background::Asked { attempt, answer }
        };
        self.background.push(question.boxed());
    }

    /// The home's owner has answered, or could not be asked.
    pub(super) fn on_asked(&mut self, attempt: &Attempt, answer: Option<OutcomeAnswer>) {
        self.cross.asking = self.cross.asking.saturating_sub(1);
        if let Some(vote) = self.cross.votes.get_mut(attempt) {
            vote.is_asking = false;
        }
        let Some(answer) = answer else {
            return;
        };
        let (commit, lsn) = (Timestamp(answer.commit), Lsn(answer.lsn));
        match answer.outcome() {
            Outcome::Committed => self.end_vote(attempt, AttemptEnd::Committed { commit, lsn }),
            Outcome::Aborted => self.end_vote(attempt, AttemptEnd::Aborted),
            Outcome::Forgotten => self.end_vote(attempt, AttemptEnd::Forgotten { home_last: lsn }),
            Outcome::Unspecified | Outcome::NotOwner | Outcome::Pending => {}
        }
    }

    /// Applies an outcome, in one step (5.4).
    fn end_vote(&mut self, attempt: &Attempt, end: AttemptEnd) {
        if !self.adjudication.end_prepare(attempt, end) {
            return;
        }
        self.cross.may_close = true;
        let (outcome, commit, lsn) = match end {
            AttemptEnd::Committed { commit, lsn } => ("committed", commit, lsn),
            AttemptEnd::Aborted => ("aborted", Timestamp::ZERO, Lsn(0)),
            AttemptEnd::Forgotten { home_last } => ("unknown", Timestamp::ZERO, home_last),
        };
        tracing::trace!(
            target: events::TARGET, event = "prepare_ended", stream = self.stream.0,
            epoch = self.replication.epoch().0, txn = attempt.txn.0.as_u128(), attempt = attempt.number,
            home = attempt.home.0, home_epoch = attempt.home_epoch.0, outcome, commit = commit.0, lsn = lsn.0
        );
        if let Some(vote) = self.cross.votes.remove(attempt) {
            self.cross.questions.remove(vote.ask_at, *attempt);
            if outcome == "committed" {
                // One that had to be asked for says nothing about the way.
                let took = vote.voted_at.elapsed().min(self.patience());
                self.cross
                    .to_home
                    .entry(attempt.home)
                    .or_default()
                    .on_outcome(took);
            }
        }
    }
}

/// What the present owner of the home says of an attempt.
async fn attempt_outcome(ctx: &Context, attempt: Attempt, start: Timestamp) -> Option<OutcomeAnswer> {
    let owner = ctx.owners.owner(attempt.home).await.ok()?;
    let query = AttemptQuery {
        attempt: Some(attempt.into()),
        start: start.0,
        // It may be about to commit.
        give_up: false,
    };
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(&owner.node));
    let answer = tokio::time::timeout(QUESTION_TIMEOUT, client.attempt_outcome(query)).await;
    let Ok(Ok(answer)) = answer else {
        ctx.owners.forget(attempt.home, owner.epoch);
        return None;
    };
    let answer = answer.into_inner();
    if answer.outcome() == Outcome::NotOwner {
        ctx.owners.forget(attempt.home, owner.epoch);
        ctx.owners.learn(attempt.home, &answer.owner, Epoch(answer.epoch));
    }
    Some(answer)
}
