//! Small histories by hand, good and bad: each anomaly is named, and nothing else is.

use std::time::Duration;

use meridian_client::Timestamp;

use super::{Anomaly, check, lists, registers};
use crate::history::{Found, Moment, Op, Outcome, Txn};

/// Builds a history; transactions overlap in time unless told otherwise.
#[derive(Default)]
struct Script(Vec<Txn>);

fn moment(order: u64) -> Moment {
    Moment {
        order,
        at: Duration::from_millis(order),
    }
}

impl Script {
    /// A committed transaction. `ops`: `r key value` or `w key value`, lists written as `a.b.c`, `-` for nothing;
    /// a value that was read may name its timestamp: `a@3`.
    fn txn(self, ops: &[&str]) -> Self {
        self.at((0, 1_000), ops)
    }

    fn at(mut self, (began, ended): (u64, u64), ops: &[&str]) -> Self {
        let id = self.0.len();
        self.0.push(Txn {
            id,
            client: format!("client-{id}"),
            began: moment(began),
            ended: Some(moment(ended)),
            ops: ops.iter().map(|op| parse(op)).collect(),
            outcome: Outcome::Committed(Timestamp::ZERO),
            ..Txn::default()
        });
        self
    }

    fn last(&mut self) -> &mut Txn {
        self.0.last_mut().unwrap()
    }

    fn aborted(mut self) -> Self {
        self.last().outcome = Outcome::Aborted("test".to_owned());
        self
    }

    fn unknown(mut self) -> Self {
        self.last().outcome = Outcome::Unknown;
        self.last().ended = None;
        self
    }

    fn committed_at(mut self, timestamp: u64) -> Self {
        self.last().outcome = Outcome::Committed(Timestamp(timestamp));
        self
    }

    fn lists(&self) -> Vec<&'static str> {
        names(lists::read(&self.0, ""))
    }

    fn registers(&self) -> Vec<&'static str> {
        names(registers::read(&self.0, ""))
    }
}

fn names((observed, mut anomalies): (super::Observed, Vec<Anomaly>)) -> Vec<&'static str> {
    anomalies.extend(check(&observed, true));
    anomalies.iter().map(|anomaly| anomaly.name).collect()
}

fn parse(op: &str) -> Op {
    let mut words = op.split(' ');
    let (kind, key, value) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    let (value, timestamp) = value.split_once('@').unwrap_or((value, "1"));
    let (key, value) = (key.to_owned(), value.replace('.', " "));
    match kind {
        "w" => Op::Write { key, value },
        _ => Op::Read {
            key,
            found: (value != "-").then(|| Found {
                value,
                timestamp: Timestamp(timestamp.parse().unwrap()),
            }),
            for_update: false,
        },
    }
}

const NONE: [&str; 0] = [];

#[test]
fn one_after_another_is_fine() {
    let script = Script::default()
        .at((1, 2), &["r x -", "w x a"])
        .at((3, 4), &["r x a", "w x a.b"])
        .at((5, 6), &["r x a.b"]);
    assert_eq!(script.lists(), NONE);
}

#[test]
fn write_skew_is_allowed() {
    let script = Script::default()
        .txn(&["r x -", "r y -", "w x a"])
        .txn(&["r x -", "r y -", "w y b"])
        .txn(&["r x a", "r y b"]);
    assert_eq!(script.lists(), NONE);
}

#[test]
fn an_old_snapshot_is_allowed_while_the_writer_is_open() {
    let script = Script::default()
        .at((1, 5), &["r x -", "w x a"])
        .at((2, 6), &["r x -"])
        .at((3, 7), &["r x a"]);
    assert_eq!(script.lists(), NONE);
}

#[test]
fn lost_update() {
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .txn(&["r x -", "w x b"])
        .txn(&["r x b"]);
    assert!(script.lists().contains(&"lost update"), "{:?}", script.lists());
}

#[test]
fn lost_update_on_two_lists_shows_as_incompatible_orders() {
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .txn(&["r x -", "w x b"])
        .txn(&["r x a"])
        .txn(&["r x b"]);
    assert!(script.lists().contains(&"incompatible orders"));
}

#[test]
fn dirty_write_is_g0() {
    // x: T0 then T1; y: T1 then T0. Blind, so only the timestamps of readers tell.
    let script = Script::default()
        .txn(&["w x x0", "w y y0"])
        .txn(&["w x x1", "w y y1"])
        .txn(&["r x x0@1", "r y y1@1"])
        .txn(&["r x x1@2", "r y y0@2"]);
    assert!(
        script.registers().contains(&"G0 (dirty write)"),
        "{:?}",
        script.registers()
    );
}

