//! Checkpoints: all versions in one file of our own, synced and verified by reading it back (decision 29).
//!
//! ```text
//! store ── writer ──> next ── sync, read back ──┐
//! peer ── fill ─────> copy ── sync, read back ──┴── rename ──> checkpoint ── told to the journal nodes, sent to peers
//! ```
//! Only what stands in `checkpoint` and was read as a whole by this process counts.

mod format;
mod reader;
mod serve;
mod tell;
mod worker;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meridian_files::{File, Files};
use meridian_protocol::events;
use meridian_types::{ClusterId, KeyRange, Lsn, NodeName, StreamId};
use tokio::sync::{Mutex, Notify, Semaphore, watch};

use crate::error::CheckpointFault;
use crate::shared::Figures;
use crate::store::shown;

pub(crate) use format::{CheckpointId, FORMAT, Footer, Header};
pub(crate) use reader::{Next, Reader};
pub(crate) use serve::{PartStream, serve};
pub(crate) use tell::tell;
pub(crate) use worker::{Worker, spawn};

/// The checkpoint.
const CHECKPOINT: &str = "checkpoint";
/// The next one, while it is written.
const NEXT: &str = "next";
/// A peer's, while it is copied.
pub(crate) const COPY: &str = "copy";
/// What a peer sends at once.
pub(crate) const PART_BYTES: usize = 256 << 10;

/// More peers than this are not sent to at the same time.
const MAX_SENDING: usize = 4;

/// A checkpoint that was read as a whole.
pub(crate) struct Checkpoint {
    pub header: Header,
    pub footer: Footer,
    /// Goes on to be this checkpoint when another one takes its place.
    pub file: Arc<dyn File>,
    pub size: u64,
}

/// What is known of the node's checkpoint.
#[derive(Clone)]
enum Known {
    /// There is one with this header; the rest was not looked at yet.
    Unchecked(Header, Arc<dyn File>),
    None,
    Sound(Arc<Checkpoint>),
}

/// The directory of one node's checkpoint.
pub(crate) struct Checkpoints {
    pub files: Arc<dyn Files>,
    pub cluster: ClusterId,
    /// The keys that a checkpoint must hold.
    pub keys: KeyRange,
    node: NodeName,
    known: watch::Sender<Known>,
    /// Held by whoever writes a file or fills the store.
    pub turn: Mutex<()>,
    /// Held by a sweep's chunk, and as long as the store is copied: what is swept could else be missing although what it
    /// hid comes again from the journal.
    pub sweeping: Mutex<()>,
    /// A peer asked for a checkpoint and there is none.
    asked: Notify,
    /// Peers that it is sent to at the same time.
    sending: Arc<Semaphore>,
}

impl Checkpoints {
    /// Removes what was left behind, and reads the header of what is there. A checkpoint that cannot be used is not counted; one of
    /// another cluster, or of a version that is not understood, is not to be overwritten either.
    pub fn open(
        files: Arc<dyn Files>,
        node: NodeName,
        cluster: Option<ClusterId>,
        keys: KeyRange,
    ) -> Result<Self, CheckpointFault> {
        let cluster = cluster.unwrap_or_default();
        let names = files.list()?;
        for name in names.iter().filter(|name| [NEXT, COPY].contains(&name.as_str())) {
            files.remove(name)?;
        }
        // A rename that was seen may still be lost.
        files.sync_dir()?;
        let mut known = Known::None;
        if names.iter().any(|name| name == CHECKPOINT) {
            let file: Arc<dyn File> = files.open(CHECKPOINT)?.into();
            let header = Reader::open(file.clone()).and_then(|(header, _)| {
                check_header(&header, cluster, &keys)?;
                Ok(header)
            });
            match header {
                Ok(header) => known = Known::Unchecked(header, file),
                Err(
                    error @ (CheckpointFault::OtherCluster { .. } | CheckpointFault::UnknownFormat { .. }),
                ) => {
                    return Err(error);
                }
                Err(error) => refused(&node, &files.describe(CHECKPOINT), &error),
            }
        }
        Ok(Self {
            files,
            cluster,
            keys,
            node,
            known: watch::Sender::new(known),
            turn: Mutex::default(),
            sweeping: Mutex::default(),
            asked: Notify::new(),
            sending: Arc::new(Semaphore::new(MAX_SENDING)),
        })
    }

