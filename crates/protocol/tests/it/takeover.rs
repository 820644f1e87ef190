//! Takeovers, move by move: orders of events that random runs seldom find.

use std::time::Duration;

use meridian_protocol::EpochRuns;
use meridian_protocol::adjudication::{
    Adjudication, AdjudicationLimits, CommitRequest, Decision, Opening, Refusal,
};
use meridian_protocol::fencing::{AppendDecision, FenceAnswer, ReplicaLog};
use meridian_protocol::replication::{Replication, Reply, Standing};
use meridian_protocol::takeover::{FenceOutcome, FenceRound, OwnerView, is_owner_gone};
use meridian_types::{
    Attempt, DiskId, Epoch, Interval, Key, Lsn, Position, RangeId, StreamId, Timestamp, TxnId,
};
use uuid::Uuid;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn disk(number: u128) -> DiskId {
    DiskId(Uuid::from_u128(number))
}

fn fence(node: &mut ReplicaLog, epoch: u64) -> FenceAnswer {
    node.on_fence(Epoch(epoch), "adjudicator".into())
        .expect("a promise")
}

fn append(
    node: &mut ReplicaLog,
    prev: Position,
    entries: &[Position],
    rejoin: Option<DiskId>,
) -> AppendDecision {
    let epoch = entries.last().map_or(prev.epoch, |entry| entry.epoch);
    let decision = node.on_append(epoch, prev, entries, rejoin);
    if let AppendDecision::Accepted { matched, .. } = &decision {
        node.on_persisted(epoch, *matched);
    }
    decision
}

/// The order of events of `takeover::fence_round`: C loses its disk between its promise to X and the day X has its majority.
#[test]
fn a_promise_on_a_lost_disk_does_not_count() {
    let (mut a, mut b, mut c) = (ReplicaLog::new(), ReplicaLog::new(), ReplicaLog::new());
    let mut x = FenceRound::new(Epoch(9), 3, 2, None);
    x.on_answer(C, disk(3), fence(&mut c, 9));
    assert_eq!(x.outcome(), FenceOutcome::Pending);

    // C loses its disk; E knows, fences both others and rebuilds C: it commits an entry with A and C.
    c = ReplicaLog::rejoining(disk(4));
    let mut e = FenceRound::new(Epoch(8), 3, 2, Some((C, disk(4))));
    e.on_answer(A, disk(1), fence(&mut a, 8));
    e.on_answer(B, disk(2), fence(&mut b, 8));
    assert_eq!(e.outcome(), FenceOutcome::Confirm(vec![A, B]));
    e.on_confirmed(A, a.promised(), Some(disk(1)));
    e.on_confirmed(B, b.promised(), Some(disk(2)));
    let FenceOutcome::Won(fenced) = e.outcome() else {
        panic!("E has won")
    };
    assert_eq!(fenced.rejoin, Some((C, disk(4))));
    let entries = [Position::new(8, 1), Position::new(8, 2)];
    append(&mut a, Position::START, &entries, None);
    append(
        &mut c,
        Position::START,
        &entries,
        fenced.rejoin.map(|(_, disk)| disk),
    );
    assert_eq!(
        a.on_acked(Epoch(8), &[Lsn(0), Lsn(0), Lsn(2)], A, 2),
        Some(Lsn(2))
    );

    // B answers X, which now holds two answers, neither of which knows what E has committed.
    x.on_answer(B, disk(2), fence(&mut b, 9));
    assert_eq!(x.outcome(), FenceOutcome::Confirm(vec![B, C]));
    x.on_confirmed(B, b.promised(), Some(disk(2)));
    x.on_confirmed(C, c.promised(), Some(disk(4)));
    assert_eq!(x.outcome(), FenceOutcome::Pending, "C's promise is gone");

    // With A's answer it has a majority that knows.
    x.on_answer(A, disk(1), fence(&mut a, 9));
    assert_eq!(
        x.outcome(),
        FenceOutcome::Confirm(vec![A, B]),
        "asked again, after the last answer"
    );
    x.on_confirmed(A, a.promised(), Some(disk(1)));
    x.on_confirmed(B, b.promised(), Some(disk(2)));
    let FenceOutcome::Won(fenced) = x.outcome() else {
        panic!("X has won")
    };
    assert_eq!((fenced.adopt, fenced.last), (A, Position::new(8, 2)));
}

#[test]
fn a_lost_disk_is_rebuilt_only_when_all_others_answered() {
    let answer = FenceAnswer {
        last: Position::START,
        committed: Lsn(0),
    };
    let mut round = FenceRound::new(Epoch(1), 5, 3, Some((4, disk(9))));
    for replica in 0..3 {
        round.on_answer(replica, disk(replica as u128), answer);
    }
    for replica in 0..3 {
        round.on_confirmed(replica, Epoch(1), Some(disk(replica as u128)));
    }
    let FenceOutcome::Won(fenced) = round.outcome() else {
        panic!("three of five")
    };
    assert_eq!(fenced.rejoin, None, "replica 3 did not answer");
    round.on_refused(0, Epoch(7));
    round.on_refused(1, Epoch(5));
    round.on_refused(3, Epoch(0));
    assert_eq!(round.outcome(), FenceOutcome::Lost { promised: Epoch(7) });
}

