//! Votes and homes, one rule at a time (section 5, R11, R12, R19).

use std::time::Duration;

use meridian_protocol::adjudication::{
    Adjudication, AdjudicationLimits, AttemptAnswer, AttemptEnd, CommitRequest, Decision, HandedOver,
    HomeRequest, HomeStep, Opening, PrepareTerms, Refusal, Vote,
};
use meridian_types::{
    Attempt, CommitToken, Epoch, Interval, Key, KeyRange, Lsn, Position, RangeId, StreamId, Timestamp, TxnId,
};
use uuid::Uuid;

const HERE: StreamId = StreamId(1);
const THERE: StreamId = StreamId(2);

fn at(now: u64) -> Interval {
    Interval {
        earliest: Timestamp(now),
        latest: Timestamp(now),
    }
}

fn terms(prepare_timeout: u64) -> PrepareTerms {
    PrepareTerms {
        lead: Duration::from_nanos(5),
        to_home: Duration::from_nanos(10),
        prepare_timeout: Duration::from_nanos(prepare_timeout),
    }
}

fn opening(floor: u64) -> Opening {
    Opening {
        range: RangeId(1),
        stream: HERE,
        epoch: Epoch(1),
        floor: Timestamp(floor),
        lease_end: Timestamp(500),
        opened: Lsn(1),
        outcome_low: Timestamp::ZERO,
    }
}

fn owner() -> Adjudication {
    Adjudication::open(opening(0), AdjudicationLimits::default()).with_streams([HERE, THERE])
}

fn attempt(txn: u128, number: u32, home: StreamId) -> Attempt {
    Attempt {
        txn: TxnId(Uuid::from_u128(txn)),
        number,
        home,
        home_epoch: Epoch(1),
    }
}

fn key(name: &str) -> Key {
    Key::from(name)
}

fn request<'a>(attempt: Attempt, start: u64, written: &'a [Key], reads: &'a [KeyRange]) -> CommitRequest<'a> {
    CommitRequest {
        attempt,
        start: Timestamp(start),
        written,
        reads,
    }
}

fn yes(lower: u64, promise: u64) -> Vote {
    Vote::Yes {
        lower: Timestamp(lower),
        promise: Timestamp(promise),
    }
}

fn commit_at(owner: &mut Adjudication, txn: u128, start: u64, name: &str, now: u64) -> Decision {
    let written = [key(name)];
    let request = request(attempt(txn, 1, HERE), start, &written, &[]);
    owner.decide(&request, at(now), Duration::ZERO)
}

fn conflict_with(decision: &Decision) -> Option<(u64, bool)> {
    match decision {
        Decision::Refused(Refusal::Conflict { with, is_final, .. }) => Some((with.0, *is_final)),
        _ => None,
    }
}

#[test]
fn a_vote_reaches_no_further_than_the_lease_and_stays_the_same() {
    let mut owner = owner();
    let written = [key("a")];
    let first = request(attempt(1, 1, THERE), 90, &written, &[]);
    assert_eq!(owner.prepare(&first, at(100), &terms(50)), yes(110, 160));
    assert_eq!(
        owner.prepare(&first, at(130), &terms(50)),
        yes(110, 160),
        "the same answer"
    );
    let other = [key("b")];
    let longer = request(attempt(2, 1, THERE), 90, &other, &[]);
    assert_eq!(owner.prepare(&longer, at(100), &terms(9_000)), yes(110, 500));
    let third = [key("c")];
    let late = request(attempt(3, 1, THERE), 90, &third, &[]);
    let refused = owner.prepare(&late, at(495), &terms(50));
    assert!(
        matches!(refused, Vote::No(Refusal::LeaseExpired { .. })),
        "{refused:?}"
    );

    // Once it has ended, it is not voted on again, and the next attempt is.
    assert!(owner.end_prepare(&attempt(1, 1, THERE), AttemptEnd::Aborted));
    assert_eq!(
        owner.prepare(&first, at(130), &terms(50)),
        Vote::No(Refusal::GaveUp)
    );
    let next = request(attempt(1, 2, THERE), 90, &written, &[]);
    assert_eq!(owner.prepare(&next, at(130), &terms(50)), yes(140, 190));
    let wrong_name = attempt(1, 1, THERE);
    assert!(
        !owner.end_prepare(&wrong_name, AttemptEnd::Aborted),
        "the whole name counts"
    );
    assert_eq!(owner.lowest_open(), Some(Timestamp(110)));
}

