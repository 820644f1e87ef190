//! What an engine leaves in its directory, and what it refuses to open.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::Config;
use crate::store::tree::{Result, Tree, TreeStore};

fn open_sled(dir: &Path) -> Result<SledStore> {
    SledStore::open(dir, CACHE_BYTES, FLUSH_INTERVAL_MS)
}

fn open_fjall(dir: &Path) -> Result<FjallStore> {
    FjallStore::open(dir, CACHE_BYTES)
}

/// Past all that a store checks.
fn put<T: Tree>(store: &TreeStore<T>, key: &[u8], value: &[u8]) {
    let mut batch = store.tree.batch();
    store.tree.insert(&mut batch, key.to_vec(), value.to_vec());
    assert!(store.tree.commit(batch).is_ok());
}

fn keeps_what_was_applied<T: Tree>(open: impl Fn(&Path) -> Result<TreeStore<T>>) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let store = open(dir).unwrap();
    store.apply(&batch(&[("a", 1, Some("1"))])).unwrap();
    store.flush().unwrap();
    assert!(
        matches!(open(dir), Err(StoreError::Locked { .. })),
        "two processes at once"
    );
    store.close();
    let store = open(dir).unwrap();
    let found = store.newest(b"a", Timestamp(1)).unwrap();
    assert_eq!(found.unwrap().value.unwrap(), "1");
    put(&store, encoding::FORMAT_KEY, &2_u32.to_be_bytes());
    store.close();
    let refused = open(dir).map(|_| ()).unwrap_err().to_string();
    assert!(
        refused.contains("format 2") && refused.contains(dir.to_str().unwrap()),
        "{refused}"
    );
}

#[test]
fn an_engine_keeps_what_was_applied_and_refuses_a_format_that_it_does_not_understand() {
    keeps_what_was_applied(open_sled);
    keeps_what_was_applied(open_fjall);
}

fn refuses_foreign_content<T: Tree>(open: impl Fn(&Path) -> Result<TreeStore<T>>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    put(&store, b"something", b"else");
    let mut unmarked = store.tree.batch();
    let mark = encoding::FORMAT_KEY.to_vec();
    store.tree.remove(&mut unmarked, mark.into());
    assert!(store.tree.commit(unmarked).is_ok());
    store.close();
    assert!(matches!(open(dir.path()), Err(StoreError::UnknownFormat { .. })));
}

#[test]
fn foreign_content_is_refused() {
    refuses_foreign_content(open_sled);
    refuses_foreign_content(open_fjall);
}

fn says_that_it_may_be_emptied<T: Tree>(open: impl Fn(&Path) -> Result<TreeStore<T>>) {
    let dir = tempfile::tempdir().unwrap();
    let says_so = |error: StoreError| {
        let text = error.to_string();
        assert!(
            text.contains("empty this directory") && text.contains(dir.path().to_str().unwrap()),
            "{text}"
        );
    };
    let file = dir.path().join("not-a-directory");
    fs::write(&file, b"x").unwrap();
    says_so(open(&file).map(|_| ()).unwrap_err());
    let versions = dir.path().join("versions");
    let store = open(&versions).unwrap();
    put(&store, &encoding::version(b"a", Timestamp(1)), b"\x07 is no tag");
    store.close();
    let store = open(&versions).unwrap();
    says_so(store.newest(b"a", Timestamp(1)).unwrap_err());
    let all = KeyRange::all();
    let walked = store.walk(&all, Timestamp(1), Direction::Forward, 9, &mut |_, _| {
        ControlFlow::Break(())
    });
    says_so(walked.unwrap_err());
    says_so(store.sweep(&all, Timestamp(1), Timestamp(1), 9).unwrap_err());
}

#[test]
fn a_store_that_cannot_be_used_says_that_it_may_be_emptied() {
    says_that_it_may_be_emptied(open_sled);
    says_that_it_may_be_emptied(open_fjall);
}

/// The files of a directory, with what is in them.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_files_of_another_engine_are_refused_and_left_alone() {
    for (ours, other) in [(Engine::Sled, Engine::Fjall), (Engine::Fjall, Engine::Sled)] {
        let dir = tempfile::tempdir().unwrap();
        let config = |engine| Config {
            data_dir: dir.path().to_owned(),
            engine,
            ..Config::default()
        };
        // Directories of sled from before there was a choice look no different.
        match ours {
            Engine::Sled => open_sled(dir.path()).unwrap().close(),
            Engine::Fjall => open_fjall(dir.path()).unwrap().close(),
        }
        let before = files(dir.path());
        let refused = engine::open(&config(Some(other))).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, StoreError::OtherEngine { found, wanted, .. } if (found, wanted) == (ours, other))
        );
        let text = refused.to_string();
        for part in [
            dir.path().to_str().unwrap(),
            &format!("kept by {ours}"),
            &format!("asks for {other}"),
            &format!("engine = \"{ours}\""),
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            files(dir.path()) == before,
            "the files of {ours} are as they were"
        );
        for asked in [Some(ours), None] {
            engine::open(&config(asked)).map(|_| ()).unwrap();
            let changed = other.is_in(dir.path());
            assert!(!changed, "{ours} goes on where {asked:?} is asked for");
        }
    }
}

#[test]
fn an_empty_directory_is_kept_by_fjall_if_nothing_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: dir.path().to_owned(),
        ..Config::default()
    };
    engine::open(&config).map(|_| ()).unwrap();
    assert!(Engine::Fjall.is_in(dir.path()) && !Engine::Sled.is_in(dir.path()));
}
