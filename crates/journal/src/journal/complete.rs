//! The writer's side: taking what is queued, and what follows from a sync.

use std::time::Duration;

use meridian_protocol::events;
use meridian_rpc::KvError;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::{AppendReply, AppendReplyBatch};
use meridian_types::{LogBase, Position};

use super::{Answer, Decision, Journal, Pending, Phase, State, Work};
use crate::wal::Location;
use crate::wal::format::Body;

impl Journal {
    /// The next group, without waiting.
    pub fn next_work(&self) -> Work {
        self.take_group(&mut self.lock())
    }

    /// The next group; waits on this thread until there is one, up to `timeout`.
    pub fn wait_for_work(&self, timeout: Duration) -> Work {
        let state = self.lock();
        let is_waiting = |state: &mut State| state.queue.is_empty() && state.phase == Phase::Serving;
        let waited = self.work.wait_timeout_while(state, timeout, is_waiting);
        let (mut state, _) = waited.unwrap_or_else(|poisoned| {
            let (mut state, timeout) = poisoned.into_inner();
            self.fail_half_way(&mut state);
            (state, timeout)
        });
        self.take_group(&mut state)
    }

    /// Returns when the writer was woken (as a task).
    pub async fn woken(&self) {
        self.work_task.notified().await;
    }

    fn take_group(&self, state: &mut State) -> Work {
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < self.config.group_bytes
            && let Some(records) = state.queue.pop_front()
        {
            bytes += records.iter().map(Body::size).sum::<usize>();
            group.push(records);
        }
        match (group.is_empty(), &state.phase) {
            (false, _) => Work::Write(group),
            (true, Phase::Serving) => Work::Idle,
            (true, Phase::Closing | Phase::Failed(_)) => Work::Close,
        }
    }

    /// A group is durable: its entries can be read back, and its replies are sent.
    pub fn complete(&self, messages: usize, records: Vec<Body>, locations: Vec<Location>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if matches!(state.phase, Phase::Failed(_)) {
            return;
        }
        state.figures.groups += 1;
        state.figures.records += records.len() as u64;
        let done: Vec<Pending> = state.pending.drain(..messages.min(state.pending.len())).collect();
        // Rare: then what is still queued need not be searched for each record.
        let has_cuts = queued(state).any(|decision| decision.undo.has_removed());
        if let Some(last) = locations.last() {
            state.active_segment = state.active_segment.max(last.segment);
        }
        for (record, location) in records.iter().zip(locations) {
            log_durable(record);
            place(state, record, location, has_cuts);
        }
        let mut progress = false;
        for pending in done {
            for decision in &pending.decisions {
                progress |= self.on_durable(state, decision);
            }
            // Still under the lock: what is decided next may be answered at once, and must not overtake this.
            match pending.answer {
                Answer::Append(slot, replies) => {
                    slot.send(Ok(AppendReplyBatch { replies }));
                }
                // The candidate may have gone away; its promise stays.
                Answer::Fence(sender, response) => drop(sender.send(Ok(response))),
            }
        }
        drop(guard);
        if progress {
            self.note_progress();
        }
    }

    /// A decision's records are durable. Returns whether more is known to be committed.
    pub(super) fn on_durable(&self, state: &mut State, decision: &Decision) -> bool {
        let tail_bytes = self.config.tail_bytes_of(state.streams.len());
        let (Some((epoch, matched)), Some(stream)) =
            (decision.matched, state.streams.get_mut(&decision.stream))
        else {
            return false;
        };
        stream.log.on_persisted(epoch, matched);
        stream.persisted = (epoch, matched);
        stream.shrink_tail(tail_bytes);
        let has_risen = self.learn_committed(decision.stream, stream);
        if has_risen {
            state.commits.note(decision.stream);
        }
        has_risen
    }

