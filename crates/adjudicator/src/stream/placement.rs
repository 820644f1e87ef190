//! Preferred placement: an owner that is not the range's first candidate hands it to that one as soon as that one can serve.
//!
//! ```text
//! in use, not the first candidate ──Ready?──> the first candidate: ready, its region's journal node in step
//!        └── for `return_after`, without a gap (somebody asked for the move: at once) ──> a planned move
//! ```
//! It is the owner that asks and decides, so that nobody duels for a range that is served. It knows of every replica up to where it
//! has the log: in the preferred region the newest entries must have arrived, or commits there would have to wait for them. A range
//! that nobody uses stays where it is until somebody does, unless that is in a region that is drained.

use std::time::Duration;

use futures::FutureExt;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{ReadyRequest, ReadyResponse};
use meridian_types::{Epoch, Lsn, NodeName, StreamId};
use rand::Rng;
use tokio::time::Instant;

use super::cross::Background;
use super::owner::{Owner, Phase};
use super::task::{Role, Task};
use crate::context::Context;

/// Between two questions, about.
const PAUSE: Duration = Duration::from_secs(1);
/// Until the next question when too many ranges are being moved already.
const TURN_PAUSE: Duration = Duration::from_millis(100);
/// For how long a move that somebody asked for is tried while nobody uses the range.
const INSISTENCE: Duration = Duration::from_secs(30);
/// A range that comes back to this node within this time after it was handed back stays longer the next time.
const SOON: Duration = Duration::from_secs(60);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// What this process knows of the range's preferred owner while it owns the range itself.
#[derive(Default)]
pub(super) struct Placement {
    /// Somebody asked for the move: it does not wait, and is tried until then at least.
    asked_until: Option<Instant>,
    next_question: Option<Instant>,
    /// A question is under way, of the owner of this epoch.
    asking: Option<Epoch>,
    /// Since when every answer was yes.
    ready_since: Option<Instant>,
    /// Up to where the log was committed at the last question but one, and at the last.
    committed: (Lsn, Lsn),
    /// For how long every answer must have been yes.
    patience: Duration,
    /// When this process last handed the range to the preferred owner of its own accord.
    returned_at: Option<Instant>,
}

impl Placement {
    /// This process has become the owner.
    pub(super) fn begin(&mut self, at: Instant, return_after: Duration) {
        let is_soon = self.returned_at.is_some_and(|returned| at < returned + SOON);
        let patience = match is_soon {
            true => (self.patience * 2).min(LONGEST_PATIENCE),
            false => return_after,
        };
        *self = Self {
            patience: patience.max(return_after),
            returned_at: self.returned_at,
            ..Self::default()
        };
    }

    /// The map names another first candidate.
    pub(super) fn asked(&mut self, at: Instant) {
        self.asked_until = Some(at + INSISTENCE);
        self.next_question = None;
        self.ready_since = None;
    }

    fn is_asked(&self, at: Instant) -> bool {
        self.asked_until.is_some_and(|until| at < until)
    }
}

impl Task {
    /// The preferred owner, if the range is another's business.
    fn preferred(&self, at: Instant) -> Option<NodeName> {
        let Role::Owner(owner) = &self.role else {
            return None;
        };
        let may_move = owner.phase == Phase::Serving && owner.sealed.is_none();
        if !may_move || self.hand_over.is_under_way() || self.release_until.is_some() {
            return None;
        }
        let first = owner.range.candidates.first()?;
        let placement = &self.placement;
        let is_wanted = placement.is_asked(at) || placement.ready_since.is_some() || owner.is_in_use(at);
        let matters = is_wanted || self.ctx.is_drained();
        (*first != self.ctx.env.node && matters).then(|| first.clone())
    }

    /// When the next question is due.
    pub(super) fn placement_due(&self, at: Instant) -> Option<Instant> {
        self.preferred(at)?;
        let Role::Owner(owner) = &self.role else {
            return None;
        };
        let is_asking = self.placement.asking == Some(owner.replication.epoch());
        (!is_asking).then(|| self.placement.next_question.unwrap_or(at))
    }

    /// Asks the preferred owner whether it would serve, when it is time to.
    pub(super) fn see_about_placement(&mut self, at: Instant) {
        if self.placement_due(at).is_none_or(|due| at < due) {
            return;
        }
        let Some(node) = self.preferred(at) else {
            return;
        };
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        let placement = &mut self.placement;
        placement.next_question = Some(at + PAUSE.mul_f64(self.rng.random_range(0.75..=1.25)));
        placement.asking = Some(owner.replication.epoch());
        placement.committed = (placement.committed.1, owner.replication.committed());
        let question = ask(&self.ctx, self.stream, node);
        owner.background.push(question.boxed());
    }

    /// The preferred owner has answered, or did not.
    pub(super) fn on_ready(&mut self, node: &NodeName, answer: Option<ReadyResponse>) {
        let at = Instant::now();
        self.placement.asking = None;
        if self.preferred(at).as_ref() != Some(node) {
            return;
        }
        let Role::Owner(owner) = &self.role else { return };
        let placement = &mut self.placement;
        let is_asked = placement.is_asked(at);
        let (before, lately) = placement.committed;
        let needed = if is_asked { lately } else { before };
        let ready = answer.filter(|answer| answer.ready);
        if !ready.is_some_and(|answer| owner.holds(&answer.journal, needed)) {
            placement.ready_since = None;
            return;
        }
        let since = *placement.ready_since.get_or_insert(at);
        if !is_asked && at < since + placement.patience {
            return;
        }
        let Ok(permit) = self.ctx.moves.clone().try_acquire_owned() else {
            placement.next_question = Some(at + TURN_PAUSE);
            return;
        };
        if !is_asked {
            placement.returned_at = Some(at);
        }
        tracing::info!(stream = %self.stream, to = %node, "the preferred owner is ready");
        self.hand_over.begin_move(node.clone(), permit);
    }
}

impl Owner {
    /// Whether the journal node is known to hold the log up to here.
    fn holds(&self, journal: &str, needed: Lsn) -> bool {
        let mut acked = self.ctx.journals.iter().zip(self.replication.acked());
        acked.any(|(name, acked)| name.0 == journal && acked >= needed)
    }
}

fn ask(ctx: &Context, stream: StreamId, node: NodeName) -> impl Future<Output = Background> + use<> {
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(&node));
    let timeout = ctx.config.suspect_after() / 2;
    async move {
        let call = client.ready(ReadyRequest { stream: stream.0 });
        let answer = tokio::time::timeout(timeout, call).await;
        let answer = answer.ok().and_then(Result::ok).map(tonic::Response::into_inner);
        Background::Ready { node, answer }
    }
}