#[test]
fn votes_are_given_only_to_homes_of_the_durable_map() {
    let mut owner = owner();
    let written = [key("a")];
    let new = StreamId(7);
    let unknown = request(attempt(1, 1, new), 90, &written, &[]);
    let no = Vote::No(Refusal::UnknownHome { home: new });
    assert_eq!(owner.prepare(&unknown, at(100), &terms(50)), no);
    owner.on_map_durable([THERE, new]);
    assert_eq!(owner.prepare(&unknown, at(100), &terms(50)), yes(110, 160));
    let own = request(attempt(2, 1, HERE), 90, &written, &[]);
    let no = Vote::No(Refusal::UnknownHome { home: HERE });
    assert_eq!(owner.prepare(&own, at(100), &terms(50)), no, "not to itself");
}

#[test]
fn aborts_restore_what_was_there_in_whatever_order_they_end() {
    for first_ends_first in [true, false] {
        let mut owner = owner();
        assert!(matches!(
            commit_at(&mut owner, 9, 40, "a", 50),
            Decision::Commit { .. }
        ));
        let written = [key("a")];
        let first = attempt(1, 1, THERE);
        assert_eq!(
            owner.prepare(&request(first, 90, &written, &[]), at(100), &terms(20)),
            yes(110, 130)
        );
        assert_eq!(
            conflict_with(&commit_at(&mut owner, 8, 120, "a", 120)),
            Some((130, false))
        );
        // Who begins after the promise may write.
        let second = attempt(2, 1, THERE);
        assert_eq!(
            owner.prepare(&request(second, 130, &written, &[]), at(131), &terms(20)),
            yes(141, 161)
        );
        let order = if first_ends_first {
            [first, second]
        } else {
            [second, first]
        };
        for ended in order {
            assert!(owner.end_prepare(&ended, AttemptEnd::Aborted));
        }
        assert_eq!(
            conflict_with(&commit_at(&mut owner, 8, 49, "a", 170)),
            Some((50, true))
        );
        assert!(matches!(
            commit_at(&mut owner, 8, 50, "a", 170),
            Decision::Commit { .. }
        ));
        assert_eq!(owner.lowest_open(), None);
    }
}

#[test]
fn an_outcome_counts_at_its_commit_for_keys_the_floor_and_closures() {
    let mut owner = owner();
    let (written, reads) = ([key("a")], [KeyRange::point(key("r"))]);
    let open = attempt(1, 1, THERE);
    let vote = owner.prepare(&request(open, 90, &written, &reads), at(100), &terms(50));
    assert_eq!(vote, yes(110, 160));
    assert_eq!(
        owner.close(at(140), Duration::ZERO).map(|c| c.x),
        Some(Timestamp(109)),
        "R12"
    );
    assert_eq!(
        conflict_with(&commit_at(&mut owner, 2, 130, "r", 130)),
        Some((160, false)),
        "R11"
    );
    let readers = [KeyRange::all()];
    let reader = request(attempt(3, 1, HERE), 100, &[], &readers);
    assert_eq!(
        conflict_with(&owner.decide(&reader, at(130), Duration::ZERO)),
        Some((160, false)),
        "what it writes cannot be checked yet"
    );
    let end = AttemptEnd::Committed {
        commit: Timestamp(150),
        lsn: Lsn(7),
    };
    assert!(owner.end_prepare(&open, end) && !owner.end_prepare(&open, end));
    assert_eq!(owner.floor(), Timestamp(150));
    let closure = owner.close(at(155), Duration::ZERO).expect("a closure");
    assert_eq!(
        (closure.x, closure.after),
        (Timestamp(155), vec![(HERE, Lsn(1)), (THERE, Lsn(7))])
    );
    assert_eq!(
        conflict_with(&commit_at(&mut owner, 4, 149, "a", 155)),
        Some((150, true))
    );
    assert!(matches!(
        commit_at(&mut owner, 4, 150, "a", 155),
        Decision::Commit { .. }
    ));
    let Decision::Commit { commit, .. } = commit_at(&mut owner, 5, 120, "r", 120) else {
        panic!("the read is not held any more");
    };
    assert!(
        commit > Timestamp(155),
        "whoever writes what it read commits after it"
    );
    // A late repetition of the prepare is for the home to answer.
    let again = owner.prepare(&request(open, 90, &written, &reads), at(160), &terms(50));
    assert_eq!(again, Vote::No(Refusal::AskHome));
}

