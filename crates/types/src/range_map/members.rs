//! Which adjudicators there are, and which regions are drained: as operators say. Pure: each gives the next map.

use std::collections::BTreeSet;

use super::changes::refused;
use super::{ChangeRefused, RangeMap};
use crate::NodeName;

/// Adjudicators with their regions, in an order that all who go by the same configuration agree on.
pub type Adjudicators = Vec<(NodeName, String)>;

impl RangeMap {
    /// Whether the adjudicator is in a drained region.
    pub fn is_drained(&self, node: &NodeName) -> bool {
        self.drained.values().any(|nodes| nodes.contains(node))
    }

    /// Nothing is to depend on the region any more, until [`Self::with_undrained`]. The same map when that is said already.
    pub fn with_drained(&self, region: &str, adjudicators: &Adjudicators) -> Result<Self, ChangeRefused> {
        let of_region = adjudicators.iter().filter(|(_, of)| of == region);
        let nodes: BTreeSet<NodeName> = of_region.map(|(node, _)| node.clone()).collect();
        if nodes.is_empty() {
            return refused(format!("region {region} has no adjudicators"));
        }
        if self.drained.get(region) == Some(&nodes) {
            return Ok(self.clone());
        }
        let mut next = self.next();
        next.drained.insert(region.to_owned(), nodes);
        let is_left = |(node, _): &(NodeName, String)| !next.is_drained(node);
        if !adjudicators.iter().any(is_left) {
            return refused(format!("no other region would be left: {region} is not drained"));
        }
        Ok(next)
    }

    /// The region is used again as it was before it was drained.
    pub fn with_undrained(&self, region: &str) -> Result<Self, ChangeRefused> {
        if !self.drained.contains_key(region) {
            return Ok(self.clone());
        }
        let mut next = self.next();
        next.drained.remove(region);
        Ok(next)
    }

    /// These are the adjudicators from now on: others own nothing, and new ones may own any range, after those of their region.
    ///
    /// The first time it is a change even if they are those of before: from then on nodes do not go by their own configuration, which
    /// may differ while adjudicators are added.
    pub fn with_adjudicators(&self, adjudicators: &Adjudicators) -> Result<Self, ChangeRefused> {
        if adjudicators.is_empty() {
            return refused("a cluster needs an adjudicator");
        }
        let mut next = self.next();
        let reshaping = &mut next.reshaping;
        let entries = next.entries.iter_mut().map(|entry| &mut entry.candidates);
        let retired = reshaping
            .retired
            .values_mut()
            .map(|retired| &mut retired.candidates);
        let targets = reshaping
            .pending
            .iter_mut()
            .flat_map(|reshape| &mut reshape.targets);
        let targets = targets.map(|target| &mut target.candidates);
        for candidates in entries.chain(retired).chain(targets) {
            *candidates = adopted(candidates, adjudicators);
        }
        for (region, nodes) in &mut next.drained {
            let of_region = adjudicators.iter().filter(|(_, of)| of == region);
            *nodes = of_region.map(|(node, _)| node.clone()).collect();
        }
        next.drained.retain(|_, nodes| !nodes.is_empty());
        if adjudicators.iter().all(|(node, _)| next.is_drained(node)) {
            return refused("all that are left are in drained regions");
        }
        let is_written = self.version > Self::CONFIGURED;
        if is_written
            && next.entries == self.entries
            && next.reshaping == self.reshaping
            && next.drained == self.drained
        {
            return Ok(self.clone());
        }
        Ok(next)
    }
}

