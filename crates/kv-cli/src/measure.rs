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
/// How long to wait until it is forgotten that ranges were read: longer than a measurement counts.
const FORGETTING: Duration = Duration::from_secs(15);
/// Commits may take a tenth more than the floor, and this.
const ALLOWED: Duration = Duration::from_millis(3);
/// Reads may take so much longer than in a cluster of one region.
const READ_ALLOWED: Duration = Duration::from_millis(1);

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
    // Other clusters cannot be started beside themselves.
    let nearby = match floors {
        Some(_) => in_one_region(time).await,
        None => None,
    };
    let mut rows: Vec<Vec<String>> = nearby.iter().map(|sorted| nearby_row(sorted)).collect();
    let compared = Compared {
        floors,
        read: nearby.map(|latencies| quantile(&latencies, 0.5)),
        clock: clock_bound(&client.cluster_status().await?),
    };
    forget_readers(client, &places).await?;
    for cell in cells(&regions, &places) {
        remark(&format!(
            "{} from {} in {}",
            cell.kind.name(),
            cell.from,
            cell.home
        ));
        let result = run(clients, &cell, time).await;
        let lead = lead(client, &cell).await;
        rows.push(row(&cell, result, lead, &compared));
    }
    let columns = [
        "operation",
        "from",
        "adjudicated in",
        "count",
        "p50 ms",
        "p99 ms",
        "floor ms",
        "allowed ms",
        "p50 inside",
        "lead ms",
        "clock us",
    ];
    Ok(printer.columns(None, &columns, &rows)?)
}

/// What results are compared with.
struct Compared {
    floors: Option<Floors>,
    /// The p50 of a read in a cluster of one region.
    read: Option<Duration>,
    /// The clocks' error, the widest.
    clock: Duration,
}

fn clock_bound(status: &ClusterStatusResponse) -> Duration {
    let bounds = status.nodes.iter().map(|node| node.clock_bound);
    Duration::from_nanos(bounds.max().unwrap_or_default())
}

/// Commits among themselves come first, and the lead of a range that was read lasts for a while.
async fn forget_readers(client: &Client, places: &[Place]) -> Result<(), Error> {
    let end = Instant::now() + FORGETTING;
    loop {
        // What the status shows is what was used last.
        for place in places {
            client.put(place.key(0), "x").await?;
        }
        let status = client.cluster_status().await?;
        let is_ahead = ranges::owned(&status.nodes).any(|(_, range)| range.lead_ns > 0);
        if !is_ahead || Instant::now() >= end {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What reads take in a cluster of one region, in this process too: in order. `None` when it does not start, or cannot in this build.
#[cfg(feature = "embedded")]
async fn in_one_region(time: Duration) -> Option<Vec<Duration>> {
    use meridian::embedded::{Cluster, Options};
    remark("read in a cluster of one region");
    let data = std::env::temp_dir().join(format!("meridian-bench-{}", std::process::id()));
    let cluster = Cluster::start(Options::new(&data)).await.ok()?;
    let measured = async {
        let client = cluster.client().ok()?;
        let cell = Cell {
            from: String::new(),
            home: String::new(),
            kind: Kind::Read,
            places: vec![Place {
                region: String::new(),
                prefix: vec![0],
            }],
        };
        repeat(&client, &cell, time).await.ok()
    };
    let measured = measured.await;
    cluster.shutdown().await;
    let _ = std::fs::remove_dir_all(&data);
    let mut latencies = measured?;
    latencies.sort_unstable();
    Some(latencies)
}

#[cfg(not(feature = "embedded"))]
async fn in_one_region(_: Duration) -> Option<Vec<Duration>> {
    None
}

fn nearby_row(sorted: &[Duration]) -> Vec<String> {
    let mut row = vec![
        Kind::Read.name().to_owned(),
        "-".to_owned(),
        "one region".to_owned(),
    ];
    row.extend(figures(sorted));
    row.extend(["-"; 5].map(str::to_owned));
    row
}

/// How many, p50 and p99.
fn figures(sorted: &[Duration]) -> [String; 3] {
    let [p50, p99] = [0.5, 0.99].map(|share| millis(quantile(sorted, share)));
    [sorted.len().to_string(), p50, p99]
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
    // Commits among themselves come first, see `forget_readers`.
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
    compared: &Compared,
) -> Vec<String> {
    let mut row = vec![cell.kind.name().to_owned(), cell.from.clone(), cell.home.clone()];
    let mut p50 = None;
    match result {
        Ok(mut latencies) => {
            latencies.sort_unstable();
            row.extend(figures(&latencies));
            p50 = Some(quantile(&latencies, 0.5));
        }
        Err(error) => row.extend([error.to_string(), "-".to_owned(), "-".to_owned()]),
    }
    let has_lead = lead.is_some_and(|lead| !lead.is_zero());
    let (floor, allowed) = floor(cell, compared, has_lead);
    let inside = p50.zip(allowed).map(|(p50, allowed)| p50 <= allowed);
    let shown = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), millis);
    row.extend([shown(floor), shown(allowed)]);
    row.push(
        inside
            .map_or("-", |inside| if inside { "yes" } else { "no" })
            .to_owned(),
    );
    row.push(shown(lead));
    row.push(format!("{:.0}", compared.clock.as_secs_f64() * 1e6));
    row
}

/// What it takes at least, and what is allowed: by the delays alone for commits, which land ahead of the present where somebody
/// reads; beside a cluster of one region for reads, which then do not wait. Without that lead nothing is asked of reads.
fn floor(cell: &Cell, compared: &Compared, has_lead: bool) -> (Option<Duration>, Option<Duration>) {
    let from = &cell.from;
    let Some(floors) = &compared.floors else {
        return (None, None);
    };
    let floor = match cell.places.as_slice() {
        [first, second, ..] => floors.commit_across(from, &first.region, &second.region, has_lead),
        [place] if cell.kind.is_commit() => floors.commit(from, &place.region, has_lead),
        [_] if has_lead => return (compared.read, compared.read.map(|read| read + READ_ALLOWED)),
        [place] => return (Some(floors.read(from, &place.region, false)), None),
        [] => return (None, None),
    };
    (Some(floor), Some(floor + floor / 10 + ALLOWED))
}
