//! R19: before an owner closes below its opening floor, the owners of the other streams raise theirs.

use std::time::Duration;

use futures::FutureExt;
use meridian_protocol::events;
use meridian_rpc::internal::adjudicator_client::AdjudicatorClient;
use meridian_rpc::internal::{RaiseFloorRequest, RaiseFloorResponse};
use meridian_types::{Epoch, Lsn, StreamId, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cross::{Background, Raise};
use super::owner::Owner;
use super::waiting::Answer;
use crate::context::Context;

/// How long one call may take: the other stream may have to be taken over first.
const RAISE_TIMEOUT: Duration = Duration::from_secs(2);
/// When to ask a stream again that did not answer.
const RAISE_PAUSE: Duration = Duration::from_millis(100);

impl Owner {
    /// Asks the owners of other streams for what the next closure needs of them.
    pub(super) fn ask_for_raises(&mut self, at: Instant) {
        self.cross
            .raising
            .retain(|_, again| again.is_none_or(|again| at < again));
        let now = self.ctx.now();
        let lead = self.lead_now(now).close;
        let map = self.ctx.map.borrow().clone();
        for (stream, floor) in self.adjudication.wanted_raises(now, lead) {
            if let Some(retired) = map.reshaping.retired.get(&stream) {
                // It was merged or split meanwhile, and commits nothing any more.
                self.adjudication.on_raised(stream, Timestamp::MAX, retired.last);
                self.cross.may_close = true;
                continue;
            }
            if self.cross.raising.contains_key(&stream) {
                continue;
            }
            self.cross.raising.insert(stream, None);
            let ctx = self.ctx.clone();
            let call = async move {
                let answer = raise(&ctx, stream, floor).await;
                Background::Raised { stream, answer }
            };
            self.background.push(call.boxed());
        }
    }

    /// Another stream's owner has answered.
    pub(super) fn on_raised(&mut self, stream: StreamId, answer: Option<Raise>) {
        let pause = match answer {
            Some(Raise { floor, lsn, took }) => {
                if took <= self.patience() {
                    self.cross.to_home.entry(stream).or_default().on_asked(took);
                }
                self.adjudication.on_raised(stream, floor, lsn);
                self.cross.may_close = true;
                // Time goes on, so it is asked for more as often as there are closures.
                self.ctx.config.closed_interval() / 2
            }
            None => RAISE_PAUSE,
        };
        self.cross.raising.insert(stream, Some(Instant::now() + pause));
    }

    /// The owner of another stream asks to raise the floor here.
    pub(super) fn on_raise_floor(&mut self, floor: Timestamp, reply: oneshot::Sender<RaiseFloorResponse>) {
        let now = self.ctx.now();
        self.note_use(now);
        let Some(raised) = self.adjudication.answer_raise_floor(floor, now, self.allowance()) else {
            return;
        };
        // One that is on its way already has its lsn among those up to `raised.lsn`.
        let lease = raised.lease.and_then(|wanted| self.lease.extend(wanted, now));
        let lsn = match lease {
            Some(lease_end) => self.append_lease(lease_end),
            None => raised.lsn,
        };
        tracing::trace!(
            target: events::TARGET, event = "raised", stream = self.stream.0, epoch = self.replication.epoch().0,
            floor = raised.floor.0, lsn = lsn.0
        );
        self.cross.are_homes_due = true;
        let answer = RaiseFloorResponse {
            floor: raised.floor.0,
            lsn: lsn.0,
            owner: self.ctx.env.node.0.clone(),
            epoch: self.replication.epoch().0,
            not_owner: false,
        };
        self.answer_at(lsn, Answer::Raised(reply, answer));
    }

    /// How far ahead of the present another owner may ask to raise the floor: its lead, and what clocks differ by.
    fn allowance(&self) -> Duration {
        self.ctx.config.lead_policy().ceiling + self.ctx.env.clock.max_error()
    }
}

async fn raise(ctx: &Context, stream: StreamId, floor: Timestamp) -> Option<Raise> {
    let owner = ctx.owners.owner(stream).await.ok()?;
    let request = RaiseFloorRequest {
        stream: stream.0,
        floor: floor.0,
    };
    let mut client = AdjudicatorClient::new(ctx.env.network.transport(&owner.node));
    let began = Instant::now();
    let answer = tokio::time::timeout(RAISE_TIMEOUT, client.raise_floor(request)).await;
    let Ok(Ok(answer)) = answer else {
        ctx.owners.forget(stream, owner.epoch);
        return None;
    };
    let answer = answer.into_inner();
    if answer.not_owner {
        ctx.owners.forget(stream, owner.epoch);
        ctx.owners.learn(stream, &answer.owner, Epoch(answer.epoch));
        return None;
    }
    Some(Raise {
        floor: Timestamp(answer.floor),
        lsn: Lsn(answer.lsn),
        took: began.elapsed(),
    })
}
