//! The loss of region `a` of a cluster of two active regions and a witness, under load: what it costs, in seconds.
//!
//! ```text
//! writers in both regions ... a is lost ... until b commits to every range ... a is back ... until the placement is the preferred one
//! ```

use std::future::Future;
use std::time::{Duration, Instant};

use meridian::embedded::Place;
use meridian_client::proto::{OwnedRangeStatus, RangeMove};
use meridian_client::{Client, RangeChange, TxnOptions};

use crate::ledger::{self, Writers, Written};
use crate::{Cluster, preferred};

/// How long the load lasts before the loss, while the region is away and once everything is restored.
const STEADY: Duration = Duration::from_secs(2);
/// How long anything may take before the run fails: for liveness, not for speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a move by hand is given before it is made again.
const MOVE_AGAIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// A cluster whose region `a` can be lost.
pub trait World {
    /// A client in a region.
    fn client(&self, region: &str) -> Client;
    /// Region `a` is lost.
    fn lose(&mut self) -> impl Future<Output = ()>;
    /// Region `a` comes back.
    fn restore(&mut self) -> impl Future<Output = ()>;
}

/// All processes of `a` are killed at once, and started again.
pub struct Killed(pub Cluster);

impl World for Killed {
    fn client(&self, region: &str) -> Client {
        self.0.client_in(region)
    }

    async fn lose(&mut self) {
        let nodes = self.0.nodes_of("a", "");
        self.0.kill_at_once(&nodes);
    }

    async fn restore(&mut self) {
        for node in self.0.nodes_of("a", "") {
            self.0.start_node(&node);
        }
    }
}

/// All processes of `a` are stopped, and go on later where they were: nobody is told, as when a region is cut off.
pub struct Paused(pub Cluster);

impl World for Paused {
    fn client(&self, region: &str) -> Client {
        self.0.client_in(region)
    }

    async fn lose(&mut self) {
        for node in self.0.nodes_of("a", "") {
            self.0.pause(&node);
        }
    }

    async fn restore(&mut self) {
        for node in self.0.nodes_of("a", "") {
            self.0.resume(&node);
        }
    }
}

/// All links of `a` are cut, and healed: its nodes run on, alone.
pub struct CutOff(pub meridian::embedded::Cluster);

impl CutOff {
    fn links(
        &self,
        change: impl FnOnce(&meridian::embedded::Cluster, &Place) -> Result<(), meridian::Error>,
    ) {
        let place = self.0.place("a").expect("the region");
        change(&self.0, &place).expect("links can be cut and healed");
    }
}

impl World for CutOff {
    fn client(&self, region: &str) -> Client {
        self.0.client_in(region).expect("the region has routers")
    }

    async fn lose(&mut self) {
        self.links(meridian::embedded::Cluster::cut);
    }

    async fn restore(&mut self) {
        self.links(meridian::embedded::Cluster::heal);
    }
}

/// How the preferred placement is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// By the cluster itself.
    Automatic,
    /// By an operator, who moves each range to where it is preferred as soon as the region is back.
    ByHand,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// Until a client of `b`, asking from the moment of the loss on, had committed to every range.
    pub all_writable: Duration,
    /// Until clients of `a` had, through the other region, or once their region was back.
    pub all_writable_from_a: Duration,
    /// From the return of `a` until every range was owned in its preferred region; `None` if it was not in time.
    pub placed: Option<Duration>,
    /// What the writers know; the ledger was checked against it.
    pub written: Written,
    /// What writers were told from the return of `a` on.
    pub errors_after_return: Vec<String>,
    /// What they were told between the loss and the return.
    pub errors_while_lost: usize,
}

