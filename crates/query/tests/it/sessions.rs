//! Sessions: pipelining, order, scans by page, ends.

use std::time::Duration;

use meridian_query::Config;
use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{
    DeleteRangeRequest, ExecuteRequest, Mutation, OutcomeRequest, RollbackRequest, SavepointRequest,
    ScanNext, ScanRequest, outcome_response::Outcome,
};
use meridian_types::Timestamp;

use crate::cluster::{Cluster, test_config};
use crate::session_client::{Session, begin, commit, error, get, put};
use crate::world::{ReadScript, Script};

#[tokio::test]
async fn a_whole_transaction_in_one_message() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    assert_eq!(
        (session.hello.node.as_str(), session.hello.region.as_str()),
        ("qp", "here")
    );
    assert_eq!(session.hello.format, meridian_rpc::FORMAT_VERSION);
    cluster.world.script([Script::Slow(Duration::from_millis(100))]);
    let ops = vec![
        (1, begin()),
        (1, put("a", "1")),
        (1, get("a")),
        (1, put("a", "2")),
        (1, commit()),
    ];
    session.send(ops).await;
    assert!(matches!(session.reply().await, (1, Reply::Began(_))));
    // The read was issued before the second write.
    let (3, Reply::Value(value)) = session.reply().await else {
        panic!("the read's answer");
    };
    assert_eq!(value.value.as_deref(), Some(&b"1"[..]));
    let (5, Reply::Committing(token)) = session.reply().await else {
        panic!("the token");
    };
    assert_eq!(token.home, 1);
    assert!(token.start >= session.hello.now);
    assert_eq!(
        cluster.world.core().records,
        0,
        "the token comes before the decision"
    );
    let (5, Reply::Committed(committed)) = session.reply().await else {
        panic!("the commit");
    };
    assert_eq!(committed.token, Some(token.clone()));
    let core = cluster.world.core();
    assert_eq!(core.attempts[0].1, Timestamp(token.start));
    assert_eq!(core.read(b"a", Timestamp::MAX).value.as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn the_first_error_of_a_pipelined_write_surfaces_and_stays() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    let savepoint = |name: &str| SavepointRequest {
        name: name.to_owned(),
        ..SavepointRequest::default()
    };
    let ops = vec![
        (1, begin()),
        (1, put("a", "1")),
        (1, put("", "no key")),
        (1, Op::RollbackTo(savepoint("none"))),
        (1, get("a")),
        (1, get("b")),
        (1, commit()),
        (2, begin()),
        (2, Op::Savepoint(savepoint("s"))),
        (2, put("b", "2")),
        (2, Op::RollbackTo(savepoint("s"))),
        (2, put("c", "3")),
        (2, commit()),
    ];
    session.send(ops).await;
    let mut replies = std::collections::BTreeMap::new();
    for _ in 0..7 {
        let (id, reply) = session.reply().await;
        replies.insert((id, matches!(reply, Reply::Committing(_))), reply);
    }
    for id in [5, 6, 7] {
        let error = error(replies.remove(&(id, false)).unwrap());
        assert!(
            matches!(&error, KvError::Invalid { what } if what.contains("at least 1 byte")),
            "{error}"
        );
    }
    assert!(matches!(replies[&(13, false)], Reply::Committed(_)));
    let core = cluster.world.core();
    assert_eq!(
        core.versions.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["c"]
    );
}

#[tokio::test]
async fn transactions_do_not_wait_for_one_another_but_a_commit_waits_for_its_reads() {
    let cluster = Cluster::start().await;
    cluster.world.put("a", "1");
    let mut session = Session::open(cluster.client()).await;
    session.send(vec![(1, begin()), (2, begin())]).await;
    session.reply().await;
    session.reply().await;
    for node in ["st-1", "st-2"] {
        cluster
            .world
            .core()
            .reads
            .insert(node, [ReadScript::Slow(Duration::from_millis(200))].into());
    }
    let ops = vec![
        (1, get("a")),
        (1, put("b", "1")),
        (1, commit()),
        (1, get("late")),
        (2, put("c", "2")),
        (2, commit()),
    ];
    session.send(ops).await;
    assert!(matches!(session.reply().await, (8, Reply::Committing(_))));
    assert!(matches!(session.reply().await, (8, Reply::Committed(_))));
    assert!(matches!(session.reply().await, (3, Reply::Value(_))));
    assert!(matches!(session.reply().await, (5, Reply::Committing(_))));
    assert!(matches!(session.reply().await, (5, Reply::Committed(_))));
    assert!(matches!(
        error(session.reply().await.1),
        KvError::TransactionNotFound { .. }
    ));
}

