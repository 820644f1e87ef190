//! An engine in whose calls something else happens.

use std::sync::{Mutex, Weak};

use super::*;

/// What happens in the middle of a call.
#[derive(Debug)]
pub enum Meanwhile {
    /// After the engine has answered `newest`, and before it is known who kept the answer.
    AppliedWhileRead(AppliedBatch),
    /// Before the engine applies.
    ReadBeforeApplied(u64),
    /// After the engine has applied, while `apply` has not returned.
    ReadAfterApplied(u64),
    /// The engine does not apply, and says so.
    Failure,
    /// The engine applies, and then fails nevertheless.
    LateFailure,
}

/// An engine that lets something happen in the middle of the next call that it fits.
pub struct Engine {
    pub inner: MemoryStore,
    meanwhile: Mutex<Option<Meanwhile>>,
    cached: Weak<Cached>,
}

impl Engine {
    pub fn cached(capacity: u64) -> (Arc<Cached>, Arc<Self>) {
        let mut engine = None;
        let cached = Arc::new_cyclic(|cached| {
            let made = Arc::new(Self {
                inner: MemoryStore::new(),
                meanwhile: Mutex::default(),
                cached: cached.clone(),
            });
            engine = Some(made.clone());
            Cached::new(made, capacity, Arc::default())
        });
        (cached, engine.unwrap())
    }

    pub fn next(&self, meanwhile: Meanwhile) {
        *self.meanwhile.lock().unwrap() = Some(meanwhile);
    }

    fn take(&self, is_fit: impl Fn(&Meanwhile) -> bool) -> Option<Meanwhile> {
        self.meanwhile.lock().unwrap().take_if(|it| is_fit(it))
    }

    fn read(&self, at: u64) {
        self.cached
            .upgrade()
            .unwrap()
            .newest(b"k", Timestamp(at))
            .unwrap();
    }
}

fn failed() -> StoreError {
    StoreError::Unusable {
        dir: "nowhere".into(),
        what: "it failed".to_owned(),
    }
}

impl VersionStore for Engine {
    fn apply(&self, batch: &AppliedBatch) -> Result<(), StoreError> {
        match self.take(|it| !matches!(it, Meanwhile::AppliedWhileRead(_))) {
            Some(Meanwhile::Failure) => return Err(failed()),
            Some(Meanwhile::ReadBeforeApplied(at)) => {
                self.read(at);
                self.inner.apply(batch)?;
            }
            Some(Meanwhile::ReadAfterApplied(at)) => {
                self.inner.apply(batch)?;
                self.read(at);
            }
            Some(Meanwhile::LateFailure) => {
                self.inner.apply(batch)?;
                return Err(failed());
            }
            _ => self.inner.apply(batch)?,
        }
        Ok(())
    }

    fn newest(&self, key: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>, StoreError> {
        let found = self.inner.newest(key, at);
        if let Some(Meanwhile::AppliedWhileRead(batch)) =
            self.take(|it| matches!(it, Meanwhile::AppliedWhileRead(_)))
        {
            self.cached.upgrade().unwrap().apply(&batch)?;
        }
        found
    }

    fn walk(
        &self,
        range: &KeyRange,
        at: Timestamp,
        direction: Direction,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>, StoreError> {
        self.inner.walk(range, at, direction, max_steps, visit)
    }

    fn sweep(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>), StoreError> {
        self.inner.sweep(range, below, horizon, max_steps)
    }

    fn versions(
        &self,
        after: Option<&(Key, Timestamp)>,
        max_steps: usize,
        visit: &mut VisitVersion<'_>,
    ) -> Result<bool, StoreError> {
        self.inner.versions(after, max_steps, visit)
    }

    fn begin_filling(&self) -> Result<(), StoreError> {
        self.inner.begin_filling()
    }

    fn clear(&self, max_steps: usize) -> Result<bool, StoreError> {
        match self.take(|it| matches!(it, Meanwhile::LateFailure)) {
            Some(_) => self.inner.clear(max_steps).and(Err(failed())),
            None => self.inner.clear(max_steps),
        }
    }

    fn end_filling(
        &self,
        progress: &BTreeMap<StreamId, Progress>,
        horizon: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.end_filling(progress, horizon)
    }

    fn is_incomplete(&self) -> Result<bool, StoreError> {
        self.inner.is_incomplete()
    }

    fn progress(&self) -> Result<BTreeMap<StreamId, Progress>, StoreError> {
        self.inner.progress()
    }

    fn horizon(&self) -> Result<Timestamp, StoreError> {
        self.inner.horizon()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }

    fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }
}
