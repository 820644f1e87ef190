//! Commits that meet trouble: replies lost, owners changed, promises held, deadlines passed. In none of them
//! is a transaction applied twice, and no answer is wrong.

use std::time::{Duration, Instant};

use meridian_clock::ManualClock;
use meridian_rpc::KvError;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::v1::outcome_response::Outcome;
use meridian_rpc::v1::{ExecuteRequest, Mutation};
use meridian_types::{Attempt, Epoch, Timestamp, TxnId};

use crate::cluster::{Cluster, Txn, execute, outcome, test_config};
use crate::world::{HOME, Script};

async fn writer(cluster: &Cluster) -> Txn {
    let mut txn = cluster.begin().await;
    txn.put("a", "1").await.unwrap();
    txn
}

/// The attempts that the adjudicator saw, as (number, epoch); all have the same start.
fn attempts(cluster: &Cluster) -> Vec<(u32, u64)> {
    let core = cluster.world.core();
    let first = core.attempts[0];
    assert!(
        core.attempts
            .iter()
            .all(|(attempt, start)| *start == first.1 && attempt.home == HOME),
        "R1"
    );
    core.attempts
        .iter()
        .map(|(attempt, _)| (attempt.number, attempt.home_epoch.0))
        .collect()
}

#[tokio::test]
async fn a_lost_reply_is_found_by_asking() {
    for pending in [0, 3] {
        let cluster = Cluster::start().await;
        cluster.world.script([Script::LoseReply]);
        cluster.world.core().pending = pending;
        let mut txn = writer(&cluster).await;
        let commit = txn.commit().await.unwrap();
        assert_eq!(attempts(&cluster), [(1, 1)]);
        let core = cluster.world.core();
        assert_eq!(core.records, 1);
        assert_eq!(core.read(b"a", Timestamp::MAX).timestamp, commit.0);
    }
}

