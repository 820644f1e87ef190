//! Drops what nobody can read any more, a little at a time (section 9), and keeps the horizon (R6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_protocol::visibility::Horizon;
use meridian_types::{KeyRange, RangeId, Timestamp};
use tokio::time::{Instant, sleep};

use crate::error::StoreError;
use crate::shared::{Figures, Shared};
use crate::store::Swept;

pub(crate) struct Retention {
    shared: Arc<Shared>,
    /// Of each range, what was applied when its last sweep began if that sweep left nothing that could go
    /// later.
    clean: BTreeMap<RangeId, u64>,
}

impl Retention {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            clean: BTreeMap::new(),
        }
    }

    /// Runs until shutdown or until the store fails.
    pub async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        let pause = Duration::from_millis(self.shared.config.sweep_interval_ms);
        let work = async {
            loop {
                self.note_figures();
                sleep(pause).await;
                if let Err(error) = self.sweep_all().await {
                    return error;
                }
            }
        };
        let error = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            error = work => error,
        };
        self.shared.fail(error.to_string());
    }

    fn note_figures(&self) {
        let bytes = self.shared.store.disk_bytes();
        self.shared.figures.disk_bytes.store(bytes, Ordering::Relaxed);
    }

    async fn sweep_all(&mut self) -> Result<(), StoreError> {
        let mut horizon = Horizon::new(self.shared.horizon());
        horizon.advance(self.shared.clock.now(), self.shared.config.retention());
        // In force for reads before anything under it goes.
        self.shared.raise_horizon(horizon.at());
        let map = self.shared.owners.map();
        for range in &map.entries {
            // Versions of one key may come from several streams, so out of order. A tombstone goes only when
            // nothing that it hides can still arrive.
            let below = horizon.at().min(self.shared.closed(range.id));
            let applied = self.shared.figures.versions_applied.load(Ordering::Relaxed);
            if below == Timestamp::ZERO || self.clean.get(&range.id) == Some(&applied) {
                continue;
            }
            let swept = self.sweep_range(range.keys.clone(), below, horizon.at()).await?;
            if swept.aging == 0 && below == horizon.at() {
                self.clean.insert(range.id, applied);
            } else {
                self.clean.remove(&range.id);
            }
        }
        Ok(())
    }

    async fn sweep_range(
        &self,
        mut keys: KeyRange,
        below: Timestamp,
        horizon: Timestamp,
    ) -> Result<Swept, StoreError> {
        let began = Instant::now();
        let mut total = Swept::default();
        loop {
            let chunk = self.shared.config.sweep_chunk;
            // Not while a checkpoint is written.
            let turn = self.shared.checkpoints.sweeping.lock().await;
            let (swept, resume) = self.shared.store.sweep(&keys, below, horizon, chunk)?;
            drop(turn);
            total.dropped += swept.dropped;
            total.aging += swept.aging;
            Figures::add(&self.shared.figures.versions_dropped, swept.dropped);
            match resume {
                Some(key) => keys.start = key,
                None => break,
            }
            sleep(Duration::from_millis(self.shared.config.sweep_pause_ms)).await;
        }
        if total.dropped > 0 {
            let (dropped, took) = (total.dropped, began.elapsed());
            tracing::debug!(node = %self.shared.node, %horizon, dropped, ?took, "old versions dropped");
        }
        Ok(total)
    }
}
