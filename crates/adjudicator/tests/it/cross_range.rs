//! Commits that touch two ranges, whose owners are two processes (section 5).

use std::time::Duration;

use bytes::Bytes;
use meridian_adjudicator::{Config, Lead};
use meridian_clock::Timestamp;
use meridian_rpc::internal::entry::Kind;
use meridian_rpc::internal::outcome_answer::Outcome;
use meridian_rpc::internal::refused::Reason;
use meridian_rpc::internal::*;
use meridian_types::{Attempt, Epoch, Key, KeyRange, StreamId, TxnId};
use prost::Message;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Decider, Txn};

/// The home: keys before "m".
const HOME: u64 = 1;
/// The other range.
const OTHER: u64 = 2;

/// Two ranges, each owned by an adjudicator of its own, and a connection to both.
struct World {
    cluster: Cluster,
    home: Decider,
    other: Decider,
}

/// A transaction that writes one key in each range.
#[derive(Clone)]
struct CrossTxn {
    id: TxnId,
    number: u32,
    start: Timestamp,
    home_key: &'static str,
    other_key: &'static str,
    /// Read in the other range instead of written.
    reads_other: bool,
}

impl World {
    async fn start() -> Self {
        Self::start_with(Config {
            lead: Lead::Fixed { ms: 0 },
            ..Config::default()
        })
        .await
    }

    async fn start_with(config: Config) -> Self {
        let cluster = Cluster::start_two_ranges(["a1", "a2"], config).await;
        let home = cluster.decider_of("a1", HOME).await;
        let other = cluster.decider_of("a2", OTHER).await;
        Self { cluster, home, other }
    }

    fn txn(&mut self, home_key: &'static str, other_key: &'static str) -> CrossTxn {
        CrossTxn {
            id: self.cluster.new_txn(),
            number: 1,
            start: self.cluster.now(),
            home_key,
            other_key,
            reads_other: false,
        }
    }

    fn attempt(&self, txn: &CrossTxn) -> AttemptName {
        let attempt = Attempt {
            txn: txn.id,
            number: txn.number,
            home: StreamId(HOME),
            home_epoch: Epoch(self.home.epoch),
        };
        attempt.into()
    }

