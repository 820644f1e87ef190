//! Walking through the keys of a tree.

use std::ops::Bound;

use bytes::Bytes;
use meridian_protocol::visibility::Version;
use meridian_types::{Key, KeyRange, Timestamp};

use super::{Result, Tree, TreeStore};
use crate::store::{Direction, SEEK_AFTER, Visit, encoding, rest_after};

impl<T: Tree> TreeStore<T> {
    pub(super) fn newest_of(&self, prefix: &[u8], at: Timestamp) -> Result<Option<Version<Bytes>>> {
        let start = Bound::Included(encoding::at(prefix, at));
        let end = Bound::Included(encoding::at(prefix, Timestamp::ZERO));
        match self.ok(self.tree.range(start, end).next().transpose())? {
            None => Ok(None),
            Some((encoded, value)) => {
                let (_, timestamp) = self.split(encoded.as_ref())?;
                self.version(timestamp, value).map(Some)
            }
        }
    }

    pub(super) fn walk_forward(
        &self,
        range: &KeyRange,
        at: Timestamp,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        let (start, end) = tree_bounds(range);
        let mut iter = self
            .tree
            .range(Bound::Included(start), Bound::Excluded(end.clone()));
        let mut steps = 0;
        let mut current = Group::default();
        while let Some((encoded, value)) = self.ok(iter.next().transpose())? {
            steps += 1;
            let (prefix, timestamp) = self.split(encoded.as_ref())?;
            if prefix != current.prefix {
                if steps > max_steps && !current.prefix.is_empty() {
                    return self.key(prefix).map(Some);
                }
                current = Group::new(prefix);
            }
            if current.done || timestamp > at {
                current.skipped += 1;
                if current.skipped > SEEK_AFTER {
                    current.skipped = 0;
                    let from = match current.done {
                        true => Bound::Excluded(encoding::at(prefix, Timestamp::ZERO)),
                        false => Bound::Included(encoding::at(prefix, at)),
                    };
                    iter = self.tree.range(from, Bound::Excluded(end.clone()));
                }
                continue;
            }
            current.done = true;
            let key = self.key(prefix)?;
            if visit(key.clone(), self.version(timestamp, value)?).is_break() {
                return Ok(rest_after(range, &key, Direction::Forward));
            }
        }
        Ok(None)
    }

    pub(super) fn walk_reverse(
        &self,
        range: &KeyRange,
        at: Timestamp,
        max_steps: usize,
        visit: &mut Visit<'_>,
    ) -> Result<Option<Key>> {
        let (start, end) = tree_bounds(range);
        let mut iter = self
            .tree
            .range(Bound::Included(start.clone()), Bound::Excluded(end));
        let mut steps = 0;
        let mut current = Group::default();
        while let Some((encoded, _)) = self.ok(iter.next_back().transpose())? {
            steps += 1;
            let (prefix, _) = self.split(encoded.as_ref())?;
            if prefix == current.prefix {
                current.skipped += 1;
                if current.skipped > SEEK_AFTER {
                    current.skipped = 0;
                    let end = Bound::Excluded(prefix.to_vec());
                    iter = self.tree.range(Bound::Included(start.clone()), end);
                }
                continue;
            }
            if steps > max_steps && !current.prefix.is_empty() {
                let last = self.key(&current.prefix)?;
                return Ok(rest_after(range, &last, Direction::Reverse));
            }
            current = Group::new(prefix);
            // In reverse the oldest version comes first, and retention may drop a tombstone together with all
            // that it hides while we are among them. So the visible version is looked up in one step.
            let Some(version) = self.newest_of(prefix, at)? else {
                continue;
            };
            let key = self.key(prefix)?;
            if visit(key.clone(), version).is_break() {
                return Ok(rest_after(range, &key, Direction::Reverse));
            }
        }
        Ok(None)
    }
}

/// The versions of one key, as a walk meets them.
#[derive(Default)]
pub(super) struct Group {
    pub prefix: Vec<u8>,
    pub done: bool,
    pub skipped: usize,
}

impl Group {
    pub fn new(prefix: &[u8]) -> Self {
        Self {
            prefix: prefix.to_vec(),
            ..Self::default()
        }
    }
}

pub(super) fn tree_bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let start = match range.start.as_ref() {
        [] => encoding::FIRST_VERSION.to_vec(),
        key => encoding::prefix(key),
    };
    let end = match &range.end {
        None => encoding::AFTER_VERSIONS.to_vec(),
        Some(key) => encoding::prefix(key.as_ref()),
    };
    (start, end)
}
