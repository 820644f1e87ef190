//! Which keys storage nodes hold.

use std::collections::BTreeMap;

use meridian_types::{Key, KeyRange};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::{Clients, Ranges, Regions, Shape};
use crate::cluster::Role;

/// The first storage node holds the keys up to a border, the second one those from another border on, which may lie before it. All
/// others hold everything. Where there are several regions, or one node alone, nothing is divided.
#[derive(Clone, Debug, Default)]
pub struct Shards {
    borders: Option<(Key, Key)>,
}

impl Shards {
    /// What the seed chooses.
    pub(super) fn new(
        rng: &mut StdRng,
        shape: &Shape,
        regions: &Regions,
        clients: &Clients,
        keys: usize,
    ) -> Self {
        if !rng.random_bool(0.3) {
            return Self::default();
        }
        Self::divided(rng, shape, regions, clients, keys)
    }

    /// Divided, if they can be.
    pub(crate) fn divided(
        rng: &mut StdRng,
        shape: &Shape,
        regions: &Regions,
        clients: &Clients,
        keys: usize,
    ) -> Self {
        let among = Ranges::borders_of(clients, keys);
        let mut border = || among.choose(rng).map(|key| Key::from(key.as_str()));
        let borders = border()
            .zip(border())
            .map(|(one, other)| (one.clone().min(other.clone()), one.max(other)));
        let can_be = shape.count(Role::Storage) > 1 && regions.distances.is_none();
        Self {
            borders: borders.filter(|_| can_be),
        }
    }

    /// Whether some node lacks some keys.
    pub fn are_divided(&self) -> bool {
        self.borders.is_some()
    }

    /// The nodes that lack some keys, with those that they hold.
    pub fn divided_nodes(&self) -> BTreeMap<String, KeyRange> {
        let nodes = ["storage-1", "storage-2"]
            .into_iter()
            .filter(|_| self.are_divided());
        nodes.map(|node| (node.to_owned(), self.of(node))).collect()
    }

    /// What the node of this name holds.
    pub fn of(&self, node: &str) -> KeyRange {
        match (&self.borders, node) {
            (Some((_, end)), "storage-1") => KeyRange {
                start: Key::default(),
                end: Some(end.clone()),
            },
            (Some((start, _)), "storage-2") => KeyRange {
                start: start.clone(),
                end: None,
            },
            _ => KeyRange::all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::Plan;

    #[test]
    fn some_seeds_divide_the_keys_and_all_keys_are_held() {
        let divided = (0..200)
            .map(|seed| Plan::new(seed, None))
            .filter(|plan| plan.shards.are_divided());
        let mut count = 0;
        for plan in divided {
            let (first, second) = (plan.shards.of("storage-1"), plan.shards.of("storage-2"));
            assert!(first.end.unwrap() >= second.start, "a gap");
            assert!(first.start.0.is_empty() && second.end.is_none());
            count += 1;
        }
        assert!((10..80).contains(&count), "{count}");
    }
}