/// The candidates that there still are, in their order, and the new ones: each after the last one of its region, or else at the end.
fn adopted(candidates: &[NodeName], adjudicators: &Adjudicators) -> Vec<NodeName> {
    let region_of = |node: &NodeName| {
        let found = adjudicators.iter().find(|(name, _)| name == node);
        found.map(|(_, region)| region)
    };
    let mut all: Vec<NodeName> = candidates
        .iter()
        .filter(|node| region_of(node).is_some())
        .cloned()
        .collect();
    for (node, region) in adjudicators {
        if !all.contains(node) {
            let last = all.iter().rposition(|other| region_of(other) == Some(region));
            all.insert(last.map_or(all.len(), |place| place + 1), node.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, RangeId, StreamId};

    fn adjudicators(names: &[&str]) -> Adjudicators {
        let region = |name: &&str| ((*name).into(), name[..1].to_owned());
        names.iter().map(region).collect()
    }

    /// Two ranges: the first is a's, the second b's.
    fn map() -> RangeMap {
        let orders = [["a1", "a2", "b1", "b2"], ["b1", "b2", "a1", "a2"]];
        RangeMap::divided([Key::from("m")], |index| {
            orders[index].map(NodeName::from).to_vec()
        })
    }

    fn order(map: &RangeMap, stream: u64) -> String {
        let names: Vec<_> = map
            .candidates(StreamId(stream))
            .into_iter()
            .map(|node| node.0)
            .collect();
        names.join(" ")
    }

    #[test]
    fn a_drained_region_comes_last_and_its_preference_comes_back() {
        let all = adjudicators(&["a1", "a2", "b1", "b2"]);
        let drained = map().with_drained("a", &all).unwrap();
        assert_eq!(drained.version, 2);
        assert_eq!(order(&drained, 1), "b1 b2 a1 a2");
        assert_eq!(order(&drained, 2), "b1 b2 a1 a2");
        assert_eq!(drained.with_drained("a", &all), Ok(drained.clone()), "said twice");
        assert!(drained.with_drained("b", &all).is_err(), "nobody would be left");
        assert!(
            map().with_drained("w", &all).is_err(),
            "a witness has nothing to be drained"
        );
        assert!(
            drained.moved(RangeId(1), &"a2".into()).is_err(),
            "nothing moves to where all is moved away"
        );
        let moved = drained.moved(RangeId(1), &"b2".into()).unwrap();
        assert_eq!(order(&moved, 1), "b2 b1 a1 a2");
        let back = drained.with_undrained("a").unwrap();
        assert_eq!((back.version, order(&back, 1)), (3, order(&map(), 1)));
        assert_eq!(back.with_undrained("a"), Ok(back.clone()));
    }

    #[test]
    fn adjudicators_come_and_go() {
        let more = map()
            .with_adjudicators(&adjudicators(&["a1", "a2", "a3", "b1", "b2", "c1"]))
            .unwrap();
        assert_eq!(order(&more, 1), "a1 a2 a3 b1 b2 c1");
        assert_eq!(order(&more, 2), "b1 b2 a1 a2 a3 c1");
        let fewer = more.with_adjudicators(&adjudicators(&["a3", "b1"])).unwrap();
        assert_eq!(order(&fewer, 1), "a3 b1");
        assert_eq!(order(&fewer, 2), "b1 a3");
        assert_eq!(
            fewer.with_adjudicators(&adjudicators(&["a3", "b1"])),
            Ok(fewer.clone())
        );
        let other = map().with_adjudicators(&adjudicators(&["c1"])).unwrap();
        assert_eq!(order(&other, 1), "c1", "somebody must be there");
        assert!(map().with_adjudicators(&Adjudicators::new()).is_err());
    }

    #[test]
    fn the_configured_map_is_written_down_when_adjudicators_are_adopted() {
        let same = adjudicators(&["a1", "a2", "b1", "b2"]);
        let written = map().with_adjudicators(&same).unwrap();
        assert_eq!(written.version, RangeMap::CONFIGURED + 1);
        assert_eq!(written.entries, map().entries);
        assert_eq!(
            written.with_adjudicators(&same),
            Ok(written.clone()),
            "said twice"
        );
    }

    #[test]
    fn a_drained_region_stays_drained_when_its_adjudicators_change() {
        let drained = map()
            .with_drained("a", &adjudicators(&["a1", "a2", "b1", "b2"]))
            .unwrap();
        let next = drained
            .with_adjudicators(&adjudicators(&["a1", "a3", "b1"]))
            .unwrap();
        assert_eq!(order(&next, 1), "b1 a1 a3");
        assert!(
            drained.with_adjudicators(&adjudicators(&["a1"])).is_err(),
            "all would be drained"
        );
    }
}