#[test]
fn a_forgotten_outcome_keeps_the_promise() {
    let mut owner = owner();
    let written = [key("a")];
    let open = attempt(1, 1, THERE);
    assert_eq!(
        owner.prepare(&request(open, 90, &written, &[]), at(100), &terms(50)),
        yes(110, 160)
    );
    assert!(owner.end_prepare(&open, AttemptEnd::Forgotten { home_last: Lsn(30) }));
    assert_eq!((owner.floor(), owner.lowest_open()), (Timestamp(160), None));
    let closure = owner.close(at(120), Duration::ZERO).expect("a closure");
    assert_eq!(closure.after, vec![(HERE, Lsn(1)), (THERE, Lsn(30))]);
    assert_eq!(
        conflict_with(&commit_at(&mut owner, 4, 159, "a", 170)),
        Some((160, true))
    );
    assert!(matches!(
        commit_at(&mut owner, 4, 160, "a", 170),
        Decision::Commit { .. }
    ));
}

/// The outcome may be forgotten before its record is committed, by an owner that has lost the journal for long.
#[test]
fn a_home_that_has_forgotten_names_everything_that_it_handed_out() {
    let mut owner = owner();
    assert!(matches!(
        commit_at(&mut owner, 1, 90, "a", 100),
        Decision::Commit { lsn: Lsn(2), .. }
    ));
    assert_eq!(owner.forget_outcomes_before(Timestamp(200)), 1);
    let asked = owner.attempt_outcome(&attempt(1, 1, HERE), Timestamp(90), at(200));
    assert_eq!(asked, AttemptAnswer::Forgotten { lsn: Lsn(2) });
}

#[test]
fn an_attempt_that_waits_is_not_said_to_be_forgotten() {
    let mut owner = owner();
    let written = [key("a")];
    let open = attempt(1, 1, HERE);
    assert!(matches!(
        commit_at(&mut owner, 2, 90, "b", 100),
        Decision::Commit { .. }
    ));
    begin(&mut owner, request(open, 90, &written, &[]), 100);
    assert_eq!(owner.forget_outcomes_before(Timestamp(200)), 1);
    assert!(owner.outcome_low() > Timestamp(90));
    let asked = owner.attempt_outcome(&open, Timestamp(90), at(120));
    assert_eq!(asked, AttemptAnswer::Pending);
    let step = owner.on_vote(&open, THERE, yes(110, 160), at(120));
    assert!(matches!(step, HomeStep::Commit { .. }), "{step:?}");
}

#[test]
fn a_released_floor_is_above_every_open_promise() {
    let mut owner = owner();
    let written = [key("a")];
    owner.prepare(
        &request(attempt(1, 1, THERE), 90, &written, &[]),
        at(100),
        &terms(50),
    );
    assert_eq!(owner.release().0, Timestamp(160));
    let late = owner.prepare(&request(attempt(2, 1, THERE), 90, &[], &[]), at(100), &terms(50));
    assert_eq!(late, Vote::No(Refusal::Stopped));
}

/// The owner of epoch 2, which adopts a log that ends at `adopted`.
fn successor(adopted: (u64, u64), handed: &HandedOver) -> Option<Adjudication> {
    let opening = Opening {
        epoch: Epoch(2),
        opened: Lsn(adopted.1 + 1),
        // By the log.
        floor: Timestamp(160),
        ..opening(0)
    };
    let adopted = Position::new(adopted.0, adopted.1);
    Adjudication::take_over(opening, adopted, AdjudicationLimits::default(), handed)
}

