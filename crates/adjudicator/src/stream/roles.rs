//! Which part the task plays: looking for an owner, taking over, fencing anew, stepping down, handing over.

use std::time::Duration;

use futures::FutureExt;
use rand::Rng;
use tokio::time::Instant;

use super::owner::{Owner, Phase};
use super::task::{Role, Task};
use crate::request::{KnownOwner, wrong_epoch};
use crate::takeover::{self, Verdict};

const RETRY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_REFENCE_PAUSE: Duration = Duration::from_secs(5);

impl Task {
    pub(super) fn begin_takeover(&mut self) {
        self.looked_at = Some(Instant::now());
        self.retry_at = None;
        self.role = Role::Recovering;
        let rng = self.ctx.env.rng();
        self.recovery = Some(takeover::locate_or_take_over(self.ctx.clone(), self.stream, rng).boxed());
    }

    pub(super) fn on_verdict(&mut self, verdict: Verdict) {
        self.recovery = None;
        let stream = self.stream;
        match verdict {
            Verdict::OwnedBy(owner) => {
                self.ctx.figures.count_takeover("owned_elsewhere");
                for control in self.parked.drain(..) {
                    control.not_owner(stream.0, Some(&owner));
                }
                self.known_owner = Some(owner);
                self.role = Role::Standby;
                self.hand_over.forget_handed();
            }
            Verdict::Won(won) => match self.ctx.range(stream) {
                (Some(range), _) => {
                    self.ctx.figures.count_takeover("won");
                    self.known_owner = None;
                    self.hand_over.look();
                    self.placement
                        .begin(Instant::now(), self.ctx.config.return_after());
                    let handed = self.hand_over.take_handed();
                    let owner = Owner::open(self.ctx.clone(), stream, range, *won, handed.as_deref());
                    self.role = Role::Owner(Box::new(owner));
                }
                (None, version) => {
                    tracing::warn!(%stream, version, "the range map does not name the stream any more");
                    self.role = Role::Standby;
                }
            },
            Verdict::Refenced(fence) => {
                if let Role::Owner(owner) = &mut self.role
                    && !owner.refenced(&fence)
                {
                    owner.deposed = true;
                }
            }
            Verdict::FenceAnew(plan) => {
                if let Role::Owner(owner) = &mut self.role
                    && owner.phase == Phase::Serving
                {
                    owner.phase = Phase::Refencing { plan: Some(plan) };
                    // What is in flight gets this long to be committed before the fence makes it wait.
                    owner.refence_at = Some(Instant::now() + super::REFENCE_PAUSE);
                }
            }
            Verdict::Keep => {
                if let Role::Owner(owner) = &mut self.role {
                    owner.refence_pause = (owner.refence_pause * 2).min(LONGEST_REFENCE_PAUSE);
                    owner.refence_at =
                        Some(Instant::now() + owner.refence_pause.mul_f64(self.rng.random_range(0.5..=1.0)));
                }
            }
            Verdict::Failed(why) => {
                tracing::info!(%stream, why, "no takeover");
                if let Role::Owner(owner) = &mut self.role {
                    owner.deposed = true;
                } else {
                    self.ctx.figures.count_takeover("failed");
                    let pause = RETRY_PAUSE.mul_f64(self.rng.random_range(0.5..=1.5));
                    self.retry_at = Some(Instant::now() + pause);
                }
            }
        }
    }

    pub(super) fn retry(&mut self, at: Instant) {
        if self.retry_at.is_none_or(|due| at < due) {
            return;
        }
        self.retry_at = None;
        self.parked.retain(|control| !control.is_abandoned());
        if self.parked.is_empty() && !self.hand_over.has_handed(at) {
            self.role = Role::Standby;
        } else {
            self.begin_takeover();
        }
    }

    /// Not accepted by all journal nodes: asks whether to fence anew, and does when everything in flight is committed.
    pub(super) fn see_about_refencing(&mut self, at: Instant) {
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        if self.recovery.is_some() {
            return;
        }
        let is_due = owner.refence_at.is_some_and(|due| at >= due);
        let (ctx, stream, epoch) = (self.ctx.clone(), self.stream, owner.replication.epoch());
        match owner.phase {
            Phase::Serving if is_due => {
                owner.refence_at = None;
                self.recovery = Some(takeover::consider_fencing_anew(ctx, stream, epoch).boxed());
            }
            Phase::Refencing { plan: Some(plan) } => {
                let is_settled = owner.replication.committed() == owner.replication.last().lsn;
                if is_due || is_settled {
                    owner.refence_at = None;
                    owner.phase = Phase::Refencing { plan: None };
                    self.recovery = Some(takeover::fence_anew(ctx, stream, plan).boxed());
                }
            }
            _ => {}
        }
    }

    pub(super) fn answer_parked(&mut self) {
        if let Role::Owner(owner) = &mut self.role
            && owner.phase == Phase::Serving
            && !self.parked.is_empty()
        {
            for control in self.parked.drain(..) {
                owner.on_question(control);
            }
            owner.pump(&mut self.peers);
        }
    }

    pub(super) fn step_down_if_deposed(&mut self) {
        let Role::Owner(owner) = &mut self.role else {
            return;
        };
        if !owner.deposed {
            return;
        }
        self.ctx.figures.deposed.increment(1);
        self.step_down(None);
        if !self.parked.is_empty() {
            self.begin_takeover();
        }
    }

    /// Not the owner any more; the next one is known, or not.
    pub(super) fn step_down(&mut self, successor: Option<KnownOwner>) {
        if let Role::Owner(owner) = &mut self.role {
            owner.give_up();
        }
        self.recovery = None;
        self.role = Role::Standby;
        self.known_owner = successor;
        // Nothing that waits in the queue was decided: it is to be tried elsewhere.
        while let Ok(work) = self.inbox.decides.try_recv() {
            self.handle.budget.give_back(work.bytes);
            work.reply.refused(wrong_epoch(self.known_owner.as_ref()));
        }
    }

    pub(super) fn begin_shutdown(&mut self) {
        self.release_until = Some(Instant::now() + self.ctx.config.release_timeout());
        self.retry_at = None;
        self.recovery = None;
        for control in self.parked.drain(..) {
            control.not_owner(self.stream.0, None);
        }
        match &mut self.role {
            Role::Owner(owner) if owner.phase == Phase::Serving => owner.begin_release(),
            _ => self.release_until = Some(Instant::now()),
        }
    }

    pub(super) fn continue_shutdown(&mut self, at: Instant) -> bool {
        let Some(until) = self.release_until else {
            return false;
        };
        if self.hand_over.is_sending() {
            return at >= until;
        }
        let Role::Owner(owner) = &mut self.role else {
            return true;
        };
        if owner.continue_release() {
            tracing::info!(stream = %self.stream, epoch = %owner.replication.epoch(), "released");
            self.hand_on();
            return !self.hand_over.is_sending();
        }
        owner.pump(&mut self.peers);
        // In a process that stops its journal nodes as well there is nobody left to wait for.
        let connected = self.peers.iter().filter(|peer| peer.id().is_some()).count();
        at >= until || connected < self.ctx.quorum()
    }
}
