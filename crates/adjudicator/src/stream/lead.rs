//! How long it takes until the journal nodes know an entry to be committed (R16).
//!
//! A node knows when it has been sent, one way before, an `acked` vector that says so, and when it has persisted the entry itself;
//! the owner sees the first when it sends, and the second one way after it happened.

use std::collections::VecDeque;

use meridian_clock::Interval;
use meridian_protocol::lead::{Lead, LeadPolicy, LeadTuner};
use meridian_protocol::replication::Replication;
use meridian_types::Lsn;
use tokio::time::Instant;

use super::peers::Peer;

/// Batches that are measured at once.
const MAX_SENT: usize = 1_024;

/// Measures one stream's batches at each journal node.
pub(crate) struct LeadMeter {
    tuner: LeadTuner,
    /// The last lsn of each batch, and when it was handed to the links. Both rise.
    sent: VecDeque<(Lsn, Instant)>,
    seen: Vec<Seen>,
}

/// Up to where one journal node was measured.
#[derive(Clone, Copy, Default)]
struct Seen {
    told: Lsn,
    matched: Lsn,
}

impl LeadMeter {
    pub(crate) fn new(policy: LeadPolicy, journals: usize) -> Self {
        Self {
            tuner: LeadTuner::new(policy),
            sent: VecDeque::new(),
            seen: vec![Seen::default(); journals],
        }
    }

    /// A batch that ends at `lsn` is handed to the links.
    pub(crate) fn on_sent(&mut self, lsn: Lsn, at: Instant) {
        if self.sent.len() == MAX_SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((lsn, at));
    }

    /// What was sent to the node before (up to `last`) does not count: the connection broke, and how long that lasted says nothing
    /// about the next entries.
    pub(crate) fn skip(&mut self, journal: usize, last: Lsn) {
        if let Some(seen) = self.seen.get_mut(journal) {
            let (told, matched) = (seen.told.max(last), seen.matched.max(last));
            *seen = Seen { told, matched };
        }
    }

    /// [`Self::skip`] at every node.
    pub(crate) fn skip_all(&mut self, last: Lsn) {
        for journal in 0..self.seen.len() {
            self.skip(journal, last);
        }
    }

    /// Somebody reads the range through this journal node's feed.
    pub(crate) fn on_read(&mut self, journal: usize, now: Interval) {
        self.tuner.on_read(journal, now);
    }

    /// Takes the times of what the nodes were told and have acknowledged since the last time.
    pub(crate) fn measure(&mut self, replication: &Replication, peers: &[Peer], at: Instant, now: Interval) {
        let mut acked = replication.acked();
        for (journal, (seen, peer)) in self.seen.iter_mut().zip(peers).enumerate() {
            let one_way = peer.one_way();
            let told = advance(&self.sent, &mut seen.told, replication.told(journal));
            if let (Some(sent), Some(one_way)) = (told, one_way) {
                let latency = at.duration_since(sent) + one_way;
                self.tuner.on_commit_known(journal, latency, now);
            }
            let matched = acked.next().unwrap_or_default();
            let matched = advance(&self.sent, &mut seen.matched, matched);
            if let (Some(sent), Some(one_way)) = (matched, one_way) {
                let latency = at.duration_since(sent).saturating_sub(one_way);
                self.tuner.on_commit_known(journal, latency, now);
            }
        }
        let done = self.seen.iter().map(|seen| seen.told.min(seen.matched)).min();
        let done = done.unwrap_or_default();
        while self.sent.front().is_some_and(|(lsn, _)| *lsn <= done) {
            self.sent.pop_front();
        }
    }

    /// Whether somebody read the range lately through this journal node's feed.
    pub(crate) fn is_read(&self, journal: usize, now: Interval) -> bool {
        self.tuner.is_read(journal, now)
    }

    /// The lead to use now.
    pub(crate) fn lead(&mut self, now: Interval) -> Lead {
        self.tuner.lead(now)
    }
}

/// Moves the cursor to `to`. Returns when the first batch that it passed was sent: the one that took longest.
fn advance(sent: &VecDeque<(Lsn, Instant)>, cursor: &mut Lsn, to: Lsn) -> Option<Instant> {
    let next = sent.partition_point(|(lsn, _)| lsn <= cursor);
    let first = sent.get(next).filter(|(lsn, _)| *lsn <= to)?;
    *cursor = to;
    Some(first.1)
}
