//! `floors`: what one client of Meridian waits for, beside what nobody can do without: a sync of the disk, and a message to another
//! process and back. All of it in turns, on the same disk, in one run.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use hdrhistogram::Histogram;
use meridian_rpc::v1::OutcomeRequest;
use meridian_rpc::v1::kv_client::KvClient;
use serde::Serialize;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::args::FloorsArgs;
use crate::error::{Error, Result};
use crate::load::{Alarm, histogram, record};
use crate::measure::{Load, measure};
use crate::run::Started;
use crate::system::{Kind, timer};
use crate::workload::{Generators, Workload};

/// What is written before each sync: about a record of the journal with a value of 100 bytes.
const RECORD_BYTES: usize = 200;
/// Between two syncs.
const PAUSE: Duration = Duration::from_millis(1);
/// Syncs, and calls, of one round.
const EACH: usize = 500;
/// A put is to take at most so many times its floor.
const ALLOWED: f64 = 1.5;

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Floors {
    /// A write of some 200 bytes and its fdatasync; microseconds, p50.
    pub fdatasync_us: u64,
    /// The same while two others do it at the same time, as three nodes on one disk do.
    pub fdatasync_of_three_us: u64,
    /// A unary gRPC call to a server process that does nothing for it, and its answer; microseconds, p50.
    pub unary_us: u64,
    /// One sync and two calls: the client's, and that of a replica.
    pub floor_us: u64,
    /// A put of one client; microseconds, p50.
    pub put_us: u64,
    /// The same in floors.
    pub put_in_floors: f64,
    /// At most so many are aimed at.
    pub allowed: f64,
    /// A strong get; microseconds, p50.
    pub get_us: u64,
    /// A transaction that reads two keys and writes both; microseconds, p50.
    pub txn_us: u64,
}

/// Measures everything in turns.
///
/// # Errors
/// The disk, or a server, does not do what it should.
pub async fn floors(started: &Started, args: &FloorsArgs, dir: &Path) -> Result<Floors> {
    let system = started
        .systems
        .first()
        .ok_or_else(|| Error::Usage("nothing to measure".to_owned()))?;
    if started.regions.are_apart() {
        return Err(Error::Usage(
            "floors are those of one place: without --regions 3".to_owned(),
        ));
    }
    let entry = system
        .entry()
        .ok_or_else(|| Error::Usage(format!("{} takes no calls over gRPC", system.kind())))?;
    let alarm = Alarm::Exact(timer()?);
    let mut syncs = [Syncs::new(dir, 0)?, Syncs::new(dir, 1)?, Syncs::new(dir, 2)?];
    let mut alone = Syncs::new(dir, 3)?;
    let mut unary = Unary::new(entry)?;
    let mut of_workloads = WORKLOADS.map(|_| histogram());
    for round in 1..=args.rounds {
        // Nothing else runs in this process meanwhile: it may wait.
        alone.round(&Barrier::new(1))?;
        together(&mut syncs)?;
        unary.round().await?;
        for (workload, times) in WORKLOADS.into_iter().zip(&mut of_workloads) {
            let load = Load {
                generators: Generators::new(workload, args.site.shape(), args.site.seed, round),
                clients: 1,
                warm_up: Duration::from_millis(300),
                length: args.seconds,
                rate: None,
            };
            let (summaries, _) = measure(system.as_ref(), &[None], load, &alarm).await?;
            for summary in summaries.values() {
                times.saturating_record((summary.quantile_ms(0.5) * 1e3) as u64);
            }
        }
    }
    let p50 = |times: &Histogram<u64>| times.value_at_quantile(0.5);
    let [put_us, get_us, txn_us] = of_workloads.each_ref().map(p50);
    let mut of_three = histogram();
    for one in &syncs {
        // All have the same bounds.
        let _ = of_three.add(&one.times);
    }
    let (fdatasync_us, unary_us) = (p50(&alone.times), p50(&unary.times));
    let floor_us = fdatasync_us + 2 * unary_us;
    Ok(Floors {
        fdatasync_us,
        fdatasync_of_three_us: p50(&of_three),
        unary_us,
        floor_us,
        put_us,
        put_in_floors: put_us as f64 / floor_us.max(1) as f64,
        allowed: ALLOWED,
        get_us,
        txn_us,
    })
}

const WORKLOADS: [Workload; 3] = [Workload::Put, Workload::Get, Workload::Txn];
/// The only system of which floors are measured.
pub const SYSTEM: Kind = Kind::Meridian;

/// Records written one after the other into a file that was set aside, each synced; every round from its beginning.
struct Syncs {
    file: File,
    times: Histogram<u64>,
}

impl Syncs {
    fn new(dir: &Path, number: usize) -> Result<Self> {
        let path = dir.join(format!("floor-{number}"));
        let made = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; EACH * RECORD_BYTES])?;
            file.sync_all()?;
            File::options().write(true).open(&path)
        });
        Ok(Self {
            file: made.map_err(Error::io("create", &path))?,
            times: histogram(),
        })
    }

    /// Syncs again and again, each time at the same moment as the others who wait at the barrier: also after an error, for their sake.
    fn round(&mut self, barrier: &Barrier) -> Result<()> {
        let failed = |error| Error::io("sync", Path::new("a file of floors"))(error);
        let mut result = self.file.rewind().map_err(failed);
        for _ in 0..EACH {
            barrier.wait();
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            let synced = self.file.write_all(&[1; RECORD_BYTES]);
            match synced.and_then(|()| self.file.sync_data()) {
                Ok(()) => record(&mut self.times, began.elapsed()),
                Err(error) => result = Err(failed(error)),
            }
        }
        result
    }
}

/// Each on a thread of its own.
fn together(all: &mut [Syncs]) -> Result<()> {
    let barrier = &Barrier::new(all.len());
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter_mut()
            .map(|syncs| scope.spawn(|| syncs.round(barrier)))
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Usage("a thread that syncs ended unexpectedly".to_owned())),
        });
        ended.collect()
    });
    results.into_iter().collect()
}

/// A call that is refused at once: the outcome of no transaction.
struct Unary {
    client: KvClient<tonic::transport::Channel>,
    times: Histogram<u64>,
}

impl Unary {
    fn new(entry: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{entry}"));
        let channel = endpoint.map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self {
            client: KvClient::new(channel.tcp_nodelay(true).connect_lazy()),
            times: histogram(),
        })
    }

    async fn round(&mut self) -> Result<()> {
        for _ in 0..EACH {
            let began = Instant::now();
            let refused = self.client.outcome(OutcomeRequest::default()).await;
            match refused {
                Err(status) if status.code() == tonic::Code::InvalidArgument => {
                    record(&mut self.times, began.elapsed());
                }
                other => {
                    let what = format!("a call that is to be refused: {:?}", other.map(|_| ()));
                    return Err(Error::System {
                        system: SYSTEM.name(),
                        what,
                    });
                }
            }
        }
        Ok(())
    }
}
