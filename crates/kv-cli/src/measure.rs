//! `bench` in the shell: what reads and commits take from each region, by where the range is adjudicated, beside what the delays
//! alone make of it.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::proto::{ClusterStatusResponse, OwnedRangeStatus};
use meridian_client::{Client, Error, Execute, Key};
use tokio::time::Instant;

use crate::bench::{millis, quantile};
use crate::failure::{Code, Failure};
use crate::floors::Floors;
use crate::output::Printer;
use crate::ranges;
use crate::shell::remark;

/// Keys per range that are written and read.
const KEYS: u64 = 500;
/// How often those write, or read, beneath whom the others are measured.
const INTERVAL: Duration = Duration::from_millis(5);
/// Between two operations: a client that asks without a pause measures how busy the machine is.
const PAUSE: Duration = Duration::from_millis(2);
/// What runs before each measurement and is not counted: connections, leases, and leads that settle.
const WARM_UP: Duration = Duration::from_secs(1);

/// A range to measure, and the region of its owner.
#[derive(Clone)]
struct Place {
    region: String,
    prefix: Vec<u8>,
}

impl Place {
    fn key(&self, number: u64) -> Key {
        let mut key = self.prefix.clone();
        key.extend_from_slice(format!("bench/{}", number % KEYS).as_bytes());
        key.into()
    }
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    /// While a client of each region writes to the range.
    ReadUnderWrites,
    /// While nobody reads the range: its commits need not land ahead of the present.
    Commit,
    /// While a client of each region reads the range.
    CommitUnderReads,
}

impl Kind {
    fn is_commit(self) -> bool {
        matches!(self, Self::Commit | Self::CommitUnderReads)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadUnderWrites => "read under writes",
            Self::Commit => "commit",
            Self::CommitUnderReads => "commit under reads",
        }
    }
}

/// One row of the table to be.
struct Cell {
    from: String,
    home: String,
    kind: Kind,
    places: Vec<Place>,
}

/// Measures every combination, one after another, each for `time`, with one operation under way.
pub async fn measure(
    clients: &BTreeMap<String, Client>,
    time: Duration,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let client = clients
        .values()
        .next()
        .ok_or_else(|| Failure::new(Code::Failed, "there is no region"))?;
    for range in ranges::all(&client.cluster_status().await?.nodes) {
        // A range that nobody used has no owner, and says no lead.
        client.put(place("", range).key(0), "x").await?;
    }
    let places = places(&client.cluster_status().await?);
    let regions: Vec<String> = clients.keys().cloned().collect();
    let floors = floors(client, &regions).await;
    let mut rows = Vec::new();
    for cell in cells(&regions, &places) {
        remark(&format!(
            "{} from {} in {}",
            cell.kind.name(),
            cell.from,
            cell.home
        ));
        let result = run(clients, &cell, time).await;
        let lead = lead(client, &cell).await;
        rows.push(row(&cell, result, lead, floors.as_ref()));
    }
    let columns = [
        "operation",
        "from",
        "adjudicated in",
        "count",
        "p50 ms",
        "p99 ms",
        "floor ms",
        "lead ms",
    ];
    Ok(printer.columns(None, &columns, &rows)?)
}

/// One range of each region that owns some.
fn places(status: &ClusterStatusResponse) -> Vec<Place> {
    let mut found: BTreeMap<&str, Place> = BTreeMap::new();
    for (region, range) in ranges::owned(&status.nodes) {
        found.entry(region).or_insert_with(|| place(region, range));
    }
    found.into_values().collect()
}

fn place(region: &str, range: &OwnedRangeStatus) -> Place {
    let mut prefix = range.start.to_vec();
    // Below whatever else begins like this.
    prefix.push(0);
    Place {
        region: region.to_owned(),
        prefix,
    }
}

/// How far ahead the ranges' commits land just now, the longest.
async fn lead(client: &Client, cell: &Cell) -> Option<Duration> {
    let status = client.cluster_status().await.ok()?;
    let measured = ranges::owned(&status.nodes).filter(|(region, range)| {
        let is_it = |place: &Place| place.prefix == self::place(region, range).prefix;
        cell.places.iter().any(is_it)
    });
    measured
        .map(|(_, range)| Duration::from_nanos(range.lead_ns))
        .max()
}

