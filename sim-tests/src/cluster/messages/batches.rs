//! Messages that travel in batches on long streams: commit requests and prepares on their way to an adjudicator, and what
//! adjudicators tell one another. They overtake one another, come twice, or come again long after, over whatever stream is
//! open then, when nobody waits for an answer any more; between adjudicators they are lost as well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use meridian_rpc::internal::{DecideBatch, DecideRequest, ExchangeBatch, ExchangeMessage, PrepareRequest};
use prost::{DecodeError, Message};
use rand::Rng;
use tokio::time::Instant;

use super::Seam;

/// A gRPC message begins with a flag and its length.
const FRAME_BYTES: usize = 5;
/// How often what is held back is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A stream of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    /// From a query processor.
    Decide,
    /// From another adjudicator.
    Exchange,
}

impl Stream {
    /// The stream that this call opens.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/meridian.internal.v1.Adjudicator/Decide" => Some(Self::Decide),
            "/meridian.internal.v1.Adjudicator/Exchange" => Some(Self::Exchange),
            _ => None,
        }
    }

    /// The single messages of a batch, and who says that it sends them.
    fn take_apart(self, batch: Bytes) -> Result<(Vec<Item>, String), DecodeError> {
        match self {
            Self::Decide => {
                let batch = DecideBatch::decode(batch)?;
                let prepares = batch.prepares.into_iter().map(Item::Prepare);
                let items = batch.requests.into_iter().map(Item::Decide).chain(prepares);
                Ok((items.collect(), String::new()))
            }
            Self::Exchange => {
                let batch = ExchangeBatch::decode(batch)?;
                let items = batch.messages.into_iter().map(Item::Exchange);
                Ok((items.collect(), batch.sender))
            }
        }
    }

    fn put_together(self, items: Vec<Item>, sender: &str) -> Bytes {
        let (mut decide, mut exchange) = (DecideBatch::default(), ExchangeBatch::default());
        for item in items {
            match item {
                Item::Decide(request) => decide.requests.push(request),
                Item::Prepare(request) => decide.prepares.push(request),
                Item::Exchange(message) => exchange.messages.push(message),
            }
        }
        sender.clone_into(&mut exchange.sender);
        match self {
            Self::Decide => framed(&decide.encode_to_vec()),
            Self::Exchange => framed(&exchange.encode_to_vec()),
        }
    }
}

/// A single message of a batch.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Decide(DecideRequest),
    Prepare(PrepareRequest),
    Exchange(ExchangeMessage),
}

impl Item {
    /// What it is called in the counts of faults.
    fn name(&self) -> &'static str {
        match self {
            Self::Decide(_) => "Commit",
            Self::Prepare(_) => "Prepare",
            Self::Exchange(_) => "Exchange",
        }
    }

    /// The same under a number that nobody waits for.
    fn numbered(mut self, number: u64) -> Self {
        match &mut self {
            Self::Decide(request) => request.id = number,
            Self::Prepare(request) => request.id = number,
            Self::Exchange(_) => {}
        }
        self
    }
}

/// Messages that come again, by node and stream. They outlive streams and processes, as messages in a network do.
#[derive(Clone, Default)]
pub(super) struct Replays {
    state: Arc<Mutex<State>>,
}

/// When each is due, in nanoseconds since the epoch, and what it is.
type Due = Vec<(u64, Item)>;

#[derive(Default)]
struct State {
    due: BTreeMap<(Arc<str>, Stream), Due>,
    made: u64,
}

impl Replays {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The message comes again.
    fn add(&self, to: (Arc<str>, Stream), at: u64, item: &Item) {
        let mut state = self.lock();
        state.made += 1;
        let again = item.clone().numbered(u64::MAX - state.made);
        state.due.entry(to).or_default().push((at, again));
    }

    fn take(&self, to: &(Arc<str>, Stream), now: u64) -> Vec<Item> {
        let mut state = self.lock();
        let Some(waiting) = state.due.get_mut(to) else {
            return Vec::new();
        };
        let (due, later): (Vec<_>, Vec<_>) = waiting.drain(..).partition(|(at, _)| *at <= now);
        *waiting = later;
        due.into_iter().map(|(_, item)| item).collect()
    }
}

/// One stream of batches.
struct Disturbed {
    stream: Stream,
    body: BodyDataStream,
    seam: Seam,
    buffer: BytesMut,
    /// Who says that it sends this stream.
    sender: String,
    /// Held back, with their own numbers: their answers are waited for on this stream.
    held: Vec<(Instant, Item)>,
}

