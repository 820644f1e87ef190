//! The newest entries of a stream, in memory.

use std::collections::VecDeque;

use meridian_rpc::internal::Entry;
use meridian_types::Lsn;

/// Entries with consecutive lsns, the newest ones of the log.
#[derive(Default)]
pub struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// What an entry takes beside its payload.
const OVERHEAD_BYTES: usize = 128;

fn size(entry: &Entry) -> usize {
    entry.payload.len() + OVERHEAD_BYTES
}

impl Tail {
    /// Adds the next entry.
    pub fn push(&mut self, entry: Entry) {
        if self.entries.back().is_some_and(|last| last.lsn + 1 != entry.lsn) {
            self.clear();
        }
        self.bytes += size(&entry);
        self.entries.push_back(entry);
    }

    /// The entry at `lsn`, if it is still here.
    pub fn get(&self, lsn: Lsn) -> Option<&Entry> {
        let first = self.entries.front()?.lsn;
        self.entries.get(usize::try_from(lsn.0.checked_sub(first)?).ok()?)
    }

    /// What the entries take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes every entry after `lsn`.
    pub fn cut_after(&mut self, lsn: Lsn) {
        while self.entries.back().is_some_and(|last| last.lsn > lsn.0) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| size(&entry));
        }
    }

    /// Forgets the oldest entries until `limit` bytes are left, but only those that can be read back.
    pub fn shrink(&mut self, limit: usize, is_written: impl Fn(Lsn) -> bool) {
        while self.bytes > limit
            && self
                .entries
                .front()
                .is_some_and(|first| is_written(Lsn(first.lsn)))
        {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry));
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}
