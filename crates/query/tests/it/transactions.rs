//! What a transaction promises: isolation, own writes, savepoints, checked reads, one-shot calls.

use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::v1::precondition::Test;
use meridian_rpc::v1::{BeginRequest, ExecuteRequest, Mutation, Precondition};
use meridian_types::{Key, Timestamp};

use crate::cluster::{Cluster, execute};

#[tokio::test]
async fn own_writes_are_read_and_others_see_them_after_commit() {
    let cluster = Cluster::start().await;
    cluster.world.put("a", "1");
    let mut txn = cluster.begin().await;
    assert_eq!(txn.get("a").await.unwrap().as_deref(), Some("1"));
    txn.put("a", "2").await.unwrap();
    txn.put("b", "3").await.unwrap();
    txn.delete("b").await.unwrap();
    assert_eq!(txn.get("a").await.unwrap().as_deref(), Some("2"));
    assert_eq!(txn.get("b").await.unwrap(), None);

    let mut other = cluster.begin().await;
    assert_eq!(other.get("a").await.unwrap().as_deref(), Some("1"));
    let commit = txn.commit().await.unwrap();
    assert!(commit < cluster.clock.now().earliest, "R3");
    // A repeated commit gets the same answer, and the other one still reads its snapshot.
    assert_eq!(txn.commit().await.unwrap(), commit);
    assert_eq!(other.get("a").await.unwrap().as_deref(), Some("1"));
    let mut later = cluster.begin().await;
    assert_eq!(later.get("a").await.unwrap().as_deref(), Some("2"));
    assert!(matches!(
        txn.get("a").await,
        Err(KvError::TransactionNotFound { .. })
    ));
    assert!(matches!(
        txn.rollback().await,
        Err(KvError::TransactionNotFound { .. })
    ));
}

#[tokio::test]
async fn lost_update_is_refused_and_the_retry_begins_after_the_winner() {
    let cluster = Cluster::start().await;
    cluster.world.core().lead = Duration::from_millis(30);
    cluster.world.put("a", "1");
    tokio::time::sleep(Duration::from_millis(40)).await;
    let mut first = cluster.begin().await;
    let mut second = cluster.begin().await;
    assert_eq!(first.get("a").await.unwrap(), second.get("a").await.unwrap());
    first.put("a", "first").await.unwrap();
    second.put("a", "second").await.unwrap();
    let won = first.commit().await.unwrap();
    let error = second.commit().await.unwrap_err();
    assert_eq!(
        error,
        KvError::Conflict {
            key: Key::from("a"),
            with: won
        }
    );
    assert_eq!(second.commit().await.unwrap_err(), error);

    let begin = BeginRequest {
        min_start: won.0,
        ..BeginRequest::default()
    };
    let mut retry = cluster.begin_with(begin).await;
    assert_eq!(retry.get("a").await.unwrap().as_deref(), Some("first"));
    retry.put("a", "second").await.unwrap();
    retry.commit().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_not_taken_before_min_start() {
    let cluster = Cluster::start().await;
    let min_start = cluster
        .clock
        .now()
        .latest
        .saturating_add(Duration::from_millis(80));
    let mut txn = cluster
        .begin_with(BeginRequest {
            min_start: min_start.0,
            ..BeginRequest::default()
        })
        .await;
    assert_eq!(txn.get("a").await.unwrap(), None);
    assert!(cluster.clock.now().latest >= min_start, "waited, not invented");
    txn.put("a", "1").await.unwrap();
    txn.commit().await.unwrap();
    let (_, start) = cluster.world.core().attempts[0];
    assert!(start >= min_start && start < min_start.saturating_add(Duration::from_secs(5)));
}

#[tokio::test]
async fn write_skew_is_allowed_under_snapshot_isolation_and_refused_when_serializable() {
    let cluster = Cluster::start().await;
    for serializable in [false, true] {
        let mut txns = Vec::new();
        for (reads, writes) in [("x", "y"), ("y", "x")] {
            let mut txn = if serializable {
                cluster.serializable().await
            } else {
                cluster.begin().await
            };
            txn.get(reads).await.unwrap();
            txn.put(writes, "1").await.unwrap();
            txns.push(txn);
        }
        txns[0].commit().await.unwrap();
        let second = txns[1].commit().await;
        if serializable {
            assert!(matches!(second, Err(KvError::Conflict { key, .. }) if key == Key::from("y")));
        } else {
            second.unwrap();
        }
    }
}

#[tokio::test]
async fn phantoms_are_refused_when_serializable_where_they_were_read() {
    let cluster = Cluster::start().await;
    cluster.world.put("k1", "1");
    for (phantom, refused) in [("k5", true), ("m", false)] {
        let mut txn = cluster.serializable().await;
        txn.values("k", "l").await.unwrap();
        txn.put("sum", "1").await.unwrap();
        cluster.world.put(phantom, "2");
        assert_eq!(txn.commit().await.is_err(), refused, "{phantom}");
    }
}

#[tokio::test]
async fn a_read_for_update_is_checked_without_being_written() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.begin().await;
    txn.get_for_update("a").await.unwrap();
    txn.put("b", "1").await.unwrap();
    cluster.world.put("a", "changed");
    assert!(matches!(txn.commit().await, Err(KvError::Conflict { key, .. }) if key == Key::from("a")));
}

