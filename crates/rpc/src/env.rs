//! What a service needs of the world: time, randomness and other nodes. All of it injected, so that a
//! simulation can supply it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use meridian_clock::SharedClock;
use meridian_types::{NodeName, TxnId};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use crate::network::Network;

/// Places inside of services at which a simulation steps in: between deciding and appending, between persisting and
/// acknowledging, and the like. A real node has none.
pub trait FaultPoints: Send + Sync + 'static {
    /// A service has come to the place of this name; it goes on when the future is done.
    fn reached(&self, place: &'static str) -> Option<BoxFuture<'static, ()>>;
}

/// The world of one node. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// This node's name.
    pub node: NodeName,
    /// The node's region.
    pub region: String,
    /// The node's clock.
    pub clock: SharedClock,
    /// The other nodes.
    pub network: Network,
    seed: u64,
    streams: Arc<AtomicU64>,
    fault_points: Option<Arc<dyn FaultPoints>>,
}

impl Env {
    /// The world of a node. All randomness of the node derives from `seed`.
    pub fn new(node: NodeName, region: String, clock: SharedClock, network: Network, seed: u64) -> Self {
        Self {
            node,
            region,
            clock,
            network,
            seed,
            streams: Arc::default(),
            fault_points: None,
        }
    }

    /// The same world, in which somebody steps in at places inside of services.
    pub fn with_fault_points(self, points: Arc<dyn FaultPoints>) -> Self {
        Self {
            fault_points: Some(points),
            ..self
        }
    }

    /// A place where a simulation may step in; see [`FaultPoints`]. Otherwise it costs nothing.
    pub async fn reached(&self, place: &'static str) {
        if let Some(wait) = self
            .fault_points
            .as_ref()
            .and_then(|points| points.reached(place))
        {
            wait.await;
        }
    }

    /// A new generator, different from every other one of this node, the same in every run with the same
    /// seed and the same order of calls.
    pub fn rng(&self) -> StdRng {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        // Odd multiplier: distinct streams give distinct seeds.
        StdRng::seed_from_u64(self.seed ^ stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// A transaction id from the node's clock and randomness.
    pub fn new_txn_id(&self, rng: &mut StdRng) -> TxnId {
        let mut random = [0; 10];
        rng.fill_bytes(&mut random);
        let millis = self.clock.now().latest.0 / 1_000_000;
        TxnId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }
}
