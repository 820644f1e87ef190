//! What clients ask for after their transactions have ended.

use std::collections::VecDeque;

use meridian_client::{CommitToken, Outcome as Fate};

use super::Recorder;
use crate::history::Outcome;

/// So many transactions whose end was told are asked for again: the last ones.
const ASKED_AGAIN: usize = 6;

/// Transactions to ask for.
#[derive(Default)]
pub struct Doubts {
    /// Nobody said what became of them. With each, whether it began after the faults ended.
    unknown: Vec<(usize, CommitToken, bool)>,
    /// Their clients were told; the answer must stay the same.
    told: VecDeque<(usize, CommitToken)>,
    /// Acknowledged, but not when.
    timeless: VecDeque<(usize, CommitToken)>,
}

impl Doubts {
    /// Nobody knows what became of it.
    pub fn unknown(&mut self, id: usize, token: CommitToken, is_calm: bool) {
        self.unknown.push((id, token, is_calm));
    }

    /// It is known what became of it.
    pub fn told(&mut self, id: usize, token: Option<CommitToken>, is_timeless: bool) {
        let last = match is_timeless {
            true => &mut self.timeless,
            false => &mut self.told,
        };
        last.extend(token.map(|token| (id, token)));
        while last.len() > ASKED_AGAIN {
            last.pop_front();
        }
    }
}

impl Recorder {
    /// Asks until all outcomes are known.
    pub async fn settle(&mut self) {
        let doubts = std::mem::take(&mut self.doubts);
        for (id, token, is_calm) in doubts.unknown {
            self.resolve(id, token, is_calm).await;
        }
        for (id, token) in doubts.told.into_iter().chain(doubts.timeless) {
            let said = self.ask(id, token).await;
            self.history.asked(id, said);
        }
    }

    /// Asks until the outcome of a commit in doubt is known.
    pub(super) async fn resolve(&mut self, id: usize, token: CommitToken, is_calm: bool) {
        match self.ask(id, token).await {
            Outcome::Committed(timestamp) => self.committed(id, timestamp, is_calm),
            Outcome::Aborted(why) => self.history.end(id, Outcome::Aborted(why)),
            Outcome::Unknown => return,
        }
        self.doubts.told(id, Some(token), false);
    }

    /// What the cluster says; unknown only if it has forgotten.
    async fn ask(&self, id: usize, token: CommitToken) -> Outcome {
        loop {
            match self.client.outcome(token).await {
                Ok(said) => return said.into(),
                Err(error) => tracing::debug!(txn = id, %error, "outcome not known yet"),
            }
        }
    }
}

impl From<Fate> for Outcome {
    fn from(said: Fate) -> Self {
        match said {
            Fate::Committed(timestamp) => Self::Committed(timestamp),
            Fate::Aborted => Self::Aborted("says its outcome".to_owned()),
            // Nobody remembers.
            Fate::Forgotten => Self::Unknown,
        }
    }
}
