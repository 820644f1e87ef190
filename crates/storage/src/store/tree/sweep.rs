//! Dropping what nobody can read any more.

use std::ops::Bound;

use meridian_types::{Key, KeyRange, Timestamp};

use super::walk::{Group, tree_bounds};
use super::{Result, Tree, TreeStore};
use crate::store::{SEEK_AFTER, Swept, VersionStore, encoding, newest_below_may_go};

impl<T: Tree> TreeStore<T> {
    pub(super) fn sweep_chunk(
        &self,
        range: &KeyRange,
        below: Timestamp,
        horizon: Timestamp,
        max_steps: usize,
    ) -> Result<(Swept, Option<Key>)> {
        let (start, end) = tree_bounds(range);
        let mut iter = self
            .tree
            .range(Bound::Included(start), Bound::Excluded(end.clone()));
        let mut sweep = SweepState::new();
        let mut steps = 0;
        let mut resume = None;
        while let Some((encoded, value)) = self.ok(iter.next().transpose())? {
            steps += 1;
            let (prefix, timestamp) = self.split(encoded.as_ref())?;
            if prefix != sweep.group.prefix {
                sweep.finish_key();
                if steps > max_steps {
                    resume = Some(self.key(prefix)?);
                    break;
                }
                sweep.group = Group::new(prefix);
            } else if steps > 2 * max_steps.max(SEEK_AFTER) {
                // Within one key: what is older goes now; the tombstone that hides it stays until the rest is
                // gone.
                sweep.hiding = None;
                resume = Some(self.key(prefix)?);
                break;
            }
            let is_tombstone = self.corrupt("a value", encoding::is_tombstone(value.as_ref()))?;
            if timestamp > below {
                sweep.swept.aging += u64::from(is_tombstone || sweep.group.skipped > 0);
                sweep.group.skipped += 1;
                if sweep.group.skipped.is_multiple_of(SEEK_AFTER) {
                    let from = Bound::Included(encoding::at(prefix, below));
                    iter = self.tree.range(from, Bound::Excluded(end.clone()));
                }
            } else if sweep.group.done {
                sweep.drops.push(encoded);
            } else {
                sweep.group.done = true;
                if newest_below_may_go(timestamp, is_tombstone, below) {
                    sweep.hiding = Some(encoded);
                } else {
                    // Kept for now; a newer version lets it go once that is old enough.
                    sweep.swept.aging += u64::from(sweep.group.skipped > 0);
                }
            }
        }
        if resume.is_none() {
            sweep.finish_key();
        }
        sweep.swept.dropped = sweep.drops.len() as u64;
        self.drop_versions(sweep.drops, horizon)?;
        Ok((sweep.swept, resume))
    }

    /// Deletes versions and notes the horizon that allows it, in one batch.
    fn drop_versions(&self, versions: Vec<T::Slice>, horizon: Timestamp) -> Result<()> {
        if versions.is_empty() {
            return Ok(());
        }
        let horizon = horizon.max(self.horizon()?);
        let mut batch = self.tree.batch();
        self.put_horizon(&mut batch, horizon);
        for version in versions {
            self.tree.remove(&mut batch, version);
        }
        self.ok(self.tree.commit(batch))
    }
}

/// A sweep in the middle of one key.
struct SweepState<S> {
    group: Group,
    /// The key's newest version that is old enough, when it is a tombstone: goes only together with all that
    /// it hides.
    hiding: Option<S>,
    drops: Vec<S>,
    swept: Swept,
}

impl<S> SweepState<S> {
    fn new() -> Self {
        Self {
            group: Group::default(),
            hiding: None,
            drops: Vec::new(),
            swept: Swept::default(),
        }
    }

    fn finish_key(&mut self) {
        self.drops.extend(self.hiding.take());
    }
}