/// From the delays of a cluster in one process; any other does not know them.
async fn floors(client: &Client, regions: &[String]) -> Option<Floors> {
    let report = client.inject_fault("show", "").await.ok()?;
    let each = report.links.into_iter();
    let delays = each.map(|link| ((link.from, link.to), Duration::from_nanos(link.delay_ns)));
    Some(Floors::new(delays.collect(), regions))
}

fn cells(regions: &[String], places: &[Place]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |kind: Kind, places: &[Place]| {
        let homes: Vec<&str> = places.iter().map(|place| place.region.as_str()).collect();
        cells.extend(regions.iter().map(|from| Cell {
            from: from.clone(),
            home: homes.join(" and "),
            kind,
            places: places.to_vec(),
        }));
    };
    let both = places.get(..2);
    // Commits among themselves come first: the lead of a range that was read lasts for a while.
    for kind in [
        Kind::Commit,
        Kind::Read,
        Kind::ReadUnderWrites,
        Kind::CommitUnderReads,
    ] {
        for place in places {
            add(kind, std::slice::from_ref(place));
        }
        if let Some(both) = both.filter(|_| kind.is_commit()) {
            add(kind, both);
        }
    }
    cells
}

async fn run(
    clients: &BTreeMap<String, Client>,
    cell: &Cell,
    time: Duration,
) -> Result<Vec<Duration>, Error> {
    let Some(client) = clients.get(&cell.from) else {
        return Ok(Vec::new());
    };
    let others = clients.values().cloned();
    let others: Vec<_> = match cell.kind {
        Kind::ReadUnderWrites => others
            .map(|client| tokio::spawn(write(client, cell.places.clone())))
            .collect(),
        Kind::CommitUnderReads => others
            .map(|client| tokio::spawn(read(client, cell.places.clone())))
            .collect(),
        Kind::Read | Kind::Commit => Vec::new(),
    };
    let measured = repeat(client, cell, time).await;
    others.iter().for_each(tokio::task::JoinHandle::abort);
    measured
}

async fn repeat(client: &Client, cell: &Cell, time: Duration) -> Result<Vec<Duration>, Error> {
    let warm = Instant::now() + WARM_UP;
    let end = warm + time;
    let mut latencies = Vec::new();
    let mut number = 0;
    while Instant::now() < end {
        number += 1;
        let began = Instant::now();
        match cell.places.first() {
            _ if cell.kind.is_commit() => put(client, &cell.places, number).await?,
            Some(place) => drop(client.get(place.key(number)).await?),
            None => break,
        }
        if began >= warm {
            latencies.push(began.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latencies)
}

/// One transaction that writes a key of each range.
async fn put(client: &Client, places: &[Place], number: u64) -> Result<(), Error> {
    let writes = places.iter().fold(Execute::new(), |execute, place| {
        execute.put(place.key(number), "x")
    });
    client.execute(&writes).await.map(drop)
}

/// Writes until it is aborted. Its own failures are not what is measured.
async fn write(client: Client, places: Vec<Place>) {
    for number in 0.. {
        let _ = put(&client, &places, number).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reads until it is aborted.
async fn read(client: Client, places: Vec<Place>) {
    for number in 0.. {
        for place in &places {
            let _ = client.get(place.key(number)).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn row(
    cell: &Cell,
    result: Result<Vec<Duration>, Error>,
    lead: Option<Duration>,
    floors: Option<&Floors>,
) -> Vec<String> {
    let mut row = vec![cell.kind.name().to_owned(), cell.from.clone(), cell.home.clone()];
    match result {
        Ok(mut latencies) => {
            latencies.sort_unstable();
            row.push(latencies.len().to_string());
            row.extend([0.5, 0.99].map(|share| millis(quantile(&latencies, share))));
        }
        Err(error) => row.extend([error.to_string(), "-".to_owned(), "-".to_owned()]),
    }
    let floor = floors.and_then(|floors| floor(cell, floors));
    let shown = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), millis);
    row.push(shown(floor));
    row.push(shown(lead));
    row
}

/// What the delays alone make of it. Where somebody reads, commits land ahead so that reads need not wait.
fn floor(cell: &Cell, floors: &Floors) -> Option<Duration> {
    let from = &cell.from;
    let has_lead = cell.kind != Kind::Commit;
    Some(match cell.places.as_slice() {
        [first, second, ..] => floors.commit_across(from, &first.region, &second.region, has_lead),
        [place] if cell.kind.is_commit() => floors.commit(from, &place.region, has_lead),
        [place] => floors.read(from, &place.region, has_lead),
        [] => return None,
    })
}
