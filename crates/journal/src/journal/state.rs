//! What the node says of itself: to candidates before a takeover, and to operators.

use std::collections::BTreeMap;

use meridian_rpc::internal::{self, StateRequest, StateResponse, StreamState};
use meridian_rpc::v1::{ServiceStatus, StreamStatus};
use meridian_types::StreamId;
use tokio::time::Instant;

use super::{Journal, Phase, State};
use crate::stream::Stream;

/// Counters since the node started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Groups written, each with one sync.
    pub groups: u64,
    /// Records written.
    pub records: u64,
    /// What the log takes on the disk, in bytes, as of when it was last looked at.
    pub log_bytes: u64,
}

impl Journal {
    /// What this node knows of the streams; of all when none is named.
    pub fn state(&self, request: &StateRequest) -> StateResponse {
        let now = self.clock.now();
        let state = self.lock();
        let ids: Vec<StreamId> = match request.streams.as_slice() {
            [] => state.streams.keys().copied().collect(),
            named => named.iter().map(|id| StreamId(*id)).collect(),
        };
        let streams: Vec<StreamState> = ids.iter().map(|id| self.stream_state(&state, *id)).collect();
        StateResponse {
            disk_id: self.identity.disk_id.to_bytes(),
            // Of the streams asked for; a disk that replaced a lost one and holds none of them yet is rejoining too.
            rejoining: streams.iter().any(|stream| stream.rejoining)
                || (streams.is_empty() && self.identity.rejoining),
            streams,
            now_earliest: now.earliest.0,
            now_latest: now.latest.0,
        }
    }

    fn stream_state(&self, state: &State, id: StreamId) -> StreamState {
        let unseen;
        let stream = match state.streams.get(&id) {
            Some(stream) => stream,
            None => {
                unseen = Stream::new(Self::unseen(&self.identity));
                &unseen
            }
        };
        let owner = &stream.owner;
        let by_id = owner
            .connection
            .and_then(|connection| state.connections.get(&connection));
        // An owner that has fenced but not appended yet is told by its name.
        let by_name = || {
            let named = |name: &meridian_types::NodeName| {
                state
                    .connections
                    .values()
                    .find(|connection| connection.owner == *name)
            };
            owner
                .name
                .as_ref()
                .filter(|_| owner.has_just_fenced)
                .and_then(named)
        };
        let connection = by_id.or_else(by_name);
        let heard = connection
            .map(|connection| connection.last_heard)
            .max(owner.last_heard);
        let silence = Instant::now().saturating_duration_since(heard.unwrap_or(self.started_at));
        StreamState {
            stream: id.0,
            promised: stream.log.promised().0,
            owner: owner.name.as_ref().map(|name| name.0.clone()).unwrap_or_default(),
            last: Some(stream.log.last().into()),
            committed_lsn: stream.log.committed().0,
            lease_end: stream.summary.lease_end.0,
            last_commit: stream.summary.last_commit.0,
            released_floor: stream.released_floor(),
            owner_connected: connection.is_some(),
            owner_silent_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            bytes: stream.index.bytes(),
            rejoining: stream.log.is_rejoining().is_some(),
            base: stream.base().map(internal::LogBase::from),
        }
    }

    /// For operators.
    pub fn status(&self, role: &str) -> ServiceStatus {
        let state = self.lock();
        let streams = state.streams.iter().map(|(id, stream)| StreamStatus {
            stream: id.0,
            promised_epoch: stream.log.promised().0,
            owner: stream
                .owner
                .name
                .as_ref()
                .map(|name| name.0.clone())
                .unwrap_or_default(),
            last_epoch: stream.log.last().epoch.0,
            last_lsn: stream.log.last().lsn.0,
            committed_lsn: stream.log.committed().0,
            lease_end: stream.summary.lease_end.0,
            bytes: stream.index.bytes(),
        });
        let is_rejoining = state
            .streams
            .values()
            .any(|stream| stream.log.is_rejoining().is_some());
        let tail_bytes: usize = state.streams.values().map(|stream| stream.tail.bytes()).sum();
        let figures = BTreeMap::from([
            ("tail_bytes".to_owned(), tail_bytes as u64),
            ("groups".to_owned(), state.figures.groups),
            ("records".to_owned(), state.figures.records),
            ("append_connections".to_owned(), state.connections.len() as u64),
            ("log_bytes".to_owned(), state.figures.log_bytes),
            ("waiting_messages".to_owned(), state.pending.len() as u64),
        ]);
        ServiceStatus {
            role: role.to_owned(),
            state: match &state.phase {
                Phase::Serving if is_rejoining => "rejoining".to_owned(),
                Phase::Serving => "ready".to_owned(),
                Phase::Closing => "shutting down".to_owned(),
                Phase::Failed(what) => format!("stopped: {what}"),
            },
            streams: streams.collect(),
            figures: figures.into_iter().collect(),
            ..ServiceStatus::default()
        }
    }
}
