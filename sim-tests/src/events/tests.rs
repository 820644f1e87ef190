//! What is logged with the macros is read back; what is not logged is missed.

use std::sync::{Arc, Mutex};

use meridian_protocol::closing::Closure;
use meridian_protocol::events::TARGET;
use meridian_types::{Key, KeyRange, Lsn, Position, RangeId, StreamId, Timestamp, TxnId};
use tracing::Subscriber;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use uuid::Uuid;

use super::{Decided, Event, Fields, read};

struct Collect(Arc<Mutex<Vec<Fields>>>);

impl<S: Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields);
    }
}

fn logged(body: impl FnOnce()) -> Result<Event, String> {
    let collected = Arc::new(Mutex::default());
    let layer = Collect(collected.clone());
    tracing::subscriber::with_default(Registry::default().with(layer), body);
    let fields = collected.lock().unwrap().pop().unwrap();
    read(&fields)
}

#[test]
fn keys_and_ranges_of_any_bytes_are_read_back() {
    let odd = Key::from(&[0, b'"', b'\\', b'\n', 0xff, b',', b'x'][..]);
    let written = vec![Key::from("plain"), odd.clone(), Key::from("")];
    let checked = vec![
        KeyRange::point(odd),
        KeyRange::all(),
        KeyRange::new(Key::from("a, end: None"), Key::from("b")),
    ];
    let (txn, number) = (u128::MAX - 5, 3_u32);
    let read = logged(|| {
        tracing::trace!(
            target: TARGET, event = "decided", stream = 1_u64, epoch = 2_u64, lsn = 3_u64, txn, attempt = number,
            start = 4_u64, commit = u64::MAX, ?written, ?checked
        );
    });
    let expected = Decided {
        stream: StreamId(1),
        at: Position::new(2, 3),
        txn: TxnId(Uuid::from_u128(txn)),
        attempt: 3,
        start: Timestamp(4),
        commit: Timestamp::MAX,
        written,
        checked,
        participants: Vec::new(),
    };
    assert_eq!(read, Ok(Event::Decided(expected)));
}

#[test]
fn the_participants_of_a_decision_are_read_back() {
    let (none, participants) = (Vec::<Key>::new(), vec![StreamId(2), StreamId(14)]);
    let read = logged(|| {
        tracing::trace!(
            target: TARGET, event = "decided", stream = 1_u64, epoch = 2_u64, lsn = 3_u64, txn = 1_u128,
            attempt = 1_u32, start = 4_u64, commit = 5_u64, written = ?none, checked = ?none, ?participants
        );
    });
    match read {
        Ok(Event::Decided(decided)) => assert_eq!(decided.participants, participants),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_closure_depends_on_is_read_back() {
    let closure = Closure {
        range: RangeId(7),
        epoch: meridian_types::Epoch(2),
        x: Timestamp(9),
        after: vec![(StreamId(1), Lsn(5)), (StreamId(12), Lsn(34))],
    };
    let read = logged(|| {
        tracing::trace!(
            target: TARGET, event = "closed", stream = 1_u64, range = 7_u64, epoch = 2_u64, x = 9_u64,
            after = ?closure.after
        );
    });
    let stream = StreamId(1);
    assert_eq!(read, Ok(Event::Closed { stream, closure }));
}

#[test]
fn a_bound_that_is_not_logged_is_no_bound() {
    let end = |end: Option<&[u8]>| {
        let start: &[u8] = b"a";
        let read = logged(|| {
            tracing::trace!(target: TARGET, event = "scanned", at = 5_u64, start, end, newest = 0_u64);
        });
        match read {
            Ok(Event::Scanned { keys, .. }) => keys.end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end(Some(b"b")), Some(Key::from("b")));
    assert_eq!(end(None), None);
}

#[test]
fn a_missing_field_a_wrong_one_and_an_unknown_event_are_errors() {
    let missing = logged(|| tracing::trace!(target: TARGET, event = "leased", stream = 1_u64, epoch = 2_u64));
    assert!(
        missing.as_ref().is_err_and(|why| why.contains("lease_end")),
        "{missing:?}"
    );
    let wrong = logged(|| tracing::trace!(target: TARGET, event = "stopped", stream = "one", epoch = 2_u64));
    assert!(
        wrong.as_ref().is_err_and(|why| why.contains("stream")),
        "{wrong:?}"
    );
    let unknown = logged(|| tracing::trace!(target: TARGET, event = "applauded", stream = 1_u64));
    assert!(
        unknown.as_ref().is_err_and(|why| why.contains("applauded")),
        "{unknown:?}"
    );
}
