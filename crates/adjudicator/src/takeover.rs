//! Taking over a stream (R17, R18, section 7): is the owner gone, fence a majority, read the log.
//!
//! ```text
//! survey ── owner alive? ──yes──> Verdict::OwnedBy
//!    │no
//! random delay, survey again ── fence all, a majority answers ── confirm ── read headers ──> Verdict::Won
//! ```
//! Nothing here serves anything: the stream's task opens with what [`Won`] holds, and serves once its `Opened` record
//! is committed.

mod fence;
mod recover;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use meridian_types::{DiskId, Epoch, StreamId};
use rand::Rng;
use rand::rngs::StdRng;

use crate::context::Context;
use crate::request::KnownOwner;

pub(crate) use fence::Fence;
pub(crate) use recover::{Recovered, RecoveredOutcome};
use survey::Survey;

/// What came of an attempt to take over.
pub(crate) enum Verdict {
    /// Somebody else owns the stream and is alive, as far as a majority of the journal knows.
    OwnedBy(KnownOwner),
    /// A majority promised our epoch, and the log was read.
    Won(Box<Won>),
    /// The owner that asked should fence anew.
    FenceAnew(Plan),
    /// Fenced anew while being the owner: the log is known already.
    Refenced(Fence),
    /// A majority still accepts the owner that asked; it cannot gain anything by fencing anew now.
    Keep,
    /// Not now: no majority answered, or another candidate was faster.
    Failed(String),
}

/// A fence that an owner is about to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    epoch: Epoch,
    rejoining: Option<(usize, DiskId)>,
}

/// A fence that was won, and the log that is adopted.
pub(crate) struct Won {
    pub(crate) fence: Fence,
    pub(crate) recovered: Recovered,
}

/// Looks for a live owner, and takes over when there is none.
pub(crate) async fn locate_or_take_over(ctx: Arc<Context>, stream: StreamId, mut rng: StdRng) -> Verdict {
    let Some(first) = Survey::take(&ctx, stream).await else {
        return no_majority();
    };
    if let Some(owner) = first.live_owner(&ctx, stream).await {
        if owner.node == ctx.env.node {
            return Verdict::Failed("the stream is being handed over to this node".to_owned());
        }
        return Verdict::OwnedBy(owner);
    }
    tokio::time::sleep(Duration::from_micros(
        rng.random_range(0..=ctx.config.takeover_delay_ms * 1_000),
    ))
    .await;
    let Some(second) = Survey::take(&ctx, stream).await else {
        return no_majority();
    };
    if second.promised() > first.promised() {
        return Verdict::Failed("another candidate has begun to take over".to_owned());
    }
    let epoch = second.promised().next();
    tracing::info!(%stream, %epoch, "taking over");
    match fence::win(&ctx, stream, epoch, second.rejoining()).await {
        Ok(fence) => read(&ctx, stream, fence).await,
        Err(why) => Verdict::Failed(why),
    }
}

/// Takes over at once as the successor that the owner of the epoch before named: nobody has to be asked or waited for. If
/// another candidate was faster it goes on like any other.
pub(crate) async fn take_handed_over(
    ctx: Arc<Context>,
    stream: StreamId,
    epoch: Epoch,
    rng: StdRng,
) -> Verdict {
    tracing::info!(%stream, %epoch, "taking over from an owner that hands over");
    match fence::win(&ctx, stream, epoch, None).await {
        Ok(fence) => read(&ctx, stream, fence).await,
        Err(why) => {
            tracing::info!(%stream, why, "not taken over at once");
            locate_or_take_over(ctx, stream, rng).await
        }
    }
}

async fn read(ctx: &Context, stream: StreamId, fence: Fence) -> Verdict {
    ctx.env.reached("adjudicator: fenced").await;
    match recover::read(ctx, stream, &fence).await {
        Ok(recovered) => Verdict::Won(Box::new(Won { fence, recovered })),
        Err(status) => Verdict::Failed(format!("the adopted log could not be read: {status}")),
    }
}

/// Whether the owner of `current`, which a replica refuses or which came back with a new disk, should fence anew. Only while a
/// majority still promises its own epoch: otherwise it was deposed, and must not depose its successor.
pub(crate) async fn consider_fencing_anew(ctx: Arc<Context>, stream: StreamId, current: Epoch) -> Verdict {
    let Some(survey) = Survey::take_whole(&ctx, stream).await else {
        return Verdict::Keep;
    };
    let highest = survey.promised();
    if survey.promising(current) < ctx.quorum() {
        return if highest > current {
            Verdict::Failed("a majority has promised another epoch".to_owned())
        } else {
            Verdict::Keep
        };
    }
    // A lost disk can be rebuilt only by an owner whose fence all others answer.
    let rejoining = survey.rejoining();
    let can_rebuild = rejoining.is_some() && survey.voting() + 1 == ctx.journals.len();
    if highest > current || can_rebuild {
        let epoch = highest.next();
        Verdict::FenceAnew(Plan { epoch, rejoining })
    } else {
        Verdict::Keep
    }
}

/// Fences anew while being the owner.
pub(crate) async fn fence_anew(ctx: Arc<Context>, stream: StreamId, plan: Plan) -> Verdict {
    let Plan { epoch, rejoining } = plan;
    tracing::info!(%stream, %epoch, "fencing anew");
    match fence::win(&ctx, stream, epoch, rejoining).await {
        Ok(fence) => Verdict::Refenced(fence),
        Err(why) => Verdict::Failed(why),
    }
}

fn no_majority() -> Verdict {
    Verdict::Failed("no majority of the journal nodes answers".to_owned())
}
