//! The cluster's configuration file: what all nodes must agree on, which nodes there are, and what each
//! process may choose for itself.
//!
//! Reading a file has two steps: [`File::parse`] refuses what it does not know (fields, types), and
//! [`check`](check::check) looks at what the whole says: names, addresses, roles, and bounds that contradict
//! each other.

pub mod check;
mod lines;
mod regions;
mod settings;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use meridian_types::{ClusterId, DiskId, Key, KeyRange, NodeName};
use serde::{Deserialize, Deserializer};

pub use regions::{RangeSection, RegionKind, RegionSection};
pub use settings::{AgreedSettings, ClockSource, Lead, ServiceSettings};

use crate::error::Error;

/// What a node can do. A process runs any set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A durable replica of every stream.
    Journal,
    /// Orders commits.
    Adjudicator,
    /// Versions of keys, rebuilt from the journal.
    Storage,
    /// Open transactions.
    Query,
    /// Where clients connect.
    Router,
}

impl Role {
    /// All roles, in the order in which a process starts them. It stops them in the opposite order, so that
    /// nobody loses what it still needs to stop cleanly.
    pub const ALL: [Self; 5] = [
        Self::Journal,
        Self::Adjudicator,
        Self::Storage,
        Self::Query,
        Self::Router,
    ];

    /// The role's name as in the configuration, in health checks and in `kv-cli status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Adjudicator => "adjudicator",
            Self::Storage => "storage",
            Self::Query => "query",
            Self::Router => "router",
        }
    }

    /// Whether the role keeps files, and so needs a `data_dir`.
    pub fn keeps_files(self) -> bool {
        matches!(self, Self::Journal | Self::Storage)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| {
                format!("unknown role {text:?}: journal, adjudicator, storage, query and router exist")
            })
    }
}

/// The file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What all nodes must agree on.
    pub cluster: ClusterSection,
    /// The nodes.
    #[serde(default, rename = "node")]
    pub nodes: Vec<NodeSection>,
}

/// `[cluster]`: the same at every node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// The cluster's id, written by `meridian init`. A node refuses peers of another cluster.
    #[serde(default, deserialize_with = "cluster_id")]
    pub id: Option<ClusterId>,
    /// The regions. Without any, every region that a node names is an active one.
    #[serde(default, rename = "region")]
    pub regions: Vec<RegionSection>,
    /// The key ranges that the cluster begins with. Without any: one, that may be owned anywhere.
    #[serde(default, rename = "range")]
    pub ranges: Vec<RangeSection>,
    /// Bounds of the protocol.
    #[serde(default)]
    pub settings: AgreedSettings,
}

/// `[[node]]`: one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// The node's name: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// The region it runs in.
    #[serde(default = "default_region")]
    pub region: String,
    /// Where the others reach it, and where it listens: `host:port`.
    pub address: String,
    /// Where its metrics are to be had, for Prometheus: `host:port` to listen on. Nowhere when nothing is said.
    #[serde(default)]
    pub metrics: Option<String>,
    /// What it does.
    pub roles: Vec<Role>,
    /// Where journal and storage keep their files. Relative to the configuration file.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// The id of a journal node's disk, written by `meridian init`. A directory that carries another one is
    /// refused: a lost disk never comes back under its old id.
    #[serde(default, deserialize_with = "disk_id")]
    pub disk_id: Option<DiskId>,
    /// The keys that its storage holds; all, when nothing is said. The storage nodes of an active region must hold all keys between
    /// them, and may overlap.
    #[serde(default)]
    pub storage_keys: KeysSection,
    /// Where the node's time comes from, and how wrong it may be.
    #[serde(default)]
    pub clock: ClockSource,
    /// What each service of this process may choose.
    #[serde(default)]
    pub settings: ServiceSettings,
}

