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
    Sled,
    /// A log-structured tree, mostly on disk.
    #[default]
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

/// Opens or creates the store of a node, and claims it for the node's cluster and keys. Files of another engine than the configuration
/// asks for are left as they are; if it asks for none, whatever is there is gone on with.
pub(crate) fn open(config: &Config) -> Result<Arc<dyn VersionStore>> {
    let dir = &config.data_dir;
    let engine = match config.engine {
        Some(wanted) => {
            wanted.check(dir)?;
            wanted
        }
        None => Engine::of(dir).unwrap_or_default(),
    };
    match engine {
        Engine::Sled => claimed(
            SledStore::open(dir, config.cache_bytes, config.flush_interval_ms)?,
            config,
        ),
        Engine::Fjall => claimed(FjallStore::open(dir, config.cache_bytes)?, config),
    }
}

impl Engine {
    /// Whose files are in the directory.
    fn of(dir: &Path) -> Option<Self> {
        [Self::Sled, Self::Fjall]
            .into_iter()
            .find(|engine| engine.is_in(dir))
    }

    /// The engines tell each other by their files: directories from before there was a choice have no other mark.
    fn check(self, dir: &Path) -> Result<()> {
        match Self::of(dir) {
            Some(found) if found != self => Err(StoreError::OtherEngine {
                dir: dir.to_owned(),
                found,
                wanted: self,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn is_in(self, dir: &Path) -> bool {
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
