//! When reads are answered, and when they are refused.

use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::internal::storage_read::Read;
use meridian_rpc::internal::storage_read_reply::Result as Answer;
use meridian_rpc::internal::{ClosedQuery, GetKeys, ScanKeys, StorageRead};
use meridian_rpc::v1::Predicate;
use meridian_rpc::v1::predicate::Op;
use meridian_storage::Config;
use meridian_types::Timestamp;

use crate::journal::Mood;
use crate::owner::Manner;
use crate::world::{BOUND, NOW, World, eventually, get, got, latest};

const A_WHILE: Duration = Duration::from_millis(60);

#[tokio::test]
async fn a_read_waits_for_the_closure_and_then_misses_nothing() {
    let world = World::new();
    let node = world.start(world.config());
    world.owners[0].manner.send_replace(Manner::Waits);
    world.commit(NOW - 200, &[("k", Some("old"))]);
    world.close(NOW - 150);
    eventually("applied", || node.applied_lsn() == 1).await;
    let mut reader = node.reader().await;
    let id = reader.send(vec![get("k", NOW - 100)]).await[0];
    assert!(reader.is_unanswered(id, A_WHILE).await, "not closed through it");
    // A transaction that was decided before the closure, recorded while the read waits.
    world.commit(NOW - 100, &[("k", Some("new"))]);
    eventually("applied", || node.applied_lsn() == 2).await;
    assert!(
        reader.is_unanswered(id, A_WHILE).await,
        "applied, but another one could still come"
    );
    world.close(NOW - 101);
    eventually("closed", || node.closed() == NOW - 101).await;
    assert!(reader.is_unanswered(id, A_WHILE).await, "one below what it needs");
    world.close(NOW - 100);
    // The read's own timestamp is included; the clock's bound is waited for first (R4).
    world.clock.advance(Duration::from_nanos(2 * BOUND));
    assert_eq!(
        got(reader.answer(id).await.unwrap()).values[0].value.as_deref(),
        Some(&b"new"[..])
    );
    assert_eq!(reader.get("k", NOW - 101).await.unwrap().as_deref(), Some("old"));
}

