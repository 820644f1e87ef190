//! Writes a checkpoint: copies the store in bounded steps while it goes on to be applied to.
//!
//! Invariants: the positions are read before the first version is, so every write of the entries that they name is in the
//! checkpoint; nothing is swept from then on until the last version was read.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_files::{File, is_full};
use meridian_rpc::Env;
use meridian_types::{Key, Timestamp};
use rand::RngCore;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::format::{self, Footer, Sums, Versions};
use super::{CheckpointId, Header, NEXT, PART_BYTES};
use crate::error::{CheckpointFault, StoreError};
use crate::shared::{Figures, Shared};

/// Between two chunks: reads and the applier go first.
const CHUNK_PAUSE: Duration = Duration::from_millis(1);
/// Written out at least this often, so that the last sync is short.
const SYNC_BYTES: u64 = 8 << 20;

/// Why no checkpoint was written. The one before is still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The store cannot be read: the node cannot go on.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no room: later there may be.
    #[error("no room on the disk: {0}")]
    Full(io::Error),
    /// What the disk holds is not known any more: it is not written to again by this process.
    #[error("the disk fails: {0}")]
    Failed(io::Error),
    /// What was read back is not what was written.
    #[error("what was read back is not what was written: {0}")]
    NotVerified(CheckpointFault),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        match is_full(&error) {
            true => Self::Full(error),
            false => Self::Failed(error),
        }
    }
}

impl From<CheckpointFault> for WriteError {
    fn from(fault: CheckpointFault) -> Self {
        match fault {
            CheckpointFault::Io(error) => error.into(),
            other => Self::NotVerified(other),
        }
    }
}

/// Writes a checkpoint, which counts when this returns `true`; `false` when there is nothing to write or the store is being
/// filled.
pub(crate) async fn write(shared: &Shared, env: &Env, rng: &mut StdRng) -> Result<bool, WriteError> {
    let _turn = shared.checkpoints.turn.lock().await;
    if shared.store.is_incomplete()? || shared.is_behind_checkpoint()? || !has_news(shared)? {
        return Ok(false);
    }
    let began = Instant::now();
    let checkpoints = &shared.checkpoints;
    let written = copy_and_sync(shared, env, rng).await;
    if written.is_err() {
        // Makes room; if it fails, the next attempt or the next start removes it.
        let _ = checkpoints.files.remove(NEXT);
    }
    written?;
    env.reached("storage: checkpoint synced").await;
    let file: Arc<dyn File> = checkpoints.files.open(NEXT)?.into();
    let checkpoint = match checkpoints.verify(file, |_, _| {}).await {
        Ok(checkpoint) => checkpoint,
        Err(fault) => {
            let _ = checkpoints.files.remove(NEXT);
            return Err(fault.into());
        }
    };
    let (bytes, versions) = (checkpoint.size, checkpoint.footer.versions);
    checkpoints.install(NEXT, checkpoint, &shared.figures)?;
    let took = began.elapsed();
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    shared.figures.checkpoint_ms.store(millis, Ordering::Relaxed);
    Figures::add(&shared.figures.checkpoints_written, 1);
    tracing::info!(node = %shared.node, bytes, versions, ?took, "checkpoint written");
    Ok(true)
}

/// Whether anything was applied since the checkpoint that counts.
fn has_news(shared: &Shared) -> Result<bool, StoreError> {
    let progress = shared.store.progress()?;
    let sound = shared.checkpoints.sound();
    let held = sound.as_ref().map(|checkpoint| &checkpoint.header.progress);
    Ok(held.map_or(!progress.is_empty(), |held| *held != progress))
}

async fn copy_and_sync(shared: &Shared, env: &Env, rng: &mut StdRng) -> Result<(), WriteError> {
    let files = &shared.checkpoints.files;
    let mut out = Out {
        file: shared.checkpoints.create(NEXT)?,
        at: 0,
        synced: 0,
        sums: Sums::default(),
    };
    let sweeping = shared.checkpoints.sweeping.lock().await;
    let header = Header {
        id: new_id(env, rng),
        cluster: shared.checkpoints.cluster,
        keys: shared.config.keys.clone(),
        begun: env.clock.now().latest,
        progress: shared.store.progress()?,
    };
    let body = format::header(&header);
    if body.len() > format::MAX_BODY_BYTES {
        return Err(WriteError::Failed(io::Error::other("too many streams")));
    }
    out.frame(&body)?;
    let mut versions = 0;
    let mut after: Option<(Key, Timestamp)> = None;
    loop {
        let (chunk, last, is_end) = chunk(shared, after.as_ref())?;
        versions += chunk.count;
        if chunk.count > 0 {
            out.frame(chunk.body())?;
        }
        if is_end {
            break;
        }
        after = last;
        out.sync_if_due()?;
        sleep(CHUNK_PAUSE.max(files.delay())).await;
    }
    let footer = Footer {
        frames: out.sums.frames,
        versions,
        horizon: shared.store.horizon()?,
        sums: out.sums.sums,
    };
    drop(sweeping);
    out.frame(&format::footer(&footer))?;
    out.file.sync_data()?;
    sleep(files.delay()).await;
    Ok(())
}

/// The next versions, the place of the last one looked at, and whether there is no other.
type Chunk = (Versions, Option<(Key, Timestamp)>, bool);

fn chunk(shared: &Shared, after: Option<&(Key, Timestamp)>) -> Result<Chunk, StoreError> {
    let mut chunk = Versions::default();
    let mut last = after.cloned();
    let keys = &shared.config.keys;
    let is_end = shared
        .store
        .versions(after, shared.config.checkpoint_chunk, &mut |write| {
            // Those that the node held under another configuration are of no use to anybody.
            if keys.contains(write.key.as_ref()) {
                chunk.push(&write);
            }
            last = Some((write.key, write.timestamp));
            match chunk.bytes() < PART_BYTES {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
    Ok((chunk, last, is_end))
}

/// With the time in it, so that not even a node that begins with the same randomness again takes an old one.
fn new_id(env: &Env, rng: &mut StdRng) -> CheckpointId {
    let now = u128::from(env.clock.now().latest.0);
    (now << 64 | u128::from(rng.next_u64())).to_be_bytes()
}

/// The file, as far as it is written.
struct Out {
    file: Arc<dyn File>,
    at: u64,
    synced: u64,
    sums: Sums,
}

impl Out {
    fn frame(&mut self, body: &[u8]) -> io::Result<()> {
        let (frame, crc) = format::frame(body);
        self.sums.add(crc);
        let bytes = frame.len() as u64;
        self.file.write_all_at(self.at, &[frame])?;
        self.at += bytes;
        Ok(())
    }

    fn sync_if_due(&mut self) -> io::Result<()> {
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }
}
