//! The bytes of a stream's newest entries, for the journal nodes that do not have them yet.

use std::collections::VecDeque;

use meridian_rpc::internal::Entry;
use meridian_types::Lsn;

use crate::records::entry_bytes;

/// The end of the owner's log, in memory. Older entries are read back from a journal node when one needs them.
///
/// Invariant: `entries` are those of `first ..`, without gaps.
#[derive(Debug)]
pub(crate) struct Tail {
    first: Lsn,
    entries: VecDeque<Entry>,
    size_bytes: usize,
    limit_bytes: usize,
}

impl Tail {
    /// A tail whose first entry will be `first`.
    pub(crate) fn new(first: Lsn, limit_bytes: usize) -> Self {
        Self {
            first,
            entries: VecDeque::new(),
            size_bytes: 0,
            limit_bytes,
        }
    }

    /// The first lsn that is here (or will be, when there is none).
    pub(crate) fn first(&self) -> Lsn {
        self.first
    }

    /// Adds the next entry.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.lsn, self.first.0 + self.entries.len() as u64);
        self.size_bytes += entry_bytes(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets what every replica has, and what is committed and does not fit. Nothing else: entries that are not on
    /// a quorum cannot be read back.
    pub(crate) fn trim(&mut self, lowest_needed: Lsn, committed: Lsn) {
        while self.first <= committed
            && (self.first < lowest_needed || self.size_bytes > self.limit_bytes)
            && let Some(entry) = self.entries.pop_front()
        {
            self.size_bytes -= entry_bytes(&entry);
            self.first = self.first.next();
        }
    }

    /// How many entries from `from` on fit into `max_bytes` (at least one, if `from` is here).
    pub(crate) fn count_from(&self, from: Lsn, max_bytes: usize) -> usize {
        count_within(self.iter_from(from), max_bytes)
    }

    /// The entries from `from` on; none when it is not here.
    pub(crate) fn iter_from(&self, from: Lsn) -> impl Iterator<Item = &Entry> {
        let skip = from
            .0
            .checked_sub(self.first.0)
            .map_or(self.entries.len(), |skip| {
                usize::try_from(skip)
                    .unwrap_or(usize::MAX)
                    .min(self.entries.len())
            });
        self.entries.range(skip..)
    }
}

/// How many of the entries fit into `max_bytes`, at least one.
pub(crate) fn count_within<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: usize) -> usize {
    let mut size = 0usize;
    entries
        .take_while(|entry| {
            let before = size;
            size = size.saturating_add(entry_bytes(entry));
            before == 0 || size <= max_bytes
        })
        .count()
}
