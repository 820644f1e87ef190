//! What all tasks of one adjudicator process share, and never changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meridian_clock::Interval;
use meridian_protocol::quorum::majority;
use meridian_rpc::Env;
use meridian_rpc::committed::CommittedWatch;
use meridian_rpc::owner::Owners;
use meridian_types::{Key, KeyRange, NodeName, RangeId, RangeMap, RangeMapEntry, StreamId};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exchange::Exchange;
use crate::figures::Figures;

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
    /// What is counted.
    pub(crate) figures: Arc<Figures>,
    /// Ranges that this process hands over of its own accord at a time.
    pub(crate) moves: Arc<Semaphore>,
    /// When the process began: its ranges close at the same times, counted from there.
    pub(crate) started: Instant,
    /// Asks for a clean end.
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn now(&self) -> Interval {
        self.env.clock.now()
    }

    /// The next time that all ranges agree on which do something this often.
    pub(crate) fn next_tick(&self, interval: Duration) -> Instant {
        let now = Instant::now();
        let nanos = interval.as_nanos().max(1);
        let passed = now.duration_since(self.started).as_nanos() % nanos;
        let left = u64::try_from(nanos - passed).unwrap_or(u64::MAX);
        now + Duration::from_nanos(left)
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
            candidates: map.candidates(stream),
        };
        let no_keys = KeyRange::new(Key::default(), Key::default());
        let retired = map.reshaping.retired.get(&stream);
        let retired = || retired.map(|retired| entry(retired.range, retired.keys.clone()));
        let range = match stream {
            // It is at home everywhere but in a region that is drained.
            StreamId::META => Some(RangeMapEntry {
                candidates: self.elsewhere(&map),
                ..entry(RangeId(0), no_keys)
            }),
            _ => {
                let live = map.by_stream(stream).cloned();
                live.map(|range| entry(range.id, range.keys)).or_else(retired)
            }
        };
        (range, map.version)
    }

    /// Whether this node is in a region that nothing is to depend on.
    pub(crate) fn is_drained(&self) -> bool {
        self.map.borrow().is_drained(&self.env.node)
    }

    /// If this node is in a drained region, the adjudicators that are not.
    fn elsewhere(&self, map: &RangeMap) -> Vec<NodeName> {
        let others = map
            .adjudicators()
            .into_iter()
            .filter(|node| !map.is_drained(node));
        match map.is_drained(&self.env.node) {
            true => others.cloned().collect(),
            false => Vec::new(),
        }
    }

    /// The streams that this process is a candidate for: all.
    pub(crate) fn streams(&self) -> BTreeSet<StreamId> {
        let mut streams = self.map.borrow().streams();
        streams.insert(StreamId::META);
        streams
    }
}
