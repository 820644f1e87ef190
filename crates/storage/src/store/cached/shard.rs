//! The newest versions of a part of the keys, and how often they changed: judged and changed under one lock.

use std::hash::{BuildHasherDefault, DefaultHasher};

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::Timestamp;
use meridian_types::mutation::{Rule, is_broken};
use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use crate::store::VersionWrite;

/// The same in every process: what goes first follows from what is read and written.
pub(super) type Hashing = BuildHasherDefault<DefaultHasher>;

/// The newest version of a key; `None` when it has none at all.
type Newest = Option<Version<Bytes>>;

/// About what an entry takes beside its key and value: its place in the table, and three pieces of the heap.
const ENTRY_BYTES: u64 = 192;
/// As many bytes per entry are taken for usual when it is decided how many keys that had to go are remembered, by their hashes. That
/// memory comes on top, about a tenth of the whole.
const USUAL_ENTRY_BYTES: u64 = 512;
/// Of a shard one entry takes this part at most.
const LARGEST_PART: u64 = 4;

/// What is known of a key.
#[derive(Debug)]
pub(super) enum Found {
    /// What the engine would say.
    Answer(Newest),
    /// Only the engine knows, and what it says is not to be kept.
    NoUse,
    /// Nothing, when the shard had changed so many times.
    Nothing { changes: u64 },
}

pub(super) struct Shard {
    /// How many versions were applied to its keys, and how often all was forgotten.
    changes: u64,
    is_off: bool,
    largest: u64,
    newest: Cache<Box<[u8]>, Newest, Bounded, Hashing>,
}

impl Shard {
    /// Empty, for about `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let usual = usize::try_from(capacity / USUAL_ENTRY_BYTES).unwrap_or(usize::MAX);
        let lifecycle = DefaultLifecycle::default();
        Self {
            changes: 0,
            is_off: false,
            largest: capacity / LARGEST_PART,
            newest: Cache::with(usual, capacity, Bounded, Hashing::default(), lifecycle),
        }
    }

    pub fn look_up(&self, key: &[u8], at: Timestamp) -> Found {
        if self.is_off {
            return Found::NoUse;
        }
        match self.newest.get(key) {
            None => Found::Nothing {
                changes: self.changes,
            },
            Some(Some(version)) if version.timestamp > at => Found::NoUse,
            Some(newest) => Found::Answer(newest.clone()),
        }
    }

    /// Keeps what the engine said is the newest of all, if nothing was applied since the shard had changed so many times: the engine
    /// may have been asked before that and would say something else now.
    pub fn keep(&mut self, key: &[u8], newest: Option<&Version<Bytes>>, changes: u64) {
        let is_stale = self.changes != changes && !is_broken(Rule::CacheNewest);
        if !is_stale && self.fits(key, newest.and_then(|version| version.value.as_ref())) {
            self.newest.insert(key.into(), newest.map(own));
        }
    }

    /// The engine has applied it. What is known of its key stays known; nothing else begins to be, or pure writes would pay for
    /// reads that nobody does.
    pub fn applied(&mut self, write: &VersionWrite) {
        self.changes += 1;
        let key = write.key.as_ref();
        match self.newest.peek(key) {
            // Streams are not in step with one another: a newer one may have come before.
            Some(Some(known)) if known.timestamp > write.timestamp => {}
            Some(_) if self.fits(key, write.value.as_ref()) => {
                let version = Version {
                    timestamp: write.timestamp,
                    value: write.value.as_ref().map(copy),
                };
                // That it is written says nothing of its being read.
                let replaced = self.newest.replace(key.into(), Some(version), true);
                debug_assert!(replaced.is_ok(), "it was there");
            }
            Some(_) => {
                self.newest.remove(key);
            }
            None => {}
        }
    }

    /// The engine's versions are others now.
    pub fn forget(&mut self) {
        self.changes += 1;
        self.newest.clear();
    }

    /// Forgets everything for good.
    pub fn turn_off(&mut self) {
        self.is_off = true;
        self.forget();
    }

    fn fits(&self, key: &[u8], value: Option<&Bytes>) -> bool {
        bytes(key, value) <= self.largest
    }

    /// Bytes in use, about.
    #[cfg(test)]
    pub fn weight(&self) -> u64 {
        self.newest.weight()
    }
}

/// What entries take, about.
#[derive(Clone)]
struct Bounded;

impl Weighter<Box<[u8]>, Newest> for Bounded {
    fn weight(&self, key: &Box<[u8]>, newest: &Newest) -> u64 {
        bytes(key, newest.as_ref().and_then(|version| version.value.as_ref()))
    }
}

fn bytes(key: &[u8], value: Option<&Bytes>) -> u64 {
    ENTRY_BYTES + (key.len() + value.map_or(0, Bytes::len)) as u64
}

fn own(version: &Version<Bytes>) -> Version<Bytes> {
    Version {
        timestamp: version.timestamp,
        value: version.value.as_ref().map(copy),
    }
}

/// A piece of its own: a slice would keep the message, or the engine's block, that it is a part of.
fn copy(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}