#[tokio::test]
async fn one_request_to_close_serves_all_that_wait() {
    let world = World::new();
    let node = world.start(world.config());
    let owner = &world.owners[0];
    owner.manner.send_replace(Manner::Waits);
    let mut reader = node.reader().await;
    let first = reader.send(vec![get("k", NOW - 50)]).await;
    eventually("asked", || owner.asked() == [NOW - 50]).await;
    let others = reader.send((0..50).map(|n| get("k", NOW - n)).collect()).await;
    let mut second = node.reader().await;
    let more = second.send(vec![get("k", NOW - 7)]).await;
    eventually("parked", || node.figure("reads_waited") == 52).await;
    owner.manner.send_replace(Manner::Closes);
    for id in first.into_iter().chain(others) {
        reader.answer(id).await.unwrap();
    }
    second.answer(more[0]).await.unwrap();
    assert_eq!(
        owner.asked(),
        [NOW - 50, NOW],
        "the second for the highest of all that came meanwhile"
    );
    assert_eq!(owner.most_under_way.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_owner_that_fails_or_moved_or_must_wait_is_asked_again() {
    for manner in [
        Manner::Fails,
        Manner::Deposed("a2"),
        Manner::Deposed(""),
        Manner::OnlyThrough(NOW - 500),
    ] {
        let world = World::new();
        let node = world.start(world.config());
        let owner = &world.owners[0];
        owner.manner.send_replace(manner.clone());
        world.commit(NOW - 3_000_000, &[("k", Some("v"))]);
        let mut reader = node.reader().await;
        let id = reader.send(vec![get("k", NOW)]).await[0];
        if manner == Manner::Deposed("a2") {
            reader.answer(id).await.unwrap();
            assert_eq!(world.owners[1].asked(), [NOW]);
            continue;
        }
        eventually("asked again", || owner.asked().len() >= 3).await;
        owner.manner.send_replace(Manner::Closes);
        reader.answer(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_closure_that_was_lost_is_asked_for_again() {
    let world = World::new();
    let node = world.start(world.config());
    let owner = &world.owners[0];
    owner.manner.send_replace(Manner::Loses);
    let mut reader = node.reader().await;
    let id = reader.send(vec![get("k", NOW)]).await[0];
    eventually("asked again", || owner.asked().len() >= 2).await;
    owner.manner.send_replace(Manner::Closes);
    reader.answer(id).await.unwrap();
}

#[tokio::test]
async fn an_answer_closes_by_itself_once_what_it_depends_on_was_fed() {
    let world = World::new();
    let node = world.start(world.config());
    let owner = &world.owners[0];
    owner.manner.send_replace(Manner::Answers);
    world.commit(NOW - 3_000_000, &[("k", Some("old"))]);
    let mut reader = node.reader().await;
    assert_eq!(
        reader.get("k", NOW - 2_600_000).await.unwrap().as_deref(),
        Some("old")
    );
    assert_eq!(
        owner.asked(),
        [NOW - 2_600_000],
        "and the journal was told nothing"
    );
    // The owner has more than was fed: its answer counts when that is here.
    let fed = node.applied_lsn();
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Silent);
    }
    world.commit(NOW - 2_500_000, &[("k", Some("new"))]);
    let id = reader.send(vec![get("k", NOW - 2_000_000)]).await[0];
    eventually("asked again", || owner.asked().len() >= 3).await;
    assert_eq!((node.applied_lsn(), node.closed()), (fed, NOW - 2_600_000));
    for journal in &world.journals {
        journal.mood.send_replace(Mood::Well);
    }
    assert_eq!(
        got(reader.answer(id).await.unwrap()).values[0].value.as_deref(),
        Some(&b"new"[..])
    );
}

#[tokio::test]
async fn a_silent_feed_is_left_when_the_owner_has_closed_further() {
    let world = World::new();
    world.journals[0].mood.send_replace(Mood::Silent);
    let node = world.start(world.config());
    world.commit(NOW - 3_000_000, &[("k", Some("v"))]);
    let mut reader = node.reader().await;
    assert_eq!(reader.get("k", NOW).await.unwrap().as_deref(), Some("v"));
    assert_eq!(world.journals[1].subscriptions(), [0], "from the other node");
}

#[tokio::test]
async fn no_answer_before_what_was_consulted_is_surely_past() {
    let world = World::new();
    let node = world.start(world.config());
    // `latest` is NOW + BOUND: a commit there may lie ahead of true time.
    let at = latest(&world);
    world.commit(at - 10, &[("deleted", None), ("k", Some("v"))]);
    world.close(at);
    eventually("closed", || node.closed() == at).await;
    let mut reader = node.reader().await;
    assert_eq!(
        reader.get("other", at).await.unwrap(),
        None,
        "nothing consulted, nothing to wait for"
    );
    let scan = |start: &'static str, end: &'static str, operand: &'static str| StorageRead {
        read: Some(Read::Scan(ScanKeys {
            start: start.into(),
            end: end.into(),
            predicates: vec![Predicate {
                op: Op::Equal as i32,
                operand: operand.into(),
            }],
            ..ScanKeys::default()
        })),
        ..get("k", at)
    };
    let rejecting = scan("k", "", "else");
    let over_a_tombstone = scan("d", "e", "");
    let ids = reader
        .send(vec![
            get("k", at),
            get("deleted", at),
            rejecting,
            over_a_tombstone,
        ])
        .await;
    for id in &ids {
        assert!(
            reader.is_unanswered(*id, Duration::from_millis(20)).await,
            "read {id}"
        );
    }
    // earliest = at - 11: one short.
    world.clock.set(Timestamp(at - 11 + BOUND));
    for id in &ids {
        assert!(
            reader.is_unanswered(*id, Duration::from_millis(20)).await,
            "read {id}"
        );
    }
    world.clock.set(Timestamp(at - 10 + BOUND));
    for id in ids {
        reader.answer(id).await.unwrap();
    }
}

#[tokio::test]
async fn a_deadline_ends_the_wait_and_says_for_what() {
    let world = World::new();
    let node = world.start(world.config());
    world.owners[0].manner.send_replace(Manner::Fails);
    let mut reader = node.reader().await;
    let error = reader
        .one(StorageRead {
            timeout_ms: 30,
            ..get("k", NOW)
        })
        .await
        .unwrap_err();
    assert!(
        matches!(&error, KvError::DeadlineExceeded { waiting_for } if waiting_for.contains("range r1")),
        "{error}"
    );
    eventually("released", || node.figure("reads_open") == 0).await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::new();
    let node = world.start(world.config());
    let mut reader = node.reader().await;
    let ahead = latest(&world) + 1_000_000_001;
    assert!(
        matches!(reader.get("k", ahead).await, Err(KvError::Invalid { .. })),
        "far ahead of the clock"
    );
    let no_question = StorageRead {
        read: None,
        ..get("k", NOW)
    };
    assert!(matches!(
        reader.one(no_question).await,
        Err(KvError::Invalid { .. })
    ));
    let keys = |count: usize, length: usize| StorageRead {
        read: Some(Read::Get(GetKeys {
            keys: vec![vec![b'k'; length].into(); count],
        })),
        ..get("k", NOW)
    };
    assert!(matches!(
        reader.one(keys(10_001, 1)).await,
        Err(KvError::LimitExceeded { .. })
    ));
    assert!(matches!(
        reader.one(keys(1, 4_097)).await,
        Err(KvError::LimitExceeded { .. })
    ));
    assert_eq!(
        got(reader.one(keys(10_000, 5)).await.unwrap()).values.len(),
        10_000
    );
    assert_eq!(got(reader.one(keys(1, 4_096)).await.unwrap()).values.len(), 1);
}

#[tokio::test]
async fn more_reads_than_the_node_may_hold_are_refused_and_the_others_served() {
    let world = World::new();
    let node = world.start(Config {
        max_reads: 3,
        ..world.config()
    });
    world.owners[0].manner.send_replace(Manner::Waits);
    let mut reader = node.reader().await;
    let ids = reader.send((0..5).map(|_| get("k", NOW)).collect()).await;
    for id in &ids[3..] {
        let error = reader.answer(*id).await.unwrap_err();
        assert!(
            matches!(error, KvError::Overloaded { retry_after, .. } if !retry_after.is_zero()),
            "{error}"
        );
    }
    world.owners[0].manner.send_replace(Manner::Closes);
    for id in &ids[..3] {
        reader.answer(*id).await.unwrap();
    }
    reader.get("k", NOW).await.unwrap();
}

#[tokio::test]
async fn reads_of_a_reader_that_went_away_are_dropped() {
    let world = World::new();
    let node = world.start(world.config());
    world.owners[0].manner.send_replace(Manner::Waits);
    let mut reader = node.reader().await;
    reader.send((0..5).map(|_| get("k", NOW)).collect()).await;
    eventually("parked", || node.figure("reads_open") == 5).await;
    drop(reader);
    eventually("dropped", || node.figure("reads_open") == 0).await;
}

#[tokio::test]
async fn the_answers_of_a_reader_that_has_said_all_still_come() {
    let world = World::new();
    let node = world.start(world.config());
    world.owners[0].manner.send_replace(Manner::Waits);
    let mut reader = node.reader().await;
    let id = reader.send(vec![get("k", NOW)]).await[0];
    eventually("parked", || node.figure("reads_open") == 1).await;
    drop(std::mem::replace(
        &mut reader.requests,
        tokio::sync::mpsc::channel(1).0,
    ));
    world.owners[0].manner.send_replace(Manner::Closes);
    reader.answer(id).await.unwrap();
    assert!(
        reader.answers.message().await.unwrap().is_none(),
        "then the stream ends"
    );
}

#[tokio::test]
async fn the_closed_timestamp_is_told_without_waiting() {
    let world = World::new();
    let node = world.start(world.config());
    let question = || StorageRead {
        read: Some(Read::Closed(ClosedQuery::default())),
        ..get("k", 0)
    };
    let mut reader = node.reader().await;
    let closed = |answer: Answer| match answer {
        Answer::Closed(answer) => answer.closed,
        other => panic!("{other:?}"),
    };
    assert_eq!(closed(reader.one(question()).await.unwrap()), 0);
    world.close(NOW - 5);
    eventually("closed", || node.closed() == NOW - 5).await;
    assert_eq!(closed(reader.one(question()).await.unwrap()), NOW - 5);
}

/// Each would be refused with an answer of its own: many times the size of the question.
#[tokio::test]
async fn a_message_of_far_too_many_reads_ends_the_stream() {
    let world = World::new();
    let node = world.start(world.config());
    world.close(NOW);
    eventually("closed", || node.closed() == NOW).await;
    let mut reader = node.reader().await;
    let read = get("k", NOW);
    reader.send(vec![read.clone(); 16_384]).await;
    assert_eq!(reader.get("k", NOW).await.unwrap(), None);
    reader.send(vec![read; 16_385]).await;
    let status = loop {
        match reader.answers.message().await {
            Ok(answers) => assert!(answers.is_some(), "ended without a reason"),
            Err(status) => break status,
        }
    };
    let error = KvError::from_status(&status);
    assert!(
        matches!(error, Some(KvError::LimitExceeded { got: 16_385, .. })),
        "{status}"
    );
    assert_eq!(node.figure("reads_open"), 0);
}

/// R16: the owner is told where its range is read, although the read does not wait; once in a while, and not of old snapshots.
#[tokio::test]
async fn an_owner_is_told_that_its_range_is_read_and_through_which_journal_node() {
    let world = World::new();
    world.commit(NOW - 3_000_000_000, &[("k", Some("1"))]);
    world.close(NOW);
    let node = world.start(world.config());
    eventually("closed", || node.closed() == NOW).await;
    let mut reader = node.reader().await;
    let owner = &world.owners[0];
    reader.get("k", NOW - 2_000_000_000).await.unwrap();
    for _ in 0..10 {
        reader.get("k", NOW).await.unwrap();
    }
    eventually("told", || owner.asked() == [NOW]).await;
    assert_eq!(*owner.read_through.lock().unwrap(), "j1");
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    reader.get("k", NOW).await.unwrap();
    eventually("told again", || owner.asked() == [NOW, NOW]).await;
}
