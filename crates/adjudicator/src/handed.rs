//! The state that a planned move hands over, as it travels: in parts of bounded size.

use meridian_protocol::adjudication::{HandedOver, HandedVote, OpenPrepare};
use meridian_protocol::conflict::CommittedWrite;
use meridian_rpc::convert;
use meridian_rpc::error::{KvError, KvResult};
use meridian_rpc::internal::{
    self, HandOverHead, HandOverPart, HandedWrite, ReadRange, StreamFloor, StreamLsn,
};
use meridian_types::{Attempt, Key, KeyRange, Lsn, StreamId, Timestamp};
use prost::Message;

/// About how many bytes of one kind a part carries.
const PART_BYTES: usize = 1 << 20;

/// The state in parts, the last of which says so.
pub(crate) fn to_parts(handed: &HandedOver) -> Vec<HandOverPart> {
    let head = HandOverHead {
        stream: handed.stream.0,
        released: Some(handed.released.into()),
        floor: handed.floor.0,
        window_low: handed.window_low.0,
        outcome_low: handed.outcome_low.0,
        dependencies: handed
            .dependencies
            .iter()
            .map(|(stream, lsn)| StreamLsn {
                stream: stream.0,
                lsn: lsn.0,
            })
            .collect(),
        raise_floor: handed.raise_floor.0,
        raised: handed
            .raised
            .iter()
            .map(|(stream, floor)| StreamFloor {
                stream: stream.0,
                floor: floor.0,
            })
            .collect(),
    };
    let mut parts = vec![HandOverPart {
        head: Some(head),
        ..HandOverPart::default()
    }];
    let writes = handed.recent.iter().map(|write| HandedWrite {
        key: write.key.0.clone(),
        commit: write.at.0,
        txn: write.txn.to_bytes(),
    });
    parts.extend(chunks(writes).map(|recent| HandOverPart {
        recent,
        ..HandOverPart::default()
    }));
    let votes = handed.votes.iter().map(vote_to_wire);
    parts.extend(chunks(votes).map(|votes| HandOverPart {
        votes,
        ..HandOverPart::default()
    }));
    parts.push(HandOverPart {
        is_last: true,
        ..HandOverPart::default()
    });
    parts
}

