//! What commits across regions take at least, by the delays alone (decision 17): measurements are compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One-way delays between regions, each with one replica of every stream.
pub struct Floors {
    one_way: BTreeMap<(String, String), Duration>,
    /// Regions with a replica.
    replicas: BTreeSet<String>,
    /// Regions that read.
    active: BTreeSet<String>,
}

impl Floors {
    /// The floors of a cluster with these delays, in which these regions read.
    pub fn new(one_way: BTreeMap<(String, String), Duration>, active: &[String]) -> Self {
        let ends = one_way.keys().flat_map(|(from, to)| [from.clone(), to.clone()]);
        Self {
            replicas: ends.collect(),
            one_way,
            active: active.iter().cloned().collect(),
        }
    }

    fn delay(&self, from: &str, to: &str) -> Duration {
        let between = (from.to_owned(), to.to_owned());
        self.one_way.get(&between).copied().unwrap_or_default()
    }

    fn round_trip(&self, from: &str, to: &str) -> Duration {
        self.delay(from, to) + self.delay(to, from)
    }

    /// From a decision in `home` until the journal node of `region` knows it to be on a majority: word of the owner's own
    /// replica, and of the region's, comes with the record; word of any other replica goes through the owner.
    fn known(&self, home: &str, region: &str) -> Duration {
        let mut words: Vec<Duration> = self
            .replicas
            .iter()
            .map(|replica| match replica.as_str() {
                at if at == home || at == region => self.delay(home, region),
                other => self.round_trip(home, other) + self.delay(home, region),
            })
            .map(|word| {
                if home == region {
                    word
                } else {
                    word.max(self.delay(home, region))
                }
            })
            .collect();
        words.sort();
        words.get(self.replicas.len() / 2).copied().unwrap_or_default()
    }

    /// How far ahead commits of a range that is adjudicated there land, so that reads wait in no region.
    pub fn lead(&self, home: &str) -> Duration {
        let each = self.active.iter().map(|region| self.known(home, region));
        each.max().unwrap_or_default()
    }

    /// A commit from one region in a range that is adjudicated in another, or in the same.
    pub fn commit(&self, from: &str, home: &str, with_lead: bool) -> Duration {
        let decided = self.delay(from, home);
        let known = decided + self.known(home, from);
        if with_lead {
            known.max(decided + self.lead(home))
        } else {
            known
        }
    }

    /// A commit in two ranges that are adjudicated in different regions. The home is the one farther away.
    pub fn commit_across(&self, from: &str, first: &str, second: &str, with_lead: bool) -> Duration {
        let is_first_home = self.delay(from, first) > self.delay(from, second);
        let (home, other) = if is_first_home {
            (first, second)
        } else {
            (second, first)
        };
        let voted = self.delay(from, other) + self.delay(other, home);
        let known = voted.max(self.delay(from, home)) + self.known(home, from);
        if !with_lead {
            return known;
        }
        let at_other = self.delay(from, other) + self.lead(other).max(self.round_trip(other, home));
        let at_home = self.delay(from, home) + self.lead(home);
        known.max(at_other).max(at_home)
    }

    /// A read: nothing when commits land far enough ahead, else the way of a closure from the owner, which sends them all the time while
    /// the range is in use.
    pub fn read(&self, from: &str, home: &str, with_lead: bool) -> Duration {
        if with_lead {
            Duration::ZERO
        } else {
            self.delay(home, from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floors_are_those_of_decision_17() {
        let mut one_way = BTreeMap::new();
        for (from, to, millis) in [("a", "b", 30), ("a", "w", 10), ("b", "w", 25)] {
            let delay = Duration::from_millis(millis);
            one_way.insert((from.to_owned(), to.to_owned()), delay);
            one_way.insert((to.to_owned(), from.to_owned()), delay);
        }
        let floors = Floors::new(one_way, &["a".to_owned(), "b".to_owned()]);
        let in_one = |with_lead| {
            [("a", "a"), ("b", "a"), ("b", "b"), ("a", "b")]
                .map(|(from, home)| floors.commit(from, home, with_lead).as_millis())
        };
        assert_eq!(in_one(false), [20, 60, 50, 60]);
        assert_eq!(in_one(true), [30, 60, 50, 80]);
        assert_eq!(
            (floors.lead("a").as_millis(), floors.lead("b").as_millis()),
            (30, 50)
        );
        let across =
            |with_lead| ["a", "b"].map(|from| floors.commit_across(from, "a", "b", with_lead).as_millis());
        assert_eq!(across(false), [60, 60]);
        assert_eq!(across(true), [80, 60]);
        assert_eq!(floors.read("a", "b", false).as_millis(), 30);
        assert!(floors.read("a", "b", true).is_zero());
    }
}
