//! A storage node that only has a checkpoint, and sends it as a test tells it to.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::Stream;
use meridian_rpc::internal::storage_server::Storage;
use meridian_rpc::internal::{CheckpointPart, CheckpointRequest, StorageReadBatch, StorageReadReplyBatch};
use tonic::{Request, Response, Status, Streaming};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What becomes of one request.
#[derive(Clone)]
pub struct Turn {
    /// The file and its id.
    pub file: (Vec<u8>, [u8; 16]),
    /// After so many parts the answer breaks off; 0 at once.
    pub parts: usize,
}

/// The id and the offset.
pub type Asked = (Vec<u8>, u64);

#[derive(Clone)]
pub struct FakePeer {
    /// The next one first; the last one again and again.
    pub turns: Arc<Mutex<Vec<Turn>>>,
    /// What was asked for: the id and the offset.
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub part_bytes: usize,
}

impl FakePeer {
    pub fn new(turns: Vec<Turn>, part_bytes: usize) -> Self {
        Self {
            turns: Arc::new(Mutex::new(turns)),
            asked: Arc::default(),
            part_bytes,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn turn(&self) -> Turn {
        let mut turns = self.turns.lock().unwrap();
        match turns.len() {
            1 => turns[0].clone(),
            _ => turns.remove(0),
        }
    }
}

#[tonic::async_trait]
impl Storage for FakePeer {
    type ReadStream = Messages<StorageReadReplyBatch>;
    type CheckpointStream = Messages<CheckpointPart>;

    async fn read(
        &self,
        _: Request<Streaming<StorageReadBatch>>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        Err(Status::unimplemented("not played in these tests"))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<Self::CheckpointStream>, Status> {
        let request = request.into_inner();
        self.asked
            .lock()
            .unwrap()
            .push((request.id.to_vec(), request.offset));
        let Turn {
            file: (bytes, id),
            parts,
        } = self.turn();
        let from = if request.id == id[..] { request.offset } else { 0 };
        let size = bytes.len() as u64;
        let part = |at: usize| CheckpointPart {
            id: Bytes::copy_from_slice(&id),
            offset: at as u64,
            size,
            data: Bytes::copy_from_slice(&bytes[at..bytes.len().min(at + self.part_bytes)]),
        };
        let starts = (usize::try_from(from).unwrap()..bytes.len()).step_by(self.part_bytes);
        let mut sent: Vec<_> = starts.take(parts).map(|at| Ok(part(at))).collect();
        sent.push(Err(Status::unavailable("the connection breaks")));
        Ok(Response::new(Box::pin(futures::stream::iter(sent))))
    }
}