/// The same messages, disturbed.
pub(super) fn disturbed(stream: Stream, body: Body, seam: Seam) -> Body {
    let stream = Disturbed {
        stream,
        body: body.into_data_stream(),
        seam,
        buffer: BytesMut::new(),
        sender: String::new(),
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
                return Some(Ok(self.stream.put_together(due, &self.sender)));
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
            let mut is_first = false;
            while let Some(message) = take_frame(&mut self.buffer) {
                // What cannot be read is the service's to refuse.
                let Ok((items, sender)) = self.stream.take_apart(message.clone()) else {
                    return Some(Ok(framed(&message)));
                };
                if !sender.is_empty() && self.sender.is_empty() {
                    self.sender = sender;
                    is_first = true;
                }
                for item in items {
                    out.extend(self.disturb(item));
                }
            }
            if !out.is_empty() || is_first {
                return Some(Ok(self.stream.put_together(out, &self.sender)));
            }
        }
    }

    /// What comes of a message now.
    fn disturb(&mut self, item: Item) -> Option<Item> {
        let Some(faults) = self.seam.faults() else {
            return Some(item);
        };
        let may_be_lost = self.stream == Stream::Exchange;
        let (is_lost, is_late, is_twice, longest) = {
            let mut rng = self.seam.rng();
            let longest = if rng.random_bool(0.3) { 8_000 } else { 300 };
            (
                may_be_lost && rng.random_bool(faults.lost),
                rng.random_bool(faults.late),
                rng.random_bool(faults.twice),
                rng.random_range(0..=longest),
            )
        };
        let seam = &self.seam;
        let count = |what: &str| {
            let what = format!("{}{what}", item.name());
            seam.messages.count(&what, &seam.node);
        };
        if is_twice {
            let to = (seam.node.clone(), self.stream);
            let at = now_ns() + longest * 1_000_000;
            seam.messages.replays.add(to, at, &item);
            count("Twice");
        }
        if is_lost {
            count("Lost");
            return None;
        }
        if is_late {
            let at = Instant::now() + Duration::from_millis(longest.min(300));
            count("Late");
            self.held.push((at, item));
            return None;
        }
        Some(item)
    }

    fn take_due(&mut self) -> Vec<Item> {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.held = later;
        let mut due: Vec<Item> = due.into_iter().map(|(_, item)| item).collect();
        // Before a stream's sender is known, nothing else may come on it.
        if self.stream == Stream::Decide || !self.sender.is_empty() {
            let to = (self.seam.node.clone(), self.stream);
            due.extend(self.seam.messages.replays.take(&to, now_ns()));
        }
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

    fn request(id: u64) -> Item {
        Item::Decide(DecideRequest {
            id,
            ..DecideRequest::default()
        })
    }

    fn prepare(id: u64) -> Item {
        Item::Prepare(PrepareRequest {
            id,
            ..PrepareRequest::default()
        })
    }

    #[test]
    fn messages_are_found_in_whatever_pieces_they_come() {
        let batches = [vec![request(1)], vec![request(2), request(3), prepare(4)]];
        let whole = batches
            .clone()
            .map(|batch| Stream::Decide.put_together(batch, ""))
            .concat();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for byte in whole {
            buffer.put_u8(byte);
            while let Some(message) = take_frame(&mut buffer) {
                found.extend(Stream::Decide.take_apart(message).unwrap().0);
            }
        }
        assert_eq!(found, batches.concat());
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_batch_between_adjudicators_keeps_its_sender() {
        let message = Item::Exchange(ExchangeMessage::default());
        let mut framed = BytesMut::from(&Stream::Exchange.put_together(vec![message.clone()], "a-1")[..]);
        let batch = take_frame(&mut framed).unwrap();
        let apart = Stream::Exchange.take_apart(batch).unwrap();
        assert_eq!(apart, (vec![message], "a-1".to_owned()));
    }

    #[test]
    fn a_request_comes_again_when_it_is_due_under_a_number_nobody_waits_for() {
        let replays = Replays::default();
        let to = ("adjudicator-1".into(), Stream::Decide);
        replays.add(to.clone(), 100, &request(7));
        replays.add(to.clone(), 100, &prepare(8));
        assert_eq!(replays.take(&to, 99), []);
        assert_eq!(replays.take(&("adjudicator-2".into(), Stream::Decide), 100), []);
        assert_eq!(replays.take(&("adjudicator-1".into(), Stream::Exchange), 100), []);
        let again = replays.take(&to, 100);
        assert_eq!(again, [request(u64::MAX - 1), prepare(u64::MAX - 2)]);
        assert_eq!(replays.take(&to, 200), []);
    }
}
