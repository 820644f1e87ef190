//! Which recent writes a transaction collides with (sections 4 and 5).
//!
//! [`RecentWrites`] remembers, per key, the newest timestamp at which the key was written or is promised to be.
//! It has a fixed size: what it forgets, it forgets oldest first, and `window_low` rises to the
//! timestamp of what was forgotten. A snapshot from before `window_low` cannot be judged any more. So forgetting can refuse a
//! transaction that could have committed, never the other way round.
//!
//! Reads of open attempts are held against writers (R11) beside the keys.

mod entry;
mod holds;

use std::collections::{BTreeMap, BTreeSet};

use meridian_types::mutation::{Rule, is_broken};
use meridian_types::{Attempt, Key, KeyRange, Timestamp, TxnId};

use entry::Entry;
use holds::Holds;

/// The newest write of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recent {
    /// A transaction committed it.
    Committed {
        /// When.
        at: Timestamp,
        /// Which.
        txn: TxnId,
    },
    /// R11: an attempt that is not decided yet may commit it, at this timestamp at the latest; or has read it.
    Promised {
        /// The attempt.
        attempt: Attempt,
        /// Nobody with a snapshot older than this may write the key, whatever becomes of the attempt.
        promise: Timestamp,
    },
}

impl Recent {
    /// The timestamp that counts in checks.
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Self::Committed { at, .. } => *at,
            Self::Promised { promise, .. } => *promise,
        }
    }
}

/// Why a transaction cannot commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collision {
    /// With another transaction's write.
    With {
        /// The key.
        key: Key,
        /// What was written there: a retry of the whole transaction can succeed if it begins at or after this timestamp.
        with: Recent,
    },
    /// With an attempt of the same transaction, open or committed: its home knows what became of it.
    SameTxn,
}

impl Collision {
    fn new(txn: TxnId, key: &Key, with: Recent) -> Self {
        let of = match with {
            Recent::Committed { txn, .. } => txn,
            Recent::Promised { attempt, .. } => attempt.txn,
        };
        if of == txn {
            return Self::SameTxn;
        }
        Self::With {
            key: key.clone(),
            with,
        }
    }

    /// Final ones before those with an open prepare, and the newest first: that is what a retry has to
    /// begin after.
    fn rank(&self) -> (bool, bool, Timestamp) {
        match self {
            Self::SameTxn => (true, true, Timestamp::MAX),
            Self::With { with, .. } => (false, matches!(with, Recent::Committed { .. }), with.timestamp()),
        }
    }
}

/// A committed write, as one owner hands it to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedWrite {
    /// The key.
    pub key: Key,
    /// When it was written last.
    pub at: Timestamp,
    /// By which transaction.
    pub txn: TxnId,
}

/// What a [`CommittedWrite`] costs beside its key's bytes.
const COMMITTED_WRITE_BYTES: usize = 64;

/// What an entry costs beside its key's bytes: both maps' nodes, about half full, and the allocation.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// The newest write of each key, as far back as a fixed number of bytes allows.
///
/// Invariant: `by_time` holds exactly the `(newest timestamp, key)` of `by_key`, and every one of those not in
/// memory has a timestamp `<= window_low`.
#[derive(Clone, Debug)]
pub struct RecentWrites {
    by_key: BTreeMap<Key, Entry>,
    by_time: BTreeSet<(Timestamp, Key)>,
    holds: Holds,
    size_bytes: usize,
    limit_bytes: usize,
    window_low: Timestamp,
}

