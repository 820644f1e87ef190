//! Small histories for the checkers' tests: one stream, one range, timestamps as small numbers.

use std::time::Duration;

use meridian_protocol::closing::Closure;
use meridian_types::{Epoch, Key, KeyRange, Lsn, Position, RangeId, RangeMap, StreamId, Timestamp, TxnId};
use uuid::Uuid;

use super::{Log, Violation};
use crate::events::{Decided, Event, Happened, Outcome, Voted};

pub const STREAM: StreamId = StreamId(1);
/// True time of events that do not say when: after everything.
const LATE: u64 = 1_000_000;

/// These happened, in this order.
pub fn happened<'a>(events: impl IntoIterator<Item = (&'a str, Event)>) -> Vec<Happened> {
    happened_at(events.into_iter().map(|(node, event)| (LATE, node, event)))
}

/// The same, at these true times.
pub fn happened_at<'a>(events: impl IntoIterator<Item = (u64, &'a str, Event)>) -> Vec<Happened> {
    let all = events.into_iter().enumerate();
    all.map(|(order, (now, node, event))| Happened {
        node: node.into(),
        at: Duration::from_millis(order as u64),
        now: Timestamp(now),
        event,
    })
    .collect()
}

/// What a check says of them.
pub fn judge<'a>(
    check: fn(&Log<'_>) -> Vec<Violation>,
    events: impl IntoIterator<Item = (&'a str, Event)>,
) -> Vec<String> {
    judge_all(check, &happened(events))
}

/// The same, of what happened at certain times.
pub fn judge_all(check: fn(&Log<'_>) -> Vec<Violation>, events: &[Happened]) -> Vec<String> {
    judge_in(check, &RangeMap::single(vec![]), events)
}

/// The same, in a cluster with this map.
pub fn judge_in(check: fn(&Log<'_>) -> Vec<Violation>, map: &RangeMap, events: &[Happened]) -> Vec<String> {
    let found = check(&Log::new(events, map));
    found.into_iter().map(|violation| violation.what).collect()
}

pub fn txn(number: u128) -> TxnId {
    TxnId(Uuid::from_u128(number))
}

fn keys(names: &str) -> Vec<Key> {
    names.split_whitespace().map(Key::from).collect()
}

/// A snapshot of the present.
pub fn started(number: u128, start: u64) -> Event {
    Event::Started {
        txn: txn(number),
        start: Timestamp(start),
        present: true,
    }
}

pub fn ended(number: u128, start: u64, outcome: Outcome) -> Event {
    Event::Ended {
        txn: txn(number),
        start: Timestamp(start),
        outcome,
    }
}

pub fn committed(number: u128, start: u64, commit: u64) -> Event {
    ended(number, start, Outcome::Committed(Timestamp(commit)))
}

pub fn told(number: u128, outcome: Outcome) -> Event {
    Event::Told {
        txn: txn(number),
        outcome,
    }
}

pub fn opening(epoch: u64, lsn: u64, adopted: (u64, u64), floor: u64) -> Event {
    Event::Opening {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        adopted: Position::new(adopted.0, adopted.1),
        floor: Timestamp(floor),
        lease_end: Timestamp(floor),
        map: 1,
        resumed: false,
        handed: false,
    }
}

/// [`opening`], of an owner that goes on with what it was handed.
pub fn handed_opening(epoch: u64, lsn: u64, adopted: (u64, u64), floor: u64) -> Event {
    let mut event = opening(epoch, lsn, adopted, floor);
    if let Event::Opening { handed, .. } = &mut event {
        *handed = true;
    }
    event
}

pub fn serving(epoch: u64, floor: u64, lease_end: u64) -> Event {
    Event::Serving {
        stream: STREAM,
        epoch: Epoch(epoch),
        floor: Timestamp(floor),
        window_low: Timestamp(floor),
        lease_end: Timestamp(lease_end),
    }
}

pub fn leased(epoch: u64, lease_end: u64) -> Event {
    Event::Leased {
        stream: STREAM,
        epoch: Epoch(epoch),
        lease_end: Timestamp(lease_end),
    }
}

pub fn decided(epoch: u64, lsn: u64, number: u128, start: u64, commit: u64, written: &str) -> Event {
    checking(epoch, lsn, number, start, commit, written, "")
}

pub fn checking(
    epoch: u64,
    lsn: u64,
    number: u128,
    start: u64,
    commit: u64,
    written: &str,
    checked: &str,
) -> Event {
    Event::Decided(Decided {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        txn: txn(number),
        attempt: 1,
        start: Timestamp(start),
        commit: Timestamp(commit),
        written: keys(written),
        checked: keys(checked).into_iter().map(KeyRange::point).collect(),
        participants: Vec::new(),
    })
}

pub fn barred(epoch: u64, lsn: u64, number: u128) -> Event {
    Event::Barred {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        txn: txn(number),
    }
}

pub fn given_up(epoch: u64, number: u128, home_epoch: u64) -> Event {
    Event::GivenUp {
        stream: STREAM,
        epoch: Epoch(epoch),
        txn: txn(number),
        attempt: 1,
        home_epoch: Epoch(home_epoch),
    }
}

pub fn released(epoch: u64, lsn: u64, floor: u64) -> Event {
    Event::Released {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        floor: Timestamp(floor),
        sealed: false,
        window_low: Timestamp(floor),
    }
}

/// The last record of a stream that is split or merged.
pub fn sealed(epoch: u64, lsn: u64, floor: u64) -> Event {
    match released(epoch, lsn, floor) {
        Event::Released {
            stream,
            at,
            floor,
            window_low,
            ..
        } => Event::Released {
            stream,
            at,
            floor,
            window_low,
            sealed: true,
        },
        other => other,
    }
}

/// A new version of the range map.
pub fn mapped(lsn: u64, map: &RangeMap) -> Event {
    Event::Mapped {
        stream: StreamId::META,
        at: Position::new(1, lsn),
        map: Box::new(map.clone()),
    }
}

pub fn answered(epoch: u64, lsn: u64, commit: u64) -> Event {
    Event::Answered {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        commit: Timestamp(commit),
    }
}

fn closure(epoch: u64, x: u64, after: u64) -> Closure {
    Closure {
        range: RangeId(1),
        epoch: Epoch(epoch),
        x: Timestamp(x),
        after: vec![(STREAM, Lsn(after))],
    }
}

pub fn closed(epoch: u64, x: u64, after: u64) -> Event {
    Event::Closed {
        stream: STREAM,
        closure: closure(epoch, x, after),
    }
}

/// A vote of stream 1 for a home in stream 2.
pub fn voted(epoch: u64, number: u128, (lower, promise): (u64, u64), written: &str, checked: &str) -> Voted {
    Voted {
        stream: STREAM,
        epoch: Epoch(epoch),
        txn: txn(number),
        attempt: 1,
        home: StreamId(2),
        home_epoch: Epoch(1),
        start: Timestamp(5),
        lower: Timestamp(lower),
        promise: Timestamp(promise),
        written: keys(written),
        checked: keys(checked).into_iter().map(KeyRange::point).collect(),
    }
}

/// The end of such a vote.
pub fn prepare_ended(epoch: u64, number: u128, outcome: Outcome) -> Event {
    Event::PrepareEnded {
        stream: STREAM,
        epoch: Epoch(epoch),
        txn: txn(number),
        attempt: 1,
        home: StreamId(2),
        home_epoch: Epoch(1),
        outcome,
    }
}

/// A closure of the first range that names entries of several streams.
pub fn closed_after(epoch: u64, x: u64, after: Vec<(StreamId, Lsn)>) -> Event {
    Event::Closed {
        stream: STREAM,
        closure: Closure {
            after,
            ..closure(epoch, x, 0)
        },
    }
}

/// The same in another stream.
pub fn in_stream(number: u64, mut event: Event) -> Event {
    match &mut event {
        Event::Opening { stream, .. }
        | Event::Serving { stream, .. }
        | Event::Leased { stream, .. }
        | Event::Decided(Decided { stream, .. })
        | Event::Counted { stream, .. }
        | Event::Applied { stream, .. }
        | Event::Barred { stream, .. }
        | Event::Raised { stream, .. }
        | Event::Released { stream, .. }
        | Event::Closed { stream, .. }
        | Event::Voted(Voted { stream, .. })
        | Event::Restored { stream, .. } => *stream = StreamId(number),
        other => panic!("{other:?} is not made for other streams yet"),
    }
    event
}

pub fn complete(epoch: u64, x: u64, after: u64) -> Event {
    Event::Complete(closure(epoch, x, after))
}

pub fn stopped(epoch: u64) -> Event {
    Event::Stopped {
        stream: STREAM,
        epoch: Epoch(epoch),
    }
}

pub fn counted(owner: u64, epoch: u64, lsn: u64) -> Event {
    Event::Counted {
        stream: STREAM,
        owner: Epoch(owner),
        at: Position::new(epoch, lsn),
    }
}

pub fn recovered(promised: u64, last: (u64, u64)) -> Event {
    Event::Recovered {
        stream: STREAM,
        promised: Epoch(promised),
        last: Position::new(last.0, last.1),
    }
}

pub fn promised(epoch: u64) -> Event {
    Event::Promised {
        stream: STREAM,
        epoch: Epoch(epoch),
    }
}

pub fn accepted(owner: u64, matched: (u64, u64)) -> Event {
    Event::Accepted {
        stream: STREAM,
        owner: Epoch(owner),
        matched: Position::new(matched.0, matched.1),
    }
}

pub fn persisted(epoch: u64, lsn: u64, timestamp: u64) -> Event {
    Event::Persisted {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        timestamp: Timestamp(timestamp),
    }
}

pub fn restored(epoch: u64, lsn: u64) -> Event {
    Event::Restored {
        stream: STREAM,
        at: Position::new(epoch, lsn),
    }
}

pub fn applied(epoch: u64, lsn: u64, commit: u64, written: &str) -> Event {
    Event::Applied {
        stream: STREAM,
        at: Position::new(epoch, lsn),
        commit: Timestamp(commit),
        written: keys(written),
    }
}

pub fn looked_up(at: u64, key: &str, newest: u64) -> Event {
    Event::LookedUp {
        at: Timestamp(at),
        key: Key::from(key),
        newest: Timestamp(newest),
    }
}

pub fn scanned(at: u64, start: &str, end: &str, newest: u64) -> Event {
    Event::Scanned {
        at: Timestamp(at),
        keys: KeyRange::new(Key::from(start), Key::from(end)),
        newest: Timestamp(newest),
    }
}

pub fn shown(at: u64, newest: u64) -> Event {
    Event::Shown {
        at: Timestamp(at),
        newest: Timestamp(newest),
    }
}
