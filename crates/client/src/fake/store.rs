//! Versions, snapshots and commits: snapshot isolation written down plainly.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_rpc::KvError;
use meridian_rpc::error::KvResult;
use meridian_types::{Key, KeyRange, Timestamp, TxnId, limits};

/// The fake's time begins here and rises by this at every look.
const EPOCH: u64 = 1_700_000_000_000_000_000;
const TICK: u64 = 1_000;

pub(super) struct Store {
    versions: BTreeMap<Key, Vec<(u64, Option<Bytes>)>>,
    clock: u64,
    pub(super) horizon: u64,
    /// `None`: barred.
    outcomes: BTreeMap<TxnId, Option<u64>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            versions: BTreeMap::new(),
            clock: EPOCH,
            horizon: 0,
            outcomes: BTreeMap::new(),
        }
    }
}

/// An open transaction.
pub(super) struct Txn {
    pub(super) id: TxnId,
    pub(super) generation: u64,
    pub(super) start: Option<u64>,
    pub(super) min_start: u64,
    pub(super) read_only: bool,
    pub(super) serializable: bool,
    pub(super) writes: BTreeMap<Key, Option<Bytes>>,
    pub(super) checked: Vec<KeyRange>,
    pub(super) savepoints: Vec<(String, BTreeMap<Key, Option<Bytes>>)>,
    /// What a pipelined write met; surfaces at the next read or at commit.
    pub(super) failed: Option<KvError>,
}

impl Store {
    pub(super) fn now(&mut self) -> u64 {
        self.clock += TICK;
        self.clock
    }

    pub(super) fn start(&mut self, txn: &mut Txn) -> KvResult<u64> {
        let start = match txn.start {
            Some(start) => start,
            None => {
                self.clock = self.clock.max(txn.min_start);
                self.now()
            }
        };
        txn.start = Some(start);
        if start < self.horizon {
            return Err(KvError::SnapshotTooOld {
                min_start: Timestamp(self.horizon),
            });
        }
        Ok(start)
    }

    /// The value that the transaction sees, with its commit timestamp.
    pub(super) fn get(&mut self, txn: &mut Txn, key: &Key, check: bool) -> KvResult<Option<(Bytes, u64)>> {
        let start = self.start(txn)?;
        if check || txn.serializable {
            txn.checked.push(KeyRange::point(key.clone()));
        }
        if let Some(own) = txn.writes.get(key) {
            return Ok(own.clone().map(|value| (value, 0)));
        }
        Ok(self.version_at(key, start))
    }

    fn version_at(&self, key: &Key, start: u64) -> Option<(Bytes, u64)> {
        let versions = self.versions.get(key)?;
        let (timestamp, value) = versions.iter().rev().find(|(timestamp, _)| *timestamp <= start)?;
        value.clone().map(|value| (value, *timestamp))
    }

    /// Everything that the transaction sees in a range, in key order.
    pub(super) fn rows(
        &mut self,
        txn: &mut Txn,
        range: &KeyRange,
        check: bool,
    ) -> KvResult<Vec<(Key, Bytes, u64)>> {
        let start = self.start(txn)?;
        if check || txn.serializable {
            txn.checked.push(range.clone());
        }
        let mut rows: BTreeMap<Key, (Bytes, u64)> = self
            .versions
            .range::<[u8], _>(range.bounds())
            .filter_map(|(key, _)| Some((key.clone(), self.version_at(key, start)?)))
            .collect();
        for (key, own) in txn.writes.range::<[u8], _>(range.bounds()) {
            match own {
                Some(value) => rows.insert(key.clone(), (value.clone(), 0)),
                None => rows.remove(key),
            };
        }
        let flat = rows.into_iter().map(|(key, (value, at))| (key, value, at));
        Ok(flat.collect())
    }

    pub(super) fn write(txn: &mut Txn, key: Key, value: Option<Bytes>) -> KvResult<()> {
        if txn.read_only {
            return Err(KvError::ReadOnly);
        }
        if txn.writes.len() >= limits::MAX_TXN_KEYS && !txn.writes.contains_key(&key) {
            return Err(KvError::LimitExceeded {
                limit: "keys written by a transaction".to_owned(),
                allowed: limits::MAX_TXN_KEYS as u64,
                got: limits::MAX_TXN_KEYS as u64 + 1,
            });
        }
        txn.writes.insert(key, value);
        Ok(())
    }

    /// First committer wins. Returns 0 when there was nothing to write.
    pub(super) fn commit(&mut self, mut txn: Txn) -> KvResult<u64> {
        if let Some(error) = txn.failed.take() {
            return Err(error);
        }
        match self.outcomes.get(&txn.id) {
            Some(Some(timestamp)) => return Ok(*timestamp),
            Some(None) => {
                return Err(KvError::Aborted {
                    why: "barred by a question for its outcome".to_owned(),
                });
            }
            None => {}
        }
        if txn.read_only {
            return Ok(0);
        }
        let start = self.start(&mut txn)?;
        let written = txn.writes.keys().map(|key| KeyRange::point(key.clone()));
        for range in written.chain(txn.checked.iter().cloned()) {
            for (key, versions) in self.versions.range::<[u8], _>(range.bounds()) {
                if let Some((with, _)) = versions.last().filter(|(timestamp, _)| *timestamp > start) {
                    return Err(KvError::Conflict {
                        key: key.clone(),
                        with: Timestamp(*with),
                    });
                }
            }
        }
        if txn.writes.is_empty() {
            return Ok(0);
        }
        let commit = self.now();
        for (key, value) in txn.writes {
            self.versions.entry(key).or_default().push((commit, value));
        }
        self.outcomes.insert(txn.id, Some(commit));
        Ok(commit)
    }

    /// The commit timestamp; `None` after barring it for good.
    pub(super) fn outcome(&mut self, txn: TxnId) -> Option<u64> {
        *self.outcomes.entry(txn).or_insert(None)
    }
}
