//! Whether a request can be put to a stream at all. The limits were checked where the transaction entered; here again, because
//! a record that breaks them would have to be carried by everybody after.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::{
    AttemptName, DecideRequest, Participant, PrepareRequest, ReadRange, Refused, WriteRecord, WriteSet,
};
use meridian_types::{Attempt, Key, KeyRange, NodeName, RangeMap, StreamId, Timestamp, limits};
use prost::Message;
use tokio::time::Instant;

use crate::context::Context;
use crate::request::{DecideWork, HomePart, Part, ReplyTo, refusal, wrong_epoch};

/// What a key or a read to check takes beside its bytes.
const KEY_OVERHEAD_BYTES: usize = 80;

/// A request that was checked.
pub(super) struct Checked {
    attempt: Attempt,
    start: Timestamp,
    written: Vec<Key>,
    reads: Vec<KeyRange>,
    part: Part,
    pub(super) bytes: usize,
    deadline: Option<Instant>,
}

impl Checked {
    pub(super) fn answer_to(self, reply: ReplyTo) -> DecideWork {
        DecideWork {
            attempt: self.attempt,
            start: self.start,
            written: self.written,
            reads: self.reads,
            part: self.part,
            bytes: self.bytes,
            deadline: self.deadline,
            reply,
        }
    }
}

fn invalid(what: impl Into<String>) -> Refused {
    refusal(Reason::Invalid, what)
}

fn attempt(name: Option<&AttemptName>) -> Result<Attempt, Refused> {
    let attempt = name.map(Attempt::try_from);
    attempt
        .and_then(Result::ok)
        .ok_or_else(|| invalid("the attempt is not named"))
}

fn deadline(timeout_ms: u64) -> Option<Instant> {
    (timeout_ms > 0)
        .then(|| Instant::now().checked_add(Duration::from_millis(timeout_ms)))
        .flatten()
}

/// A request to the home of a transaction, which may touch other ranges as well.
pub(super) fn check_decide(ctx: &Context, request: DecideRequest) -> Result<(StreamId, Checked), Refused> {
    let attempt = attempt(request.attempt.as_ref())?;
    let writes = WriteSet::decode(request.write_set.clone())
        .map_err(|error| invalid(format!("the write set cannot be read: {error}")))?
        .writes;
    if writes.is_empty() {
        return Err(invalid("a transaction that writes nothing needs no decision"));
    }
    let map = ctx.map.borrow();
    let Some(range) = map.keys(attempt.home) else {
        return Err(wrong_epoch(None));
    };
    let participants = participants(&map, attempt.home, request.participants)?;
    check_sizes(&writes)?;
    let (reads, read_bytes) = check_reads(range, request.reads)?;
    let keys = writes.into_iter().map(|write| Key(write.key));
    let (written, elsewhere): (Vec<Key>, Vec<Key>) = keys.partition(|key| range.contains(key.as_ref()));
    if written.is_empty() {
        return Err(invalid("the home must be one of the ranges that are written"));
    }
    // Nobody would check a key that is in no named range.
    let named: Vec<&KeyRange> = participants
        .keys()
        .filter_map(|stream| map.keys(*stream))
        .collect();
    let is_named = |key: &Key| named.iter().any(|keys| keys.contains(key.as_ref()));
    if !elsewhere.iter().all(is_named) {
        return Err(invalid(
            "a written key is neither in the home's range nor in that of a participant",
        ));
    }
    let checked = Checked {
        attempt,
        start: Timestamp(request.start),
        written,
        reads,
        bytes: request.write_set.len() + read_bytes,
        part: Part::Home(HomePart {
            payload: request.write_set,
            elsewhere,
            participants,
        }),
        deadline: deadline(request.timeout_ms),
    };
    Ok((attempt.home, checked))
}