#[test]
fn a_successor_goes_on_with_what_it_was_handed() {
    let mut owner = owner();
    let (written, promised, read) = ([key("a")], [key("b")], [KeyRange::point(key("c"))]);
    let committed = owner.decide(
        &request(attempt(1, 1, HERE), 90, &written, &[]),
        at(100),
        Duration::ZERO,
    );
    assert!(matches!(committed, Decision::Commit { .. }), "{committed:?}");
    let open = attempt(2, 1, THERE);
    let vote = owner.prepare(&request(open, 90, &promised, &read), at(100), &terms(50));
    let Vote::Yes { lower, promise } = vote else {
        panic!("{vote:?}")
    };
    owner.note_dependency(THERE, Lsn(7));
    let (_, lsn) = owner.release();
    let handed = owner.hand_over(usize::MAX);

    assert!(
        successor((1, lsn.0 - 1), &handed).is_none(),
        "the log ends before `Released`"
    );
    assert!(successor((2, lsn.0), &handed).is_none(), "another epoch's record");
    let mut next = successor((1, lsn.0), &handed).unwrap();
    next.on_map_durable([THERE]);
    assert!(next.floor() < promise && next.window_low() == Timestamp::ZERO);
    assert_eq!(next.lowest_open(), Some(lower));
    let closure = next.close(at(300), Duration::ZERO).unwrap();
    assert!(
        closure.x < lower && closure.after.contains(&(THERE, Lsn(7))),
        "{closure:?}"
    );

    // Who began before the move commits, unless it meets what was written, promised or read.
    let mut decide = |txn, start, key: &str, now| {
        let written = [Key::from(key)];
        let attempt = Attempt {
            home_epoch: Epoch(2),
            ..attempt(txn, 1, HERE)
        };
        next.decide(&request(attempt, start, &written, &[]), at(now), Duration::ZERO)
    };
    assert!(matches!(decide(11, 95, "z", 110), Decision::Commit { .. }));
    for (txn, key, final_one) in [(12, "a", true), (13, "b", false), (14, "c", false)] {
        let refused = decide(txn, 95, key, 110);
        let is_conflict = matches!(
            refused,
            Decision::Refused(Refusal::Conflict { is_final, .. }) if is_final == final_one
        );
        assert!(is_conflict, "{key}: {refused:?}");
    }
    assert!(next.end_prepare(&open, AttemptEnd::Aborted));
    assert_eq!(next.lowest_open(), None);
}

#[test]
fn what_is_not_handed_over_is_below_the_window() {
    let mut owner = owner();
    for txn in 1..=10 {
        let written = [key(&format!("k{txn}"))];
        let now = 100 + txn as u64;
        owner.decide(
            &request(attempt(txn, 1, HERE), now - 1, &written, &[]),
            at(now),
            Duration::ZERO,
        );
    }
    owner.release();
    let whole = owner.hand_over(usize::MAX);
    assert_eq!((whole.recent.len(), whole.window_low), (10, Timestamp::ZERO));
    let part = owner.hand_over(300);
    assert!((1..10).contains(&part.recent.len()));
    let left_out = whole.recent.get(part.recent.len()).unwrap();
    assert_eq!(part.window_low, left_out.at);
    assert!(part.recent.iter().all(|write| write.at > part.window_low));
}

fn begin<'a>(owner: &mut Adjudication, prepare: CommitRequest<'a>, now: u64) -> HomeStep {
    let request = HomeRequest {
        prepare,
        participants: &[THERE, HERE],
    };
    owner.begin_home(&request, at(now), &terms(50))
}

#[test]
fn a_home_decides_when_all_votes_are_in_whichever_came_first() {
    let mut owner = owner();
    let written = [key("a")];
    let early = attempt(1, 1, HERE);
    assert_eq!(
        owner.on_vote(&early, THERE, yes(130, 180), at(100)),
        HomeStep::Waiting
    );
    let step = begin(&mut owner, request(early, 90, &written, &[]), 100);
    let (commit, lsn) = (Timestamp(130), Lsn(2));
    assert_eq!(step, HomeStep::Commit { commit, lsn }, "the largest lower");
    assert_eq!(
        begin(&mut owner, request(early, 90, &written, &[]), 120),
        HomeStep::Known { commit, lsn }
    );
    assert_eq!(
        owner.on_vote(&early, THERE, yes(130, 180), at(130)),
        HomeStep::Known { commit, lsn }
    );

    let late = attempt(2, 1, HERE);
    let other = [key("b")];
    assert_eq!(
        begin(&mut owner, request(late, 90, &other, &[]), 120),
        HomeStep::Waiting
    );
    assert_eq!(
        owner.attempt_outcome(&late, Timestamp(90), at(120)),
        AttemptAnswer::Pending
    );
    assert_eq!(
        conflict_with(&commit_at(&mut owner, 3, 120, "b", 120)),
        Some((181, false)),
        "R11 at home"
    );
    assert_eq!(
        owner.on_vote(&late, StreamId(9), yes(1, 2), at(120)),
        HomeStep::Waiting,
        "a stranger"
    );
    owner.raise_floor(Timestamp(150));
    let step = owner.on_vote(&late, THERE, yes(140, 170), at(120));
    let (commit, lsn) = (Timestamp(151), Lsn(3));
    assert_eq!(
        step,
        HomeStep::Commit { commit, lsn },
        "its own floor + 1 at that moment"
    );
}