impl RecentWrites {
    /// An empty memory of `limit_bytes` that knows nothing of what happened up to `window_low`.
    pub fn new(limit_bytes: usize, window_low: Timestamp) -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_time: BTreeSet::new(),
            holds: Holds::default(),
            size_bytes: 0,
            limit_bytes,
            window_low,
        }
    }

    /// A snapshot older than this cannot be checked: writes after it may have been forgotten.
    pub fn window_low(&self) -> Timestamp {
        self.window_low
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// About how many bytes are in use; at most the limit.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The newest committed writes of about `max_bytes`, newest first, and the `window_low` of who knows these only. What is
    /// promised is not among them.
    pub fn newest_commits(&self, max_bytes: usize) -> (Vec<CommittedWrite>, Timestamp) {
        let mut writes = Vec::new();
        let mut window_low = self.window_low;
        let mut bytes = 0;
        let committed = |key: &Key| self.by_key.get(key)?.committed();
        for (_, key) in self.by_time.iter().rev() {
            let Some((at, txn)) = committed(key) else {
                continue;
            };
            bytes += key.0.len() + COMMITTED_WRITE_BYTES;
            if bytes > max_bytes {
                window_low = window_low.max(at);
            } else {
                let key = key.clone();
                writes.push(CommittedWrite { key, at, txn });
            }
        }
        (writes, window_low)
    }

    /// Refuse every snapshot older than this from now on.
    pub fn raise_window_low(&mut self, to: Timestamp) {
        self.window_low = self.window_low.max(to);
    }

    /// Section 4, step 2: whether a written or checked key has a write newer than `start`, or a written one is held. Call it
    /// only with `start >= window_low`. When there are several, a final one is returned before one with an
    /// open prepare. Reads do not collide with reads.
    pub fn check(
        &self,
        txn: TxnId,
        start: Timestamp,
        written: &[Key],
        reads: &[KeyRange],
    ) -> Option<Collision> {
        debug_assert!(
            start >= self.window_low,
            "the caller refuses what cannot be checked"
        );
        let held = self.holds.check(txn, start, written);
        // Most transactions begin after most writes: then nothing needs to be looked up.
        if self.by_time.last().is_none_or(|(newest, _)| *newest <= start) {
            return held;
        }
        let in_written = written
            .iter()
            .filter_map(|key| self.by_key.get(key)?.collision(txn, start, key));
        let in_reads = reads
            .iter()
            .filter_map(|range| self.check_range(txn, start, range));
        in_written.chain(in_reads).chain(held).max_by_key(Collision::rank)
    }

    /// Some collision in the range, if there is one.
    ///
    /// Two walks in lockstep, over the keys of the range and over the writes newer than `start`:
    /// the shorter one ends the search, so neither a wide range nor an old snapshot makes it long by itself.
    fn check_range(&self, txn: TxnId, start: Timestamp, range: &KeyRange) -> Option<Collision> {
        let mut in_range = self.by_key.range::<[u8], _>(range.bounds());
        let mut newer = self.by_time.iter().rev().take_while(|(at, _)| *at > start);
        loop {
            let (key, entry) = in_range.next()?;
            if let Some(collision) = entry.collision(txn, start, key) {
                return Some(collision);
            }
            let (_, key) = newer.next()?;
            if range.contains(key.as_ref()) {
                return self.by_key.get(key)?.collision(txn, start, key);
            }
        }
    }

    /// The keys were written by a transaction that commits at this timestamp, which is above all that they were
    /// written at before.
    pub fn commit<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>, txn: TxnId, at: Timestamp) {
        for key in keys {
            self.put(key, |entry| entry.commit(at, txn));
        }
        self.forget_oldest();
    }

    /// R11: the attempt may commit a write of these keys up to `promise`.
    pub fn promise<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a Key>,
        attempt: Attempt,
        promise: Timestamp,
    ) {
        for key in keys {
            self.put(key, |entry| entry.promise(attempt, promise));
        }
        self.forget_oldest();
    }

    /// R11: the attempt has read this and may commit up to `promise`. Held until [`Self::release`].
    pub fn hold(&mut self, reads: &[KeyRange], attempt: Attempt, promise: Timestamp) {
        self.holds.hold(reads, attempt, promise);
    }

    /// The attempt's reads, as they were held, are not held any more.
    pub fn release(&mut self, reads: &[KeyRange], attempt: &Attempt) {
        self.holds.release(attempt, reads);
    }

    /// 5.4: the attempt ended. Those of its keys that are still its own are as if written at `commit`, or restored
    /// when it did not commit. Those that were forgotten meanwhile count at `window_low`, which is above the promise.
    pub fn end<'a>(
        &mut self,
        keys: impl IntoIterator<Item = &'a Key>,
        attempt: &Attempt,
        commit: Option<Timestamp>,
    ) {
        for key in keys {
            self.change(key, |entry| {
                if entry.end(attempt)
                    && let Some(at) = commit
                {
                    entry.commit(at, attempt.txn);
                }
            });
        }
    }

    /// What counts in checks of a key.
    pub fn get(&self, key: &Key) -> Option<Recent> {
        self.by_key.get(key)?.recent()
    }

    /// Changes what is remembered of the key, or begins to remember it.
    fn put(&mut self, key: &Key, change: impl FnOnce(&mut Entry)) {
        if self.by_key.contains_key(key) {
            return self.change(key, change);
        }
        let mut entry = Entry::default();
        change(&mut entry);
        let Some(newest) = entry.newest() else {
            return;
        };
        // A copy of its own: the given key may be a slice of a whole request's buffer and would keep it alive.
        let own = Key::from(key.as_ref());
        self.size_bytes += entry_bytes(&own);
        self.by_time.insert((newest, own.clone()));
        self.by_key.insert(own, entry);
    }

    /// Changes what is remembered of the key, if anything is.
    fn change(&mut self, key: &Key, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.by_key.get_mut(key) else {
            return;
        };
        let before = entry.newest().unwrap_or_default();
        change(entry);
        let after = entry.newest();
        if after == Some(before) {
            return;
        }
        let own = self.by_time.take(&(before, key.clone()));
        match (after, own) {
            (Some(after), Some((_, own))) => {
                self.by_time.insert((after, own));
            }
            _ => {
                self.by_key.remove(key);
                self.size_bytes -= entry_bytes(key);
            }
        }
    }

    /// Forgets the oldest entries until the rest fits. A promise counts at its promise.
    fn forget_oldest(&mut self) {
        while self.size_bytes > self.limit_bytes {
            let Some((at, key)) = self.by_time.pop_first() else {
                return;
            };
            self.by_key.remove(&key);
            self.size_bytes -= entry_bytes(&key);
            if !is_broken(Rule::WindowLow) {
                self.raise_window_low(at);
            }
        }
    }
}

fn entry_bytes(key: &Key) -> usize {
    key.0.len() + ENTRY_OVERHEAD_BYTES
}
