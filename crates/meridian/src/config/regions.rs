//! The regions, and the key ranges that a cluster begins with.

use meridian_types::{Key, NodeName, RangeMap, candidates};
use serde::{Deserialize, Serialize};

use super::{File, Role};

/// What a region is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionKind {
    /// Has all parts: clients read and write there.
    #[default]
    Active,
    /// Has a journal node and nothing else: the third vote, with which either of two active regions goes on without
    /// the other one.
    Witness,
}

impl RegionKind {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Witness => "witness",
        }
    }
}

/// `[[cluster.region]]`: one region.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegionSection {
    /// Its name, as nodes give it.
    pub name: String,
    /// What it is for; active when it is not said.
    #[serde(default)]
    pub kind: RegionKind,
}

/// `[[cluster.range]]`: one of the key ranges that the cluster begins with, up to where the next one begins. They get the
/// names r1, r2, … and the streams s1, s2, … in the order of their keys. Once a cluster is in use this may not be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RangeSection {
    /// Its first key. Bytes that are no text are written `\xNN`, a backslash `\\` (between TOML's single quotes, which
    /// leave backslashes alone).
    /// Empty, the default, for the first range.
    #[serde(default)]
    pub start: String,
    /// The region whose adjudicators are to own it: the one where most of its writes come from. Any, when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

impl RangeSection {
    /// The first key; `None` when its escapes are malformed.
    pub fn start_key(&self) -> Option<Key> {
        Key::from_escaped(&self.start)
    }
}

impl File {
    /// The names of all regions, in the order in which they are named: those listed, or else those of the nodes.
    pub fn regions(&self) -> Vec<&str> {
        let listed = self.cluster.regions.iter().map(|region| region.name.as_str());
        let used = self.nodes.iter().map(|node| node.region.as_str());
        let mut names: Vec<&str> = Vec::new();
        for name in listed.chain(used) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What the region is for: active unless it is said to be a witness.
    pub fn region_kind(&self, name: &str) -> RegionKind {
        let listed = self.cluster.regions.iter().find(|region| region.name == name);
        listed.map_or(RegionKind::Active, |region| region.kind)
    }

    /// The range map that the cluster begins with, the same at every node: the ranges as they are configured, each to
    /// be owned in its preferred region, else spread over all adjudicators.
    pub fn range_map(&self) -> RangeMap {
        let mut ranges: Vec<(Key, Option<&str>)> = self
            .cluster
            .ranges
            .iter()
            .map(|range| (range.start_key().unwrap_or_default(), range.region.as_deref()))
            .collect();
        ranges.sort();
        let adjudicators = self.adjudicators();
        let starts: Vec<Key> = ranges.iter().map(|(start, _)| start.clone()).collect();
        RangeMap::divided(starts, |index| {
            let preferred = ranges.get(index).and_then(|(_, region)| *region);
            // Counted by preference: ranges that alternate between two regions would else meet the same adjudicators.
            let earlier = ranges.iter().take(index);
            let place = earlier.filter(|(_, region)| *region == preferred).count();
            candidates(place, preferred, &adjudicators)
        })
    }

    /// All adjudicators with their regions, in the order of their names.
    fn adjudicators(&self) -> Vec<(NodeName, String)> {
        let mut found: Vec<_> = self
            .nodes
            .iter()
            .filter(|node| node.has(Role::Adjudicator))
            .map(|node| (node.node_name(), node.region.clone()))
            .collect();
        found.sort();
        found
    }
}