#[test]
fn a_home_gives_up_for_good_when_a_promise_is_passed_or_a_vote_is_no() {
    let mut owner = owner();
    let written = [key("a")];
    let begin_at_100 = |owner: &mut Adjudication, attempt| {
        let step = begin(owner, request(attempt, 90, &written, &[]), 100);
        assert_eq!(step, HomeStep::Waiting);
    };
    // Its floor has passed a promise.
    let first = attempt(1, 1, HERE);
    begin_at_100(&mut owner, first);
    owner.raise_floor(Timestamp(120));
    let step = owner.on_vote(&first, THERE, yes(110, 120), at(100));
    assert_eq!(step, HomeStep::GaveUp(Refusal::GaveUp));
    assert_eq!(
        owner.attempt_outcome(&first, Timestamp(90), at(100)),
        AttemptAnswer::Aborted
    );
    let again = begin(&mut owner, request(first, 90, &written, &[]), 100);
    assert_eq!(again, HomeStep::GaveUp(Refusal::GaveUp), "it is barred");

    // No vote comes: its own promise passes.
    let second = attempt(1, 2, HERE);
    begin_at_100(&mut owner, second);
    assert_eq!(owner.next_home_deadline(), Some(Timestamp(171)));
    assert_eq!(owner.settle_homes(at(171)), vec![]);
    let gave_up = (second, HomeStep::GaveUp(Refusal::GaveUp));
    assert_eq!(owner.settle_homes(at(172)), vec![gave_up]);

    // A vote is no: held elsewhere is no reason for the client, a committed conflict is.
    let (third, fourth) = (attempt(1, 3, HERE), attempt(1, 4, HERE));
    let refusal = |is_final| Refusal::Conflict {
        key: key("x"),
        with: Timestamp(95),
        is_final,
    };
    begin_at_100(&mut owner, third);
    let step = owner.on_vote(&third, THERE, Vote::No(refusal(false)), at(100));
    assert_eq!(step, HomeStep::GaveUp(Refusal::GaveUp));
    owner.on_vote(&fourth, THERE, Vote::No(refusal(true)), at(100));
    let step = begin(&mut owner, request(fourth, 90, &written, &[]), 100);
    assert_eq!(step, HomeStep::GaveUp(refusal(true)));
    assert!(
        matches!(commit_at(&mut owner, 5, 90, "a", 130), Decision::Commit { .. }),
        "restored"
    );
}

#[test]
fn a_barred_transaction_does_not_commit_when_its_votes_arrive() {
    let mut owner = owner();
    let written = [key("a")];
    let open = attempt(1, 1, HERE);
    begin(&mut owner, request(open, 90, &written, &[]), 100);
    let token = CommitToken {
        txn: open.txn,
        start: Timestamp(90),
        home: Some(HERE),
    };
    owner.outcome(&token, at(100));
    let barred = HomeStep::GaveUp(Refusal::Barred { lsn: Lsn(2) });
    assert_eq!(owner.on_vote(&open, THERE, yes(110, 160), at(100)), barred);
    assert_eq!(owner.settle_homes(at(100)), vec![(open, barred)]);
    assert_eq!(owner.waiting_homes(), 0);
}

