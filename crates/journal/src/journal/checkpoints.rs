//! What the storage nodes say that their checkpoints hold (decision 28.2). In memory only: after a restart nothing is trimmed before
//! all of them have told it again.

use std::collections::BTreeMap;

use meridian_rpc::KvError;
use meridian_rpc::internal::CheckpointedRequest;
use meridian_types::{Lsn, NodeName, Position, StreamId};

use super::Journal;
use crate::stream::Stream;

/// Up to where each configured storage node has each stream in a checkpoint, as far as that is believed.
#[derive(Default)]
pub struct Checkpoints {
    by_node: BTreeMap<NodeName, BTreeMap<StreamId, Lsn>>,
}

impl Checkpoints {
    /// None has told anything yet.
    pub fn new(storage: &[NodeName]) -> Self {
        let none = |node: &NodeName| (node.clone(), BTreeMap::new());
        Self {
            by_node: storage.iter().map(none).collect(),
        }
    }

    /// Up to where all of them have it; `None` while one has not told, or there is none that is known of.
    pub fn of_all(&self, stream: StreamId) -> Option<Lsn> {
        let mut lowest = None;
        for held in self.by_node.values() {
            let held = *held.get(&stream)?;
            lowest = Some(lowest.map_or(held, |lowest: Lsn| lowest.min(held)));
        }
        lowest
    }

    /// The highest that anybody has: committed, whoever else knows it.
    pub fn highest(&self, stream: StreamId) -> Lsn {
        let held = self.by_node.values().filter_map(|held| held.get(&stream));
        held.max().copied().unwrap_or_default()
    }

    fn note(&mut self, node: &NodeName, stream: StreamId, lsn: Lsn) {
        if let Some(held) = self.by_node.get_mut(node) {
            let highest = held.entry(stream).or_default();
            *highest = lsn.max(*highest);
        }
    }
}

impl Journal {
    /// A storage node tells what its checkpoint holds. What cannot be believed is left out: it tells it again.
    pub fn checkpointed(&self, request: CheckpointedRequest) -> Result<(), KvError> {
        let limit = self.config.max_streams;
        if request.positions.len() > limit {
            return Err(KvError::LimitExceeded {
                limit: "streams of a checkpoint".to_owned(),
                allowed: limit as u64,
                got: request.positions.len() as u64,
            });
        }
        let node = NodeName(request.node);
        if !self.config.storage_nodes.contains(&node) {
            return Err(KvError::invalid(
                "the node that tells of its checkpoint is not one of the storage nodes that this journal node was started with",
            ));
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        state.check_serving()?;
        for told in request.positions {
            let id = StreamId(told.stream);
            let Some(position) = told.position.map(Position::from) else {
                continue;
            };
            let is_held = state
                .streams
                .get(&id)
                .is_some_and(|stream| is_held(stream, position));
            if is_held {
                state.checkpoints.note(&node, id, position.lsn);
            }
        }
        Ok(())
    }
}

/// Whether this log has the same entry there, durably; then both agree on everything up to it, and all of it is committed.
fn is_held(stream: &Stream, position: Position) -> bool {
    if position.lsn <= stream.index.base().position.lsn {
        return true;
    }
    let slot = stream.index.get(position.lsn);
    let is_same = stream.log.epoch_at(position.lsn) == Some(position.epoch);
    is_same && slot.is_some_and(|slot| slot.location.is_placed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_count_and_none_goes_back() {
        let (first, second) = (NodeName::from("s1"), NodeName::from("s2"));
        let mut checkpoints = Checkpoints::new(&[first.clone(), second.clone()]);
        let stream = StreamId(1);
        checkpoints.note(&first, stream, Lsn(5));
        assert_eq!(
            (checkpoints.of_all(stream), checkpoints.highest(stream)),
            (None, Lsn(5))
        );
        checkpoints.note(&second, stream, Lsn(3));
        checkpoints.note(&second, stream, Lsn(2));
        checkpoints.note(&NodeName::from("s3"), stream, Lsn(1));
        assert_eq!(checkpoints.of_all(stream), Some(Lsn(3)));
        assert_eq!(checkpoints.of_all(StreamId(2)), None);
        assert_eq!(
            Checkpoints::new(&[]).of_all(stream),
            None,
            "nobody is not everybody"
        );
    }
}