    /// The home's part; it names the other one as a participant.
    async fn send_home(&mut self, txn: &CrossTxn) -> u64 {
        let keys = [Some(txn.home_key), (!txn.reads_other).then_some(txn.other_key)];
        let record = |key: &'static str| WriteRecord {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::from_static(b"value")),
        };
        let writes = WriteSet {
            writes: keys.into_iter().flatten().map(record).collect(),
        };
        let (attempt, start) = (Some(self.attempt(txn)), txn.start.0);
        let request = |id| DecideRequest {
            id,
            attempt,
            start,
            write_set: writes.encode_to_vec().into(),
            participants: vec![Participant {
                stream: OTHER,
                node: "a2".to_owned(),
            }],
            trace: true,
            ..DecideRequest::default()
        };
        let batch = |id| DecideBatch {
            requests: vec![request(id)],
            ..DecideBatch::default()
        };
        self.home.send_part(batch).await
    }

    async fn send_other(&mut self, txn: &CrossTxn) -> u64 {
        let (attempt, start) = (Some(self.attempt(txn)), txn.start.0);
        let key = Bytes::from_static(txn.other_key.as_bytes());
        let (keys, reads) = match txn.reads_other {
            true => (vec![], vec![KeyRange::point(Key(key)).into()]),
            false => (vec![key], vec![]),
        };
        let request = |id| PrepareRequest {
            id,
            attempt,
            start,
            stream: OTHER,
            keys,
            reads,
            home_node: "a1".to_owned(),
            timeout_ms: 0,
            trace: true,
        };
        let batch = |id| DecideBatch {
            prepares: vec![request(id)],
            ..DecideBatch::default()
        };
        self.other.send_part(batch).await
    }

    async fn try_commit(&mut self, txn: &CrossTxn) -> (decision::Result, decision::Result) {
        let (at_home, at_other) = (self.send_home(txn).await, self.send_other(txn).await);
        let voted = self.other.answer(at_other).await;
        (self.home.answer(at_home).await, voted)
    }

    async fn commit(&mut self, txn: &CrossTxn) -> Committed {
        match self.try_commit(txn).await {
            (decision::Result::Committed(committed), decision::Result::Voted(_)) => committed,
            answers => panic!("not committed: {answers:?}"),
        }
    }

    /// A transaction of the other range alone.
    async fn write_other(&mut self, key: &'static str, start: Timestamp) -> decision::Result {
        let txn = Txn {
            home: OTHER,
            ..Txn::writing(self.cluster.new_txn(), start, key)
        };
        self.other.decide(&txn).await
    }

    async fn refused_other(&mut self, key: &'static str, start: Timestamp) -> Refused {
        match self.write_other(key, start).await {
            decision::Result::Refused(refused) => refused,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// What the owner of the other range says it is closed through, asked to close as far as it can.
    async fn close_other(&self, name: &str) -> CloseThroughResponse {
        let request = CloseThroughRequest {
            stream: OTHER,
            timestamp: self.cluster.now().0,
            journal: "j1".to_owned(),
        };
        self.cluster.close(name, request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_of_two_ranges_is_one_record_and_both_ranges_know() {
    let mut world = World::start().await;
    let txn = world.txn("a", "x");
    let sent = Instant::now();
    let (at_home, at_other) = (world.send_home(&txn).await, world.send_other(&txn).await);
    let voted = world.other.answer(at_other).await;
    assert!(matches!(voted, decision::Result::Voted(_)), "{voted:?}");
    let decision::Result::Committed(committed) = world.home.answer(at_home).await else {
        panic!("not committed");
    };
    assert!(sent.elapsed() < Duration::from_millis(50), "{:?}", sent.elapsed());
    let decided = world.home.decided[&at_home];
    assert_eq!(
        (decided.commit, decided.lsn, decided.epoch),
        (committed.commit, committed.lsn, committed.epoch)
    );
    let journal = world.cluster.journals[0].clone();
    let records = |stream| {
        let entries = journal.entries_of(stream);
        entries.into_iter().filter(|entry| entry.kind() == Kind::Commit)
    };
    let record = records(HOME).next().unwrap();
    assert_eq!((record.lsn, record.timestamp), (committed.lsn, committed.commit));
    let writes = WriteSet::decode(record.payload).unwrap().writes;
    assert_eq!(
        writes.len(),
        2,
        "the home's record holds the writes of both ranges"
    );
    assert_eq!(records(OTHER).count(), 0);

    sleep(Duration::from_millis(20)).await;
    let refused = world.refused_other("x", txn.start).await;
    assert_eq!(
        (refused.reason(), refused.with),
        (Reason::Conflict, committed.commit),
        "5.4: the participant knows the outcome"
    );
    let later = world.cluster.now();
    assert!(matches!(
        world.write_other("x", later).await,
        decision::Result::Committed(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn what_a_traced_commit_waited_for_is_told_with_it() {
    let mut world = World::start().await;
    let delay = Duration::from_millis(30);
    world.cluster.journals[1..]
        .iter()
        .for_each(|journal| journal.set_delay(delay));
    let txn = world.txn("a", "x");
    let sent = Instant::now();
    let at_home = world.send_home(&txn).await;
    sleep(Duration::from_millis(10)).await;
    let at_other = world.send_other(&txn).await;
    let decision::Result::Voted(voted) = world.other.answer(at_other).await else {
        panic!("not voted");
    };
    assert!(voted.trace.is_some());
    let decision::Result::Committed(committed) = world.home.answer(at_home).await else {
        panic!("not committed");
    };
    let trace = committed.trace.unwrap();
    let whole = u64::try_from(sent.elapsed().as_micros()).unwrap();
    assert!(trace.votes_us >= 10_000, "the vote was asked for late: {trace:?}");
    assert!(
        trace.journal_us >= 30_000,
        "of two nodes one is needed: {trace:?}"
    );
    let sum = trace.queue_us + trace.votes_us + trace.decide_us + trace.journal_us;
    assert!((40_000..=whole).contains(&sum), "{sum} of {whole}: {trace:?}");
    assert!(trace.journals.len() >= 2, "{trace:?}");
    assert_eq!((trace.node.as_str(), trace.votes.len()), ("a1", 1));
    let vote = &trace.votes[0];
    assert_eq!((vote.stream, vote.node.as_str()), (OTHER, "a2"));
    assert!(
        vote.took_us <= vote.after_us && vote.after_us <= trace.votes_us,
        "{trace:?}"
    );

    let start = world.cluster.now();
    let untraced = world.write_other("y", start).await;
    let decision::Result::Committed(untraced) = untraced else {
        panic!("not committed: {untraced:?}");
    };
    assert_eq!(untraced.trace, None, "nobody asked for it");
}

#[tokio::test(start_paused = true)]
async fn a_closure_of_the_participant_waits_for_the_record_of_the_home() {
    let mut world = World::start().await;
    let txn = world.txn("a", "x");
    let committed = world.commit(&txn).await;
    sleep(Duration::from_millis(20)).await;
    let closed = world.close_other("a2").await.closed;
    assert!(closed >= committed.commit);
    sleep(Duration::from_millis(5)).await;
    let closure = world.cluster.journals[0].closure_of(OTHER).unwrap();
    let of_home = closure.after.iter().find(|after| after.stream == HOME).unwrap();
    assert!(of_home.lsn >= committed.lsn, "R13: {closure:?}");
}

#[tokio::test(start_paused = true)]
async fn while_an_outcome_is_open_its_keys_are_held_and_the_range_is_not_closed_over_it() {
    let mut world = World::start().await;
    let closed_before = world.close_other("a2").await.closed;
    let txn = world.txn("a", "x");
    let asked = Instant::now();
    let voted = world.send_other(&txn).await;
    assert!(matches!(
        world.other.answer(voted).await,
        decision::Result::Voted(_)
    ));
    sleep(Duration::from_millis(30)).await;
    let closed = world.close_other("a2").await.closed;
    let lower = txn.start.0 + 1;
    assert!(
        closed >= closed_before && closed < lower + 10_000_000,
        "R12: {closed}"
    );
    let held = world.refused_other("x", txn.start).await;
    assert_eq!(held.reason(), Reason::Held, "R11");
    let now = world.cluster.now();
    assert_eq!(world.refused_other("x", now).await.reason(), Reason::Held, "R11");

    // The home never hears of it: asked, it bars the attempt.
    world
        .cluster
        .until("the home was asked", |cluster| {
            let closed = cluster.journals[0].closure_of(OTHER).unwrap().closed;
            closed > txn.start.0 + 100_000_000
        })
        .await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    let now = world.cluster.now();
    assert!(matches!(
        world.write_other("x", now).await,
        decision::Result::Committed(_)
    ));
    let late = world.send_home(&txn).await;
    match world.home.answer(late).await {
        decision::Result::Refused(_) => {}
        other => panic!("committed after it was told to be aborted: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_in_either_range_ends_it_in_both() {
    let mut world = World::start().await;
    let old = world.cluster.now();
    let first = world.txn("a", "x");
    let first = world.commit(&first).await;
    sleep(Duration::from_millis(20)).await;

    for (home_key, other_key) in [("a", "y"), ("b", "x")] {
        let mut txn = world.txn(home_key, other_key);
        txn.start = old;
        let (at_home, _) = world.try_commit(&txn).await;
        match at_home {
            decision::Result::Refused(refused) => {
                assert_eq!(
                    (refused.reason(), refused.with),
                    (Reason::Conflict, first.commit),
                    "{refused:?}"
                );
            }
            other => panic!("lost update: {other:?}"),
        }
        sleep(Duration::from_millis(5)).await;
        // Nothing is held any more.
        let mut again = world.txn(home_key, other_key);
        again.start = Timestamp(world.cluster.now().0);
        world.commit(&again).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_may_come_before_the_request_and_a_missing_one_is_waited_for_so_long_only() {
    let mut world = World::start().await;
    let early = world.txn("a", "x");
    let voted = world.send_other(&early).await;
    world.other.answer(voted).await;
    sleep(Duration::from_millis(50)).await;
    let at_home = world.send_home(&early).await;
    assert!(matches!(
        world.home.answer(at_home).await,
        decision::Result::Committed(_)
    ));

    let alone = world.txn("b", "y");
    let at_home = world.send_home(&alone).await;
    let asked = Instant::now();
    match world.home.answer(at_home).await {
        decision::Result::Refused(refused) => assert_eq!(refused.reason(), Reason::GaveUp),
        other => panic!("committed without a vote: {other:?}"),
    }
    assert!(
        asked.elapsed() <= Duration::from_millis(600),
        "{:?}",
        asked.elapsed()
    );
    let late = world.send_other(&alone).await;
    world.other.answer(late).await;
    sleep(Duration::from_millis(10)).await;
    let again = CrossTxn { number: 2, ..alone };
    world.commit(&again).await;
}

#[tokio::test(start_paused = true)]
async fn a_checked_read_in_another_range_is_held_against_writers_until_the_outcome() {
    let mut world = World::start().await;
    let mut txn = world.txn("a", "x");
    txn.reads_other = true;
    let voted = world.send_other(&txn).await;
    world.other.answer(voted).await;
    let held = world.refused_other("x", txn.start).await;
    assert_eq!(held.reason(), Reason::Held, "R11");

    let at_home = world.send_home(&txn).await;
    let decision::Result::Committed(committed) = world.home.answer(at_home).await else {
        panic!("not committed");
    };
    sleep(Duration::from_millis(20)).await;
    match world.write_other("x", txn.start).await {
        decision::Result::Committed(later) => assert!(later.commit > committed.commit, "I2s"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_successor_closes_only_after_the_other_streams_have_raised_their_floors() {
    let mut world = World::start().await;
    let txn = world.txn("a", "x");
    let committed = world.commit(&txn).await;
    world.cluster.kill("a2").await;
    world.other = world.cluster.decider_of("a1", OTHER).await;
    let asked = Instant::now();
    let closure = loop {
        let answer = world.close_other("a1").await;
        if answer.closed >= committed.commit {
            break answer.closure.unwrap();
        }
        assert!(asked.elapsed() < Duration::from_secs(5), "never closed");
        sleep(Duration::from_millis(10)).await;
    };
    let of_home = closure.after.iter().find(|after| after.stream == HOME);
    assert!(
        of_home.is_some_and(|after| after.lsn >= committed.lsn),
        "R19: {closure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_home_that_dies_leaves_no_prepare_open() {
    let mut world = World::start().await;
    let txn = world.txn("a", "x");
    for journal in &world.cluster.journals[1..] {
        journal.hold("a1");
    }
    let (_, voted) = (world.send_home(&txn).await, world.send_other(&txn).await);
    world.other.answer(voted).await;
    sleep(Duration::from_millis(20)).await;
    world.cluster.kill("a1").await;
    for journal in &world.cluster.journals {
        journal.let_go();
    }
    // Asked, the other candidate takes over, and tells from the log what became of it.
    let started = Instant::now();
    let end = loop {
        let now = world.cluster.now();
        match world.write_other("x", now).await {
            decision::Result::Refused(refused) if refused.reason() == Reason::Held => {}
            other => break other,
        }
        assert!(started.elapsed() < Duration::from_secs(20), "still held");
        sleep(Duration::from_millis(50)).await;
    };
    let attempt = world.attempt(&txn);
    let query = AttemptQuery {
        attempt: Some(attempt),
        start: txn.start.0,
        give_up: false,
    };
    let answer = world.cluster.client("a2").attempt_outcome(query).await;
    let answer = answer.unwrap().into_inner();
    match answer.outcome() {
        Outcome::Committed => assert!(world.close_other("a2").await.closed >= answer.commit),
        Outcome::Aborted => {}
        other => panic!("{other:?}: {end:?}"),
    }
}
