//! Commits that touch several ranges: one vote each, one record, whatever gets lost on the way (section 5).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meridian_protocol::outcomes::Outcome as Remembered;
use meridian_rpc::KvError;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::v1::ScanRequest;
use meridian_types::{Attempt, Key, KeyRange, Position, RangeMap, StreamId, Timestamp};

use crate::cluster::{Cluster, Txn};
use crate::world::{Script, Then, VoteScript};

/// Ranges up to `h`, up to `p`, and from there on.
async fn cluster() -> Cluster {
    Cluster::with_ranges(&["h", "p"]).await
}

/// A transaction that writes in the first two ranges. Its home is the first one.
async fn writer(cluster: &Cluster) -> Txn {
    let mut txn = cluster.begin().await;
    txn.put("a", "1").await.unwrap();
    txn.put("k", "1").await.unwrap();
    txn
}

fn script(cluster: &Cluster, scripts: impl IntoIterator<Item = VoteScript>) {
    let mut core = cluster.world.core();
    core.vote_scripts.entry(StreamId(2)).or_default().extend(scripts);
}

/// The numbers of the attempts that homes saw; all have one start and one home (R1).
fn attempts(cluster: &Cluster) -> Vec<u32> {
    let core = cluster.world.core();
    let fixed: BTreeSet<_> = core
        .attempts
        .iter()
        .map(|(attempt, start)| (attempt.home, *start))
        .collect();
    assert_eq!(fixed.len(), 1, "R1");
    core.attempts.iter().map(|(attempt, _)| attempt.number).collect()
}

/// What the core holds of both keys.
fn assert_applied_once(cluster: &Cluster, commit: Timestamp) {
    let core = cluster.world.core();
    assert_eq!(core.records, 1);
    for key in ["a", "k"] {
        assert_eq!(
            core.read(key.as_bytes(), Timestamp::MAX).timestamp,
            commit.0,
            "I4"
        );
    }
}

/// The last attempt can never be decided any more.
fn assert_given_up(cluster: &Cluster) {
    let core = cluster.world.core();
    let (last, _) = core.attempts.last().unwrap();
    assert!(core.barred_attempts.contains(last), "I9");
    assert_eq!(core.records, 0);
}

#[tokio::test]
async fn each_range_is_asked_for_its_part_and_the_home_for_all() {
    let cluster = cluster().await;
    let mut txn = cluster.serializable().await;
    txn.get("b").await.unwrap();
    let scan = ScanRequest {
        start: "g".into(),
        end: "q".into(),
        ..ScanRequest::default()
    };
    txn.scan(scan).await.unwrap();
    for key in ["a", "i", "j", "z"] {
        txn.put(key, "1").await.unwrap();
    }
    let commit = txn.commit().await.unwrap();
    let core = cluster.world.core();
    let (attempt, _) = core.attempts[0];
    assert_eq!(
        (core.attempts.len(), attempt.home),
        (1, StreamId(2)),
        "most writes"
    );
    let part = |stream| core.votes[&(attempt, StreamId(stream))].clone().unwrap();
    let range = |start: &str, end: &str| KeyRange::new(start.into(), end.into());
    assert_eq!(part(1).keys, ["a"].map(Key::from));
    assert_eq!(part(1).reads, [KeyRange::point("b".into()), range("g", "h")]);
    assert_eq!(part(3).keys, ["z"].map(Key::from));
    assert_eq!(part(3).reads, [range("p", "q")]);
    assert_eq!(core.prepares.len(), 2);
    for key in ["a", "i", "j", "z"] {
        assert_eq!(
            core.read(key.as_bytes(), Timestamp::MAX).timestamp,
            commit.0,
            "I4"
        );
    }
}

