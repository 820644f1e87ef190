//! Deciding about fences and appends (section 7).

use meridian_clock::Interval;
use meridian_protocol::clock_rules::is_too_far_ahead;
use meridian_protocol::closing::Closure;
use meridian_protocol::events;
use meridian_protocol::fencing::{AppendDecision, Begin, FenceRefusal};
use meridian_rpc::KvError;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::{
    self, AppendBatch, AppendReply, AppendReplyBatch, AppendRequest, Entry, FenceRequest, FenceResponse,
};
use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{DiskId, Epoch, LogBase, Lsn, NodeName, Position, RangeId, StreamId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::{Answer, Connection, Decision, Journal, Pending, ReplySlot, State};
use crate::stream::{OwnerSeen, Stream, Undo};
use crate::wal::format::Body;

/// Streams that one closure may depend on.
const MAX_DEPENDENCIES: usize = 10_000;
/// An owner's name, in bytes.
pub const MAX_OWNER_BYTES: usize = 255;

impl Journal {
    /// An append stream was opened by this owner process.
    pub fn connect(&self, owner: NodeName) -> u64 {
        let mut state = self.lock();
        state.next_connection += 1;
        let id = state.next_connection;
        let last_heard = Instant::now();
        state.connections.insert(id, Connection { owner, last_heard });
        id
    }

    /// An append stream ended.
    pub fn disconnect(&self, connection: u64) {
        let mut state = self.lock();
        let Some(gone) = state.connections.remove(&connection) else {
            return;
        };
        for stream in state.streams.values_mut() {
            if stream.owner.connection == Some(connection) {
                stream.owner.connection = None;
                stream.owner.last_heard = Some(gone.last_heard);
            }
        }
    }

    /// Decides about a batch of appends. The replies go to `slot` once everything decided so far is durable.
    pub fn append(
        &self,
        connection: u64,
        batch: AppendBatch,
        slot: ReplySlot,
        room: OwnedSemaphorePermit,
    ) -> Result<(), KvError> {
        let now = self.clock.now();
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check_serving()?;
        if let Some(connection) = state.connections.get_mut(&connection) {
            connection.last_heard = Instant::now();
        }
        let mut decided = Decided::default();
        for append in batch.appends {
            self.decide(state, connection, append, now, &mut decided)?;
        }
        for stream in &decided.committed {
            state.commits.note(*stream);
        }
        let mut progress = !decided.committed.is_empty() || !batch.closures.is_empty();
        for closure in batch.closures {
            if closure.after.len() <= MAX_DEPENDENCIES {
                state.closures.push(from_wire(closure), self.config.max_streams);
            }
        }
        progress |= self.enqueue(state, decided, slot, room);
        drop(guard);
        if progress {
            self.note_progress();
        }
        Ok(())
    }

    /// Returns whether more is known to be committed at once.
    fn enqueue(
        &self,
        state: &mut State,
        decided: Decided,
        slot: ReplySlot,
        room: OwnedSemaphorePermit,
    ) -> bool {
        let Decided {
            records,
            decisions,
            replies,
            ..
        } = decided;
        if replies.is_empty() {
            return false;
        }
        if records.is_empty() && state.pending.is_empty() {
            // Nothing to write, and everything decided before is durable.
            let mut progress = false;
            for decision in &decisions {
                progress |= self.on_durable(state, decision);
            }
            slot.send(Ok(AppendReplyBatch { replies }));
            return progress;
        }
        state.queue.push_back(records);
        state.pending.push_back(Pending {
            decisions,
            answer: Answer::Append(slot, replies),
            _room: Some(room),
        });
        self.wake_writer();
        false
    }

    fn decide(
        &self,
        state: &mut State,
        connection: u64,
        append: AppendRequest,
        now: Interval,
        decided: &mut Decided,
    ) -> Result<(), KvError> {
        let (id, epoch) = (StreamId(append.stream), Epoch(append.epoch));
        let invalid = match self.stream(state, id) {
            Ok(_) => self.find_fault(&append, now),
            Err(fault) => Some(fault),
        };
        if let Some(what) = invalid {
            tracing::warn!(stream = %id, %epoch, what, "append refused");
            decided.reply(id, epoch, Reply::Invalid(what));
            return Ok(());
        }
        let name = state
            .connections
            .get(&connection)
            .map(|connection| connection.owner.clone());
        let Ok(stream) = self.stream(state, id) else {
            return Ok(());
        };
        let positions = positions(&append.entries);
        let prev = append.prev.map_or(Position::START, Position::from);
        let mut undo = stream.before();
        let rejoin = DiskId::from_slice(&append.rejoin_disk_id);
        let base = append.base.map(LogBase::from);
        let begun = base.map_or(Begin::Unneeded, |base| {
            stream.log.on_base(epoch, base.position, &positions, rejoin)
        });
        match (begun, base) {
            (Begin::CutsCommitted { committed }, _) => {
                return Err(self.disagreement(state, id, epoch, committed, prev));
            }
            (Begin::Begun, Some(base)) => begin(stream, id, epoch, base, &mut undo, decided),
            (Begin::Begun | Begin::Unneeded, _) => {}
        }
        let reply = match stream.log.on_append(epoch, prev, &positions, rejoin) {
            AppendDecision::Refused { promised } => Reply::RefusedByEpoch(promised.0),
            AppendDecision::Mismatch { last } => Reply::Mismatch(last.into()),
            AppendDecision::Rejoining { disk } => Reply::RejoinDiskId(disk.to_bytes()),
            AppendDecision::Malformed => Reply::Invalid(
                "the append contradicts itself or an earlier one: gaps, falling epochs, or other entries"
                    .to_owned(),
            ),
            AppendDecision::CutsCommitted { committed, at } => {
                return Err(self.disagreement(state, id, epoch, committed, at));
            }
            AppendDecision::Accepted {
                persist_promise,
                skip,
                cut_to,
                matched,
                rejoined,
            } => {
                tracing::trace!(
                    target: events::TARGET, event = "accepted", stream = id.0, owner_epoch = epoch.0,
                    epoch = matched.epoch.0, lsn = matched.lsn.0
                );
                if persist_promise {
                    decided.records.push(Body::Promise(id, epoch, name.clone()));
                }
                stream.owner = OwnerSeen {
                    name,
                    connection: Some(connection),
                    has_just_fenced: false,
                    last_heard: None,
                };
                stream.acked = (epoch, self.acked(&append.acked));
                let decision = Decision {
                    stream: id,
                    undo,
                    matched: Some((epoch, matched)),
                };
                decided.accept(stream, decision, cut_to, append.entries.into_iter().skip(skip));
                if self.learn_committed(id, stream) {
                    decided.committed.push(id);
                }
                if rejoined {
                    decided.records.push(Body::Rejoined(id));
                    tracing::info!(stream = %id, %epoch, disk = %self.identity.disk_id, "stream rebuilt");
                }
                Reply::Matched(matched.into())
            }
        };
        decided.reply(id, epoch, reply);
        Ok(())
    }

    /// I7 would be broken: the node stops and says so.
    fn disagreement(
        &self,
        state: &mut State,
        id: StreamId,
        epoch: Epoch,
        committed: Lsn,
        at: Position,
    ) -> KvError {
        let what = format!(
            "stream {id}: the owner of epoch {epoch} would replace a committed entry ({at}, committed up to {committed}); \
             the replicas disagree about what is committed"
        );
        tracing::error!(stream = %id, %epoch, what, "journal node stops");
        self.fail_in(state, &what);
        KvError::unavailable(format!("the journal node stopped: {what}"))
    }

    /// A candidate asks for a promise. `None`: the answer comes once the promise is durable.
    pub fn fence(
        &self,
        request: FenceRequest,
        answer: oneshot::Sender<Result<FenceResponse, KvError>>,
    ) -> Result<Option<FenceResponse>, KvError> {
        if request.owner.len() > MAX_OWNER_BYTES || request.epoch == 0 {
            return Err(KvError::invalid(
                "a fence needs an epoch above 0 and an owner's name of at most 255 bytes",
            ));
        }
        let (id, epoch) = (StreamId(request.stream), Epoch(request.epoch));
        let owner = NodeName(request.owner);
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check_serving()?;
        let disk_id = self.identity.disk_id.to_bytes();
        let stream = self.stream(state, id).map_err(KvError::invalid)?;
        let undo = stream.before();
        let fenced = match stream.log.on_fence(epoch, owner.clone()) {
            Ok(fenced) => fenced,
            Err(FenceRefusal::Promised { promised }) => {
                return Ok(Some(FenceResponse {
                    refused_by_epoch: promised.0,
                    disk_id,
                    ..FenceResponse::default()
                }));
            }
            Err(FenceRefusal::Rejoining { .. }) => {
                return Ok(Some(FenceResponse {
                    rejoining: true,
                    disk_id,
                    ..FenceResponse::default()
                }));
            }
        };
        let response = FenceResponse {
            disk_id,
            last: Some(fenced.last.into()),
            committed_lsn: fenced.committed.0,
            last_commit: stream.summary.last_commit.0,
            lease_end: stream.summary.lease_end.0,
            released_floor: stream.released_floor(),
            ..FenceResponse::default()
        };
        stream.owner = OwnerSeen {
            name: Some(owner.clone()),
            connection: None,
            has_just_fenced: true,
            last_heard: Some(Instant::now()),
        };
        tracing::info!(stream = %id, %epoch, %owner, last = %fenced.last, "fenced");
        state.queue.push_back(match is_broken(Rule::FencePromise) {
            true => Vec::new(),
            false => vec![Body::Promise(id, epoch, Some(owner))],
        });
        state.pending.push_back(Pending {
            decisions: vec![Decision {
                stream: id,
                undo,
                matched: None,
            }],
            answer: Answer::Fence(answer, response),
            _room: None,
        });
        self.wake_writer();
        Ok(None)
    }

    /// The stream, begun if it is not known yet; an error says why it cannot be.
    fn stream<'a>(&self, state: &'a mut State, id: StreamId) -> Result<&'a mut Stream, String> {
        let limit = self.config.max_streams;
        if state.streams.len() >= limit && !state.streams.contains_key(&id) {
            return Err(format!(
                "this node holds {limit} streams, which is its limit (max_streams)"
            ));
        }
        let unseen = || Stream::new(Self::unseen(&self.identity));
        Ok(state.streams.entry(id).or_insert_with(unseen))
    }

    /// What is wrong with an append, beside its positions.
    fn find_fault(&self, append: &AppendRequest, now: Interval) -> Option<String> {
        if let Some(base) = append.base.map(LogBase::from) {
            if append.prev.map(Position::from) != Some(base.position) || base.position == Position::START {
                return Some("the base of an append is not the entry before its first".to_owned());
            }
            let allowance = self.config.max_ahead();
            if [base.last_commit, base.lease_end]
                .iter()
                .any(|at| is_too_far_ahead(*at, now, allowance))
            {
                return Some(format!(
                    "the base {} has timestamps more than {allowance:?} ahead of this node's clock ({})",
                    base.position, now.latest
                ));
            }
        }
        append
            .entries
            .iter()
            .find_map(|entry| self.find_fault_in(entry, now))
    }

    fn find_fault_in(&self, entry: &Entry, now: Interval) -> Option<String> {
        let lsn = entry.lsn;
        let needs_txn = match Kind::try_from(entry.kind) {
            Ok(Kind::Commit | Kind::Barred) => true,
            Ok(Kind::Lease | Kind::Opened | Kind::Released | Kind::Map | Kind::Sealed) => false,
            Ok(Kind::Unspecified) | Err(_) => {
                return Some(format!(
                    "entry {lsn} is of kind {}, which is not known here",
                    entry.kind
                ));
            }
        };
        if entry.txn.len() != if needs_txn { 16 } else { 0 } {
            return Some(format!(
                "entry {lsn} has a transaction id of {} bytes",
                entry.txn.len()
            ));
        }
        // R20: one bad clock cannot push the others far ahead.
        let allowance = self.config.max_ahead();
        is_too_far_ahead(Timestamp(entry.timestamp), now, allowance).then(|| {
            format!(
                "entry {lsn} has timestamp {}, more than {allowance:?} ahead of this node's clock ({})",
                entry.timestamp, now.latest
            )
        })
    }

    /// The owner's acknowledgements, in the order of the replicas.
    fn acked(&self, acked: &[internal::ReplicaPosition]) -> Vec<Lsn> {
        let of = |name: &NodeName| acked.iter().find(|position| position.node == name.0);
        self.replicas
            .iter()
            .map(|name| of(name).map_or(Lsn(0), |position| Lsn(position.lsn)))
            .collect()
    }

    /// Works out how much is committed, from what the owner told last. Returns whether that rose.
    pub(super) fn learn_committed(&self, id: StreamId, stream: &mut Stream) -> bool {
        let (epoch, acked) = &stream.acked;
        let log = &mut stream.log;
        let Some(committed) = log.on_acked(*epoch, acked, self.own_index, self.quorum) else {
            return false;
        };
        tracing::trace!(
            target: events::TARGET, event = "counted", stream = id.0, owner_epoch = epoch.0,
            epoch = log.epoch_at(committed).unwrap_or_default().0, lsn = committed.0
        );
        true
    }
}