#[tokio::test]
async fn what_follows_a_range_deletion_waits_for_it() {
    let cluster = Cluster::start().await;
    cluster.world.put("k1", "1");
    cluster.world.put("k2", "2");
    let mut session = Session::open(cluster.client()).await;
    let range = DeleteRangeRequest {
        start: "k".into(),
        end: "l".into(),
        ..DeleteRangeRequest::default()
    };
    let ops = vec![
        (1, begin()),
        (1, Op::DeleteRange(range)),
        (1, put("k1", "new")),
        (1, get("k1")),
        (1, get("k2")),
    ];
    session.send(ops).await;
    session.reply().await;
    let (2, Reply::Deleted(deleted)) = session.reply().await else {
        panic!("the deletion");
    };
    assert_eq!(deleted.deleted, 2);
    let mut values = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let (id, Reply::Value(value)) = session.reply().await else {
            panic!("a value");
        };
        values.insert(id, value.value);
    }
    assert_eq!(values[&4].as_deref(), Some(&b"new"[..]));
    assert_eq!(values[&5], None);
}

#[tokio::test]
async fn a_scan_gives_one_page_for_each_request() {
    let cluster = Cluster::start().await;
    for n in 0..10 {
        cluster.world.put(&format!("k{n}"), "v");
    }
    let mut session = Session::open(cluster.client()).await;
    session.send_one(1, begin()).await;
    session.reply().await;
    let scan = session.send_one(1, Op::Scan(ScanRequest::default())).await;
    let next = |cancel| Op::ScanNext(ScanNext { scan, cancel });
    let mut keys = 0;
    for last in [false, false, false, true] {
        let (id, Reply::Page(page)) = session.reply().await else {
            panic!("a page");
        };
        keys += page.rows.len();
        assert_eq!((id, page.last, page.count), (scan, last, keys as u64));
        assert!(
            session.is_silent(Duration::from_millis(20)).await,
            "pages are asked for"
        );
        if !last {
            session.send_one(1, next(false)).await;
        }
    }
    assert_eq!(keys, 10);

    // Asked for ahead, and then given up.
    let scan = session.send_one(1, Op::Scan(ScanRequest::default())).await;
    let next = |cancel| Op::ScanNext(ScanNext { scan, cancel });
    session.send(vec![(1, next(false)), (1, next(false))]).await;
    for _ in 0..3 {
        assert!(matches!(session.reply().await, (id, Reply::Page(_)) if id == scan));
    }
    session.send(vec![(1, next(true)), (1, next(false))]).await;
    assert!(session.is_silent(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn the_end_of_a_session_rolls_back_but_a_commit_goes_on() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    cluster.world.script([Script::Slow(Duration::from_millis(80))]);
    session
        .send(vec![
            (1, begin()),
            (1, put("a", "1")),
            (1, commit()),
            (2, begin()),
            (2, put("b", "1")),
        ])
        .await;
    loop {
        if let (_, Reply::Committing(_)) = session.reply().await {
            break;
        }
    }
    drop(session);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(cluster.figure("transactions_open"), 0);
    assert_eq!(cluster.figure("bytes_held"), 0);
    assert_eq!(cluster.world.core().records, 1);
    let mut reader = cluster.begin().await;
    assert_eq!(reader.get("a").await.unwrap().as_deref(), Some("1"));
}

#[tokio::test]
async fn execute_and_outcome_need_no_transaction() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    let execute = ExecuteRequest {
        mutations: vec![Mutation {
            key: "a".into(),
            value: Some("1".into()),
        }],
        ..ExecuteRequest::default()
    };
    session.send_one(0, Op::Execute(execute)).await;
    let (_, Reply::Executed(executed)) = session.reply().await else {
        panic!("executed");
    };
    session
        .send_one(
            0,
            Op::Outcome(OutcomeRequest {
                token: executed.token,
            }),
        )
        .await;
    let (_, Reply::Outcome(outcome)) = session.reply().await else {
        panic!("an outcome");
    };
    assert_eq!(outcome.outcome(), Outcome::Committed);
    assert_eq!(outcome.commit_timestamp, executed.commit_timestamp);
}

#[tokio::test]
async fn a_session_is_bounded() {
    let config = Config {
        session_transactions: 2,
        session_scans: 1,
        session_operations: 2,
        max_sessions: 1,
        ..test_config()
    };
    let cluster = Cluster::with(config).await;
    let mut session = Session::open(cluster.client()).await;
    let refused = cluster.client().session(tokio_stream::empty()).await.unwrap_err();
    assert!(matches!(
        KvError::from_status(&refused),
        Some(KvError::Overloaded { .. })
    ));

    session
        .send(vec![
            (1, begin()),
            (2, begin()),
            (3, begin()),
            (3, put("a", "1")),
            (3, commit()),
        ])
        .await;
    let mut errors = Vec::new();
    for _ in 0..4 {
        if let (id, Reply::Error(error)) = session.reply().await {
            errors.push((id, KvError::from_proto(&error).reason()));
        }
    }
    assert_eq!(errors[0], (3, "OVERLOADED"));
    assert_eq!(errors[1].0, 5);
    // A number is free again after its transaction's end.
    session
        .send(vec![(1, Op::Rollback(RollbackRequest::default())), (1, begin())])
        .await;
    assert!(matches!(session.reply().await.1, Reply::RolledBack(_)));
    assert!(matches!(session.reply().await.1, Reply::Began(_)));
    for n in 0..10 {
        cluster.world.put(&format!("k{n}"), "v");
    }
    session.send(vec![(1, Op::Scan(ScanRequest::default()))]).await;
    assert!(matches!(session.reply().await.1, Reply::Page(_)));
    session.send(vec![(1, Op::Scan(ScanRequest::default()))]).await;
    assert!(matches!(
        error(session.reply().await.1),
        KvError::Overloaded { .. }
    ));
    // Many more operations than may be under way: all are answered.
    session.send((0..50).map(|_| (2, get("k1"))).collect()).await;
    for _ in 0..50 {
        assert!(matches!(session.reply().await.1, Reply::Value(_)));
    }
}

#[tokio::test]
async fn silent_sessions_without_transactions_are_ended() {
    let config = Config {
        session_idle_ms: 80,
        idle_timeout_ms: 250,
        ..test_config()
    };
    let cluster = Cluster::with(config).await;
    let mut silent = Session::open(cluster.client()).await;
    let mut open = Session::open(cluster.client()).await;
    open.send_one(1, begin()).await;
    open.reply().await;
    assert!(silent.ends().await);
    open.send_one(1, get("a")).await;
    assert!(matches!(open.reply().await.1, Reply::Value(_)));
    assert!(open.ends().await, "once its transaction was rolled back");
}

#[tokio::test]
async fn what_was_asked_before_the_client_closed_is_answered() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    session
        .send(vec![
            (1, begin()),
            (1, put("a", "1")),
            (1, commit()),
            (9, get("a")),
        ])
        .await;
    let mut output = session.half_close().await;
    let mut committed = false;
    while let Some(response) = output.message().await.unwrap() {
        committed |= response
            .replies
            .iter()
            .any(|reply| matches!(reply.reply, Some(Reply::Committed(_))));
    }
    assert!(committed);
}

/// Its client would make every further id from a time that is off.
#[tokio::test]
async fn a_session_whose_ids_are_too_old_is_ended() {
    let cluster = Cluster::start().await;
    let mut session = Session::open(cluster.client()).await;
    let made = cluster
        .clock
        .now()
        .latest
        .saturating_sub(Duration::from_secs(200));
    let id = uuid::Builder::from_unix_timestamp_millis(made.0 / 1_000_000, &[1; 10]).into_uuid();
    let execute = Op::Execute(ExecuteRequest {
        txn_id: id.as_bytes().to_vec().into(),
        mutations: vec![Mutation {
            key: "a".into(),
            value: Some("1".into()),
        }],
        ..ExecuteRequest::default()
    });
    session.send_one(0, execute).await;
    let (1, reply) = session.reply().await else {
        panic!("its answer");
    };
    assert!(matches!(error(reply), KvError::OutcomeUnknown { .. }));
    assert!(session.ends().await);
    assert_eq!(cluster.world.core().records, 0);
}