#[tokio::test]
async fn a_lost_request_is_tried_again_as_another_attempt() {
    let cluster = Cluster::start().await;
    cluster.world.script([Script::LoseRequest, Script::LoseRequest]);
    let mut txn = writer(&cluster).await;
    txn.commit().await.unwrap();
    assert_eq!(attempts(&cluster), [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(cluster.world.core().records, 1);
}

#[tokio::test]
async fn a_new_owner_gets_another_attempt() {
    let cluster = Cluster::start().await;
    cluster
        .world
        .script([Script::NewEpoch, Script::Refuse(Reason::NotReady)]);
    let mut txn = writer(&cluster).await;
    txn.commit().await.unwrap();
    assert_eq!(attempts(&cluster), [(1, 1), (2, 2), (2, 2)]);
    assert_eq!(cluster.world.core().records, 1);
    // The next one knows the owner.
    let mut txn = writer(&cluster).await;
    txn.commit().await.unwrap();
    assert_eq!(
        cluster.world.core().attempts.last().unwrap().0.home_epoch,
        Epoch(2)
    );
}

#[tokio::test]
async fn a_deposed_owner_is_asked_about() {
    let cluster = Cluster::start().await;
    cluster.world.script([Script::Unknown]);
    let mut txn = writer(&cluster).await;
    txn.commit().await.unwrap();
    assert_eq!(attempts(&cluster), [(1, 1)]);
    assert_eq!(cluster.world.core().records, 1);
}

#[tokio::test]
async fn what_is_held_is_tried_again_with_the_same_start() {
    let cluster = Cluster::start().await;
    cluster.world.script(vec![Script::Refuse(Reason::Held); 4]);
    let mut txn = writer(&cluster).await;
    txn.commit().await.unwrap();
    assert_eq!(attempts(&cluster), [(1, 1); 5]);

    // At the deadline it is a conflict, which is definite.
    cluster.world.script(vec![Script::Refuse(Reason::Held); 1_000]);
    let mut txn = writer(&cluster).await;
    let error = txn.commit_within(Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, KvError::Conflict { .. }), "{error}");
    assert_eq!(cluster.world.core().records, 1);
}

#[tokio::test]
async fn refusals_mean_what_they_say() {
    let cluster = Cluster::start().await;
    for (reason, definite, code) in [
        (Reason::SnapshotTooOld, true, "SNAPSHOT_TOO_OLD"),
        (Reason::Forgotten, false, "OUTCOME_UNKNOWN"),
        (Reason::Barred, true, "TRANSACTION_ABORTED"),
        (Reason::Overloaded, true, "OVERLOADED"),
        (Reason::StartAhead, true, "UNAVAILABLE"),
        (Reason::Invalid, true, "INVALID"),
    ] {
        cluster.world.script([Script::Refuse(reason)]);
        let error = writer(&cluster).await.commit().await.unwrap_err();
        assert_eq!(
            (error.reason(), error.is_definite()),
            (code, definite),
            "{reason:?}"
        );
    }
}

/// A copy of the request may reach the owner after it refused the first: what is told of the refusal is definite only
/// when the owner has given the attempt up (I9).
#[tokio::test]
async fn what_is_refused_for_the_moment_is_given_up_before_it_is_told() {
    let wait = Duration::from_millis(400);
    for (reason, refusals) in [
        (Reason::StartAhead, 1),
        (Reason::Overloaded, 1),
        (Reason::NotReady, 10_000),
        (Reason::Held, 10_000),
    ] {
        let cluster = Cluster::start().await;
        cluster.world.script(vec![Script::Refuse(reason); refusals]);
        let error = writer(&cluster).await.commit_within(wait).await.unwrap_err();
        assert!(error.is_definite(), "{reason:?}: {error}");
        {
            let core = cluster.world.core();
            let last = core.attempts.last().unwrap().0;
            assert!(core.barred_attempts.contains(&last), "{reason:?}");
        }

        // The copy was decided before: that is the outcome.
        let cluster = Cluster::start().await;
        let mut scripts = vec![Script::Refuse(reason); refusals];
        scripts[0] = Script::RefuseAndDecide(reason);
        cluster.world.script(scripts);
        writer(&cluster).await.commit_within(wait).await.unwrap();
        assert_eq!(cluster.world.core().records, 1, "{reason:?}");

        // Nobody knows in time.
        let cluster = Cluster::start().await;
        cluster.world.script(vec![Script::Refuse(reason); refusals]);
        cluster.world.core().pending = 1_000_000;
        let error = writer(&cluster).await.commit_within(wait).await.unwrap_err();
        assert!(
            matches!(error, KvError::OutcomeUnknown { .. }),
            "{reason:?}: {error}"
        );
    }
}

#[tokio::test]
async fn at_the_deadline_the_outcome_is_unknown_and_can_be_asked_for() {
    for applied in [true, false] {
        let cluster = Cluster::start().await;
        let lost = if applied {
            Script::LoseReply
        } else {
            Script::Silent
        };
        cluster.world.script([lost]);
        cluster.world.core().pending = 1_000_000;
        let mut txn = writer(&cluster).await;
        let begun = Instant::now();
        let error = txn.commit_within(Duration::from_millis(150)).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_millis(600));
        let KvError::OutcomeUnknown { token } = error else {
            panic!("{error}");
        };
        assert_eq!(
            (token.home, token.start),
            (Some(HOME), cluster.world.core().attempts[0].1)
        );
        assert!(matches!(txn.commit().await, Err(KvError::OutcomeUnknown { .. })));

        cluster.world.core().pending = 2;
        for home in [token.home, None] {
            let token = meridian_types::CommitToken { home, ..token };
            let answer = outcome(&mut cluster.client(), token.into()).await.unwrap();
            let wanted = if applied {
                Outcome::Committed
            } else {
                Outcome::Aborted
            };
            assert_eq!(answer.outcome(), wanted);
            assert_eq!(answer.commit_timestamp > 0, applied);
        }
    }
}

#[tokio::test]
async fn an_outcome_asked_for_before_commit_bars_the_transaction() {
    let cluster = Cluster::start().await;
    let mut txn = writer(&cluster).await;
    let token = txn.begun.token.clone().unwrap();
    let answer = outcome(&mut cluster.client(), token).await.unwrap();
    assert_eq!(answer.outcome(), Outcome::Aborted);
    assert!(matches!(txn.commit().await, Err(KvError::Aborted { .. })));
    assert_eq!(cluster.world.core().records, 0);
}

#[tokio::test]
async fn nobody_is_told_before_the_commit_is_surely_past() {
    let cluster = Cluster::start().await;
    cluster.world.core().lead = Duration::from_millis(120);
    let mut txn = writer(&cluster).await;
    let commit = txn.commit().await.unwrap();
    assert!(cluster.clock.now().earliest > commit);

    // Outcome waits as well: the reply of this one is lost, the commit is still ahead.
    cluster.world.script([Script::Silent]);
    cluster.world.core().lead = Duration::from_millis(250);
    cluster.world.core().pending = 1_000_000;
    let mut txn = writer(&cluster).await;
    let error = txn.commit_within(Duration::from_millis(50)).await.unwrap_err();
    let KvError::OutcomeUnknown { token } = error else {
        panic!("{error}");
    };
    cluster.world.core().pending = 0;
    let begun = writer(&cluster).await;
    let client = begun.client.clone();
    let mut late = Txn {
        client,
        begun: begun.begun.clone(),
    };
    assert!(matches!(
        late.commit_within(Duration::from_millis(50)).await,
        Err(KvError::OutcomeUnknown { .. })
    ));
    let committed = outcome(&mut cluster.client(), begun.begun.token.clone().unwrap())
        .await
        .unwrap();
    assert_eq!(committed.outcome(), Outcome::Committed);
    assert!(
        cluster.clock.now().earliest > Timestamp(committed.commit_timestamp),
        "R3"
    );
    let aborted = outcome(&mut cluster.client(), token.into()).await.unwrap();
    assert_eq!(aborted.outcome(), Outcome::Aborted);
}

