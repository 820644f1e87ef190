//! Who owns a stream: a cache that follows redirects.
//!
//! What it says is a hint. A wrong answer costs a refusal that names the right owner, never safety.

mod search;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use meridian_types::{Epoch, NodeName, RangeMap, StreamId};
use tokio::sync::watch;

use crate::error::{KvError, KvResult};
use crate::network::Network;

/// A stream's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The adjudicator.
    pub node: NodeName,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The owners known to this node, by stream. Cheap to clone: all clones share what they learn.
#[derive(Clone)]
pub struct Owners {
    network: Network,
    map: watch::Receiver<Arc<RangeMap>>,
    known: Arc<Mutex<BTreeMap<StreamId, Owner>>>,
}

impl Owners {
    /// Knows nobody yet.
    pub fn new(network: Network, map: watch::Receiver<Arc<RangeMap>>) -> Self {
        Self {
            network,
            map,
            known: Arc::default(),
        }
    }

    /// The current range map.
    pub fn map(&self) -> Arc<RangeMap> {
        self.map.borrow().clone()
    }

    /// Wakes when the range map changes.
    pub fn map_changes(&self) -> watch::Receiver<Arc<RangeMap>> {
        self.map.clone()
    }

    /// The owner as far as this node knows, asking the stream's candidates when it knows none.
    /// `Unavailable` when none of them names one: then nothing was sent anywhere that matters.
    pub async fn owner(&self, stream: StreamId) -> KvResult<Owner> {
        if let Some(owner) = self.known(stream) {
            return Ok(owner);
        }
        let map = self.map();
        let candidates = map.candidates(stream);
        match search::find(&self.network, stream, &candidates).await {
            Ok(found) => {
                self.learn(stream, &found.node.0, found.epoch);
                // Somebody may have learnt of a later one meanwhile.
                Ok(self.known(stream).unwrap_or(found))
            }
            Err(why) => Err(KvError::unavailable(format!(
                "no owner of stream {stream} was found ({why})"
            ))),
        }
    }

    /// Notes what a refusal said. An older epoch than the one known is ignored; an empty name forgets.
    pub fn learn(&self, stream: StreamId, node: &str, epoch: Epoch) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if node.is_empty() {
            known.remove(&stream);
        } else if known.get(&stream).is_none_or(|owner| owner.epoch <= epoch) {
            known.insert(
                stream,
                Owner {
                    node: node.into(),
                    epoch,
                },
            );
        }
    }

    /// Forgets an owner that did not answer, unless a newer one is known by now.
    pub fn forget(&self, stream: StreamId, epoch: Epoch) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&stream).is_some_and(|owner| owner.epoch <= epoch) {
            known.remove(&stream);
        }
    }

    /// The owner as far as this node knows, without asking anybody.
    pub fn known(&self, stream: StreamId) -> Option<Owner> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&stream)
            .cloned()
    }
}

#[cfg(test)]
mod tests;