    /// The header of the checkpoint that is there, whether it was read as a whole or not.
    pub fn header(&self) -> Option<Header> {
        match &*self.known.borrow() {
            Known::Unchecked(header, _) => Some(header.clone()),
            Known::Sound(checkpoint) => Some(checkpoint.header.clone()),
            Known::None => None,
        }
    }

    /// The checkpoint that counts.
    pub fn sound(&self) -> Option<Arc<Checkpoint>> {
        match &*self.known.borrow() {
            Known::Sound(checkpoint) => Some(checkpoint.clone()),
            _ => None,
        }
    }

    /// The checkpoint that counts, once it is known whether there is one.
    pub async fn checked(&self) -> Option<Arc<Checkpoint>> {
        let mut known = self.known.subscribe();
        let found = known
            .wait_for(|known| !matches!(known, Known::Unchecked(..)))
            .await;
        match found.as_deref() {
            Ok(Known::Sound(checkpoint)) => Some(checkpoint.clone()),
            _ => None,
        }
    }

    /// Reads what was there when the process started as a whole.
    pub async fn check_found(&self, figures: &Figures) {
        let found = match &*self.known.borrow() {
            Known::Unchecked(_, file) => file.clone(),
            _ => return,
        };
        match self.verify(found, |_, _| {}).await {
            Ok(checkpoint) => self.counts(checkpoint, figures),
            Err(error) => {
                refused(&self.node, &self.files.describe(CHECKPOINT), &error);
                self.known.send_replace(Known::None);
            }
        }
    }

    /// Reads a file from its first byte to its last.
    pub async fn verify(
        &self,
        file: Arc<dyn File>,
        mut told: impl FnMut(u64, u64) + Send,
    ) -> Result<Checkpoint, CheckpointFault> {
        let (header, mut reader) = Reader::open(file.clone())?;
        check_header(&header, self.cluster, &self.keys)?;
        loop {
            if let Next::End(footer) = reader.next()? {
                return Ok(Checkpoint {
                    header,
                    footer,
                    file,
                    size: reader.size(),
                });
            }
            told(reader.at(), reader.size());
            tokio::task::yield_now().await;
        }
    }

    /// A new file, instead of what was left under its name.
    pub fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match self.files.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(self.files.create(name)?.into())
    }

    /// A file that was synced and verified takes the place of the checkpoint.
    pub fn install(&self, name: &str, checkpoint: Checkpoint, figures: &Figures) -> io::Result<()> {
        self.files.rename(name, CHECKPOINT)?;
        self.files.sync_dir()?;
        self.counts(checkpoint, figures);
        Ok(())
    }

    fn counts(&self, checkpoint: Checkpoint, figures: &Figures) {
        figures.checkpoint_bytes.store(checkpoint.size, Ordering::Relaxed);
        let begun = checkpoint.header.begun.0;
        figures.checkpoint_begun.store(begun, Ordering::Relaxed);
        for (stream, progress) in &checkpoint.header.progress {
            let at = progress.position;
            tracing::trace!(
                target: events::TARGET, event = "checkpointed", node = %self.node, stream = stream.0,
                epoch = at.epoch.0, lsn = at.lsn.0
            );
        }
        self.known.send_replace(Known::Sound(Arc::new(checkpoint)));
    }
}

/// The last entry of the stream that it holds.
pub(crate) fn lsn_of(header: &Header, stream: StreamId) -> Lsn {
    let progress = header.progress.get(&stream).copied().unwrap_or_default();
    progress.position.lsn
}

/// Refuses what is not this node's or lacks some of its keys.
pub(crate) fn check_header(
    header: &Header,
    cluster: ClusterId,
    keys: &KeyRange,
) -> Result<(), CheckpointFault> {
    if header.cluster != cluster {
        return Err(CheckpointFault::OtherCluster {
            found: header.cluster,
            ours: cluster,
        });
    }
    if !holds(&header.keys, keys) {
        return Err(CheckpointFault::MissingKeys {
            found: shown(&header.keys),
            wanted: shown(keys),
        });
    }
    Ok(())
}

/// Whether all of these keys are among those.
pub(crate) fn holds(held: &KeyRange, keys: &KeyRange) -> bool {
    keys.is_empty() || held.intersection(keys).as_ref() == Some(keys)
}

fn refused(node: &NodeName, file: &str, error: &CheckpointFault) {
    tracing::error!(
        %node, file, %error,
        "the checkpoint cannot be used: it does not count, and another one takes its place. If it is corrupt, see whether the disk is healthy"
    );
}