/// Loses the region and brings it back, under load, and checks the ledger. The placement is waited for until `placed_within` after
/// the return, however it is restored, and the load goes on for a little while after.
///
/// # Panics
/// When an acknowledged append is lost or one was applied twice, when the regions do not agree on the ledger, or when nothing goes on.
pub async fn run(
    world: &mut impl World,
    ranges: usize,
    placement: Placement,
    placed_within: Duration,
) -> Seen {
    let clients = [world.client("a"), world.client("b")];
    let asking = [world.client("a"), world.client("b")];
    // Everything is used once, so that what is measured is the loss alone.
    for client in &clients {
        writable(client, ranges, "before").await;
    }
    placed(&asking[1], ranges, PATIENCE)
        .await
        .expect("placed at first");
    let writers = Writers::start(&clients, ranges, PAUSE);
    tokio::time::sleep(STEADY).await;

    world.lose().await;
    let lost = Instant::now();
    let (all_writable_from_a, all_writable) = tokio::join!(
        writable(&asking[0], ranges, "a"),
        writable(&asking[1], ranges, "b")
    );
    tokio::time::sleep(STEADY).await;
    progresses(&writers).await;

    let returned = Instant::now();
    world.restore().await;
    let until = returned + placed_within;
    let mut at = None;
    while at.is_none() && Instant::now() < until {
        let mut patience = until.saturating_duration_since(Instant::now());
        if placement == Placement::ByHand {
            // A move that fails half-way leaves the range where it is taken over: whoever moves by hand looks, and moves again.
            move_home(&asking[1], ranges).await;
            patience = patience.min(MOVE_AGAIN);
        }
        at = placed(&asking[1], ranges, patience).await;
    }
    let placed = at.map(|at| at - returned);
    tokio::time::sleep(STEADY).await;
    progresses(&writers).await;

    let written = writers.stop().await;
    assert!(!written.acknowledged.is_empty());
    let in_a = ledger::read(&world.client("a"), ranges).await;
    let in_b = ledger::read(&world.client("b"), ranges).await;
    assert_eq!(in_a, in_b, "the regions differ");
    ledger::check(&in_a, &written);
    let after = |(at, error): &(Instant, String)| (*at >= returned).then(|| error.clone());
    Seen {
        all_writable,
        all_writable_from_a,
        placed,
        errors_after_return: written.errors.iter().filter_map(after).collect(),
        errors_while_lost: written
            .errors
            .iter()
            .filter(|(at, _)| *at >= lost && *at < returned)
            .count(),
        written,
    }
}

/// Until one commit to each range, all asked for at once, is acknowledged.
async fn writable(client: &Client, ranges: usize, who: &str) -> Duration {
    let began = Instant::now();
    let puts = (0..ranges).map(|range| {
        let (client, key) = (client.clone(), format!("{range}/probe/{who}"));
        tokio::spawn(async move {
            while let Err(error) = put(&client, &key).await {
                assert!(began.elapsed() < PATIENCE, "{key} cannot be written: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.expect("every range is written again");
    }
    began.elapsed()
}

async fn put(client: &Client, key: &str) -> Result<(), meridian_client::Error> {
    let options = TxnOptions {
        deadline: Some(Duration::from_secs(20)),
        ..TxnOptions::default()
    };
    let put = client.transact_with(options, |txn| async move { txn.put(key, "there").await });
    put.await.map(|_| ())
}

/// The writers get on.
async fn progresses(writers: &Writers) {
    let (before, deadline) = (writers.acknowledged(), Instant::now() + PATIENCE);
    while writers.acknowledged() == before {
        assert!(Instant::now() < deadline, "no append is acknowledged any more");
        tokio::time::sleep(PAUSE).await;
    }
}

/// When every range was seen to be owned in its preferred region; `None` if that was not in time.
async fn placed(client: &Client, ranges: usize, within: Duration) -> Option<Instant> {
    let deadline = Instant::now() + within;
    loop {
        if let Ok(owners) = owners(client).await
            && (0..ranges).all(|range| owners.get(range).is_some_and(|owner| owner == preferred(range)))
        {
            return Some(Instant::now());
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Moves every range that is owned elsewhere to its preferred region.
async fn move_home(client: &Client, ranges: usize) {
    for range in 0..ranges {
        let home = preferred(range);
        let deadline = Instant::now() + PATIENCE;
        let owner = loop {
            match owners(client).await.map(|owners| owners.get(range).cloned()) {
                Ok(Some(owner)) if !owner.is_empty() => break owner,
                _ => assert!(Instant::now() < deadline, "range {range} has no owner"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        if owner == home {
            continue;
        }
        // The map never said that it is elsewhere: only another wish than the last one moves it.
        for region in [owner.as_str(), home] {
            let wanted = RangeMove {
                range: range as u64 + 1,
                node: format!("adjudicator-{region}1"),
            };
            while let Err(error) = client.change_ranges(RangeChange::Move(wanted.clone())).await {
                assert!(
                    Instant::now() < deadline,
                    "range {range} cannot be moved: {error}"
                );
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The region of each range's owner, by range; empty while it has none.
pub async fn owners(client: &Client) -> Result<Vec<String>, meridian_client::Error> {
    let status = client.cluster_status().await?;
    let mut owners: std::collections::BTreeMap<u64, (u64, String)> = std::collections::BTreeMap::new();
    for node in &status.nodes {
        let ranges = node.services.iter().flat_map(|service| &service.ranges);
        for range in ranges.filter(|range| range.stream != 0) {
            let OwnedRangeStatus { epoch, role, .. } = range;
            let known = owners.entry(range.range).or_default();
            if role == "owner" && *epoch >= known.0 {
                *known = (*epoch, node.region.clone());
            }
        }
    }
    Ok(owners.into_values().map(|(_, region)| region).collect())
}