#[test]
fn an_owner_is_gone_when_its_lease_or_a_quorum_of_its_connections_is() {
    let view = |connected, lease_end| OwnerView {
        connected,
        lease_end: Timestamp(lease_end),
    };
    let now = Interval {
        earliest: Timestamp(100),
        latest: Timestamp(120),
    };
    assert!(
        !is_owner_gone(&[view(false, 50)], now, 2),
        "one answer says nothing"
    );
    assert!(
        !is_owner_gone(&[view(true, 100), view(true, 90)], now, 2),
        "the lease may not be over yet"
    );
    assert!(is_owner_gone(&[view(true, 99), view(true, 90)], now, 2));
    assert!(
        !is_owner_gone(&[view(false, 500), view(true, 500)], now, 2),
        "one broken link is not the owner's end"
    );
    assert!(is_owner_gone(
        &[view(false, 500), view(true, 500), view(false, 400)],
        now,
        2
    ));
}

/// Section 7: one node refuses and another one's disk was replaced: unless this owner fences anew nothing of it is committed any more.
#[test]
fn a_refusal_and_a_replaced_disk_leave_no_majority() {
    let mut owner = Replication::new(Epoch(3), EpochRuns::new(), 2, &[None, None, None]);
    assert_eq!(owner.append(), Position::new(3, 1));
    for replica in [A, B, C] {
        assert!(owner.next_to_send(replica, 10).is_some());
    }
    assert!(owner.can_commit());
    let disk = DiskId(Uuid::from_u128(7));
    assert_eq!(owner.on_reply(C, Epoch(3), Reply::Rejoining { disk }), None);
    assert!(owner.can_commit(), "with the two others");
    assert_eq!(
        owner.on_reply(B, Epoch(3), Reply::Refused { promised: Epoch(4) }),
        None
    );
    assert!(!owner.can_commit());
    assert_eq!(owner.standing(), Standing::FenceAnew { above: Epoch(4) });
}

/// Section 7: an owner that one node refuses goes on with the majority and fences itself anew.
#[test]
fn one_refusal_is_not_the_end() {
    let mut owner = Replication::new(Epoch(3), EpochRuns::new(), 2, &[None, None, None]);
    assert_eq!(owner.append(), Position::new(3, 1));
    for replica in [A, B, C] {
        assert!(owner.next_to_send(replica, 10).is_some());
        assert_eq!(owner.next_to_send(replica, 10), None, "one probe at a time");
    }
    assert_eq!(
        owner.on_reply(A, Epoch(3), Reply::Refused { promised: Epoch(5) }),
        None
    );
    assert_eq!(owner.standing(), Standing::FenceAnew { above: Epoch(5) });
    assert_eq!(
        owner.on_reply(B, Epoch(3), Reply::Matched(Position::new(3, 1))),
        None
    );
    assert_eq!(
        owner.on_reply(C, Epoch(2), Reply::Matched(Position::new(3, 1))),
        None,
        "an older epoch's reply"
    );
    assert_eq!(
        owner.on_reply(C, Epoch(3), Reply::Matched(Position::new(3, 1))),
        Some(Lsn(1))
    );
    assert_eq!(
        owner.on_reply(B, Epoch(3), Reply::Refused { promised: Epoch(6) }),
        None
    );
    assert_eq!(owner.standing(), Standing::Deposed { by: Epoch(6) });
    assert_eq!(owner.next_to_send(A, 10), None);
}

#[test]
fn a_broken_connection_sends_again_what_may_be_lost() {
    let mut owner = Replication::new(Epoch(1), EpochRuns::new(), 2, &[None, None, None]);
    owner.append();
    owner.next_to_send(A, 10);
    owner.on_reply(A, Epoch(1), Reply::Matched(Position::new(1, 1)));
    for _ in 0..3 {
        owner.append();
    }
    let sent = owner.next_to_send(A, 2).expect("there is more");
    assert_eq!(
        (sent.prev, sent.first, sent.last, sent.count()),
        (Position::new(1, 1), Lsn(2), Lsn(3), 2)
    );
    assert_eq!(
        owner.next_to_send(A, 2).map(|sent| sent.first),
        Some(Lsn(4)),
        "without waiting for the reply"
    );
    assert_eq!(owner.in_flight(A), 3);
    owner.on_disconnected(A);
    assert_eq!(owner.in_flight(A), 0);
    let again = owner.next_to_send(A, 9).expect("all of it");
    assert_eq!((again.first, again.last), (Lsn(2), Lsn(4)));
}

