//! What all tasks of one adjudicator process share, and never changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use meridian_clock::Interval;
use meridian_protocol::quorum::majority;
use meridian_rpc::Env;
use meridian_rpc::committed::CommittedWatch;
use meridian_rpc::owner::Owners;
use meridian_types::{Key, KeyRange, NodeName, RangeId, RangeMap, RangeMapEntry, StreamId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exchange::Exchange;

/// The world and the settings of the process.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) map: watch::Receiver<Arc<RangeMap>>,
    /// The replicas of every stream, the nearest first. A replica's index in this list is its number everywhere in this crate.
    pub(crate) journals: Vec<NodeName>,
    /// Who owns the other streams, as far as this process knows.
    pub(crate) owners: Owners,
    /// What the nearest journal node knows to be committed.
    pub(crate) committed: CommittedWatch,
    /// The way to the other adjudicators.
    pub(crate) exchange: Exchange,
    /// Asks for a clean end.
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn now(&self) -> Interval {
        self.env.clock.now()
    }

    pub(crate) fn quorum(&self) -> usize {
        majority(self.journals.len())
    }

    /// The range that the stream orders, or ordered before it was retired, and the version of the map that says so. The meta
    /// stream orders no keys.
    pub(crate) fn range(&self, stream: StreamId) -> (Option<RangeMapEntry>, u64) {
        let map = self.map.borrow();
        let entry = |id: RangeId, keys: KeyRange| RangeMapEntry {
            id,
            keys,
            stream,
            candidates: map.candidates(stream).to_vec(),
        };
        let no_keys = KeyRange::new(Key::default(), Key::default());
        let retired = map.reshaping.retired.get(&stream);
        let retired = || retired.map(|retired| entry(retired.range, retired.keys.clone()));
        let range = match stream {
            StreamId::META => Some(entry(RangeId(0), no_keys)),
            _ => map.by_stream(stream).cloned().or_else(retired),
        };
        (range, map.version)
    }

    /// The streams that this process is a candidate for: all.
    pub(crate) fn streams(&self) -> BTreeSet<StreamId> {
        let mut streams = self.map.borrow().streams();
        streams.insert(StreamId::META);
        streams
    }
}
