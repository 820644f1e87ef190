//! Copies the checkpoint of another storage node, part by part, from where the copy broke off.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use meridian_files::{File, is_full};
use meridian_rpc::internal::storage_client::StorageClient;
use meridian_rpc::internal::{CheckpointPart, CheckpointRequest};
use meridian_rpc::{Env, KvError};
use meridian_types::NodeName;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::{FillError, Trimmed};
use crate::checkpoint::{COPY, Checkpoint, CheckpointId, PART_BYTES, Reader, check_header, holds, lsn_of};
use crate::error::CheckpointFault;
use crate::shared::Shared;
use crate::store::shown;

/// After an attempt that brought nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a peer may take for one part.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// Written out at least this often, so that the last sync is short.
const SYNC_BYTES: u64 = 8 << 20;

/// A file that is copied, as far as it is there.
struct Copy {
    id: CheckpointId,
    size: u64,
    file: Arc<dyn File>,
    at: u64,
    synced: u64,
}

/// Why an attempt ended early.
enum Stopped {
    /// The peer: it has nothing, what it has is of no use, or the copy broke off.
    Peer(String),
    /// The own disk.
    Io(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Status> for Stopped {
    fn from(status: Status) -> Self {
        let why = KvError::from_status(&status).map_or_else(|| status.to_string(), |error| error.to_string());
        Self::Peer(why)
    }
}

impl From<CheckpointFault> for Stopped {
    fn from(fault: CheckpointFault) -> Self {
        match fault {
            CheckpointFault::Io(error) => Self::Io(error),
            other => Self::Peer(format!("its checkpoint is {other}")),
        }
    }
}

/// Asks one peer after the other until a checkpoint that reaches far enough is this node's own.
pub(super) async fn from_peers(
    shared: &Shared,
    env: &Env,
    trimmed: Trimmed,
) -> Result<Arc<Checkpoint>, FillError> {
    let peers = shared.config.peers.iter();
    let peers: Vec<&NodeName> = peers
        .filter(|peer| holds(&peer.keys, &shared.config.keys))
        .map(|peer| &peer.name)
        .collect();
    let mut peers = peers.iter().cycle();
    let mut peer = *peers
        .next()
        .ok_or_else(|| FillError::NoPeer(no_peer(shared, trimmed)))?;
    let mut copy = None;
    loop {
        let before = copy.as_ref().map(Copy::key);
        let copied = match fetch(shared, env, peer, trimmed, &mut copy).await {
            Ok(()) => finish(shared, trimmed, &mut copy).await,
            Err(stopped) => Err(stopped),
        };
        let why = match copied {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(Stopped::Peer(why)) => why,
            Err(Stopped::Io(error)) if is_full(&error) => error.to_string(),
            Err(Stopped::Io(error)) => {
                let dir = shared.checkpoints.files.describe(".");
                return Err(FillError::Io { dir, error });
            }
        };
        tracing::warn!(node = %shared.node, %peer, why, "the copy of a peer's checkpoint broke off");
        let after = copy.as_ref().map(Copy::key);
        if after.is_none() || after == before {
            shared.note_filling(Some(format!("asks for a checkpoint; {peer} says: {why}")));
            peer = peers.next().copied().unwrap_or(peer);
            sleep(PAUSE).await;
        }
    }
}

fn no_peer(shared: &Shared, trimmed: Trimmed) -> String {
    format!(
        "storage node {}: the journal was trimmed up to {} in stream {}, the node's own checkpoint does not reach so far, and no other \
         storage node is configured that holds all of its keys ({}). If a copy of its directory `checkpoint` exists, put it back in place \
         and start the node again",
        shared.node,
        trimmed.base,
        trimmed.stream,
        shown(&shared.config.keys)
    )
}

/// Copies what is missing.
async fn fetch(
    shared: &Shared,
    env: &Env,
    peer: &NodeName,
    trimmed: Trimmed,
    copy: &mut Option<Copy>,
) -> Result<(), Stopped> {
    let keys = &shared.config.keys;
    let request = CheckpointRequest {
        start: keys.start.0.clone(),
        end: keys.end.as_ref().map(|end| end.0.clone()).unwrap_or_default(),
        id: copy
            .as_ref()
            .map(|copy| copy.id.to_vec())
            .unwrap_or_default()
            .into(),
        offset: copy.as_ref().map_or(0, |copy| copy.at),
    };
    let late = |_| Stopped::Peer(format!("no answer in {PART_TIMEOUT:?}"));
    let mut client = StorageClient::new(env.network.transport(peer));
    let mut parts = timeout(PART_TIMEOUT, client.checkpoint(request))
        .await
        .map_err(late)??
        .into_inner();
    loop {
        if copy.as_ref().is_some_and(|copy| copy.at == copy.size) {
            return Ok(());
        }
        let part = timeout(PART_TIMEOUT, parts.message()).await.map_err(late)??;
        let part = part.ok_or_else(|| Stopped::Peer("it sent no more".to_owned()))?;
        take(shared, part, copy)?;
        let Some((at, size)) = copy.as_ref().map(|copy| (copy.at, copy.size)) else {
            continue;
        };
        let is_first = at <= PART_BYTES as u64;
        if is_first && let Err(useless) = check_beginning(shared, trimmed, copy) {
            *copy = None;
            return Err(useless);
        }
        shared.note_filling(Some(format!(
            "copied {at} of {size} bytes of {peer}'s checkpoint"
        )));
        env.reached("storage: partly copied").await;
    }
}

/// Writes one part. One of another checkpoint than is being copied begins anew.
fn take(shared: &Shared, part: CheckpointPart, copy: &mut Option<Copy>) -> Result<(), Stopped> {
    let wrong = |what: &str| Stopped::Peer(format!("it sent {what}"));
    let id: CheckpointId = part.id.as_ref().try_into().map_err(|_| wrong("no id"))?;
    let length = part.data.len() as u64;
    let end = part.offset.saturating_add(length);
    if length == 0 || length > PART_BYTES as u64 || end > part.size {
        return Err(wrong("a part of an impossible size"));
    }
    let begun = copy
        .take()
        .filter(|begun| begun.id == id && begun.size == part.size);
    let mut begun = match begun {
        Some(begun) => begun,
        None => Copy {
            id,
            size: part.size,
            file: shared.checkpoints.create(COPY)?,
            at: 0,
            synced: 0,
        },
    };
    let is_next = part.offset == begun.at;
    let written = match is_next {
        true => begun.write(part),
        false => Ok(()),
    };
    *copy = Some(begun);
    written?;
    is_next
        .then_some(())
        .ok_or_else(|| wrong("another part than the next one"))
}

impl Copy {
    /// How much there is of which checkpoint.
    fn key(&self) -> (CheckpointId, u64) {
        (self.id, self.at)
    }

    fn write(&mut self, part: CheckpointPart) -> io::Result<()> {
        let length = part.data.len() as u64;
        self.file.write_all_at(self.at, &[part.data])?;
        self.at += length;
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// Not all of a checkpoint that is of no use is copied, if that can be seen early.
fn check_beginning(shared: &Shared, trimmed: Trimmed, copy: &Option<Copy>) -> Result<(), Stopped> {
    let Some(copy) = copy else { return Ok(()) };
    match Reader::open(copy.file.clone()) {
        // Cut in the middle of the header, perhaps; looked at again when all of it is there.
        Err(CheckpointFault::Corrupt { .. }) => Ok(()),
        Err(other) => Err(other.into()),
        Ok((header, _)) => {
            check_header(&header, shared.checkpoints.cluster, &shared.checkpoints.keys)?;
            check_reach(lsn_of(&header, trimmed.stream), trimmed)
        }
    }
}

fn check_reach(lsn: meridian_types::Lsn, trimmed: Trimmed) -> Result<(), Stopped> {
    if lsn >= trimmed.base.lsn {
        return Ok(());
    }
    Err(Stopped::Peer(format!(
        "its checkpoint holds stream {} up to {lsn} only, the journal was trimmed up to {}",
        trimmed.stream, trimmed.base
    )))
}

/// A copy that is complete becomes the node's own checkpoint, or is dropped.
async fn finish(
    shared: &Shared,
    trimmed: Trimmed,
    copy: &mut Option<Copy>,
) -> Result<Arc<Checkpoint>, Stopped> {
    let checkpoints = &shared.checkpoints;
    if let Some(copy) = copy.take() {
        copy.file.sync_data()?;
    }
    sleep(checkpoints.files.delay()).await;
    let file: Arc<dyn File> = checkpoints.files.open(COPY)?.into();
    let told = |at, size| shared.note_filling(Some(format!("checked {at} of {size} bytes of the copy")));
    let checkpoint = checkpoints.verify(file, told).await?;
    check_reach(lsn_of(&checkpoint.header, trimmed.stream), trimmed)?;
    checkpoints.install(COPY, checkpoint, &shared.figures)?;
    let own = checkpoints.sound();
    own.ok_or_else(|| Stopped::Peer("its checkpoint does not count".to_owned()))
}