#[tokio::test]
async fn a_commit_goes_on_when_its_caller_goes_away() {
    let cluster = Cluster::start().await;
    cluster.world.script([Script::Slow(Duration::from_millis(60))]);
    let mut txn = writer(&cluster).await;
    let handle = txn.handle();
    let gone = tokio::time::timeout(Duration::from_millis(20), txn.commit()).await;
    assert!(gone.is_err());
    let mut again = Txn {
        client: cluster.client(),
        begun: txn.begun.clone(),
    };
    assert_eq!(again.handle(), handle);
    let commit = again.commit().await.unwrap();
    assert_eq!(
        cluster.world.core().read(b"a", Timestamp::MAX).timestamp,
        commit.0
    );
    assert_eq!(attempts(&cluster).len(), 1);
}

#[tokio::test]
async fn a_hot_key_gets_on() {
    let cluster = Cluster::start().await;
    cluster.world.put("counter", "0");
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = cluster.client();
        writers.spawn(async move {
            let mut client = client;
            let mut min_start = 0;
            for attempt in 1.. {
                let begin = meridian_rpc::v1::BeginRequest {
                    min_start,
                    ..Default::default()
                };
                let begun = client.begin(begin).await.unwrap().into_inner();
                let mut txn = Txn {
                    client: client.clone(),
                    begun,
                };
                let value: u64 = txn.get("counter").await.unwrap().unwrap().parse().unwrap();
                txn.put("counter", &(value + 1).to_string()).await.unwrap();
                match txn.commit().await {
                    Ok(_) => return attempt,
                    Err(KvError::Conflict { with, .. }) => min_start = with.0,
                    Err(error) => panic!("{error}"),
                }
            }
            0
        });
    }
    let attempts = writers.join_all().await;
    assert!(attempts.iter().all(|attempts| *attempts <= 25), "{attempts:?}");
    let mut txn = cluster.begin().await;
    assert_eq!(txn.get("counter").await.unwrap().as_deref(), Some("20"));
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_followed_by_another() {
    let cluster = Cluster::start().await;
    let mut txn = writer(&cluster).await;
    let id = txn.begun.token.clone().unwrap().txn_id;
    // Somebody ran a transaction of this id before, and asked what became of its first attempt.
    cluster.world.core().barred_attempts.insert(Attempt {
        txn: TxnId::from_slice(&id).unwrap(),
        number: 1,
        home: HOME,
        home_epoch: Epoch(1),
    });
    txn.commit().await.unwrap();
    assert_eq!(attempts(&cluster), [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn nothing_is_sent_after_the_deadline() {
    let cluster = Cluster::start().await;
    // The owner is known: nothing would have to be waited for.
    writer(&cluster).await.commit().await.unwrap();
    let seen = attempts(&cluster).len();
    for _ in 0..20 {
        let error = writer(&cluster)
            .await
            .commit_within(Duration::ZERO)
            .await
            .unwrap_err();
        // On a busy machine the caller may be told before the commit's own task is.
        let is_late = matches!(error, KvError::Aborted { .. } | KvError::OutcomeUnknown { .. });
        assert!(is_late, "{error}");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(cluster.world.core().attempts.len(), seen);
}

fn blind_write(id: u8) -> ExecuteRequest {
    ExecuteRequest {
        txn_id: vec![id; 16].into(),
        mutations: vec![Mutation {
            key: "a".into(),
            value: Some("1".into()),
        }],
        ..ExecuteRequest::default()
    }
}

/// A new owner refuses every start before its predecessor's lease ended (R18).
#[tokio::test]
async fn a_whole_transaction_is_run_again_until_the_new_owner_takes_its_start() {
    let cluster = Cluster::start().await;
    cluster.world.script([Script::LoseRequest, Script::NewEpoch]);
    let window_low = cluster
        .clock
        .now()
        .latest
        .saturating_add(Duration::from_millis(300));
    cluster.world.core().adjudication.raise_window_low(window_low);
    let executed = execute(&mut cluster.client(), blind_write(7)).await.unwrap();
    assert!(executed.commit_timestamp > window_low.0);
    let core = cluster.world.core();
    let (last, start) = *core.attempts.last().unwrap();
    assert!(start >= window_low);
    assert_eq!(
        (core.records, last.txn),
        (1, TxnId::from_slice(&[7; 16]).unwrap())
    );
}

#[tokio::test]
async fn a_start_that_the_deadline_does_not_reach_is_told_at_once() {
    let cluster = Cluster::start().await;
    let window_low = cluster.clock.now().latest.saturating_add(Duration::from_secs(30));
    cluster.world.core().adjudication.raise_window_low(window_low);
    let begun = Instant::now();
    let error = execute(&mut cluster.client(), blind_write(7)).await.unwrap_err();
    assert_eq!(
        error,
        KvError::SnapshotTooOld {
            min_start: window_low
        }
    );
    assert!(begun.elapsed() < Duration::from_secs(1));
}

/// I9: the repetition was not applied, but the transaction of that id will be.
#[tokio::test]
async fn a_repeated_execute_is_in_doubt_while_the_first_one_runs() {
    let cluster = Cluster::start().await;
    let reading = |id| ExecuteRequest {
        reads: vec!["b".into()],
        ..blind_write(id)
    };
    for (id, while_reading) in [(1, true), (2, false)] {
        let slow = Duration::from_millis(280);
        if while_reading {
            for reads in ["st-1", "st-2"] {
                let scripts = [crate::world::ReadScript::Slow(slow)].into();
                cluster.world.core().reads.insert(reads, scripts);
            }
        } else {
            cluster.world.core().reads.clear();
            cluster.world.script([Script::Slow(slow)]);
        }
        let mut client = cluster.client();
        let first = tokio::spawn(async move { execute(&mut client, reading(id)).await });
        tokio::time::sleep(Duration::from_millis(80)).await;
        let error = execute(&mut cluster.client(), reading(id)).await.unwrap_err();
        assert!(matches!(error, KvError::OutcomeUnknown { .. }), "{error}");
        if !while_reading {
            let begin = meridian_rpc::v1::BeginRequest {
                txn_id: vec![id; 16].into(),
                ..Default::default()
            };
            let refused = cluster.client().begin(begin).await.unwrap_err();
            assert!(matches!(
                KvError::from_status(&refused),
                Some(KvError::OutcomeUnknown { .. })
            ));
        }
        first.await.unwrap().unwrap();
    }
}

/// An id whose time, by itself, is this long ago.
fn id_made(cluster: &Cluster, ago: Duration) -> Vec<u8> {
    let made = cluster.clock.now().latest.saturating_sub(ago).0 / 1_000_000;
    uuid::Builder::from_unix_timestamp_millis(made, &[1; 10])
        .into_uuid()
        .as_bytes()
        .to_vec()
}

/// I9: its client may have been told long ago that it aborted, and nobody remembers that it was barred.
#[tokio::test]
async fn a_request_that_was_held_up_for_minutes_is_not_run() {
    let cluster = Cluster::start().await;
    let made = |ago| ExecuteRequest {
        txn_id: id_made(&cluster, ago).into(),
        ..blind_write(1)
    };
    let late = made(Duration::from_secs(200));
    let error = execute(&mut cluster.client(), late.clone()).await.unwrap_err();
    let KvError::OutcomeUnknown { token } = error else {
        panic!("{error}");
    };
    assert_eq!(token.txn.to_bytes(), late.txn_id);
    let begin = meridian_rpc::v1::BeginRequest {
        txn_id: late.txn_id,
        ..Default::default()
    };
    let refused = cluster.client().begin(begin).await.unwrap_err();
    assert!(matches!(
        KvError::from_status(&refused),
        Some(KvError::Aborted { .. })
    ));
    assert_eq!(cluster.world.core().records, 0);
    let early = made(Duration::from_secs(100));
    execute(&mut cluster.client(), early).await.unwrap();
}

/// The timers of a machine that sleeps stand still; its clock does not.
#[tokio::test]
async fn a_transaction_that_slept_through_its_age_takes_no_start() {
    let begun = Timestamp(1_700_000_000_000_000_000);
    let clock = std::sync::Arc::new(ManualClock::new(begun, Duration::from_micros(100)));
    let cluster = Cluster::with_clock(test_config(), clock.clone()).await;
    let mut txn = writer(&cluster).await;
    clock.advance(Duration::from_secs(301));
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, KvError::Aborted { .. }), "{error}");
    assert!(cluster.world.core().attempts.is_empty());
}
