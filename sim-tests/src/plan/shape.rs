//! How many nodes of each kind the cluster has.

use rand::rngs::StdRng;

use super::{Regions, pick};
use crate::cluster::Role;

/// Nodes by what they run; there are always three journal nodes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    adjudicators: usize,
    storage: usize,
    queries: usize,
    routers: usize,
}

impl Shape {
    /// What the seed chooses.
    pub(super) fn new(rng: &mut StdRng, regions: &Regions) -> Self {
        if regions.distances.is_some() {
            // Both active regions have some of each.
            return Self {
                adjudicators: *pick(rng, &[2, 2, 3, 4]),
                storage: *pick(rng, &[2, 2, 3]),
                queries: *pick(rng, &[2, 2, 3, 4]),
                routers: 2,
            };
        }
        Self {
            adjudicators: *pick(rng, &[2, 2, 3]),
            storage: *pick(rng, &[1, 2, 2, 2]),
            queries: *pick(rng, &[1, 2, 2, 3]),
            routers: *pick(rng, &[1, 1, 2]),
        }
    }

    /// How many nodes run this.
    pub fn count(&self, role: Role) -> usize {
        match role {
            Role::Journal => 3,
            Role::Adjudicator => self.adjudicators,
            Role::Storage => self.storage,
            Role::Query => self.queries,
            Role::Router => self.routers,
        }
    }

    /// The names of the nodes that run this.
    pub fn names(&self, role: Role) -> Vec<String> {
        (1..=self.count(role))
            .map(|number| format!("{role}-{number}"))
            .collect()
    }

    /// Whether there is a node of this name.
    pub fn has(&self, name: &str) -> bool {
        Role::ALL.into_iter().any(|role| {
            let number = name
                .strip_prefix(&role.to_string())
                .and_then(|rest| rest.strip_prefix('-'));
            let number = number.and_then(|number| number.parse::<usize>().ok());
            number.is_some_and(|number| (1..=self.count(role)).contains(&number))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_known_by_name() {
        let shape = Shape {
            adjudicators: 2,
            storage: 1,
            queries: 3,
            routers: 1,
        };
        assert!(shape.has("query-3") && shape.has("journal-3") && shape.has("router-1"));
        assert!(!shape.has("query-4") && !shape.has("router-2") && !shape.has("query-") && !shape.has("x"));
    }
}
