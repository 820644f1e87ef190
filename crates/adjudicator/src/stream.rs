//! One stream of this process: standby, candidate or owner.
//!
//! ```text
//! Standby ──somebody needs the stream──> Recovering ──owner alive──> Standby
//!    ^                                       └──fence won──> Owner(opening, serving, …)
//!    └──────────────── deposed, released ────────────────────────┘
//! ```
//! One task per stream. It never awaits while it decides: it takes what is queued (the journal's replies first), decides,
//! hands the records to the links, and answers what is committed.

mod catch_up;
mod cross;
mod decide;
mod floors;
mod hand_over;
mod home;
mod lead;
mod map;
mod owner;
mod participant;
mod peers;
mod placement;
mod questions;
mod replicate;
mod roles;
mod show;
mod tail;
mod task;
mod waiting;
mod way;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meridian_rpc::v1::OwnedRangeStatus;
use meridian_types::StreamId;
use tokio::sync::mpsc;

use crate::context::Context;
use crate::registry::{Registry, StreamHandle};
use crate::request::Budget;
use task::{Inbox, Task};

/// How long an owner that is not accepted by all waits before it sees about fencing anew; doubled while that
/// gains nothing.
const REFENCE_PAUSE: Duration = Duration::from_millis(250);
/// How long to wait when older entries could not be read.
const FETCH_PAUSE: Duration = Duration::from_millis(200);
/// Added to waits for a clock's reading: a timer that comes too early would come again and again.
const TIMER_GRANULARITY: Duration = Duration::from_millis(1);
/// Events of the journal that may wait; the links wait when there are more.
const LINK_EVENTS: usize = 1_024;
/// Questions that may wait; beyond, they are refused as overloaded.
const QUESTIONS: usize = 1_024;

/// Messages of other adjudicators that may wait; beyond, they are dropped.
const PEER_MESSAGES: usize = 8_192;

/// The task of a stream, unless this process has one already. It ends after `ctx.shutdown`.
pub(crate) fn task(
    ctx: &Arc<Context>,
    registry: &Registry,
    stream: StreamId,
) -> Option<impl Future<Output = ()> + Send + 'static> {
    let (links, link_events) = mpsc::channel(LINK_EVENTS);
    let (control, questions) = mpsc::channel(QUESTIONS);
    let (decides, requests) = mpsc::channel(ctx.config.queue_requests);
    let (peers, peer_messages) = mpsc::channel(PEER_MESSAGES);
    let handle = StreamHandle {
        links: links.clone(),
        control,
        decides,
        peers,
        budget: Arc::new(Budget::new(ctx.config.queue_bytes)),
        status: Arc::new(Mutex::new(OwnedRangeStatus::default())),
        successor: Arc::default(),
    };
    let connections = registry.add(stream, handle.clone())?;
    let inbox = Inbox {
        links: link_events,
        control: questions,
        peers: peer_messages,
        decides: requests,
    };
    let task = Task::new(ctx.clone(), stream, inbox, handle, connections);
    Some(task.run())
}