#[tokio::test]
async fn what_wrote_nothing_commits_by_doing_nothing() {
    let cluster = Cluster::start().await;
    let mut txn = cluster.serializable().await;
    txn.get_for_update("a").await.unwrap();
    cluster.world.put("a", "changed");
    let sent = cluster.world.core().attempts.len();
    assert_eq!(txn.commit().await.unwrap(), Timestamp::ZERO);
    assert_eq!(cluster.world.core().attempts.len(), sent);
}

#[tokio::test]
async fn savepoints_and_range_deletions_undo_and_apply() {
    let cluster = Cluster::start().await;
    for key in ["k1", "k2", "k3", "k4", "k5", "k6", "k7", "z"] {
        cluster.world.put(key, "stored");
    }
    let mut txn = cluster.begin().await;
    txn.put("k2", "own").await.unwrap();
    txn.put("k25", "own").await.unwrap();
    txn.delete("k3").await.unwrap();
    txn.savepoint("before").await.unwrap();
    assert_eq!(txn.delete_range("k1", "k7").await.unwrap(), 6);
    let left = txn.values("", "").await.unwrap();
    assert_eq!(
        left.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["k7", "z"]
    );
    txn.rollback_to("before").await.unwrap();
    assert_eq!(txn.get("k25").await.unwrap().as_deref(), Some("own"));
    assert_eq!(txn.get("k1").await.unwrap().as_deref(), Some("stored"));
    assert_eq!(txn.get("k3").await.unwrap(), None);
    assert!(matches!(
        txn.rollback_to("never").await,
        Err(KvError::Invalid { .. })
    ));
    assert_eq!(txn.delete_range("k1", "k3").await.unwrap(), 3);
    txn.commit().await.unwrap();
    let mut after = cluster.begin().await;
    let left = after.values("", "").await.unwrap();
    assert_eq!(
        left.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["k4", "k5", "k6", "k7", "z"]
    );
}

