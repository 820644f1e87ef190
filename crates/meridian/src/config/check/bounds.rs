//! Bounds that contradict each other.

use std::time::Duration;

use meridian_types::limits;

use super::Checker;
use crate::config::settings::AGREED;

/// Below this, renewals follow each other faster than a busy disk syncs.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

pub(super) fn check(checker: &mut Checker<'_>) {
    let file = checker.file;
    let settings = &file.cluster.settings;
    let (lease, ceiling) = (settings.lease(), settings.lead_ceiling());
    if lease < SHORTEST_LEASE {
        let what = format!("is shorter than {SHORTEST_LEASE:?}: renewals could not keep up");
        checker.cluster_problem(true, &["settings", "lease_ms"], what);
    }
    if settings.lead_floor() > ceiling {
        let what = "the floor is above the ceiling: exchange them";
        checker.cluster_problem(true, &["settings", "lead"], what);
    }
    // A commit lands `lead` ahead and must lie within a lease that is renewed when a third of it has passed.
    if ceiling > lease / 2 {
        let what = format!(
            "may reach {ceiling:?}, more than half of the lease ({lease:?}): commits could outrun the lease; lower it, or raise lease_ms"
        );
        checker.cluster_problem(true, &["settings", "lead"], what);
    }
    if settings.max_clock_error_ms == 0 {
        let what = "is 0: no clock can keep to that; 250 is usual";
        checker.cluster_problem(true, &["settings", "max_clock_error_ms"], what);
    }
    let needed = limits::MAX_TXN_AGE + limits::MAX_DEADLINE + settings.max_clock_error() * 2;
    if settings.retention() < needed {
        let what = format!(
            "a transaction may last {} s, its last request {} s more, and clocks differ by {:?}: its snapshot would be gone; use at least {}",
            limits::MAX_TXN_AGE.as_secs(),
            limits::MAX_DEADLINE.as_secs(),
            settings.max_clock_error() * 2,
            needed.as_secs() + 1,
        );
        checker.cluster_problem(true, &["settings", "retention_s"], what);
    }
    let too_wide: Vec<(usize, Duration)> = checker
        .nodes()
        .filter(|(_, node)| node.clock.bound() > settings.max_clock_error())
        .map(|(index, node)| (index, node.clock.bound()))
        .collect();
    for (index, bound) in too_wide {
        let what = format!(
            "{bound:?} is wider than cluster.settings.max_clock_error_ms ({:?}): the node would never be healthy",
            settings.max_clock_error()
        );
        checker.node_problem(true, index, &["clock", "bound_us"], what);
    }
    let misplaced: Vec<(usize, [&str; 3], &str)> = checker
        .nodes()
        .flat_map(|(index, _)| {
            AGREED
                .iter()
                .map(move |&(service, field, where_to)| (index, ["settings", service, field], where_to))
        })
        .filter(|(index, path, _)| checker.lines.node_has(*index, path))
        .collect();
    for (index, path, where_to) in misplaced {
        checker.node_problem(true, index, &path, format!("{where_to}: remove it here"));
    }
    let unusable: Vec<(usize, &str, String)> = checker
        .nodes()
        .flat_map(|(index, node)| {
            let storage = node
                .settings
                .storage
                .check()
                .err()
                .map(|what| (index, "storage", what));
            let adjudicator = node.settings.adjudicator.check().err();
            let adjudicator = adjudicator.map(|error| (index, "adjudicator", error.to_string()));
            storage.into_iter().chain(adjudicator)
        })
        .collect();
    for (index, service, what) in unusable {
        checker.node_problem(true, index, &["settings", service], what);
    }
}
