//! A connection between two regions of one process: bytes arrive after the link's delay, in order.

use bytes::BytesMut;
use meridian_rpc::listen::Io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::links::Way;

/// What each end may have written before its first byte arrives: more than HTTP/2 lets anybody send unanswered would
/// only be memory.
const BUFFER_BYTES: usize = 256 << 10;
/// Most bytes that travel as one.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction.
const MAX_CHUNKS: usize = 1_024;

/// Connects two ends. `there` is the way from the first to the second, `back` the other one. Each token breaks the connection
/// at once, as when a machine at one of its ends dies.
pub(super) fn connect(there: Way, back: Way, breaks: [CancellationToken; 2]) -> (Io, Io) {
    let (near, near_far) = tokio::io::duplex(BUFFER_BYTES);
    let (far, far_near) = tokio::io::duplex(BUFFER_BYTES);
    let (near_read, near_write) = tokio::io::split(near_far);
    let (far_read, far_write) = tokio::io::split(far_near);
    tokio::spawn(async move {
        let [here_breaks, there_breaks] = breaks;
        tokio::select! {
            biased;
            () = here_breaks.cancelled() => {}
            () = there_breaks.cancelled() => {}
            _ = async { tokio::join!(carry(near_read, far_write, there), carry(far_read, near_write, back)) } => {}
        }
    });
    (Io::new(near), Io::new(far))
}

/// Carries bytes one way until that way ends, then ends the other side's.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, mut way: Way) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, BytesMut)>(MAX_CHUNKS);
    let departures = way.clone();
    let read = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            match from.read_buf(&mut chunk).await {
                Ok(1..) if sender.send((departures.due(), chunk)).await.is_ok() => {}
                // The end, or nobody who reads.
                _ => break,
            }
        }
    };
    let write = async {
        while let Some((due, chunk)) = under_way.recv().await {
            way.arrival(due).await;
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
        // So that who sends is not held up for ever by who does not read any more.
        drop(under_way);
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}