    /// There is no room: everything decided since the last sync is taken back and refused.
    pub fn refuse(&self, why: &str) {
        let mut guard = self.lock();
        let state = &mut *guard;
        tracing::warn!(node = %self.identity.node, why, messages = state.pending.len(), "appends refused");
        state.queue.clear();
        let refused: Vec<Pending> = state.pending.drain(..).collect();
        self.refused.increment(refused.len() as u64);
        let mut answers = Vec::with_capacity(refused.len());
        for pending in refused.into_iter().rev() {
            for decision in pending.decisions.into_iter().rev() {
                if let Some(stream) = state.streams.get_mut(&decision.stream) {
                    stream.undo(decision.undo);
                }
            }
            answers.push(pending.answer);
        }
        // Under the lock, in order: see `complete`.
        for answer in answers.into_iter().rev() {
            match answer {
                Answer::Append(slot, replies) => {
                    let replies = replies
                        .into_iter()
                        .map(|reply| refused_reply(reply, why))
                        .collect();
                    slot.send(Ok(AppendReplyBatch { replies }));
                }
                Answer::Fence(sender, _) => {
                    let retry_after = Duration::from_secs(1);
                    drop(sender.send(Err(KvError::overloaded(why.to_owned(), retry_after))));
                }
            }
        }
    }
}

fn queued(state: &State) -> impl Iterator<Item = &Decision> {
    state.pending.iter().flat_map(|pending| &pending.decisions)
}

fn place(state: &mut State, record: &Body, location: Location, has_cuts: bool) {
    let (id, entry) = match record {
        Body::Entry(id, entry) => (id, entry),
        other => return note_durable(state, other, location),
    };
    let Some(stream) = state.streams.get_mut(id) else {
        return;
    };
    let later = state
        .pending
        .iter_mut()
        .take(if has_cuts { usize::MAX } else { 0 })
        .flat_map(|pending| &mut pending.decisions);
    let undos = later
        .filter(|decision| decision.stream == *id)
        .map(|decision| &mut decision.undo);
    stream.place(Position::new(entry.epoch, entry.lsn), location, undos);
}

/// What is durable beside entries.
fn note_durable(state: &mut State, record: &Body, location: Location) {
    let id = match record {
        Body::Promise(id, ..) | Body::Rejoined(id) | Body::Base(id, _) => id,
        Body::Entry(..) | Body::End(_) => return,
    };
    let Some(stream) = state.streams.get_mut(id) else {
        return;
    };
    match record {
        Body::Promise(_, epoch, owner) => stream.durable.on_promise(*epoch, owner.clone()),
        Body::Rejoined(_) => stream.durable.is_rebuilt = true,
        Body::Base(_, base) => {
            let decisions = state
                .pending
                .iter_mut()
                .flat_map(|pending| &mut pending.decisions);
            let undos = decisions
                .filter(|decision| decision.stream == *id)
                .map(|decision| &mut decision.undo);
            stream.on_base_durable(base.position, location, undos);
        }
        Body::Entry(..) | Body::End(_) => {}
    }
}

fn log_durable(record: &Body) {
    match record {
        Body::Entry(stream, entry) => tracing::trace!(
            target: events::TARGET, event = "persisted", stream = stream.0, epoch = entry.epoch, lsn = entry.lsn,
            timestamp = entry.timestamp
        ),
        Body::Promise(stream, epoch, _) => {
            tracing::trace!(target: events::TARGET, event = "promised", stream = stream.0, epoch = epoch.0);
        }
        Body::Base(stream, LogBase { position, .. }) => tracing::trace!(
            target: events::TARGET, event = "begun", stream = stream.0, epoch = position.epoch.0, lsn = position.lsn.0
        ),
        Body::Rejoined(_) | Body::End(_) => {}
    }
}

fn refused_reply(reply: AppendReply, why: &str) -> AppendReply {
    AppendReply {
        result: Some(Reply::Invalid(why.to_owned())),
        ..reply
    }
}
