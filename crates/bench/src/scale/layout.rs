//! How a cluster is made up, and the configuration that says so.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use meridian::config::Role;

/// Every layout has so many journal nodes, and one router.
const JOURNALS: u32 = 3;
/// The ranges of the layouts that differ in nodes: each of four adjudicators can own one.
const RANGES: u32 = 4;

/// How many there are of what changes. Each node is a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Key ranges, which have equal shares of the keys.
    pub ranges: u32,
    /// Adjudicators.
    pub adjudicators: u32,
    /// Storage nodes, each of which holds all keys.
    pub storages: u32,
    /// Query processors.
    pub queries: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            ranges: RANGES,
            adjudicators: 1,
            storages: 1,
            queries: 1,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ranges: {}, adjudicators: {}, storage nodes: {}, query processors: {}",
            self.ranges, self.adjudicators, self.storages, self.queries
        )
    }
}

impl Layout {
    /// Whether there is one node of each role.
    pub fn is_single(&self) -> bool {
        (self.adjudicators, self.storages, self.queries) == (1, 1, 1)
    }

    /// Those that differ in ranges alone, then those that differ in the nodes of one role; each once.
    pub fn series(ranges: &[u32], nodes: &[u32]) -> Vec<Self> {
        let base = Self::default();
        let by_ranges = ranges.iter().map(|count| Self {
            ranges: *count,
            ..base
        });
        let by_adjudicators = nodes.iter().map(|count| Self {
            adjudicators: *count,
            ..base
        });
        let by_storages = nodes.iter().map(|count| Self {
            storages: *count,
            ..base
        });
        let by_queries = nodes.iter().map(|count| Self {
            queries: *count,
            ..base
        });
        let mut all: Vec<Self> = Vec::new();
        let each = by_ranges
            .chain(by_adjudicators)
            .chain(by_storages)
            .chain(by_queries);
        for layout in each {
            if !all.contains(&layout) {
                all.push(layout);
            }
        }
        all
    }

    /// Its nodes, in the order in which they are started.
    pub fn nodes(&self) -> Vec<(String, Role)> {
        let count = |role| match role {
            Role::Journal => JOURNALS,
            Role::Adjudicator => self.adjudicators,
            Role::Storage => self.storages,
            Role::Query => self.queries,
            Role::Router => 1,
        };
        let of = |role: Role| (1..=count(role)).map(move |number| (format!("{role}-{number}"), role));
        Role::ALL.into_iter().flat_map(of).collect()
    }

    /// Where ranges begin. Users' keys are hexadecimal numbers of 64 bits that are spread evenly.
    fn starts(&self) -> Vec<String> {
        let width = u64::MAX / u64::from(self.ranges.max(1));
        let others = (1..self.ranges).map(|index| format!("user{:016x}", width * u64::from(index)));
        [String::new()].into_iter().chain(others).collect()
    }

    /// What the file says, with an address for each of the nodes.
    pub fn configuration(&self, addresses: &[SocketAddr]) -> String {
        let mut text = "[cluster]\n".to_owned();
        // Writing into a string does not fail.
        for start in self.starts() {
            let _ = write!(text, "[[cluster.range]]\nstart = \"{start}\"\n");
        }
        for ((name, role), address) in self.nodes().iter().zip(addresses) {
            // All read the clock of the same machine.
            let _ = write!(
                text,
                "[[node]]\nname = \"{name}\"\naddress = \"{address}\"\nroles = [\"{role}\"]\ndata_dir = \"{name}\"\n\
                 clock = {{ source = \"fixed\", bound_us = 50 }}\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use meridian::config::File;

    use super::*;
    use crate::system::free_addresses;

    #[test]
    fn the_configuration_is_one_that_meridian_takes() {
        for layout in Layout::series(&[1, 16, 256], &[1, 4]) {
            let addresses = free_addresses(layout.nodes().len()).unwrap();
            let text = layout.configuration(&addresses);
            let file = File::parse(&text).unwrap();
            let problems = meridian::config::check::check(&file, &text);
            let errors: Vec<_> = problems.iter().filter(|problem| problem.is_error).collect();
            assert!(errors.is_empty(), "{errors:?}\n{text}");
            assert_eq!(file.nodes.len(), layout.nodes().len());
            assert_eq!(file.cluster.ranges.len(), layout.ranges as usize);
        }
    }

    #[test]
    fn each_layout_is_there_once_and_differs_in_one_thing() {
        let series = Layout::series(&[1, 2, 4, 8, 16], &[1, 2, 3, 4]);
        assert_eq!(series.len(), 5 + 3 * 3);
        assert_eq!(series.iter().filter(|layout| layout.is_single()).count(), 5);
        let differs = |layout: &Layout| {
            let base = Layout::default();
            [
                layout.ranges != base.ranges,
                layout.adjudicators != base.adjudicators,
                layout.storages != base.storages,
                layout.queries != base.queries,
            ]
            .into_iter()
            .filter(|differs| *differs)
            .count()
        };
        assert!(series.iter().all(|layout| differs(layout) <= 1));
    }

    #[test]
    fn ranges_have_equal_shares() {
        let four = Layout::default().starts();
        assert_eq!(four.len(), 4);
        assert!(four[0].is_empty() && four[1].starts_with("user3f") && four[3].starts_with("userbf"));
    }
}
