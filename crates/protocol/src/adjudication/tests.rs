//! What is forgotten, and what is not.

use meridian_types::{Attempt, CommitToken, Key};
use uuid::Uuid;

use super::*;
use crate::outcomes::Outcome;

#[test]
fn a_barred_transaction_whose_start_was_ahead_of_the_clock_never_commits() {
    let second = Duration::from_secs(1);
    let begun = Timestamp::ZERO.saturating_add(second * 10_000);
    let at = |reading: Timestamp| Interval {
        earliest: reading,
        latest: reading,
    };
    let opening = Opening {
        range: RangeId(1),
        stream: StreamId(1),
        epoch: Epoch(1),
        floor: Timestamp::ZERO,
        lease_end: Timestamp::MAX,
        opened: Lsn(1),
        outcome_low: Timestamp::ZERO,
    };
    let limits = AdjudicationLimits::default();
    let mut owner = Adjudication::open(opening, limits);
    let attempt = Attempt {
        txn: TxnId(Uuid::from_u128(1)),
        number: 1,
        home: StreamId(1),
        home_epoch: Epoch(1),
    };
    let token = CommitToken {
        txn: attempt.txn,
        start: begun.saturating_add(limits.max_clock_error),
        home: Some(StreamId(1)),
    };
    assert_eq!(
        owner.outcome(&token, at(begun)),
        OutcomeAnswer::Bar { lsn: Lsn(2) }
    );
    let key = Key::from("k");
    let request = CommitRequest {
        attempt,
        start: token.start,
        written: std::slice::from_ref(&key),
        reads: &[],
    };
    for later in 0..4 {
        let cutoff = begun.saturating_add(limits.max_clock_error / 2 * later + Duration::from_nanos(1));
        owner.forget_outcomes_before(cutoff);
        let now = at(cutoff.saturating_add(meridian_types::limits::OUTCOME_RETENTION));
        let decision = owner.decide(&request, now, Duration::ZERO);
        assert!(matches!(decision, Decision::Refused(_)), "{later}: {decision:?}");
    }
    assert!(owner.outcomes().is_empty(), "it is forgotten in the end");
}

#[test]
fn a_bar_found_in_the_log_of_an_idle_range_is_kept_for_the_whole_retention() {
    const SECOND: u64 = 1_000_000_000;
    let now = 10_000 * SECOND;
    let opening = Opening {
        range: RangeId(1),
        stream: StreamId(1),
        epoch: Epoch(2),
        floor: Timestamp(1_000 * SECOND),
        lease_end: Timestamp(now + SECOND),
        opened: Lsn(3),
        outcome_low: Timestamp::ZERO,
    };
    let mut owner = Adjudication::open(opening, AdjudicationLimits::default());
    let txn = TxnId(Uuid::from_u128(1));
    owner.recover_barred(txn, Lsn(2));
    assert_eq!(owner.forget_outcomes_before(Timestamp(now - 600 * SECOND)), 0);
    assert_eq!(owner.outcomes().get(txn), Some(Outcome::Barred { lsn: Lsn(2) }));
}
