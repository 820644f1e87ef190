//! Whose a store is, and of what: marks beside the versions.

use std::ops::Bound;

use meridian_types::{ClusterId, KeyRange};

use super::{Result, Tree, TreeStore};
use crate::error::StoreError;
use crate::store::{VersionStore, encoding, shown};

impl<T: Tree> TreeStore<T> {
    /// A store that this version does not understand is refused; an empty one is marked with this version's
    /// format.
    pub(super) fn check_format(&self) -> Result<()> {
        let ours = encoding::FORMAT;
        let found = match self.get(encoding::FORMAT_KEY)? {
            Some(format) if format.as_ref() == ours.to_be_bytes() => return Ok(()),
            Some(format) => match <[u8; 4]>::try_from(format.as_ref()) {
                Ok(number) => u32::from_be_bytes(number).to_string(),
                Err(_) => "unreadable".to_owned(),
            },
            None if self.is_empty()? => return self.note(encoding::FORMAT_KEY, ours.to_be_bytes().to_vec()),
            None => "missing".to_owned(),
        };
        Err(StoreError::UnknownFormat {
            dir: self.dir.clone(),
            found,
            ours,
        })
    }

    fn is_empty(&self) -> Result<bool> {
        let first = self.tree.range(Bound::Unbounded, Bound::Unbounded).next();
        Ok(self.ok(first.transpose())?.is_none())
    }

    /// Marks an unmarked store as this cluster's; an error when it is another one's.
    pub fn claim(&self, cluster: ClusterId) -> Result<()> {
        let ours = cluster.0.as_bytes().as_slice();
        match self.get(encoding::CLUSTER_KEY)? {
            Some(found) if found.as_ref() == ours => Ok(()),
            Some(found) => Err(StoreError::OtherCluster {
                dir: self.dir.clone(),
                found: ClusterId::from_slice(found.as_ref())
                    .map_or("unreadable".to_owned(), |found| found.to_string()),
                ours: cluster,
            }),
            None => self.note(encoding::CLUSTER_KEY, ours.to_vec()),
        }
    }

    /// Notes which keys the store is filled with from now on; an error when it lacks some that were applied before. Those that it
    /// holds no more are left where they are: nobody reads them.
    pub fn claim_keys(&self, keys: &KeyRange) -> Result<()> {
        let encoded = encoding::key_range(keys);
        let held = match self.get(encoding::KEYS_KEY)? {
            Some(found) if found.as_ref() == encoded => return Ok(()),
            Some(found) => self.corrupt("the range of keys", encoding::decode_key_range(found.as_ref()))?,
            // Filled by a version that held all keys, or not filled yet.
            None => KeyRange::all(),
        };
        let is_filled = !self.progress()?.is_empty();
        if is_filled && held.intersection(keys).as_ref() != Some(keys) {
            return Err(StoreError::MissingKeys {
                dir: self.dir.clone(),
                found: shown(&held),
                wanted: shown(keys),
            });
        }
        self.note(encoding::KEYS_KEY, encoded)
    }
}
