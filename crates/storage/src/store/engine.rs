//! Which engine keeps the versions of a node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tree::{Result, Tree, TreeStore};
use super::{FjallStore, SledStore, VersionStore, fjall_store};
use crate::config::Config;
use crate::error::StoreError;

/// What keeps the versions on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A tree of pages, mostly in memory.
    #[default]
    Sled,
    /// A log-structured tree, mostly on disk.
    Fjall,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sled => "sled",
            Self::Fjall => "fjall",
        })
    }
}

impl Engine {
    /// Opens or creates the store of a node, and claims it for the node's cluster and keys. Files of another engine are left as
    /// they are.
    pub(crate) fn open(self, config: &Config) -> Result<Arc<dyn VersionStore>> {
        let dir = &config.data_dir;
        self.check(dir)?;
        match self {
            Self::Sled => claimed(
                SledStore::open(dir, config.cache_bytes, config.flush_interval_ms)?,
                config,
            ),
            Self::Fjall => claimed(FjallStore::open(dir, config.cache_bytes)?, config),
        }
    }

    /// The engines tell each other by their files: directories from before there was a choice have no other mark.
    fn check(self, dir: &Path) -> Result<()> {
        let other = match self {
            Self::Sled => Self::Fjall,
            Self::Fjall => Self::Sled,
        };
        match other.is_in(dir) {
            false => Ok(()),
            true => Err(StoreError::OtherEngine {
                dir: dir.to_owned(),
                found: other,
                wanted: self,
            }),
        }
    }

    fn is_in(self, dir: &Path) -> bool {
        match self {
            // Its pages, and its settings.
            Self::Sled => dir.join("db").exists() || dir.join("conf").exists(),
            // The file that it writes when the rest is there.
            Self::Fjall => dir.join(fjall_store::DIRECTORY).join("version").exists(),
        }
    }
}

fn claimed<T: Tree>(store: TreeStore<T>, config: &Config) -> Result<Arc<dyn VersionStore>> {
    config.cluster.map_or(Ok(()), |cluster| store.claim(cluster))?;
    store.claim_keys(&config.keys)?;
    Ok(Arc::new(store))
}
