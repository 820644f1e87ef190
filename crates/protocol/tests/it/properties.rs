//! The small modules against deliberately simple second versions.

use std::time::Duration;

use meridian_protocol::EpochRuns;
use meridian_protocol::closing::{Closure, FeedGate};
use meridian_protocol::lead::{LeadPolicy, LeadTuner};
use meridian_protocol::lease::{Lease, LeasePolicy};
use meridian_protocol::quorum::{committed, majority};
use meridian_protocol::visibility::{Version, versions_to_keep, visible_at};
use meridian_types::{Epoch, Interval, Lsn, Position, RangeId, StreamId, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

fn exactly(now: u64) -> Interval {
    Interval {
        earliest: Timestamp(now),
        latest: Timestamp(now),
    }
}

#[derive(Clone, Debug)]
enum LogStep {
    Push { epoch_up: u64 },
    Cut(u64),
    Trim(u64),
}

fn log_step() -> impl Strategy<Value = LogStep> {
    prop_oneof![
        5 => (0..2_u64).prop_map(|epoch_up| LogStep::Push { epoch_up }),
        1 => (0..30_u64).prop_map(LogStep::Cut),
        1 => (0..30_u64).prop_map(LogStep::Trim),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The highest lsn of the current epoch that a quorum has, found by trying every lsn.
    #[test]
    fn committed_is_what_counting_says(matched in vec(0..12_u64, 1..6), epoch_start in 1..12_u64) {
        let quorum = majority(matched.len());
        let lsns: Vec<Lsn> = matched.iter().map(|lsn| Lsn(*lsn)).collect();
        let on_quorum = |lsn: &u64| matched.iter().filter(|has| *has >= lsn).count() >= quorum;
        let expected = (epoch_start..12).rev().find(on_quorum).map(Lsn);
        prop_assert_eq!(committed(lsns.iter().copied(), quorum, Lsn(epoch_start)), expected);
    }

    /// Runs of epochs tell the same as a list of all entries.
    #[test]
    fn epoch_runs_are_a_log(steps in vec(log_step(), 0..60)) {
        let (mut real, mut all, mut base) = (EpochRuns::new(), vec![Epoch(0)], 0_usize);
        for step in steps {
            match step {
                LogStep::Push { epoch_up } => {
                    let epoch = Epoch(all[all.len() - 1].0 + epoch_up).max(Epoch(1));
                    real.push(Position { epoch, lsn: Lsn(all.len() as u64) }).expect("it continues the log");
                    all.push(epoch);
                }
                LogStep::Cut(lsn) => {
                    real.cut_after(Lsn(lsn));
                    all.truncate((lsn as usize).max(base) + 1);
                }
                LogStep::Trim(lsn) => {
                    real.trim(Lsn(lsn));
                    if (lsn as usize) < all.len() {
                        base = base.max(lsn as usize);
                    }
                }
            }
            prop_assert_eq!(real.last(), Position { epoch: all[all.len() - 1], lsn: Lsn(all.len() as u64 - 1) });
            for lsn in 0..all.len() + 2 {
                let expected = all.get(lsn).copied().filter(|_| lsn >= base);
                prop_assert_eq!(real.epoch_at(Lsn(lsn as u64)), expected, "at {}", lsn);
            }
            for epoch in 0..20 {
                let (first, last) = (base + 1, all.len() - 1);
                let of = |lsn: &usize| all[*lsn] == Epoch(epoch);
                let first_of = (first..=last).find(of).map(|lsn| Lsn(lsn as u64));
                prop_assert_eq!(real.first_of(Epoch(epoch)), first_of);
                let not_above = (first..=last).rev().find(|lsn| all[*lsn] <= Epoch(epoch)).unwrap_or(base);
                prop_assert_eq!(real.last_not_above(Epoch(epoch), Lsn(1_000)), Lsn(not_above as u64));
            }
            let gap = Position { epoch: Epoch(99), lsn: Lsn(all.len() as u64 + 1) };
            prop_assert!(real.clone().push(gap).is_err());
        }
    }

    /// Retention changes no answer at or after the horizon.
    #[test]
    fn retention_changes_no_answer(times in proptest::collection::btree_set(0..60_u64, 0..8), deleted in any::<u8>(), horizon in 0..60_u64) {
        let version = |(index, time): (usize, &u64)| Version {
            timestamp: Timestamp(*time),
            value: (deleted >> index & 1 == 0).then_some(*time),
        };
        let all: Vec<Version<u64>> = times.iter().rev().enumerate().map(version).collect();
        let flags = all.iter().map(|version| (version.timestamp, version.value.is_none()));
        let keep = versions_to_keep(flags, Timestamp(horizon));
        let kept = all[..keep].to_vec();
        for s in horizon..62 {
            let value = |versions: &[Version<u64>]| {
                visible_at(versions.to_vec(), Timestamp(s)).and_then(|version| version.value)
            };
            prop_assert_eq!(value(&all), value(&kept), "at {}", s);
        }
    }

    /// R14: what passes has everything it names before it, never says less than before, and nothing that could pass is
    /// held when all is sent.
    #[test]
    fn the_gate_passes_only_what_is_complete(
        steps in vec((any::<bool>(), 1..3_u64, 1..12_u64, 1..12_u64), 0..60)
    ) {
        let mut gate = FeedGate::default();
        let (mut sent, mut passed, mut x, mut highest) = ([0, 0, 0], Timestamp(0), 0, Timestamp(0));
        let check = |closure: &Closure, sent: &[u64; 3], passed: &mut Timestamp| {
            assert!(closure.x > *passed, "it says something new");
            assert!(closure.after.iter().all(|(stream, lsn)| sent[stream.0 as usize] >= lsn.0), "R14");
            *passed = closure.x;
        };
        for (is_closure, stream, lsn, other) in steps {
            if is_closure {
                x += 1;
                highest = Timestamp(x);
                let after = vec![(StreamId(1), Lsn(lsn)), (StreamId(2), Lsn(other))];
                let closure = Closure { range: RangeId(1), epoch: Epoch(1), x: highest, after };
                if let Some(closure) = gate.offer(closure) {
                    check(&closure, &sent, &mut passed);
                }
            } else {
                sent[stream as usize] = sent[stream as usize].max(lsn);
                for closure in gate.on_sent(StreamId(stream), Lsn(lsn)) {
                    check(&closure, &sent, &mut passed);
                }
            }
        }
        for stream in [1, 2] {
            sent[stream as usize] = 100;
            for closure in gate.on_sent(StreamId(stream), Lsn(100)) {
                check(&closure, &sent, &mut passed);
            }
        }
        prop_assert_eq!(passed, highest, "the newest closure is never the one that is given up");
    }

    /// R16: the lead covers what was measured in the window at the journal nodes that are read from, but for the slowest few, and
    /// stays between its bounds.
    #[test]
    fn the_lead_follows_the_usual_recent_latency(samples in vec((0..40_u64, 0..500_u64, 0..3_usize, 0..8_usize), 1..200)) {
        let millis = Duration::from_millis;
        let policy =
            LeadPolicy { floor: millis(20), ceiling: millis(400), window: millis(300), closed_interval: millis(16) };
        let mut tuner = LeadTuner::new(policy);
        let at = |now: u64| exactly(now * 1_000_000);
        let (mut now, mut all, mut read) = (1_000, Vec::new(), [0; 8]);
        prop_assert_eq!(tuner.lead(at(now)), policy.fixed(millis(20)));
        for (pause, latency, journal, reader) in samples {
            now += pause;
            all.push((now, journal, latency));
            tuner.on_commit_known(journal, millis(latency), at(now));
            tuner.on_read(reader, at(now));
            read[reader] = now;
            let is_read = |journal: usize| read[journal] >= now - 300;
            prop_assert!((0..8).all(|journal| tuner.is_read(journal, at(now)) == is_read(journal)));
            let usual = |journal: usize| {
                let counts = |(at, of, _): &&(u64, usize, u64)| *at >= now - 300 && *of == journal;
                let mut recent: Vec<u64> = all.iter().filter(counts).map(|(_, _, latency)| *latency).collect();
                recent.sort_unstable();
                let skipped = if recent.len() < 8 { 0 } else { recent.len().div_ceil(32) };
                recent.into_iter().rev().nth(skipped)
            };
            let longest = (0..3).filter(|journal| is_read(*journal)).filter_map(usual).max();
            let lead = tuner.lead(at(now));
            let Some(longest) = longest else {
                prop_assert_eq!(lead, policy.fixed(millis(20)));
                continue;
            };
            let interval = match longest {
                0..8 => 16,
                8..20 => 1,
                20..40 => 2,
                40..80 => 4,
                80..160 => 8,
                _ => 16,
            };
            prop_assert_eq!(lead.interval, millis(interval));
            prop_assert_eq!(lead.close, millis((longest + interval).clamp(20, 400)));
            prop_assert_eq!(lead.commit, (lead.close - lead.interval).max(millis(20)));
        }
        prop_assert_eq!(tuner.lead(at(now + 1_000)), policy.fixed(millis(20)), "old measurements are forgotten");
    }
}

/// Any two majorities share a replica.
#[test]
fn majorities_overlap() {
    for replicas in 1..10 {
        assert!(2 * majority(replicas) > replicas && 2 * (majority(replicas) - 1) <= replicas);
    }
}

#[test]
fn a_lease_is_renewed_by_thirds_and_lapses_when_idle() {
    let policy = LeasePolicy {
        length: Duration::from_nanos(300),
        idle_after: Duration::from_nanos(1_000),
    };
    let end = Lease::opening_end(policy, Timestamp(1_250), exactly(1_000));
    assert_eq!(end, Timestamp(1_300));
    let mut lease = Lease::new(policy, end, exactly(1_000));
    assert!(lease.has_run_out(exactly(1_000)), "nothing is durable yet");
    lease.on_durable(end);
    assert!(!lease.has_run_out(exactly(1_299)) && lease.has_run_out(exactly(1_300)));

    assert_eq!(lease.renew(exactly(1_099)), None, "before a third has passed");
    assert_eq!(lease.renew(exactly(1_100)), Some(Timestamp(1_400)));
    assert_eq!(lease.renew(exactly(1_100)), None, "once is enough");
    assert_eq!(
        (lease.durable_end(), lease.requested_end()),
        (Timestamp(1_300), Timestamp(1_400))
    );
    lease.on_durable(Timestamp(1_400));

    let mut now = 1_100;
    while let Some(due) = lease.due_at() {
        now = due.0;
        let end = lease.renew(exactly(now)).expect("it is due");
        lease.on_durable(end);
    }
    assert!(now <= 2_000, "idle since 1,000, it lapses: last renewed at {now}");
    lease.on_use(exactly(5_000));
    assert_eq!(
        lease.renew(exactly(5_000)),
        Some(Timestamp(5_300)),
        "the next use opens it again"
    );
}

#[test]
fn an_opening_lease_far_ahead_does_not_make_the_renewal_spin() {
    let policy = LeasePolicy {
        length: Duration::from_nanos(300),
        idle_after: Duration::from_nanos(9_000),
    };
    let mut lease = Lease::new(policy, Timestamp(2_000), exactly(1_000));
    let mut wakes = 0;
    while let Some(due) = lease.due_at().filter(|due| *due <= Timestamp(2_000)) {
        wakes += 1;
        assert!(wakes < 100, "it spins");
        if let Some(end) = lease.renew(exactly(due.0)) {
            assert!(end > Timestamp(2_000));
        }
    }
    assert_eq!(wakes, 10);
}