#[tokio::test]
async fn what_is_only_read_in_another_range_is_checked_there() {
    let cluster = cluster().await;
    let mut skew = [cluster.serializable().await, cluster.serializable().await];
    for txn in &mut skew {
        txn.get("a").await.unwrap();
        txn.get("k").await.unwrap();
    }
    let [first, second] = &mut skew;
    first.put("a", "1").await.unwrap();
    second.put("k", "1").await.unwrap();
    first.commit().await.unwrap();
    let error = second.commit().await.unwrap_err();
    assert!(matches!(error, KvError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn prepares_are_sent_until_they_are_answered() {
    for scripts in [
        vec![VoteScript::LoseReply],
        vec![VoteScript::LoseRequest, VoteScript::LoseRequest],
        vec![
            VoteScript::Refuse(Reason::NotReady),
            VoteScript::Refuse(Reason::Overloaded),
        ],
        vec![VoteScript::Moved("adj-3"), VoteScript::Moved("adj")],
    ] {
        let cluster = cluster().await;
        script(&cluster, scripts.clone());
        let commit = writer(&cluster).await.commit().await.unwrap();
        assert_applied_once(&cluster, commit);
        assert_eq!(attempts(&cluster), [1], "{scripts:?}");
        let sent = cluster.world.core().prepares.len();
        // A vote whose reply is lost may decide before it is repeated.
        let is_voted = matches!(scripts[0], VoteScript::LoseReply);
        assert!(sent == scripts.len() + 1 || is_voted, "{scripts:?} {sent}");
    }
}

#[tokio::test]
async fn a_final_no_is_told_when_the_attempt_can_not_be_decided_any_more() {
    for (no, reason, code) in [
        (VoteScript::No(Reason::Conflict), Reason::Conflict, "CONFLICT"),
        (VoteScript::Refuse(Reason::Conflict), Reason::Conflict, "CONFLICT"),
        (
            VoteScript::Refuse(Reason::SnapshotTooOld),
            Reason::SnapshotTooOld,
            "SNAPSHOT_TOO_OLD",
        ),
        (
            VoteScript::Refuse(Reason::StartAhead),
            Reason::StartAhead,
            "UNAVAILABLE",
        ),
    ] {
        let cluster = cluster().await;
        // The home would wait for long.
        cluster.world.core().vote_timeout = Duration::from_secs(30);
        script(&cluster, [no]);
        let begun = Instant::now();
        let error = writer(&cluster).await.commit().await.unwrap_err();
        assert!(
            error.is_definite() && error.reason() == code,
            "{reason:?}: {error}"
        );
        assert_given_up(&cluster);
        assert_eq!(attempts(&cluster), [1]);
        assert!(begun.elapsed() < Duration::from_secs(3), "{reason:?}");
    }
}

/// Another query processor ran the transaction: it committed, and what another range refuses is its own write.
#[tokio::test]
async fn the_home_knows_better_than_a_range_that_refuses() {
    let cluster = cluster().await;
    script(&cluster, [VoteScript::No(Reason::Conflict)]);
    cluster.world.script([Script::Slow(Duration::from_millis(50))]);
    let mut txn = writer(&cluster).await;
    let world = cluster.world.clone();
    let other_run = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut core = world.core();
            let Some((attempt, start)) = core.attempts.first().copied() else {
                continue;
            };
            let request = crate::world::request(Attempt { number: 9, ..attempt }, start, &["a", "k"], "1");
            core.decide(&request, &world.clock);
            return;
        }
    });
    let commit = txn.commit().await.unwrap();
    other_run.await.unwrap();
    assert_applied_once(&cluster, commit);
}

#[tokio::test]
async fn what_is_held_or_given_up_is_another_attempt_that_the_client_does_not_see() {
    for (no, at_home) in [
        (Some(VoteScript::No(Reason::Held)), None),
        (Some(VoteScript::Refuse(Reason::Held)), None),
        (Some(VoteScript::LoseVote), None),
        (None, Some(Script::Refuse(Reason::Held))),
        (None, Some(Script::Refuse(Reason::GaveUp))),
    ] {
        let cluster = cluster().await;
        cluster.world.core().vote_timeout = Duration::from_millis(100);
        script(&cluster, no);
        cluster.world.script(at_home.clone());
        let commit = writer(&cluster).await.commit().await.unwrap();
        assert_applied_once(&cluster, commit);
        assert_eq!(attempts(&cluster), [1, 2], "{no:?} {at_home:?}");
        // Whoever still holds something for the first attempt can let go.
        let core = cluster.world.core();
        let first = core.attempts[0].0;
        let is_over = core.barred_attempts.contains(&first) || at_home.is_some();
        assert!(is_over, "{no:?} {at_home:?}");
    }
}

#[tokio::test]
async fn at_the_deadline_a_range_that_does_not_vote_is_a_definite_abort() {
    for scripts in [
        vec![VoteScript::Silent; 1],
        vec![VoteScript::LoseRequest; 10_000],
        vec![VoteScript::LoseVote; 10_000],
        vec![VoteScript::No(Reason::Held); 10_000],
    ] {
        let cluster = cluster().await;
        cluster.world.core().vote_timeout = Duration::from_secs(30);
        let what = scripts[0];
        script(&cluster, scripts);
        let mut txn = writer(&cluster).await;
        let begun = Instant::now();
        let error = txn.commit_within(Duration::from_millis(400)).await.unwrap_err();
        assert!(error.is_definite(), "{what:?}: {error}");
        assert!(begun.elapsed() < Duration::from_millis(800), "{what:?}");
        assert_given_up(&cluster);
    }
}

