//! A planned move (section 8): the range map names another owner, and the present one hands over.
//!
//! ```text
//! map: another first candidate ──> in flight is committed ──> Released committed ──> standby; the successor is told to take over
//! ```
//! A move that fails half-way costs a takeover like any other: whoever is asked for the stream next takes it.

use std::time::Duration;

use meridian_rpc::internal::LocateRequest;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_types::NodeName;
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};

/// How long the successor has the stream to itself after it was told to take over.
const SUCCESSOR_FIRST: Duration = Duration::from_secs(1);

/// A move that is wanted or under way.
#[derive(Default)]
pub(super) struct HandOver {
    /// The map wants it to be the owner.
    to: Option<NodeName>,
    /// Handing over: given up then, if nothing was written.
    until: Option<Instant>,
    /// After it: what is asked for the stream waits for the successor until then.
    successor_first: Option<Instant>,
}

impl HandOver {
    /// When something is due that no event announces.
    pub(super) fn due(&self) -> impl Iterator<Item = Instant> {
        self.until.into_iter()
    }
}

impl Task {
    /// The range map changed.
    pub(super) fn on_map(&mut self) {
        let (range, _) = self.ctx.range(self.stream);
        let (Some(range), Role::Owner(owner)) = (range, &mut self.role) else {
            return;
        };
        let first = range.candidates.first();
        if first != owner.range.candidates.first() {
            let is_other = first.is_some_and(|first| *first != self.ctx.env.node);
            self.hand_over.to = first.cloned().filter(|_| is_other);
        }
        owner.range.candidates = range.candidates;
    }

    /// Begins and goes on with a hand-over that is wanted.
    pub(super) fn continue_hand_over(&mut self, at: Instant) {
        let Role::Owner(owner) = &mut self.role else {
            self.hand_over.to = None;
            self.hand_over.until = None;
            return;
        };
        let Some(to) = self.hand_over.to.clone().filter(|_| self.release_until.is_none()) else {
            return;
        };
        let Some(until) = self.hand_over.until else {
            if owner.phase == Phase::Serving {
                tracing::info!(stream = %self.stream, %to, "handing over");
                owner.begin_release();
                self.hand_over.until = Some(at + self.ctx.config.release_timeout());
                self.continue_hand_over(at);
            }
            return;
        };
        if owner.continue_release() {
            tracing::info!(stream = %self.stream, epoch = %owner.replication.epoch(), %to, "handed over");
            self.step_down();
            self.hand_over = HandOver {
                successor_first: Some(at + SUCCESSOR_FIRST),
                ..HandOver::default()
            };
            self.retry_at = Some(at + SUCCESSOR_FIRST);
            self.tell_successor(to);
            return;
        }
        owner.pump(&mut self.peers);
        if at < until {
            return;
        }
        if owner.take_back_release() {
            tracing::warn!(stream = %self.stream, %to, "not handed over: the journal does not answer");
            self.hand_over = HandOver::default();
        } else {
            // `Released` is on its way: there is no way back.
            self.hand_over.until = Some(at + self.ctx.config.release_timeout());
        }
    }

    /// Whether the stream was handed over just now: its successor is to take it, not this node again.
    pub(super) fn waits_for_successor(&self) -> bool {
        let until = self.hand_over.successor_first;
        until.is_some_and(|until| Instant::now() < until)
    }

    /// So that nobody who wants the range has to find out first.
    fn tell_successor(&self, to: NodeName) {
        let mut client = AdjudicatorClient::new(self.ctx.env.network.transport(&to));
        let request = LocateRequest {
            stream: self.stream.0,
            passive: false,
        };
        let stream = self.stream;
        tokio::spawn(async move {
            let asked = tokio::time::timeout(SUCCESSOR_FIRST, client.locate(request)).await;
            if !matches!(asked, Ok(Ok(_))) {
                tracing::info!(%stream, %to, "the successor did not answer");
            }
        });
    }
}

impl Owner {
    /// Serves on, unless `Released` is written already. Whether it does.
    fn take_back_release(&mut self) -> bool {
        let can = self.phase == Phase::Releasing { released: None };
        if can {
            self.phase = Phase::Serving;
        }
        can
    }
}
