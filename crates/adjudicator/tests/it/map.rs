//! The range map in its stream, and moves of ranges.

use meridian_adjudicator::Config;
use meridian_rpc::internal::MoveRange;
use meridian_rpc::internal::change_request::Change;
use meridian_types::NodeName;
use tokio::time::sleep;

use super::cluster::{Cluster, Txn};
use super::real_journal::RealJournal;

async fn cluster(adjudicators: &[&str]) -> (Cluster, RealJournal) {
    let names: Vec<NodeName> = ["j1", "j2", "j3"].map(NodeName::from).to_vec();
    let mut cluster = Cluster::bare(names.clone(), adjudicators, Config::default());
    let journal = RealJournal::start(&cluster, &names).await;
    for name in adjudicators {
        cluster.start_adjudicator(name).await;
    }
    cluster.follow_map();
    (cluster, journal)
}

fn move_to(node: &str) -> Change {
    Change::Move(MoveRange {
        range: 1,
        node: node.to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn a_moved_range_is_served_by_its_new_owner_without_a_pause() {
    let (mut cluster, _journal) = cluster(&["a1", "a2"]).await;
    let mut decider = cluster.decider("a1").await;
    let txn = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    let committed = decider.commit(&txn).await;
    let before = cluster.now();
    let changed = cluster.change("a1", move_to("a2")).await;
    assert_eq!(changed.version, 2, "{changed:?}");
    cluster
        .until("the range has moved", |cluster| {
            cluster.status("a2").role == "owner"
        })
        .await;
    assert_eq!(cluster.status("a1").role, "standby");
    assert_eq!(
        (
            cluster.map().version,
            cluster.map().entries[0].candidates[0].0.as_str()
        ),
        (2, "a2")
    );
    // Whoever asks the old owner is sent to the new one, which is not deposed.
    let (owner, epoch) = cluster.locate("a1").await;
    assert_eq!((owner.as_str(), epoch), ("a2", 2));
    assert!(
        cluster.status("a2").window_low < before.0 + 300_000_000,
        "no lease to wait for"
    );
    let mut decider = cluster.decider("a2").await;
    sleep(std::time::Duration::from_millis(300)).await;
    let next = Txn::writing(cluster.new_txn(), cluster.now(), "k");
    assert!(decider.commit(&next).await.commit > committed.commit);
    // Said again, it is done again: the map has another version, and nothing moves.
    assert_eq!(cluster.change("a1", move_to("a2")).await.version, 3);
    sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(
        (cluster.status("a2").role.as_str(), cluster.status("a2").epoch),
        ("owner", 2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_map_outlives_the_owner_of_its_stream() {
    let (mut cluster, mut journal) = cluster(&["a1", "a2", "a3"]).await;
    assert_eq!(cluster.change("a1", move_to("a3")).await.version, 2);
    let elsewhere = cluster.change("a2", move_to("a2")).await;
    assert_eq!((elsewhere.not_owner, elsewhere.owner.as_str()), (true, "a1"));
    let refused = cluster.change("a1", move_to("nobody")).await;
    assert_eq!(refused.version, 0);
    assert!(refused.refused.contains("nobody"), "{refused:?}");
    cluster.kill("a1").await;
    journal.kill(&cluster, "j1").await;
    let mut changed = cluster.change("a2", move_to("a2")).await;
    while changed.not_owner {
        sleep(std::time::Duration::from_millis(100)).await;
        changed = cluster.change("a2", move_to("a2")).await;
    }
    assert_eq!(changed.version, 3, "it goes on from the version in the log");
    cluster.until("told", |cluster| cluster.map().version == 3).await;
    let names: Vec<_> = cluster.map().entries[0]
        .candidates
        .iter()
        .map(|name| name.0.clone())
        .collect();
    assert_eq!(names, ["a2", "a3", "a1"]);
}
