//! What each engine is given to do, in a process of its own.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian_storage::store::{
    AppliedBatch, Direction, FjallStore, Progress, SledStore, VersionStore, VersionWrite,
};
use meridian_types::{Key, KeyRange, Position, StreamId, Timestamp};

use crate::{Failure, Options};

const FLUSH_INTERVAL_MS: u64 = 500;
const VERSIONS_OF_A_KEY: u64 = 5;
const VALUE_BYTES: usize = 100;
/// What the applier gathers under load, and one small transaction.
const BATCH: u64 = 100;
const SMALL_BATCH: u64 = 2;
const SMALL_BATCHES: u64 = 20_000;
const READS: u64 = 100_000;
const SCANS: u64 = 5_000;
const SCANNED_KEYS: usize = 100;
const SWEEP_CHUNK: usize = 1_000;

/// One phase; ends the process.
pub fn child(options: &Options, phase: &str, engine: &str) -> Result<(), Failure> {
    let dir = options.dir.join(engine);
    if phase == "apply" && dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    let began = Instant::now();
    let store: Box<dyn VersionStore> = match engine {
        "sled" => Box::new(SledStore::open(&dir, options.cache_bytes, FLUSH_INTERVAL_MS)?),
        _ => Box::new(FjallStore::open(&dir, options.cache_bytes)?),
    };
    match phase {
        "apply" => apply_and_read(&*store, options)?,
        _ => restart_and_sweep(&*store, options, began)?,
    }
    tell(
        if phase == "apply" { "disk" } else { "disk_swept" },
        mib(bytes_of(&dir)?),
    );
    // Like a process that is killed: nothing is closed.
    std::process::exit(0);
}

fn apply_and_read(store: &dyn VersionStore, options: &Options) -> Result<(), Failure> {
    let mut took = Vec::new();
    let began = Instant::now();
    for first in (0..options.versions).step_by(BATCH as usize) {
        let batch = batch(first, BATCH, options);
        let began = Instant::now();
        store.apply(&batch)?;
        took.push(began.elapsed());
    }
    tell("apply", options.versions as f64 / began.elapsed().as_secs_f64());
    tell("apply_p99", us(part(&mut took, 0.99)));
    tell("apply_max", us(part(&mut took, 1.0)) / 1_000.0);
    let began = Instant::now();
    for small in 0..SMALL_BATCHES {
        store.apply(&batch(
            options.versions + small * SMALL_BATCH,
            SMALL_BATCH,
            options,
        ))?;
    }
    let small = (SMALL_BATCHES * SMALL_BATCH) as f64;
    tell("apply_small", small / began.elapsed().as_secs_f64());
    tell("memory", memory("VmRSS:")?);
    let mut reads = reads(store, options, READS)?;
    tell("newest_p50", us(part(&mut reads, 0.5)));
    tell("newest_p99", us(part(&mut reads, 0.99)));
    let mut scans = scans(store, options)?;
    tell("scan_p50", us(part(&mut scans, 0.5)));
    tell("scan_p99", us(part(&mut scans, 0.99)));
    tell("memory_peak", memory("VmHWM:")?);
    // What sled's own thread would have done by now.
    std::thread::sleep(Duration::from_millis(2 * FLUSH_INTERVAL_MS));
    store.flush()?;
    Ok(())
}

fn restart_and_sweep(store: &dyn VersionStore, options: &Options, began: Instant) -> Result<(), Failure> {
    let found = store.newest(key(mixed(0), options).as_ref(), Timestamp::MAX)?;
    tell("restart", us(began.elapsed()) / 1_000.0);
    let applied = options.versions + SMALL_BATCHES * SMALL_BATCH;
    let positions = store.progress()?;
    let complete = positions.get(&StreamId(1)).map(|it| it.last_commit.0 + 1);
    if found.is_none() || complete != Some(applied) {
        return Err(format!("{complete:?} of {applied} after the restart").into());
    }
    tell("memory_after", memory("VmRSS:")?);
    let mut reads = reads(store, options, READS / 10)?;
    tell("cold_p50", us(part(&mut reads, 0.5)));
    let (mut dropped, mut range) = (0, KeyRange::all());
    let began = Instant::now();
    loop {
        let below = Timestamp(applied);
        let (swept, resume) = store.sweep(&range, below, below, SWEEP_CHUNK)?;
        dropped += swept.dropped;
        match resume {
            Some(key) => range.start = key,
            None => break,
        }
    }
    tell("sweep", dropped as f64 / began.elapsed().as_secs_f64());
    store.flush()?;
    std::thread::sleep(Duration::from_millis(2 * FLUSH_INTERVAL_MS));
    Ok(())
}

fn batch(first: u64, count: u64, options: &Options) -> AppliedBatch {
    let versions = (first..first + count).map(|at| VersionWrite {
        key: key(mixed(at), options),
        timestamp: Timestamp(at),
        value: Some(value(at)),
    });
    let progress = Progress {
        position: Position::new(1, first),
        last_commit: Timestamp(first + count - 1),
    };
    AppliedBatch {
        versions: versions.collect(),
        progress: [(StreamId(1), progress)].into(),
    }
}

fn key(of: u64, options: &Options) -> Key {
    let keys = (options.versions / VERSIONS_OF_A_KEY).max(1);
    format!("accounts/{:012}", of % keys).as_str().into()
}

/// Half of it can be compressed.
fn value(of: u64) -> Bytes {
    let mut value = vec![b' '; VALUE_BYTES];
    for (at, bytes) in value[..VALUE_BYTES / 2].chunks_mut(8).enumerate() {
        let random = mixed(of.wrapping_mul(31) + at as u64).to_be_bytes();
        bytes.copy_from_slice(&random[..bytes.len()]);
    }
    value.into()
}

/// Random, and the same in every run (splitmix64).
fn mixed(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn reads(store: &dyn VersionStore, options: &Options, count: u64) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    for read in 0..count {
        let (key, at) = (key(mixed(read ^ 0xf00d), options), Timestamp(options.versions));
        let began = Instant::now();
        store.newest(key.as_ref(), at)?;
        took.push(began.elapsed());
    }
    Ok(took)
}

fn scans(store: &dyn VersionStore, options: &Options) -> Result<Vec<Duration>, Failure> {
    let mut took = Vec::new();
    for scan in 0..SCANS {
        let start = key(mixed(scan ^ 0xbeef), options);
        let range = KeyRange { start, end: None };
        let (at, mut keys) = (Timestamp(options.versions), 0);
        let began = Instant::now();
        store.walk(&range, at, Direction::Forward, usize::MAX, &mut |_, _| {
            keys += 1;
            match keys < SCANNED_KEYS {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        took.push(began.elapsed());
    }
    Ok(took)
}

fn tell(name: &str, value: f64) {
    println!("{name}={value}");
}

fn part(of: &mut [Duration], part: f64) -> Duration {
    of.sort_unstable();
    let at = (of.len() as f64 * part) as usize;
    of.get(at.min(of.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn us(of: Duration) -> f64 {
    of.as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A line of `/proc/self/status`, in MiB.
fn memory(name: &str) -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no such line in /proc/self/status")?.parse::<f64>()? / 1024.0)
}

/// Blocks that the files of a directory take up.
fn bytes_of(dir: &Path) -> Result<u64, Failure> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_of(&entry.path())?,
            false => entry.metadata()?.blocks() * 512,
        };
    }
    Ok(bytes)
}
