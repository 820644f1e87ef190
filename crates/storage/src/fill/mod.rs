//! Fills the store from a checkpoint: the node's own, or another storage node's (decision 29).
//!
//! ```text
//! at the start:  the store is behind the own checkpoint, or was being filled ──────────────> load
//! TRIMMED:       the own checkpoint reaches far enough ────────────────────────────────────> load
//!                else ── copy a peer's, from where it broke off ── it becomes the own one ──> load
//! load:          says that it is incomplete ── empties ── applies all versions ── says how far it is
//! ```
//! Invariant: while the store is filled no range is closed, so nothing is read from it.

mod copy;

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_rpc::Env;
use meridian_types::{Position, StreamId, Timestamp};
use tokio::task::yield_now;

use crate::checkpoint::{Checkpoint, Next, Reader, lsn_of};
use crate::error::{CheckpointFault, StoreError};
use crate::shared::{Figures, Shared};
use crate::store::AppliedBatch;

/// Why the node cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was read as a whole before, so the disk fails. What is loaded is incomplete, and the store says so.
    #[error(
        "the checkpoint cannot be read any more: {0}. See whether the disk is healthy, then start the node again: it is filled anew"
    )]
    Checkpoint(#[from] CheckpointFault),
    #[error("{0}")]
    NoPeer(String),
    #[error("a peer's checkpoint cannot be written to {dir}: {error}")]
    Io { dir: String, error: std::io::Error },
}

/// Fills one node's store.
pub(crate) struct Filler {
    shared: Arc<Shared>,
    env: Env,
}

/// From what place on the journal has the entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trimmed {
    pub stream: StreamId,
    pub base: Position,
}

impl Filler {
    pub fn new(shared: Arc<Shared>, env: Env) -> Self {
        Self { shared, env }
    }

    /// Before the first feed: a store that lost what the checkpoint holds, or that was being filled when the process died. Whether
    /// it was filled.
    pub async fn at_start(&self) -> Result<bool, FillError> {
        let shared = &self.shared;
        let _turn = shared.checkpoints.turn.lock().await;
        let is_incomplete = shared.store.is_incomplete()?;
        if !is_incomplete && !shared.is_behind_checkpoint()? {
            return Ok(false);
        }
        shared.note_filling(Some("reads its checkpoint".to_owned()));
        let filled = match shared.checkpoints.checked().await {
            Some(checkpoint) => {
                tracing::warn!(
                    node = %shared.node, is_incomplete,
                    "the store lacks what the node's checkpoint holds, as after a power loss: it is filled from that"
                );
                self.load(&checkpoint).await?;
                true
            }
            None if is_incomplete => {
                tracing::warn!(
                    node = %shared.node,
                    "the store was being filled and the checkpoint is gone: the node begins with an empty one"
                );
                self.empty().await?;
                shared.store.end_filling(&BTreeMap::new(), Timestamp::ZERO)?;
                true
            }
            None => false,
        };
        shared.note_filling(None);
        Ok(filled)
    }

    /// The journal does not have the entries that follow what is applied here.
    pub async fn on_trimmed(&self, trimmed: Trimmed) -> Result<(), FillError> {
        let shared = &self.shared;
        let _turn = shared.checkpoints.turn.lock().await;
        shared.note_filling(Some("looks for a checkpoint".to_owned()));
        let own = shared.checkpoints.checked().await;
        let reaches =
            |checkpoint: &Arc<Checkpoint>| lsn_of(&checkpoint.header, trimmed.stream) >= trimmed.base.lsn;
        let checkpoint = match own.filter(reaches) {
            Some(own) => own,
            None => copy::from_peers(shared, &self.env, trimmed).await?,
        };
        tracing::info!(
            node = %shared.node, stream = %trimmed.stream, base = %trimmed.base, bytes = checkpoint.size,
            "the journal was trimmed: the store is filled from a checkpoint"
        );
        self.load(&checkpoint).await?;
        shared.note_filling(None);
        Ok(())
    }

    /// Everything in the store is replaced by what the checkpoint holds.
    async fn load(&self, checkpoint: &Checkpoint) -> Result<(), FillError> {
        let (shared, store) = (&self.shared, &self.shared.store);
        let node = &shared.node;
        self.empty().await?;
        let (_, mut reader) = Reader::open(checkpoint.file.clone())?;
        let footer = loop {
            let versions = match reader.next()? {
                Next::Versions(versions) => versions,
                Next::End(footer) => break footer,
            };
            let keys = &shared.config.keys;
            let ours = versions
                .into_iter()
                .filter(|write| keys.contains(write.key.as_ref()));
            let batch = AppliedBatch {
                versions: ours.collect(),
                ..AppliedBatch::default()
            };
            store.apply(&batch)?;
            let (at, size) = (reader.at(), reader.size());
            shared.note_filling(Some(format!("loaded {at} of {size} bytes of its checkpoint")));
            self.env.reached("storage: partly loaded").await;
            yield_now().await;
        };
        // In force for reads before any is answered.
        shared.raise_horizon(footer.horizon);
        store.end_filling(&checkpoint.header.progress, footer.horizon)?;
        store.flush()?;
        shared.note_filled(&checkpoint.header.progress);
        Figures::add(&shared.figures.fills, 1);
        tracing::info!(%node, versions = footer.versions, horizon = %footer.horizon, "the store is filled");
        Ok(())
    }

    /// From here on, also over a crash, until filling ends: the store says that it is incomplete.
    async fn empty(&self) -> Result<(), StoreError> {
        let store = &self.shared.store;
        store.begin_filling()?;
        store.flush()?;
        while !store.clear(self.shared.config.checkpoint_chunk)? {
            yield_now().await;
        }
        Ok(())
    }
}