/// Groups messages so that each group is about [`PART_BYTES`] long, or a single one.
fn chunks<T: Message>(messages: impl Iterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let mut messages = messages.peekable();
    std::iter::from_fn(move || {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while let Some(next) =
            messages.next_if(|next| chunk.is_empty() || bytes + next.encoded_len() <= PART_BYTES)
        {
            bytes += next.encoded_len() + 8;
            chunk.push(next);
        }
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn vote_to_wire(vote: &HandedVote) -> internal::HandedVote {
    internal::HandedVote {
        attempt: Some(vote.prepare.attempt.into()),
        start: vote.prepare.start.0,
        lower: vote.prepare.lower.0,
        promise: vote.prepare.promise.0,
        keys: vote.written.iter().map(|key| key.0.clone()).collect(),
        reads: vote.reads.iter().cloned().map(ReadRange::from).collect(),
    }
}

/// Puts the parts together again.
#[derive(Default)]
pub(crate) struct Assembly {
    handed: Option<HandedOver>,
    bytes: usize,
}

impl Assembly {
    /// The next part. The whole state, with the last one. More than `max_bytes` are refused.
    pub(crate) fn add(&mut self, part: HandOverPart, max_bytes: usize) -> KvResult<Option<HandedOver>> {
        self.bytes += part.encoded_len();
        if self.bytes > max_bytes {
            return Err(KvError::invalid(format!(
                "more than {max_bytes} bytes of state are handed over, which is all that this node takes"
            )));
        }
        if let Some(head) = part.head {
            self.handed = Some(head_from_wire(head)?);
        }
        let handed = self
            .handed
            .as_mut()
            .ok_or_else(|| KvError::invalid("the first part of what is handed over has no head"))?;
        for write in part.recent {
            handed.recent.push(CommittedWrite {
                key: Key(write.key),
                at: Timestamp(write.commit),
                txn: convert::txn_id(&write.txn)?,
            });
        }
        for vote in part.votes {
            handed.votes.push(vote_from_wire(vote)?);
        }
        Ok(if part.is_last { self.handed.take() } else { None })
    }
}

fn head_from_wire(head: HandOverHead) -> KvResult<HandedOver> {
    let released = head
        .released
        .ok_or_else(|| KvError::invalid("the entry that released the stream is not named"))?;
    let lsn = |after: StreamLsn| (StreamId(after.stream), Lsn(after.lsn));
    let floor = |raised: StreamFloor| (StreamId(raised.stream), Timestamp(raised.floor));
    Ok(HandedOver {
        stream: StreamId(head.stream),
        released: released.into(),
        floor: Timestamp(head.floor),
        window_low: Timestamp(head.window_low),
        outcome_low: Timestamp(head.outcome_low),
        recent: Vec::new(),
        votes: Vec::new(),
        dependencies: head.dependencies.into_iter().map(lsn).collect(),
        raise_floor: Timestamp(head.raise_floor),
        raised: head.raised.into_iter().map(floor).collect(),
    })
}

fn vote_from_wire(vote: internal::HandedVote) -> KvResult<HandedVote> {
    let name = vote.attempt.as_ref();
    let attempt = Attempt::try_from(name.ok_or_else(|| KvError::invalid("an attempt is not named"))?)?;
    Ok(HandedVote {
        prepare: OpenPrepare {
            attempt,
            start: Timestamp(vote.start),
            lower: Timestamp(vote.lower),
            promise: Timestamp(vote.promise),
        },
        written: vote.keys.into_iter().map(Key).collect(),
        reads: vote.reads.into_iter().map(KeyRange::from).collect(),
    })
}

#[cfg(test)]
mod tests {
    use meridian_types::{Epoch, Position, TxnId};

    use super::*;

    fn txn(number: u128) -> TxnId {
        TxnId::from_slice(&number.to_be_bytes()).unwrap()
    }

    fn handed() -> HandedOver {
        let attempt = Attempt {
            txn: txn(7),
            number: 2,
            home: StreamId(3),
            home_epoch: Epoch(4),
        };
        let write = |number: u32| CommittedWrite {
            key: Key::from(format!("{number:0>400}").as_str()),
            at: Timestamp(1_000_000 - u64::from(number)),
            txn: txn(u128::from(number)),
        };
        HandedOver {
            stream: StreamId(1),
            released: Position::new(5, 6),
            floor: Timestamp(7),
            window_low: Timestamp(8),
            outcome_low: Timestamp(9),
            recent: (0..10_000).map(write).collect(),
            votes: vec![HandedVote {
                prepare: OpenPrepare {
                    attempt,
                    start: Timestamp(10),
                    lower: Timestamp(11),
                    promise: Timestamp(12),
                },
                written: vec![Key::from("a"), Key::from("")],
                reads: vec![KeyRange::all(), KeyRange::point(Key::from("b"))],
            }],
            dependencies: vec![(StreamId(2), Lsn(3))],
            raise_floor: Timestamp(13),
            raised: [(StreamId(2), Timestamp(12))].into(),
        }
    }

    #[test]
    fn the_parts_are_bounded_and_make_the_whole() {
        let parts = to_parts(&handed());
        assert!(parts.len() > 4 && parts.iter().all(|part| part.encoded_len() <= PART_BYTES + 1_024));
        let mut assembly = Assembly::default();
        let mut whole = None;
        for part in parts {
            assert_eq!(whole, None);
            whole = assembly.add(part, usize::MAX).unwrap();
        }
        assert_eq!(whole, Some(handed()));
    }

    #[test]
    fn what_is_too_long_or_has_no_head_is_refused() {
        let mut parts = to_parts(&handed()).into_iter();
        let mut assembly = Assembly::default();
        parts.next().map(|head| assembly.add(head, 1_000).unwrap());
        assert!(parts.any(|part| assembly.add(part, 2_000_000).is_err()));
        let last = to_parts(&handed()).pop().unwrap();
        assert!(Assembly::default().add(last, usize::MAX).is_err());
    }
}