/// `storage_keys`: a range of keys. Bytes that are no text are written as in `[[cluster.range]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysSection {
    /// The first key. Empty, the default: from the beginning.
    #[serde(default)]
    pub from: String,
    /// The first key that is not in it any more. Empty, the default: to the end.
    #[serde(default)]
    pub to: String,
}

impl KeysSection {
    /// The keys; `None` when an escape is malformed.
    pub fn range(&self) -> Option<KeyRange> {
        let start = Key::from_escaped(&self.from)?;
        let end = Some(Key::from_escaped(&self.to)?).filter(|end| !end.0.is_empty());
        Some(KeyRange { start, end })
    }
}

fn default_region() -> String {
    "local".to_owned()
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(input: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(input)?;
    text.parse()
        .map(Some)
        .map_err(|error| serde::de::Error::custom(format!("{text:?} is not an id (a UUID): {error}")))
}

fn cluster_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<ClusterId>, D::Error> {
    parsed(input)
}

fn disk_id<'de, D: Deserializer<'de>>(input: D) -> Result<Option<DiskId>, D::Error> {
    parsed(input)
}

impl NodeSection {
    /// The node's name as other nodes know it.
    pub fn node_name(&self) -> NodeName {
        NodeName(self.name.clone())
    }

    /// Whether the node has the role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// A file and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Where it was read.
    pub path: PathBuf,
    /// The text, for line numbers.
    pub text: String,
    /// The content, with `data_dir`s resolved.
    pub file: File,
}

impl Loaded {
    /// Reads a file. Unknown fields and wrong types are refused here; what the whole says is not looked at.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            what: "read the configuration",
            path: path.to_owned(),
            source,
        })?;
        let mut file = File::parse(&text).map_err(|error| Error::Config {
            path: path.to_owned(),
            what: error,
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        for node in &mut file.nodes {
            node.data_dir = node.data_dir.take().map(|dir| base.join(dir));
        }
        Ok(Self {
            path: path.to_owned(),
            text,
            file,
        })
    }

    /// Reads a file and refuses it when anything is wrong with it, naming every problem.
    pub fn read_checked(path: &Path) -> Result<Self, Error> {
        let loaded = Self::read(path)?;
        let errors: Vec<String> = check::check(&loaded.file, &loaded.text)
            .into_iter()
            .filter(|problem| problem.is_error)
            .map(|problem| problem.to_string())
            .collect();
        if errors.is_empty() {
            return Ok(loaded);
        }
        Err(Error::Config {
            path: path.to_owned(),
            what: errors.join("\n"),
        })
    }
}

impl File {
    /// Reads a configuration from text. The error names line, column and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&NodeSection, Error> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let known: Vec<_> = self.nodes.iter().map(|node| node.name.as_str()).collect();
            Error::Usage(format!(
                "the configuration has no node {name:?}; it has {}",
                known.join(", ")
            ))
        })
    }

    /// The names of all nodes with the role, in the order in which `node` should try them: itself, its region,
    /// the others. Where the order is free, every node begins at another one, so that not all lean on the same.
    pub fn nearest(&self, role: Role, node: &NodeSection) -> Vec<NodeName> {
        let is_near = |other: &NodeName| {
            self.nodes
                .iter()
                .any(|section| section.name == other.0 && section.region == node.region)
        };
        let (mut near, far): (Vec<_>, Vec<_>) = self.with_role(role).into_iter().partition(is_near);
        if !near.is_empty() {
            let own = near.iter().position(|name| name.0 == node.name);
            let place = self.nodes.iter().position(|section| section.name == node.name);
            let count = near.len();
            near.rotate_left(own.or(place).unwrap_or_default() % count);
        }
        near.extend(far);
        near
    }

    /// All nodes with the role, in the order of their names: the same list at every node.
    pub fn with_role(&self, role: Role) -> Vec<NodeName> {
        let mut names: Vec<NodeName> = self
            .nodes
            .iter()
            .filter(|node| node.has(role))
            .map(NodeSection::node_name)
            .collect();
        names.sort();
        names
    }
}
