//! A process that applies is killed, and what it left is opened: whole batches, and none without those before it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::*;

/// Where the process that is to be killed applies; not set in any other.
const DIR: &str = "MERIDIAN_TEST_CRASH_DIR";
const ENGINE: &str = "MERIDIAN_TEST_CRASH_ENGINE";
const STREAM: StreamId = StreamId(1);
const KEYS: u64 = 7;
/// Versions of one batch.
const WIDTH: u64 = 5;

fn open(engine: &str, dir: &Path) -> Box<dyn VersionStore> {
    match engine {
        "sled" => Box::new(SledStore::open(dir, CACHE_BYTES, 50).unwrap()),
        _ => Box::new(FjallStore::open(dir, CACHE_BYTES).unwrap()),
    }
}

fn key(at: u64) -> Key {
    format!("key {}", at % KEYS).as_str().into()
}

fn value(at: u64) -> Bytes {
    format!("{at:08}").repeat(200).into()
}

/// Batch `lsn`: five versions at five timestamps, large enough that tables are written out while the test runs.
fn entry(lsn: u64) -> AppliedBatch {
    let versions = (lsn * WIDTH..(lsn + 1) * WIDTH).map(|at| VersionWrite {
        key: key(at),
        timestamp: Timestamp(at),
        value: Some(value(at)),
    });
    let progress = Progress {
        position: Position::new(1, lsn),
        last_commit: Timestamp((lsn + 1) * WIDTH - 1),
    };
    AppliedBatch {
        versions: versions.collect(),
        progress: [(STREAM, progress)].into(),
    }
}

fn applied(store: &dyn VersionStore) -> u64 {
    let progress = store.progress().unwrap();
    progress.get(&STREAM).map_or(0, |it| it.position.lsn.0)
}

/// All that is readable belongs to the position and the horizon that the store names.
fn check(store: &dyn VersionStore, what: &str) -> u64 {
    let last = applied(store);
    let end = (last + 1) * WIDTH;
    let horizon = store.horizon().unwrap().0;
    for at in horizon.max(WIDTH)..end {
        let found = store.newest(key(at).as_ref(), Timestamp(at)).unwrap();
        let found = found.unwrap_or_else(|| panic!("{what}: {at} of {end} is missing, horizon {horizon}"));
        assert_eq!(found.timestamp, Timestamp(at), "{what}, of {end}");
        assert_eq!(found.value, Some(value(at)), "{what}");
    }
    for version in all_versions(store, 1_000) {
        assert!(version.timestamp.0 < end, "{what}: a batch without one before it");
    }
    last
}

/// The process that is killed.
#[test]
fn applies_until_it_is_killed() {
    let (Some(dir), Ok(engine)) = (std::env::var_os(DIR), std::env::var(ENGINE)) else {
        return;
    };
    let store = open(&engine, &PathBuf::from(dir));
    for lsn in applied(&*store) + 1.. {
        store.apply(&entry(lsn)).unwrap();
        if lsn % 500 == 0 {
            sweep_all(&*store, (lsn - 400) * WIDTH, 100);
        }
    }
}

#[test]
fn a_killed_process_leaves_whole_batches_none_without_those_before() {
    for engine in ["sled", "fjall"] {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for round in 0..4 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "store::tests::crash::applies_until_it_is_killed"])
                .env(DIR, dir.path())
                .env(ENGINE, engine)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            sleep(Duration::from_millis(700 + 130 * round));
            child.kill().unwrap();
            child.wait().unwrap();
            let store = open(engine, dir.path());
            let now = check(&*store, &format!("{engine}, round {round}"));
            assert!(now >= last, "{engine}: what was read once is not lost");
            last = now;
        }
        assert!(last > 0, "{engine} has applied something");
        println!("{engine}: {last} batches");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &path);
        } else {
            fs::copy(entry.path(), path).unwrap();
        }
    }
}

/// What a power loss does to the end of a log: cut off anywhere, or zeros from there on.
#[test]
fn a_torn_log_of_fjall_leaves_whole_batches_none_without_those_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
    for lsn in 1..=30 {
        store.apply(&entry(lsn)).unwrap();
    }
    store.close();
    let log = Path::new("fjall/journals/0");
    let whole = fs::read(dir.path().join(log)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // Written in vain for each copy otherwise: fjall makes its logs 32 MiB long, of zeros.
    fs::write(dir.path().join(log), &whole[..used]).unwrap();
    let mut opened = 0;
    for (part, zeros) in (1..=12).flat_map(|part| [(part, false), (part, true)]) {
        let torn = tempfile::tempdir().unwrap();
        copy(dir.path(), torn.path());
        let mut left = whole[..used * part / 12 - part % 7].to_vec();
        if zeros {
            left.resize(used + (1 << 16), 0);
        }
        fs::write(torn.path().join(log), left).unwrap();
        let store = match FjallStore::open(torn.path(), CACHE_BYTES) {
            // A checksum that was torn is not told from one of damage: the store says so, and is filled anew.
            Err(StoreError::Unusable { .. }) if zeros => continue,
            opened => opened.unwrap(),
        };
        opened += 1;
        let last = check(&store, &format!("part {part}, zeros: {zeros}"));
        let expected = 30 * part as u64 / 12;
        assert!(
            (expected.saturating_sub(2)..=expected).contains(&last),
            "{last} of {expected}"
        );
        // And goes on.
        store.apply(&entry(last + 1)).unwrap();
        store.close();
        let store = FjallStore::open(torn.path(), CACHE_BYTES).unwrap();
        assert_eq!(check(&store, "afterwards"), last + 1);
    }
    assert!(opened >= 20, "{opened} of 24");
}
