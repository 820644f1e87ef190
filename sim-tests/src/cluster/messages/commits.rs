//! Commit requests on their way to an adjudicator: they overtake one another, come twice, or come again long after,
//! over whatever stream is open then, when nobody waits for an answer any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use meridian_rpc::internal::{DecideBatch, DecideRequest};
use prost::Message;
use rand::Rng;
use tokio::time::Instant;

use super::Seam;

/// A gRPC message begins with a flag and its length.
const FRAME_BYTES: usize = 5;
/// How often what is held back is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Requests that come again, by node. They outlive streams and processes, as messages in a network do.
#[derive(Clone, Default)]
pub(super) struct Replays {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// In nanoseconds since the epoch.
    due: BTreeMap<Arc<str>, Vec<(u64, DecideRequest)>>,
    made: u64,
}

impl Replays {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request comes again. Its answer will bear a number that nobody waits for.
    fn add(&self, node: &Arc<str>, at: u64, request: &DecideRequest) {
        let mut state = self.lock();
        state.made += 1;
        let again = DecideRequest {
            id: u64::MAX - state.made,
            ..request.clone()
        };
        state.due.entry(node.clone()).or_default().push((at, again));
    }

    fn take(&self, node: &Arc<str>, now: u64) -> Vec<DecideRequest> {
        let mut state = self.lock();
        let Some(waiting) = state.due.get_mut(node) else {
            return Vec::new();
        };
        let (due, later): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|(at, _)| *at <= now);
        *waiting = later;
        due.into_iter().map(|(_, request)| request).collect()
    }
}

/// One stream of requests.
struct Disturbed {
    body: BodyDataStream,
    seam: Seam,
    buffer: BytesMut,
    /// Held back, with their own numbers: their answers are waited for on this stream.
    held: Vec<(Instant, DecideRequest)>,
}

/// The same requests, disturbed.
pub(super) fn disturbed(body: Body, seam: Seam) -> Body {
    let stream = Disturbed {
        body: body.into_data_stream(),
        seam,
        buffer: BytesMut::new(),
        held: Vec::new(),
    };
    Body::from_stream(futures::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((next, stream))
    }))
}

impl Disturbed {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            let due = self.take_due();
            if !due.is_empty() {
                return Some(Ok(frame(due)));
            }
            let next = tokio::select! {
                biased;
                next = self.body.next() => next?,
                () = tokio::time::sleep(POLL) => continue,
            };
            match next {
                Ok(bytes) => self.buffer.extend_from_slice(&bytes),
                Err(error) => return Some(Err(error)),
            }
            let mut out = Vec::new();
            while let Some(message) = take_frame(&mut self.buffer) {
                // What is no batch of requests is the service's to refuse.
                let Ok(batch) = DecideBatch::decode(message.clone()) else {
                    return Some(Ok(framed(&message)));
                };
                for request in batch.requests {
                    out.extend(self.disturb(request));
                }
            }
            if !out.is_empty() {
                return Some(Ok(frame(out)));
            }
        }
    }

    /// What comes of a request now.
    fn disturb(&mut self, request: DecideRequest) -> Vec<DecideRequest> {
        let Some(faults) = self.seam.faults() else {
            return vec![request];
        };
        let (is_late, is_twice, longest) = {
            let mut rng = self.seam.rng();
            let longest = if rng.random_bool(0.3) { 8_000 } else { 300 };
            (
                rng.random_bool(faults.late),
                rng.random_bool(faults.twice),
                rng.random_range(0..=longest),
            )
        };
        let seam = &self.seam;
        if is_twice {
            let now = now_ns();
            seam.messages
                .replays
                .add(&seam.node, now + longest * 1_000_000, &request);
            seam.messages.count("CommitTwice", &seam.node);
        }
        if is_late {
            let at = Instant::now() + Duration::from_millis(longest.min(300));
            self.held.push((at, request));
            seam.messages.count("CommitLate", &seam.node);
            return Vec::new();
        }
        vec![request]
    }

    fn take_due(&mut self) -> Vec<DecideRequest> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.held = later;
        let mut due: Vec<DecideRequest> = due.into_iter().map(|(_, request)| request).collect();
        due.extend(self.seam.messages.replays.take(&self.seam.node, now_ns()));
        due
    }
}

/// True time, as the simulation's libc shows it.
fn now_ns() -> u64 {
    crate::seams::now().unwrap_or_default()
}

/// The next whole message of the buffer.
fn take_frame(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.get(1..FRAME_BYTES)?.try_into().ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    if buffer.len() < FRAME_BYTES + length {
        return None;
    }
    buffer.advance(FRAME_BYTES);
    Some(buffer.split_to(length).freeze())
}

fn frame(requests: Vec<DecideRequest>) -> Bytes {
    framed(
        &DecideBatch {
            requests,
            ..DecideBatch::default()
        }
        .encode_to_vec(),
    )
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(FRAME_BYTES + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64) -> DecideRequest {
        DecideRequest {
            id,
            ..DecideRequest::default()
        }
    }

    #[test]
    fn messages_are_found_in_whatever_pieces_they_come() {
        let whole = [frame(vec![request(1)]), frame(vec![request(2), request(3)])].concat();
        let mut buffer = BytesMut::new();
        let mut ids = Vec::new();
        for byte in whole {
            buffer.put_u8(byte);
            while let Some(message) = take_frame(&mut buffer) {
                let batch = DecideBatch::decode(message).unwrap();
                ids.extend(batch.requests.iter().map(|request| request.id));
            }
        }
        assert_eq!(ids, [1, 2, 3]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_request_comes_again_when_it_is_due_under_a_number_nobody_waits_for() {
        let replays = Replays::default();
        let node: Arc<str> = "adjudicator-1".into();
        replays.add(&node, 100, &request(7));
        assert_eq!(replays.take(&node, 99), []);
        assert_eq!(replays.take(&"adjudicator-2".into(), 100), []);
        let again = replays.take(&node, 100);
        assert_eq!(again.len(), 1);
        assert!(again.iter().all(|request| request.id > u64::MAX / 2));
        assert_eq!(replays.take(&node, 200), []);
    }
}