#[test]
fn a_trimmed_log_still_matches_what_was_trimmed() {
    let mut node = ReplicaLog::new();
    let all: Vec<Position> = (1..=5).map(|lsn| Position::new(1, lsn)).collect();
    append(&mut node, Position::START, &all, None);
    assert_eq!(
        node.on_acked(Epoch(1), &[Lsn(0), Lsn(4), Lsn(4)], A, 2),
        Some(Lsn(4))
    );
    node.trim(Lsn(5));
    assert_eq!(node.base(), Position::new(1, 4), "never beyond what is committed");
    assert_eq!(node.knows_committed(Position::new(1, 4)), Some(true));
    assert_eq!(node.knows_committed(Position::new(1, 5)), Some(false));
    assert_eq!(
        node.knows_committed(Position::new(1, 3)),
        None,
        "its epoch is forgotten"
    );
    let accepted = append(&mut node, Position::new(1, 1), &all[1..], None);
    assert!(
        matches!(
            accepted,
            AppendDecision::Accepted {
                skip: 4,
                cut_to: None,
                ..
            }
        ),
        "{accepted:?}"
    );
    let wrong = node.on_append(
        Epoch(2),
        Position::new(1, 2),
        &[Position::new(2, 3), Position::new(2, 4)],
        None,
    );
    assert!(matches!(wrong, AppendDecision::CutsCommitted { .. }), "{wrong:?}");
    let gap = node.on_append(Epoch(1), Position::new(1, 5), &[Position::new(1, 7)], None);
    assert_eq!(gap, AppendDecision::Malformed);
    let huge = node.on_append(Epoch(1), Position::new(1, u64::MAX), &[Position::new(1, 0)], None);
    assert_eq!(huge, AppendDecision::Malformed);
}

/// What a new owner reads in the log stays true: a barred transaction, and one that committed.
#[test]
fn a_successor_keeps_bars_and_outcomes() {
    let mut owner = open(2);
    owner.recover_commit(txn(1), Timestamp(40), Lsn(3));
    owner.recover_barred(txn(2), Lsn(4));
    let now = Interval {
        earliest: Timestamp(90),
        latest: Timestamp(110),
    };
    assert_eq!(
        decide(&mut owner, 1, now),
        Decision::Known {
            commit: Timestamp(40),
            lsn: Lsn(3)
        }
    );
    assert_eq!(
        decide(&mut owner, 2, now),
        Decision::Refused(Refusal::Barred { lsn: Lsn(4) })
    );
}

/// Section 7: an owner that fenced itself anew keeps its state only if nobody opened in between and nothing was lost.
#[test]
fn an_owner_reopens_only_on_its_own_log() {
    let now = Interval {
        earliest: Timestamp(90),
        latest: Timestamp(110),
    };
    let mut owner = open(2);
    assert!(matches!(
        decide(&mut owner, 1, now),
        Decision::Commit { lsn: Lsn(11), .. }
    ));
    let end = Timestamp(2_000);
    let mut reopen = |epoch, adopted, opened| owner.reopen(Epoch(epoch), adopted, Lsn(opened), end);
    assert!(!reopen(5, Position::new(2, 10), 11), "its last record was lost");
    assert!(
        !reopen(5, Position::new(3, 11), 12),
        "somebody else opened in between"
    );
    assert!(!reopen(2, Position::new(2, 11), 12), "not a new epoch");
    assert!(reopen(5, Position::new(2, 11), 12));
    assert_eq!(
        (owner.epoch(), owner.last_lsn(), owner.lease_end()),
        (Epoch(5), Lsn(12), end)
    );
    assert!(matches!(decide(&mut owner, 1, now), Decision::Known { .. }));
    owner.stop();
    assert!(
        !owner.reopen(Epoch(6), Position::new(5, 12), Lsn(13), end),
        "it was deposed"
    );
}

fn txn(number: u128) -> TxnId {
    TxnId(Uuid::from_u128(number))
}

/// An owner that opened at lsn 10, above everything up to 50.
fn open(epoch: u64) -> Adjudication {
    let opening = Opening {
        range: RangeId(1),
        stream: StreamId(1),
        epoch: Epoch(epoch),
        floor: Timestamp(50),
        lease_end: Timestamp(1_000),
        opened: Lsn(10),
        outcome_low: Timestamp::ZERO,
    };
    Adjudication::open(opening, AdjudicationLimits::default())
}

fn decide(owner: &mut Adjudication, number: u128, now: Interval) -> Decision {
    let attempt = Attempt {
        txn: txn(number),
        number: 1,
        home: StreamId(1),
        home_epoch: owner.epoch(),
    };
    let request = CommitRequest {
        attempt,
        start: Timestamp(100),
        written: &[Key::from("x")],
        reads: &[],
    };
    owner.decide(&request, now, Duration::ZERO)
}