/// A request to another range that the transaction touches.
pub(super) fn check_prepare(ctx: &Context, request: PrepareRequest) -> Result<(StreamId, Checked), Refused> {
    let attempt = attempt(request.attempt.as_ref())?;
    let stream = StreamId(request.stream);
    if stream == attempt.home {
        return Err(invalid("the home of an attempt has no vote of its own to send"));
    }
    if request.keys.is_empty() && request.reads.is_empty() {
        return Err(invalid("the attempt does not touch the range"));
    }
    check_count(request.keys.len())?;
    let map = ctx.map.borrow();
    let Some(range) = map.keys(stream) else {
        return Err(wrong_epoch(None));
    };
    let mut bytes = 0;
    for key in &request.keys {
        check_key(key)?;
        if !range.contains(key) {
            return Err(invalid(format!(
                "a written key is not in the range of stream {stream}"
            )));
        }
        bytes += key.len() + KEY_OVERHEAD_BYTES;
    }
    let (reads, read_bytes) = check_reads(range, request.reads)?;
    let checked = Checked {
        attempt,
        start: Timestamp(request.start),
        written: request.keys.into_iter().map(Key).collect(),
        reads,
        bytes: bytes + read_bytes,
        part: Part::Participant(NodeName(request.home_node)),
        deadline: deadline(request.timeout_ms),
    };
    Ok((stream, checked))
}

/// The other ranges' streams; each once, and none that the map does not know.
fn participants(
    map: &RangeMap,
    home: StreamId,
    named: Vec<Participant>,
) -> Result<BTreeMap<StreamId, NodeName>, Refused> {
    let mut participants = BTreeMap::new();
    for Participant { stream, node } in named {
        let stream = StreamId(stream);
        if map.keys(stream).is_none() {
            // The sender knows a newer map: it is to try again.
            return Err(wrong_epoch(None));
        }
        if stream == home || participants.insert(stream, NodeName(node)).is_some() {
            return Err(invalid(format!("stream {stream} is named twice")));
        }
    }
    Ok(participants)
}

fn check_count(keys: usize) -> Result<(), Refused> {
    if keys > limits::MAX_TXN_KEYS {
        let limit = limits::MAX_TXN_KEYS;
        return Err(invalid(format!("{keys} keys written, the limit is {limit}")));
    }
    Ok(())
}

fn check_key(key: &Bytes) -> Result<(), Refused> {
    if key.is_empty() || key.len() > limits::MAX_KEY_BYTES {
        let (got, limit) = (key.len(), limits::MAX_KEY_BYTES);
        return Err(invalid(format!("a key has {got} bytes, the limit is {limit}")));
    }
    Ok(())
}

fn check_sizes(writes: &[WriteRecord]) -> Result<(), Refused> {
    check_count(writes.len())?;
    let mut size = 0usize;
    for write in writes {
        check_key(&write.key)?;
        size += write.key.len() + write.value.as_ref().map_or(0, Bytes::len);
    }
    if size > limits::MAX_TXN_BYTES {
        let limit = limits::MAX_TXN_BYTES;
        return Err(invalid(format!("{size} bytes written, the limit is {limit}")));
    }
    Ok(())
}

/// What a transaction wants checked, and the bytes that it takes. A read outside of the owner's keys is refused: here
/// nothing is known of the writes there (I2s).
fn check_reads(keys: &KeyRange, reads: Vec<ReadRange>) -> Result<(Vec<KeyRange>, usize), Refused> {
    if reads.len() > limits::MAX_TXN_READS {
        let (got, limit) = (reads.len(), limits::MAX_TXN_READS);
        return Err(invalid(format!("{got} reads to check, the limit is {limit}")));
    }
    let mut bytes = 0;
    let mut ranges = Vec::with_capacity(reads.len());
    for read in reads {
        bytes += read.start.len() + read.end.len() + KEY_OVERHEAD_BYTES;
        let range = KeyRange::from(read);
        if !range.is_empty() && keys.intersection(&range).as_ref() != Some(&range) {
            return Err(invalid("a read to check is not in the owner's range"));
        }
        ranges.push(range);
    }
    Ok((ranges, bytes))
}
