//! Which journal node's feed to follow: the nearest that is in step.
//!
//! A nearer one is gone back to when it holds what this node has applied; the present one is left when reads wait for what another
//! one knows and this one does not, as while it is cut off from an owner or its lost disk is rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use meridian_rpc::Network;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::internal::{StateRequest, StateResponse};
use meridian_types::{Lsn, NodeName, RangeId, StreamId, Timestamp};
use tokio::time::{sleep, timeout};

use crate::applier::streams;
use crate::shared::Shared;

/// How long a journal node may take to say how far it is.
const STATE_TIMEOUT: Duration = Duration::from_secs(2);

/// The journal nodes, the nearest first, and what this node has of them.
#[derive(Clone)]
pub(crate) struct Feeds {
    shared: Arc<Shared>,
    network: Network,
    journals: Vec<NodeName>,
}

/// Up to where streams are known to be committed.
type Committed = BTreeMap<StreamId, Lsn>;

impl Feeds {
    pub fn new(shared: Arc<Shared>, network: Network, journals: Vec<NodeName>) -> Self {
        Self {
            shared,
            network,
            journals,
        }
    }

    /// Whether the journal node says that it lost what it held of some stream and does not have it back yet.
    pub async fn is_being_rebuilt(&self, journal: &NodeName) -> bool {
        self.state(journal).await.is_some_and(|state| state.rejoining)
    }

    /// Ends with the place of a journal node before `place` in the list that has come as far as this node. Looks every `pause`.
    pub async fn nearer(self, place: usize, pause: Duration) -> usize {
        if place == 0 {
            return std::future::pending().await;
        }
        loop {
            sleep(pause).await;
            for (nearer, journal) in self.journals.iter().enumerate().take(place) {
                let applied = self.shared.applied();
                if let Some(committed) = self.committed(journal).await
                    && !is_ahead(&applied, &committed)
                {
                    return nearer;
                }
            }
        }
    }

    /// Ends with the place of a journal node that has known for a while what reads here wait for, when the one at `place` still does
    /// not.
    pub async fn ahead(self, place: usize) -> usize {
        let quiet = Duration::from_millis(self.shared.config.feed_quiet_ms);
        loop {
            let before = self.waiting();
            sleep(quiet).await;
            if !self.is_stuck(&before) {
                continue;
            }
            let others: Vec<_> = (0..self.journals.len()).filter(|other| *other != place).collect();
            let asked = others.iter().filter_map(|other| self.journals.get(*other));
            let told = join_all(asked.map(|journal| self.committed(journal))).await;
            let applied = self.shared.applied();
            let further = others.into_iter().zip(told).find_map(|(other, told)| {
                let told = told?;
                is_ahead(&told, &applied).then_some((other, told))
            });
            let Some((other, told)) = further else {
                continue;
            };
            // A delay between regions is no lag.
            sleep(quiet).await;
            if !self.is_stuck(&before) || !is_ahead(&told, &self.shared.applied()) {
                continue;
            }
            // One that knows it all and is only slow to tell, or to be applied, stays.
            let present = match self.journals.get(place) {
                Some(journal) => self.committed(journal).await,
                None => None,
            };
            if present.is_none_or(|present| is_ahead(&told, &present)) {
                return other;
            }
        }
    }

    /// The ranges that reads wait for, and up to where each is closed here.
    fn waiting(&self) -> BTreeMap<RangeId, Timestamp> {
        let closed = self.shared.closed.borrow();
        let open = self.shared.wants.open(&closed);
        open.into_keys()
            .map(|range| (range, closed.closed(range)))
            .collect()
    }

    /// Whether reads wait for one of these ranges and it has not got on since.
    fn is_stuck(&self, before: &BTreeMap<RangeId, Timestamp>) -> bool {
        let now = self.waiting();
        before
            .iter()
            .any(|(range, closed)| now.get(range) == Some(closed))
    }

    /// What the journal node knows to be committed; `None` when it does not answer, or is being rebuilt.
    async fn committed(&self, journal: &NodeName) -> Option<Committed> {
        let state = self.state(journal).await.filter(|state| !state.rejoining)?;
        let streams = state.streams.into_iter();
        Some(
            streams
                .map(|state| (StreamId(state.stream), Lsn(state.committed_lsn)))
                .collect(),
        )
    }

    async fn state(&self, journal: &NodeName) -> Option<StateResponse> {
        let map = self.shared.owners.map();
        let request = StateRequest {
            streams: streams(&map).into_iter().map(|stream| stream.0).collect(),
        };
        let mut client = JournalClient::new(self.network.transport(journal));
        let answer = timeout(STATE_TIMEOUT, client.state(request)).await;
        Some(answer.ok()?.ok()?.into_inner())
    }
}

/// Whether one knows of more entries than the other, in any stream.
fn is_ahead(one: &Committed, other: &Committed) -> bool {
    let mut streams = one.iter();
    streams.any(|(stream, lsn)| *lsn > other.get(stream).copied().unwrap_or_default())
}
