//! Which streams' committed positions rose since, for watchers to pick up at their own pace.

use std::collections::BTreeMap;
use std::ops::Bound;

use meridian_types::{Position, StreamId};

use super::Journal;

/// Most positions of one message.
const MAX_POSITIONS: usize = 4_096;

/// The streams in the order in which more of them became known to be committed, each once.
///
/// Invariant: `by_number` and `numbers` hold the same pairs.
#[derive(Default)]
pub struct Commits {
    by_number: BTreeMap<u64, StreamId>,
    numbers: BTreeMap<StreamId, u64>,
    learnt: u64,
}

impl Commits {
    /// More of the stream is known to be committed.
    pub fn note(&mut self, stream: StreamId) {
        self.learnt += 1;
        if let Some(before) = self.numbers.insert(stream, self.learnt) {
            self.by_number.remove(&before);
        }
        self.by_number.insert(self.learnt, stream);
    }

    /// Those after number `seen`, in order.
    fn after(&self, seen: u64) -> impl Iterator<Item = (u64, StreamId)> {
        let newer = self.by_number.range((Bound::Excluded(seen), Bound::Unbounded));
        newer.map(|(number, stream)| (*number, *stream))
    }
}

impl Journal {
    /// The last committed entries of the streams, among those `wanted`, of which more became known after number `seen`; and the
    /// number up to which they were looked at. An entry and the node's knowledge of it are durable or can be learnt again only
    /// from the owner: what is told here stays true, whatever becomes of this node (I7).
    pub fn committed_after(
        &self,
        seen: u64,
        wanted: impl Fn(StreamId) -> bool,
    ) -> (Vec<(StreamId, Position)>, u64) {
        let state = self.lock();
        let mut found = Vec::new();
        let mut looked = seen;
        for (number, id) in state.commits.after(seen) {
            if found.len() == MAX_POSITIONS {
                break;
            }
            looked = number;
            let Some(stream) = state.streams.get(&id).filter(|_| wanted(id)) else {
                continue;
            };
            let lsn = stream.log.committed();
            if let Some(epoch) = stream.log.epoch_at(lsn) {
                found.push((id, Position { epoch, lsn }));
            }
        }
        (found, looked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_named_once_at_its_newest_place() {
        let mut commits = Commits::default();
        for stream in [1, 2, 1, 3, 1] {
            commits.note(StreamId(stream));
        }
        let all: Vec<_> = commits.after(0).collect();
        assert_eq!(all, [(2, StreamId(2)), (4, StreamId(3)), (5, StreamId(1))]);
        assert_eq!(commits.after(4).count(), 1);
        assert_eq!(commits.after(5).count(), 0);
    }
}