#[tokio::test]
async fn what_is_decided_is_committed_as_soon_as_the_journal_says_so() {
    for then in [Then::Silent, Then::Break] {
        for epochs_later in [0, 1] {
            let cluster = cluster().await;
            cluster.world.script([Script::Decided(then)]);
            // Its owner would not be asked for an outcome in time.
            let pending = if epochs_later == 0 { 1_000_000 } else { 3 };
            cluster.world.core().pending = pending;
            let (world, committed) = (cluster.world.clone(), cluster.committed.clone());
            let journal = tokio::spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    let core = world.core();
                    let Some((attempt, _)) = core.attempts.first() else {
                        continue;
                    };
                    let Some(Remembered::Committed { lsn, .. }) =
                        core.adjudication.outcomes().get(attempt.txn)
                    else {
                        continue;
                    };
                    let position = Position::new(attempt.home_epoch.0 + epochs_later, lsn.0);
                    committed.learn(attempt.home, position);
                    return;
                }
            });
            let begun = Instant::now();
            let commit = writer(&cluster).await.commit().await.unwrap();
            assert!(
                begun.elapsed() < Duration::from_secs(1),
                "{then:?} {epochs_later}"
            );
            journal.await.unwrap();
            assert_applied_once(&cluster, commit);
            assert_eq!(attempts(&cluster), [1]);
            let told_early = cluster.figure("commits_told_by_journal");
            assert_eq!(told_early, 1 - epochs_later, "{then:?}");
        }
    }
}

/// Section 5, attempts: n + 1 begins only after a definite abort of n.
#[tokio::test]
async fn another_epoch_gets_another_attempt_after_the_end_of_the_former() {
    let cluster = cluster().await;
    // The first attempt may be on its way still when the next owner is found.
    cluster.world.script([Script::Refuse(Reason::NotReady)]);
    let world = cluster.world.clone();
    let takeover = tokio::spawn(async move {
        while world.core().attempts.is_empty() {
            tokio::task::yield_now().await;
        }
        let mut core = world.core();
        core.epoch = core.epoch.next();
    });
    let commit = writer(&cluster).await.commit().await.unwrap();
    takeover.await.unwrap();
    assert_applied_once(&cluster, commit);
    let core = cluster.world.core();
    let (first, last) = (core.attempts[0].0, core.attempts.last().unwrap().0);
    assert_eq!((first.home_epoch.0, last.home_epoch.0), (1, 2));
    if last.number > first.number {
        let of_the_last = core
            .attempts
            .iter()
            .position(|(attempt, _)| *attempt == last)
            .unwrap();
        let refused_by_epoch = core.attempts[..of_the_last]
            .iter()
            .filter(|(attempt, _)| *attempt == first)
            .count()
            > 1;
        let asked = core
            .asked
            .iter()
            .any(|(attempt, received)| *attempt == first && *received <= of_the_last);
        assert!(asked || refused_by_epoch, "{:?} {:?}", core.asked, core.attempts);
    }
}

#[tokio::test]
async fn the_home_is_the_farthest_once_delays_are_known() {
    let cluster = cluster().await;
    cluster.world.core().delays = [("adj-2", Duration::from_millis(40))].into();
    writer(&cluster).await.commit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut txn = cluster.begin().await;
    for key in ["a", "b", "k", "z"] {
        txn.put(key, "2").await.unwrap();
    }
    txn.commit().await.unwrap();
    let core = cluster.world.core();
    let homes: Vec<u64> = core.attempts.iter().map(|(attempt, _)| attempt.home.0).collect();
    assert_eq!(homes, [1, 2]);
}

/// The keys move to another stream between two attempts; the home stays (R1).
#[tokio::test]
async fn a_map_that_changes_is_followed_by_the_next_attempt() {
    let cluster = cluster().await;
    cluster.world.script([Script::Refuse(Reason::NotReady)]);
    let mut split = RangeMap::divided(["h", "j", "p"].map(Key::from), |_| vec!["adj-3".into()]);
    split.version = 2;
    // The range from `j` on is a new one.
    split.entries[2].stream = StreamId(4);
    split.entries[3].stream = StreamId(3);
    cluster.world.core().owners.insert(StreamId(4), "adj-3");
    let mut txn = writer(&cluster).await;
    let (world, map) = (cluster.world.clone(), cluster.map.clone());
    let change = tokio::spawn(async move {
        while world.core().attempts.is_empty() {
            tokio::task::yield_now().await;
        }
        map.send_replace(std::sync::Arc::new(split));
    });
    script(&cluster, vec![VoteScript::Silent; 100]);
    let commit = txn.commit().await.unwrap();
    change.await.unwrap();
    assert_applied_once(&cluster, commit);
    let core = cluster.world.core();
    let (last, _) = core.attempts.last().unwrap();
    // An attempt has one set of ranges.
    assert_eq!((last.home, last.number), (StreamId(1), 2));
    let (first, _) = core.attempts[0];
    assert!(core.barred_attempts.contains(&first));
    assert_eq!(
        core.votes[&(*last, StreamId(4))].clone().unwrap().keys,
        ["k"].map(Key::from)
    );
}