#[test]
fn a_home_without_a_lease_decides_when_it_has_one_again() {
    let mut owner = owner();
    let written = [key("a")];
    let open = attempt(1, 1, HERE);
    let step = owner.begin_home(
        &HomeRequest {
            prepare: request(open, 440, &written, &[]),
            participants: &[THERE],
        },
        at(440),
        &terms(5_000),
    );
    assert_eq!((step, owner.lease_end()), (HomeStep::Waiting, Timestamp(500)));
    assert_eq!(
        owner.on_vote(&open, THERE, yes(480, 900), at(500)),
        HomeStep::Waiting
    );
    assert_eq!(owner.settle_homes(at(500)), vec![]);
    owner.on_lease_durable(Timestamp(1_000));
    let (commit, lsn) = (Timestamp(480), Lsn(2));
    assert_eq!(
        owner.settle_homes(at(500)),
        vec![(open, HomeStep::Commit { commit, lsn })]
    );
}

#[test]
fn forgetting_that_an_attempt_was_given_up_raises_window_low() {
    let limits = AdjudicationLimits {
        barred_attempts: 1,
        max_clock_error: Duration::ZERO,
        ..AdjudicationLimits::default()
    };
    let mut owner = Adjudication::open(opening(0), limits);
    for (txn, start) in [(1, 60), (2, 70)] {
        let asked = attempt(txn, 1, HERE);
        assert_eq!(
            owner.attempt_outcome(&asked, Timestamp(start), at(start)),
            AttemptAnswer::Aborted
        );
    }
    assert_eq!(owner.window_low(), Timestamp(61));
    let late = commit_at(&mut owner, 1, 60, "a", 80);
    assert!(
        matches!(late, Decision::Refused(Refusal::SnapshotTooOld { .. })),
        "{late:?}"
    );
    assert_eq!(
        commit_at(&mut owner, 2, 70, "a", 80),
        Decision::Refused(Refusal::GaveUp)
    );
}

#[test]
fn a_new_owner_closes_only_as_far_as_the_other_streams_went() {
    let limits = AdjudicationLimits::default();
    let mut owner = Adjudication::open(opening(300), limits).with_streams([HERE, THERE, StreamId(3)]);
    let close = |owner: &mut Adjudication, now| {
        let closure = owner.close(at(now), Duration::from_nanos(10)).expect("a closure");
        (closure.x, closure.after)
    };
    let own = (HERE, Lsn(1));
    assert_eq!(close(&mut owner, 100), (Timestamp::ZERO, vec![own]));
    let lead = Duration::from_nanos(10);
    let wanted = |y| vec![(THERE, Timestamp(y)), (StreamId(3), Timestamp(y))];
    assert_eq!(
        owner.wanted_raises(at(100), lead),
        wanted(110),
        "never the far lease end"
    );
    owner.on_raised(THERE, Timestamp(110), Lsn(8));
    assert_eq!(
        close(&mut owner, 100),
        (Timestamp::ZERO, vec![own, (THERE, Lsn(8))])
    );
    owner.on_raised(StreamId(3), Timestamp(105), Lsn(9));
    let after = vec![own, (THERE, Lsn(8)), (StreamId(3), Lsn(9))];
    assert_eq!(close(&mut owner, 100), (Timestamp(105), after.clone()));
    assert_eq!(
        owner.wanted_raises(at(400), lead),
        wanted(300),
        "no further than its opening floor"
    );
    owner.on_raised(THERE, Timestamp(300), Lsn(8));
    owner.on_raised(StreamId(3), Timestamp(300), Lsn(9));
    assert_eq!(owner.wanted_raises(at(400), lead), vec![]);
    assert_eq!(close(&mut owner, 400), (Timestamp(410), after));
}

#[test]
fn a_floor_is_raised_for_others_within_bounds() {
    let mut owner = owner();
    let allowance = Duration::from_nanos(40);
    let answer = owner
        .answer_raise_floor(Timestamp(120), at(100), allowance)
        .expect("it owns");
    assert_eq!(
        (answer.floor, answer.lease, answer.lsn),
        (Timestamp(120), None, Lsn(1))
    );
    let answer = owner
        .answer_raise_floor(Timestamp(9_000), at(490), allowance)
        .expect("it owns");
    assert_eq!(
        (answer.floor, answer.lease),
        (Timestamp(530), Some(Timestamp(530)))
    );
    assert_eq!(owner.floor(), Timestamp(530));
    owner.stop();
    assert_eq!(owner.answer_raise_floor(Timestamp(120), at(100), allowance), None);
}
