//! What a storage node keeps its versions in: memory that forgets at a crash what was not flushed, fjall, or sled.
//!
//! Both engines write from threads of their own, at times of their own. Nothing of that can be seen through their interface, but a
//! directory that is copied at any moment is another one in every run. So a crash leaves either everything that was
//! applied (the engine is closed and opened again) or what was flushed last: the directory is copied right after the
//! simulation flushes, when nothing is under way (runs write far less than what fills one of fjall's tables, so it writes none out).
//! Such runs are then the same runs, byte for byte, as others are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meridian_storage::store::{FjallStore, MemoryStore, SledStore, VersionStore};
use meridian_storage::{Engine, StoreError};
use rand::Rng;
use rand::rngs::StdRng;

const CACHE_BYTES: u64 = 4 << 20;
/// sled's own thread writes out so rarely that a run never sees it; the simulation flushes when it wants to.
const FLUSH_INTERVAL_MS: u64 = 3_600_000;

/// The versions of one node.
pub enum Versions {
    /// In memory.
    Memory(Mutex<MemoryStore>),
    /// In a directory.
    OnDisk {
        /// What keeps them there.
        engine: Engine,
        /// The directory.
        dir: PathBuf,
        /// Open while a process uses it.
        open: Mutex<Option<Open>>,
    },
}

/// An engine at work.
pub enum Open {
    /// fjall.
    Fjall(Arc<FjallStore>),
    /// sled.
    Sled(Arc<SledStore>),
}

impl Open {
    fn new(engine: Engine, dir: &Path) -> Result<Self, StoreError> {
        Ok(match engine {
            Engine::Fjall => Self::Fjall(Arc::new(FjallStore::open(dir, CACHE_BYTES)?)),
            Engine::Sled => Self::Sled(Arc::new(SledStore::open(dir, CACHE_BYTES, FLUSH_INTERVAL_MS)?)),
        })
    }

    fn store(&self) -> Arc<dyn VersionStore> {
        match self {
            Self::Fjall(store) => store.clone(),
            Self::Sled(store) => store.clone(),
        }
    }

    /// The directory is free afterwards, if nobody else uses the store.
    fn close(self) {
        match self {
            Self::Fjall(store) => drop(Arc::into_inner(store).map(FjallStore::close)),
            Self::Sled(store) => drop(Arc::into_inner(store).map(SledStore::close)),
        }
    }
}

impl Versions {
    /// None yet, in memory.
    pub fn in_memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// Those that an engine keeps in a directory.
    pub fn in_dir(engine: Engine, dir: PathBuf) -> Self {
        Self::OnDisk {
            engine,
            dir,
            open: Mutex::default(),
        }
    }

    /// As a process or a checker uses them.
    pub fn store(&self) -> Result<Arc<dyn VersionStore>, StoreError> {
        match self {
            Self::Memory(store) => Ok(Arc::new(lock(store).clone())),
            Self::OnDisk { engine, dir, open } => {
                let mut open = lock(open);
                let at_work = match open.take() {
                    Some(at_work) => at_work,
                    None => Open::new(*engine, dir)?,
                };
                Ok(open.insert(at_work).store())
            }
        }
    }

    /// Writes out what was applied; a crash may go back to here.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.store()?.flush()?;
        if let Self::OnDisk { dir, .. } = self {
            // Without a copy a crash loses nothing.
            let copied = remove_dir(&flushed(dir)).and_then(|()| copy(dir, &flushed(dir)));
            if let Err(error) = copied {
                tracing::warn!(%error, "the flushed versions cannot be copied");
            }
        }
        Ok(())
    }

    /// The process is gone, and with it perhaps what was not flushed.
    pub fn crash(&self, rng: &mut StdRng) {
        self.close();
        match self {
            Self::Memory(store) => {
                let store = lock(store);
                store.crash(rng.random_range(0..=store.unflushed()));
            }
            Self::OnDisk { dir, .. } if rng.random_bool(0.5) && flushed(dir).exists() => {
                let restored = remove_dir(dir).and_then(|()| copy(&flushed(dir), dir));
                if let Err(error) = restored {
                    tracing::warn!(%error, "the flushed versions cannot be restored");
                }
            }
            Self::OnDisk { .. } => {}
        }
    }

    /// All of them are gone for ever.
    pub fn lose(&self) {
        match self {
            Self::Memory(store) => *lock(store) = MemoryStore::new(),
            Self::OnDisk { .. } => self.remove(),
        }
    }

    /// The process is gone.
    pub fn close(&self) {
        if let Self::OnDisk { open, .. } = self
            && let Some(at_work) = lock(open).take()
        {
            at_work.close();
        }
    }

    /// Nobody needs them any more.
    pub fn remove(&self) {
        self.close();
        if let Self::OnDisk { dir, .. } = self {
            // Left behind, they harm nobody.
            let _ = remove_dir(dir);
            let _ = remove_dir(&flushed(dir));
        }
    }
}

/// Where the copy is of what was flushed.
fn flushed(dir: &Path) -> PathBuf {
    dir.with_extension("flushed")
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use meridian_storage::store::AppliedBatch;
    use meridian_types::{Lsn, Position, StreamId};
    use rand::SeedableRng;

    use super::*;

    fn position(versions: &Versions) -> Lsn {
        let progress = versions.store().unwrap().progress().unwrap();
        progress
            .values()
            .map(|progress| progress.position.lsn)
            .max()
            .unwrap_or_default()
    }

    fn apply(versions: &Versions, lsn: u64) {
        let mut batch = AppliedBatch::default();
        batch.progress.entry(StreamId(1)).or_default().position = Position::new(1, lsn);
        versions.store().unwrap().apply(&batch).unwrap();
    }

    #[test]
    fn an_engine_loses_at_a_crash_what_was_not_flushed_or_nothing() {
        for engine in [Engine::Fjall, Engine::Sled] {
            loses_what_was_not_flushed_or_nothing(engine);
        }
    }

    fn loses_what_was_not_flushed_or_nothing(engine: Engine) {
        let dir = std::env::temp_dir().join(format!("meridian-sim-{engine}-{}", std::process::id()));
        let versions = Versions::in_dir(engine, dir.join("storage-1"));
        let rng = &mut StdRng::seed_from_u64(1);
        let mut found = [0; 2];
        for round in 1..=20 {
            apply(&versions, round * 10);
            versions.flush().unwrap();
            apply(&versions, round * 10 + 1);
            versions.crash(rng);
            let left = position(&versions).0;
            let lost = usize::try_from(round * 10 + 1 - left).unwrap();
            found[lost] += 1;
        }
        assert!(found.iter().all(|count| *count > 3), "{found:?}");
        versions.remove();
        fs::remove_dir(&dir).unwrap();
    }
}