#[test]
fn circular_information_flow_is_g1c() {
    let script = Script::default()
        .txn(&["r y b", "r x -", "w x a"])
        .txn(&["r x a", "r y -", "w y b"]);
    assert_eq!(script.lists(), ["G1c (circular information flow)"]);
}

#[test]
fn aborted_read_is_g1a() {
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .aborted()
        .txn(&["r x a"]);
    assert_eq!(script.lists(), ["G1a (aborted read)"]);
    let script = Script::default().txn(&["w x a"]).aborted().txn(&["r x a"]);
    assert_eq!(script.registers(), ["G1a (aborted read)"]);
}

#[test]
fn intermediate_read_is_g1b() {
    let script = Script::default()
        .txn(&["r x -", "w x a", "w x a.b"])
        .txn(&["r x a"])
        .txn(&["r x a.b"]);
    assert_eq!(script.lists(), ["G1b (intermediate read)"]);
    let script = Script::default()
        .txn(&["w x a", "w x b"])
        .committed_at(5)
        .txn(&["r x a@5"]);
    assert!(script.registers().contains(&"G1b (intermediate read)"));
}

#[test]
fn half_of_a_transaction_is_no_snapshot() {
    let script = Script::default()
        .txn(&["r x -", "w x a", "r y -", "w y b"])
        .txn(&["r x a", "r y -"])
        .txn(&["r y b"]);
    assert_eq!(script.lists(), ["G-SI (not a snapshot)"]);
}

#[test]
fn two_observers_that_disagree_on_the_order_are_no_snapshots() {
    // Long fork: allowed under weaker levels, not here.
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .txn(&["r y -", "w y b"])
        .txn(&["r x a", "r y -"])
        .txn(&["r x -", "r y b"]);
    assert_eq!(script.lists(), ["G-SI (not a snapshot)"]);
}

#[test]
fn a_stale_read_is_found_by_real_time_alone() {
    let script = Script::default()
        .at((1, 2), &["r x -", "w x a"])
        .at((3, 4), &["r x -"])
        .at((5, 6), &["r x a"]);
    assert_eq!(script.lists(), ["G-SI in real time (stale read)"]);
}

#[test]
fn a_reader_may_not_see_less_than_an_earlier_reader() {
    let script = Script::default()
        .at((1, 9), &["r x -", "w x a"])
        .at((2, 3), &["r x a"])
        .at((4, 5), &["r x -"]);
    assert_eq!(script.lists(), ["G-SI in real time (stale read)"]);
}

#[test]
fn a_reader_of_the_future_is_found() {
    let script = Script::default()
        .at((1, 2), &["r x a"])
        .at((3, 4), &["r x -", "w x a"]);
    assert_eq!(script.lists(), ["G1c in real time"]);
}

#[test]
fn an_element_twice_and_one_of_nobody_are_found() {
    let script = Script::default().txn(&["r x -", "w x a"]).txn(&["r x a.a"]);
    assert!(script.lists().contains(&"applied twice"));
    let script = Script::default().txn(&["r x z"]);
    assert_eq!(script.lists(), ["garbage"]);
}

#[test]
fn a_commit_in_doubt_may_have_happened_or_not() {
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .unknown()
        .at((2_000, 2_001), &["r x -"]);
    assert_eq!(script.lists(), NONE);
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .unknown()
        .at((2_000, 2_001), &["r x a"]);
    assert_eq!(script.lists(), NONE);
    // But not both, in this order.
    let script = Script::default()
        .txn(&["r x -", "w x a"])
        .unknown()
        .at((2_000, 2_001), &["r x a"])
        .at((2_002, 2_003), &["r x -"]);
    assert_eq!(script.lists(), ["G-SI in real time (stale read)"]);
}

#[test]
fn blind_writes_are_ordered_by_their_timestamps() {
    let script = Script::default()
        .at((1, 2), &["w x a"])
        .committed_at(10)
        .at((3, 4), &["w x b"])
        .committed_at(20)
        .at((5, 6), &["r x b@20"]);
    assert_eq!(script.registers(), NONE);
    // A timestamp that contradicts real time.
    let script = Script::default()
        .at((1, 2), &["w x a"])
        .committed_at(20)
        .at((3, 4), &["w x b"])
        .committed_at(10);
    assert_eq!(script.registers(), ["G1c in real time"]);
}

#[test]
fn a_value_has_one_timestamp_and_a_timestamp_one_value() {
    let script = Script::default()
        .txn(&["w x a"])
        .committed_at(10)
        .txn(&["r x a@11"]);
    assert!(script.registers().contains(&"two timestamps"));
    let script = Script::default()
        .txn(&["w x a"])
        .committed_at(10)
        .txn(&["w x b"])
        .committed_at(10);
    assert!(script.registers().contains(&"one timestamp, two values"));
}