#[tokio::test]
async fn read_only_transactions_refuse_writes_and_read_the_past() {
    let cluster = Cluster::start().await;
    let first = cluster.world.put("a", "1");
    tokio::time::sleep(Duration::from_millis(5)).await;
    cluster.world.put("a", "2");
    let read_only = BeginRequest {
        read_only: true,
        ..BeginRequest::default()
    };
    let mut past = cluster
        .begin_with(BeginRequest {
            at: first.0,
            ..read_only.clone()
        })
        .await;
    assert_eq!(past.get("a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(past.put("a", "x").await, Err(KvError::ReadOnly));
    assert_eq!(past.delete_range("a", "b").await, Err(KvError::ReadOnly));
    assert_eq!(past.commit().await.unwrap(), Timestamp::ZERO);

    let begin = BeginRequest {
        max_staleness_ms: 1_000,
        ..read_only.clone()
    };
    let mut stale = cluster.begin_with(begin).await;
    assert_eq!(stale.get("a").await.unwrap().as_deref(), Some("2"));

    let future = cluster
        .clock
        .now()
        .latest
        .saturating_add(Duration::from_secs(5))
        .0;
    let refused = [
        BeginRequest {
            at: future,
            ..read_only.clone()
        },
        BeginRequest {
            at: 5,
            max_staleness_ms: 5,
            ..read_only.clone()
        },
        BeginRequest {
            at: 5,
            ..BeginRequest::default()
        },
        BeginRequest {
            isolation: 9,
            ..BeginRequest::default()
        },
        BeginRequest {
            txn_id: "short".into(),
            ..BeginRequest::default()
        },
        BeginRequest {
            min_start: u64::MAX,
            ..BeginRequest::default()
        },
    ];
    for request in refused {
        let status = cluster.client().begin(request.clone()).await.unwrap_err();
        assert!(
            matches!(KvError::from_status(&status), Some(KvError::Invalid { .. })),
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn execute_checks_reads_writes_and_commits_in_one_call() {
    let cluster = Cluster::start().await;
    let stored = cluster.world.put("a", "1");
    let condition = |key: &'static str, test| Precondition {
        key: key.into(),
        test: Some(test),
    };
    let mutation = |key: &'static str, value: Option<&'static str>| Mutation {
        key: key.into(),
        value: value.map(Into::into),
    };
    let request = ExecuteRequest {
        preconditions: vec![
            condition("a", Test::TimestampEquals(stored.0)),
            condition("a", Test::ValueEquals("1".into())),
            condition("b", Test::Exists(false)),
        ],
        reads: vec!["a".into(), "b".into()],
        mutations: vec![mutation("a", None), mutation("b", Some("2"))],
        ..ExecuteRequest::default()
    };
    let mut client = cluster.client();
    let done = execute(&mut client, request.clone()).await.unwrap();
    assert_eq!(done.values[0].value.as_deref(), Some(&b"1"[..]));
    assert_eq!(
        (done.values[0].timestamp, done.values[1].value.as_ref()),
        (stored.0, None)
    );
    assert!(done.commit_timestamp > stored.0);

    let again = ExecuteRequest {
        preconditions: vec![
            condition("b", Test::Exists(true)),
            condition("a", Test::Exists(true)),
        ],
        ..request
    };
    let error = execute(&mut client, again).await.unwrap_err();
    assert_eq!(
        error,
        KvError::PreconditionFailed {
            key: Key::from("a"),
            index: 1
        }
    );
    let mut txn = cluster.begin().await;
    assert_eq!(txn.get("b").await.unwrap().as_deref(), Some("2"));
    txn.rollback().await.unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(cluster.figure("transactions_open"), 0);
    assert_eq!(cluster.figure("bytes_held"), 0);
}

/// A precondition holds at commit as well, not only when it was looked at.
#[tokio::test]
async fn preconditions_are_checked_again_at_commit() {
    let cluster = Cluster::start().await;
    cluster
        .world
        .script([crate::world::Script::Slow(Duration::from_millis(50))]);
    let mut client = cluster.client();
    let request = ExecuteRequest {
        preconditions: vec![Precondition {
            key: "lock".into(),
            test: Some(Test::Exists(false)),
        }],
        mutations: vec![Mutation {
            key: "other".into(),
            value: Some("1".into()),
        }],
        ..ExecuteRequest::default()
    };
    let running = tokio::spawn(async move { execute(&mut client, request).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    cluster.world.put("lock", "taken");
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, KvError::Conflict { key, .. } if key == Key::from("lock")));
}

#[tokio::test]
async fn an_id_is_used_once() {
    let cluster = Cluster::start().await;
    let begin = BeginRequest {
        txn_id: vec![7; 16].into(),
        ..BeginRequest::default()
    };
    let mut txn = cluster.begin_with(begin.clone()).await;
    let refused = cluster.client().begin(begin.clone()).await.unwrap_err();
    assert!(matches!(
        KvError::from_status(&refused),
        Some(KvError::Invalid { .. })
    ));
    txn.put("a", "1").await.unwrap();
    txn.commit().await.unwrap();
    // It committed: whoever runs it again must ask what became of it.
    let refused = cluster.client().begin(begin).await.unwrap_err();
    assert!(matches!(
        KvError::from_status(&refused),
        Some(KvError::OutcomeUnknown { .. })
    ));
    let other = BeginRequest {
        txn_id: vec![8; 16].into(),
        ..BeginRequest::default()
    };
    cluster.begin_with(other.clone()).await.rollback().await.unwrap();
    cluster.begin_with(other).await;
}