/// The log begins where the owner's does.
fn begin(
    stream: &mut Stream,
    id: StreamId,
    epoch: Epoch,
    base: LogBase,
    undo: &mut Undo,
    decided: &mut Decided,
) {
    stream.begin(base, undo);
    decided.records.push(Body::Base(id, base));
    tracing::info!(stream = %id, %epoch, base = %base.position, "the log begins where its owner's does");
}

/// What was decided about the appends of one batch.
#[derive(Default)]
struct Decided {
    records: Vec<Body>,
    decisions: Vec<Decision>,
    replies: Vec<AppendReply>,
    /// Streams of which more is known to be committed.
    committed: Vec<StreamId>,
}

impl Decided {
    /// Replaces what follows `cut_to` by the new entries.
    fn accept(
        &mut self,
        stream: &mut Stream,
        mut decision: Decision,
        cut_to: Option<Lsn>,
        entries: impl Iterator<Item = Entry>,
    ) {
        if let Some(lsn) = cut_to {
            stream.cut_after(lsn, &mut decision.undo);
        }
        for entry in entries {
            stream.push(&entry);
            self.records.push(Body::Entry(decision.stream, entry));
        }
        self.decisions.push(decision);
    }

    fn reply(&mut self, stream: StreamId, epoch: Epoch, result: Reply) {
        self.replies.push(AppendReply {
            stream: stream.0,
            epoch: epoch.0,
            result: Some(result),
        });
    }
}

fn positions(entries: &[Entry]) -> Vec<Position> {
    entries
        .iter()
        .map(|entry| Position::new(entry.epoch, entry.lsn))
        .collect()
}

fn from_wire(closure: internal::Closure) -> Closure {
    Closure {
        range: RangeId(closure.range),
        epoch: Epoch(closure.epoch),
        x: Timestamp(closure.closed),
        after: closure
            .after
            .into_iter()
            .map(|after| (StreamId(after.stream), Lsn(after.lsn)))
            .collect(),
    }
}
