//! Which ranges the keys are divided into.

use std::collections::BTreeSet;

use meridian_types::{Key, NodeName, RangeMap, candidates};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::regions::{Region, Regions};
use super::{Clients, Kind, pick};
use crate::workload::Guard;

/// The ranges of a run.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// A range begins at each of these, and the first before all.
    splits: Vec<String>,
    /// Where each of them is to be owned; those beyond the list, anywhere.
    preferred: Vec<Option<Region>>,
}

impl Ranges {
    /// Most ranges of a run.
    pub const MOST: usize = 8;

    /// What the seed chooses: one range, ranges that each hold whole workloads, or some that go right through workloads.
    pub(super) fn new(rng: &mut StdRng, clients: &Clients, keys: usize) -> Self {
        let count = *pick(rng, &[1, 1, 2, 2, 3, 4, 5, Self::MOST]);
        let splits = match MAY_CROSS && rng.random_bool(0.75) {
            true => clients.kinds().flat_map(|kind| inner(kind, keys)).collect(),
            false => borders(),
        };
        // Each begins a range.
        let mut splits: Vec<String> = BTreeSet::from_iter(splits).into_iter().collect();
        splits.shuffle(rng);
        splits.truncate(count - 1);
        let preferred = splits
            .iter()
            .map(|_| rng.random_bool(0.7).then(|| *pick(rng, &Region::ACTIVE)));
        let preferred = preferred.chain([None]).collect();
        splits.sort();
        Self { splits, preferred }
    }

    /// As many as there may be, all of them right through what these clients do.
    pub fn crossing(clients: &Clients, keys: usize) -> Self {
        let splits = clients.kinds().flat_map(|kind| inner(kind, keys));
        let splits: BTreeSet<String> = splits.collect();
        let splits: Vec<String> = splits.into_iter().take(Self::MOST - 1).collect();
        let regions = Region::ACTIVE.into_iter().cycle().map(Some);
        Self {
            preferred: regions.take(splits.len() + 1).collect(),
            splits,
        }
    }

    /// Where ranges may begin with these clients: inside of what transactions touch, and between workloads.
    pub(super) fn borders_of(clients: &Clients, keys: usize) -> Vec<String> {
        let inner = clients.kinds().flat_map(|kind| inner(kind, keys));
        let between = clients.kinds().map(|kind| kind.prefix().to_owned());
        BTreeSet::from_iter(inner.chain(between)).into_iter().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.splits.len() + 1
    }

    /// The map that every node begins with.
    pub fn map(&self, adjudicators: &[NodeName], regions: &Regions) -> RangeMap {
        let placed = adjudicators.iter().map(|name| {
            let region = regions.of_node(&name.0);
            (name.clone(), region.name().to_owned())
        });
        let placed: Vec<_> = placed.collect();
        let splits = self.splits.iter().map(|split| Key::from(split.as_str()));
        RangeMap::divided(splits, |index| {
            let preferred = self.preferred.get(index).copied().flatten();
            candidates(index, preferred.map(Region::name), &placed)
        })
    }
}

/// Whether a transaction may write in several ranges: then owners need promises of one another before they close.
pub const MAY_CROSS: bool = true;

/// Where the keys of workloads begin.
fn borders() -> Vec<String> {
    Kind::all().map(|kind| kind.prefix().to_owned()).collect()
}

/// Keys in the middle of what a workload's transactions touch.
fn inner(kind: Kind, keys: usize) -> Vec<String> {
    let prefix = kind.prefix();
    let middle = keys / 2;
    match kind {
        Kind::Bank | Kind::Registers => vec![format!("{prefix}{:02}", middle.max(1)), format!("{prefix}01")],
        Kind::Lists => vec![format!("{prefix}{middle:02}/"), format!("{prefix}01/")],
        Kind::Ledger => vec![
            format!("{prefix}ledger-1/00010/1"),
            format!("{prefix}ledger-1/00030/2"),
        ],
        Kind::Inserts => vec![format!("{prefix}00007")],
        Kind::Counters => vec![format!("{prefix}1")],
        Kind::Pairs => Guard::ALL.map(|guard| format!("{}0/b", guard.prefix())).into(),
        // What one of them adds lies in one range, what the other adds in another.
        Kind::Slots => [Guard::None, Guard::Range, Guard::Serializable]
            .map(|guard| format!("{prefix}{guard}/{kind}-2"))
            .into(),
        Kind::Pages => vec![format!("{prefix}15"), format!("{prefix}08")],
        Kind::Savepoints => vec![format!("{prefix}3")],
        Kind::Mortals => vec![format!("{prefix}2"), format!("{prefix}1")],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::plan::Plan;

    #[test]
    fn some_seeds_have_one_range_and_some_have_many() {
        let plans = (0..200).map(|seed| Plan::new(seed, None));
        let counts: Vec<usize> = plans.map(|plan| plan.ranges.count()).collect();
        let seen: BTreeSet<usize> = counts.iter().copied().collect();
        assert!(
            seen.contains(&2) && seen.contains(&4) && seen.last() >= Some(&6),
            "{seen:?}"
        );
        assert!(counts.iter().filter(|count| **count == 1).count() > 30);
    }
}
