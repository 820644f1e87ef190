//! What a commit request that is traced takes here, step by step. One that is not traced carries nothing of this.

use std::time::Duration;

use meridian_rpc::internal::{HomeTrace, VoteTrace, VoterTrace};
use meridian_types::{NodeName, StreamId};
use tokio::time::Instant;

/// Votes that are told of: more ranges than this are rarely touched, and an answer is to stay small.
const MAX_VOTES: usize = 64;

/// The steps of one request so far.
#[derive(Debug)]
pub(crate) struct Measured {
    came: Instant,
    looked_at: Instant,
    voted: Option<Instant>,
    appended: Option<Instant>,
    votes: Vec<VoteTrace>,
}

impl Measured {
    /// A request that was received now.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            came: now,
            looked_at: now,
            voted: None,
            appended: None,
            votes: Vec::new(),
        }
    }

    /// It was waiting in a queue until now.
    pub(crate) fn on_looked_at(&mut self) {
        self.looked_at = Instant::now();
    }

    /// The vote of another range is there, whose owner took so long. Only the first of each counts.
    pub(crate) fn on_vote(&mut self, stream: StreamId, node: &NodeName, took_us: u64) {
        let is_known = self.votes.iter().any(|vote| vote.stream == stream.0);
        if is_known || self.votes.len() >= MAX_VOTES {
            return;
        }
        self.votes.push(VoteTrace {
            stream: stream.0,
            node: node.0.clone(),
            after_us: micros(self.looked_at.elapsed()),
            took_us,
        });
    }

    /// The last vote that was missing is there.
    pub(crate) fn on_all_voted(&mut self) {
        self.voted = Some(Instant::now());
    }

    /// It is decided, and its record is appended.
    pub(crate) fn on_appended(&mut self) {
        self.appended = Some(Instant::now());
    }

    /// What another range's owner took until it votes, now.
    pub(crate) fn voter(&self, region: &str) -> VoterTrace {
        VoterTrace {
            took_us: micros(self.came.elapsed()),
            region: region.to_owned(),
        }
    }

    /// What the home took until its record is committed, now: these journal nodes have it.
    pub(crate) fn home(self, node: &NodeName, region: &str, journals: Vec<String>) -> HomeTrace {
        let voted = self.voted.unwrap_or(self.looked_at);
        // Without it the record is one of an earlier request.
        let appended = self.appended.unwrap_or(voted);
        let between = |from: Instant, to: Instant| micros(to.saturating_duration_since(from));
        HomeTrace {
            queue_us: between(self.came, self.looked_at),
            votes_us: between(self.looked_at, voted),
            decide_us: between(voted, appended),
            journal_us: micros(appended.elapsed()),
            journals,
            votes: self.votes,
            node: node.0.clone(),
            region: region.to_owned(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
