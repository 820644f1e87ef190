//! Where nodes are: all in one place, or in two active regions and a witness.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::pick;
use crate::cluster::Role;

/// A place where nodes and clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// The only one there is.
    Local,
    /// Has all kinds of nodes, and clients.
    A,
    /// As A has.
    B,
    /// Has a journal node.
    Witness,
}

impl Region {
    /// Those with all kinds of nodes, when there are several.
    pub const ACTIVE: [Self; 2] = [Self::A, Self::B];
    /// All of several, in the order of their journal nodes.
    pub const SEVERAL: [Self; 3] = [Self::A, Self::B, Self::Witness];

    /// Its name, as nodes know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::A => "a",
            Self::B => "b",
            Self::Witness => "w",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long a message takes at least from one region to another.
#[derive(Clone, Copy, Debug)]
pub struct Distances {
    a_b: Duration,
    a_witness: Duration,
    b_witness: Duration,
    /// It may take so much longer.
    pub spread: Duration,
}

impl Distances {
    /// What the seed chooses.
    fn new(rng: &mut StdRng) -> Self {
        let mut ms = |from: &[u64]| Duration::from_millis(*pick(rng, from));
        Self {
            a_b: ms(&[5, 15, 30, 60]),
            a_witness: ms(&[3, 10, 40]),
            b_witness: ms(&[3, 10, 25]),
            spread: ms(&[0, 1, 5, 30]),
        }
    }

    /// From one to the other, either way; nothing within a region.
    pub fn between(&self, one: Region, other: Region) -> Duration {
        match (one.min(other), one.max(other)) {
            (Region::A, Region::B) => self.a_b,
            (Region::A, Region::Witness) => self.a_witness,
            (Region::B, Region::Witness) => self.b_witness,
            _ => Duration::ZERO,
        }
    }

    /// The longest way and back.
    pub fn round_trip(&self) -> Duration {
        (self.a_b.max(self.a_witness).max(self.b_witness) + self.spread) * 2
    }
}

/// Where everybody is.
#[derive(Clone, Copy, Debug)]
pub struct Regions {
    /// `None`: there is one region.
    pub distances: Option<Distances>,
}

impl Regions {
    /// Everything is in one place.
    pub const ONE: Self = Self { distances: None };

    /// What the seed chooses.
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let are_several = rng.random_bool(0.4);
        Self {
            distances: are_several.then(|| Distances::new(rng)),
        }
    }

    /// All of them.
    pub fn all(&self) -> &'static [Region] {
        match self.distances {
            None => &[Region::Local],
            Some(_) => &Region::SEVERAL,
        }
    }

    /// Where the n-th node of a role is, counted from one.
    pub fn of(&self, role: Role, number: usize) -> Region {
        let among: &[Region] = match (self.distances, role) {
            (None, _) => return Region::Local,
            (Some(_), Role::Journal) => &Region::SEVERAL,
            (Some(_), _) => &Region::ACTIVE,
        };
        let place = number.saturating_sub(1) % among.len();
        among.get(place).copied().unwrap_or(Region::A)
    }

    /// Where the node of this name is; the first region if it is none's.
    pub fn of_node(&self, name: &str) -> Region {
        let number = |role: Role| {
            let rest = name.strip_prefix(role.name())?.strip_prefix('-')?;
            rest.parse().ok().map(|number| self.of(role, number))
        };
        let found = Role::ALL.into_iter().find_map(number);
        found.unwrap_or_else(|| self.of(Role::Query, 1))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn each_region_has_its_own_nodes_and_the_witness_only_a_journal_node() {
        let several = Regions {
            distances: Some(Distances::new(&mut StdRng::seed_from_u64(1))),
        };
        let names = |region| {
            let all = Role::ALL
                .into_iter()
                .flat_map(|role| (1..=3).map(move |number| format!("{role}-{number}")));
            all.filter(|name| several.of_node(name) == region)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(Region::Witness), ["journal-3"]);
        assert!(names(Region::A).contains(&"journal-1".to_owned()));
        assert!(names(Region::B).contains(&"storage-2".to_owned()));
        assert_eq!(Regions::ONE.of_node("journal-3"), Region::Local);
    }
}
