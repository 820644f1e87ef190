//! What all tasks of one adjudicator process share, and never changes.

use std::sync::Arc;

use meridian_clock::Interval;
use meridian_protocol::quorum::majority;
use meridian_rpc::Env;
use meridian_types::{NodeName, RangeMap, RangeMapEntry, StreamId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// The world and the settings of the process.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) map: watch::Receiver<Arc<RangeMap>>,
    /// The replicas of every stream. A replica's index in this list is its number everywhere in this crate.
    pub(crate) journals: Vec<NodeName>,
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

    /// The range that the stream orders, and the version of the map that says so.
    pub(crate) fn range(&self, stream: StreamId) -> (Option<RangeMapEntry>, u64) {
        let map = self.map.borrow();
        (map.by_stream(stream).cloned(), map.version)
    }
}
