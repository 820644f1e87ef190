//! One replica's log against owners that contradict themselves, and against anything at all.

use meridian_protocol::fencing::{AppendDecision, ReplicaLog};
use meridian_types::{DiskId, Epoch, Lsn, Position};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

const QUORUM: usize = 2;

fn positions(entries: &[(u64, u64)]) -> Vec<Position> {
    entries
        .iter()
        .map(|(epoch, lsn)| Position::new(*epoch, *lsn))
        .collect()
}

fn append(log: &mut ReplicaLog, epoch: u64, prev: (u64, u64), entries: &[(u64, u64)]) -> AppendDecision {
    log.on_append(
        Epoch(epoch),
        Position::new(prev.0, prev.1),
        &positions(entries),
        None,
    )
}

/// An owner's log only grows in its epoch: what it cuts below what it appended before is no log of its own.
#[test]
fn an_owner_that_cuts_what_it_appended_in_the_same_epoch_is_refused() {
    for is_persisted in [true, false] {
        let mut log = ReplicaLog::new();
        append(&mut log, 5, (0, 0), &[(1, 1), (5, 2), (5, 3)]);
        if is_persisted {
            log.on_persisted(Epoch(5), Position::new(5, 3));
        }
        let again = append(&mut log, 5, (1, 1), &[(4, 2)]);
        assert_eq!(again, AppendDecision::Malformed);
        assert_eq!(log.last(), Position::new(5, 3), "nothing was cut");
        log.on_persisted(Epoch(5), Position::new(5, 3));
        assert_eq!(
            log.on_acked(Epoch(5), &[Lsn(3); 3], 0, QUORUM),
            Some(Lsn(3)),
            "the owner goes on"
        );
        assert!(log.committed() <= log.last().lsn);
    }
}

#[test]
fn an_owner_may_cut_what_it_has_not_matched_yet() {
    let mut log = ReplicaLog::new();
    append(&mut log, 1, (0, 0), &[(1, 1), (1, 2), (1, 3)]);
    // It probes with an empty append first; what follows is not its log yet.
    append(&mut log, 5, (1, 1), &[]);
    let cut = append(&mut log, 5, (1, 1), &[(1, 2), (5, 3)]);
    assert!(
        matches!(
            cut,
            AppendDecision::Accepted {
                cut_to: Some(Lsn(2)),
                skip: 1,
                ..
            }
        ),
        "{cut:?}"
    );
}

#[derive(Clone, Debug)]
enum Prev {
    /// So many entries before the log's last one.
    Held(u64),
    Any(u64, u64),
}

#[derive(Clone, Debug)]
enum Step {
    Fence(u64),
    Append {
        epoch: u64,
        prev: Prev,
        epochs: Vec<u64>,
        is_ragged: bool,
        is_rejoin: bool,
    },
    Persisted {
        epoch: u64,
        matched: (u64, u64),
    },
    Acked {
        epoch: u64,
        acked: Vec<u64>,
        own: usize,
    },
    Trim(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let position = || (0..6_u64, 0..9_u64);
    let prev = prop_oneof![
        4 => (0..5_u64).prop_map(Prev::Held),
        1 => position().prop_map(|(epoch, lsn)| Prev::Any(epoch, lsn)),
    ];
    let appended = (
        0..6_u64,
        prev,
        vec(0..6_u64, 0..5),
        prop::bool::weighted(0.1),
        any::<bool>(),
    );
    prop_oneof![
        1 => (0..6_u64).prop_map(Step::Fence),
        8 => appended.prop_map(|(epoch, prev, mut epochs, is_ragged, is_rejoin)| {
            if !is_ragged {
                epochs.sort_unstable();
            }
            Step::Append { epoch, prev, epochs, is_ragged, is_rejoin }
        }),
        3 => (0..6_u64, position()).prop_map(|(epoch, matched)| Step::Persisted { epoch, matched }),
        3 => (0..6_u64, vec(0..12_u64, 3..5), 0..3_usize)
            .prop_map(|(epoch, acked, own)| Step::Acked { epoch, acked, own }),
        1 => (0..12_u64).prop_map(Step::Trim),
    ]
}

/// Takes the step; answers how far the log was said to be equal to the owner's.
fn take(log: &mut ReplicaLog, step: &Step, disk: DiskId) {
    match step {
        Step::Fence(epoch) => drop(log.on_fence(Epoch(*epoch), "a1".into())),
        Step::Append {
            epoch,
            prev,
            epochs,
            is_ragged,
            is_rejoin,
        } => {
            let prev = match prev {
                Prev::Any(epoch, lsn) => (*epoch, *lsn),
                Prev::Held(back) => {
                    let lsn = Lsn(log.last().lsn.0.saturating_sub(*back));
                    (log.epoch_at(lsn).unwrap_or_default().0, lsn.0)
                }
            };
            let lsns = (1..).map(|offset| prev.1 + offset + u64::from(*is_ragged && offset == 2));
            let entries: Vec<(u64, u64)> = epochs.iter().copied().zip(lsns).collect();
            let before = log.clone();
            let decision = log.on_append(
                Epoch(*epoch),
                Position::new(prev.0, prev.1),
                &positions(&entries),
                is_rejoin.then_some(disk),
            );
            if let AppendDecision::Accepted { matched, .. } = decision {
                for entry in positions(&entries)
                    .iter()
                    .filter(|entry| entry.lsn > log.base().lsn)
                {
                    assert_eq!(
                        log.epoch_at(entry.lsn),
                        Some(entry.epoch),
                        "accepted and not there"
                    );
                }
                log.on_persisted(Epoch(*epoch), matched);
            } else {
                let same = (before.last(), before.promised(), before.committed());
                assert_eq!(
                    (log.last(), log.promised(), log.committed()),
                    same,
                    "refused and changed"
                );
            }
        }
        Step::Persisted { epoch, matched } => {
            log.on_persisted(Epoch(*epoch), Position::new(matched.0, matched.1))
        }
        Step::Acked { epoch, acked, own } => {
            let acked: Vec<Lsn> = acked.iter().map(|lsn| Lsn(*lsn)).collect();
            log.on_acked(Epoch(*epoch), &acked, *own, QUORUM);
        }
        Step::Trim(lsn) => log.trim(Lsn(*lsn)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever a peer sends: no panic, and the node's own invariants hold.
    #[test]
    fn nothing_that_a_peer_sends_breaks_a_log(steps in vec(step(), 0..40), is_rejoining in any::<bool>()) {
        let disk = DiskId(Uuid::from_u128(1));
        let mut log = if is_rejoining { ReplicaLog::rejoining(disk) } else { ReplicaLog::new() };
        for step in &steps {
            let (committed, promised) = (log.committed(), log.promised());
            take(&mut log, step, disk);
            prop_assert!(log.committed() >= committed && log.promised() >= promised, "{step:?}");
            prop_assert!(log.committed() <= log.last().lsn, "committed {} of {}", log.committed(), log.last());
            prop_assert!(log.last().epoch <= log.promised());
            prop_assert!(log.base().lsn <= log.committed());
        }
    }
}
