use meridian_client::proto::{AppliedStatus, OwnedRangeStatus, ServiceStatus, StreamStatus};

use super::*;

const GIB: u64 = 1 << 30;

fn service(role: &str) -> ServiceStatus {
    ServiceStatus {
        role: role.to_owned(),
        state: "ready".to_owned(),
        ..ServiceStatus::default()
    }
}

fn node(name: &str, region: &str, services: Vec<ServiceStatus>) -> NodeStatus {
    NodeStatus {
        node: name.to_owned(),
        region: region.to_owned(),
        address: format!("{name}:7400"),
        version: "0.1.0".to_owned(),
        clock_bound: 50_000,
        clock_healthy: true,
        clock_earliest: 1_000_000,
        clock_latest: 1_100_000,
        asked: 1_050_000,
        answered: 1_400_000,
        disk_bytes: 100 * GIB,
        disk_free_bytes: 50 * GIB,
        services,
        ..NodeStatus::default()
    }
}

/// Two regions and a witness in which nothing is wrong.
fn sound() -> Vec<NodeStatus> {
    let mut nodes = Vec::new();
    let journal = || ServiceStatus {
        streams: vec![StreamStatus {
            stream: 1,
            last_lsn: 20_000,
            committed_lsn: 20_000,
            ..StreamStatus::default()
        }],
        ..service("journal")
    };
    for region in ["a", "b"] {
        let storage = ServiceStatus {
            applied: vec![AppliedStatus {
                stream: 1,
                applied_lsn: 19_990,
                ..AppliedStatus::default()
            }],
            ..service("storage")
        };
        let adjudicator = ServiceStatus {
            ranges: vec![OwnedRangeStatus {
                replicas: ["1", "2", "3"].map(|name| (name.to_owned(), 0)).into(),
                ..OwnedRangeStatus::default()
            }],
            ..service("adjudicator")
        };
        let all = vec![
            journal(),
            adjudicator,
            storage,
            service("query"),
            service("router"),
        ];
        nodes.push(node(region, region, all));
    }
    nodes.push(node("w", "w", vec![journal()]));
    nodes
}

fn found(change: impl FnOnce(&mut Vec<NodeStatus>)) -> Vec<(Severity, &'static str)> {
    let mut nodes = sound();
    change(&mut nodes);
    let found = examine(&nodes);
    found
        .iter()
        .map(|finding| (finding.severity, finding.kind))
        .collect()
}

#[test]
fn a_sound_cluster_gives_no_reason_to_say_anything() {
    assert_eq!(found(|_| {}), []);
}

#[test]
fn every_finding_has_its_cause() {
    use Severity::{Note, Problem, Warning};
    let one = |change: fn(&mut Vec<NodeStatus>)| found(change);
    assert_eq!(
        one(|nodes| nodes[1].version = "0.2.0".to_owned()),
        [(Note, "version-mix")]
    );
    assert_eq!(
        one(|nodes| nodes[2].services[0].streams.clear()),
        [(Warning, "replica-missing")]
    );
    // Its router sends clients away: that is what is wanted.
    assert_eq!(
        one(|nodes| {
            let router = nodes[0].services.last_mut().unwrap();
            router.state = "its region is drained: clients are sent to others".to_owned();
            router.figures.insert("region_drained".to_owned(), 1);
        }),
        [(Note, "region-drained")]
    );
    assert_eq!(
        one(|nodes| nodes[0].clock_healthy = false),
        [(Problem, "clock-unhealthy")]
    );
    assert_eq!(
        one(|nodes| nodes[0].clock_bound = 30_000_000),
        [(Warning, "clock-bound-wide")]
    );
    assert_eq!(
        one(|nodes| nodes[2].asked = 1_100_001),
        [(Problem, "clocks-disagree")]
    );
    assert_eq!(
        one(|nodes| nodes[2].answered = 999_999),
        [(Problem, "clocks-disagree")]
    );
    assert_eq!(
        one(|nodes| nodes[0].disk_free_bytes = GIB),
        [(Warning, "disk-nearly-full")]
    );
    assert_eq!(
        one(|nodes| nodes[0].disk_free_bytes = GIB / 10),
        [(Problem, "disk-nearly-full")]
    );
    assert_eq!(
        one(|nodes| nodes[0].services[2].applied[0].applied_lsn = 9_999),
        [(Warning, "storage-behind")]
    );
    assert_eq!(
        one(|nodes| nodes[2].services[0].streams[0].last_lsn = 18_000),
        [(Warning, "replica-behind")]
    );
    assert_eq!(
        one(|nodes| nodes[0].services[3].state = "draining".to_owned()),
        [(Warning, "not-ready"), (Warning, "region-incomplete")]
    );
}

#[test]
fn nodes_that_do_not_answer_cost_the_quorum() {
    use Severity::{Problem, Warning};
    let silent = |count: usize| {
        found(move |nodes| {
            for node in nodes.iter_mut().rev().take(count) {
                node.unreachable = "connection refused".to_owned();
                node.services.clear();
            }
        })
    };
    assert_eq!(silent(1), [(Problem, "unreachable"), (Warning, "quorum-at-risk")]);
    let two = silent(2);
    assert!(two.contains(&(Problem, "no-quorum")), "{two:?}");
    assert!(two.contains(&(Warning, "one-adjudicator")), "{two:?}");
}

#[test]
fn a_storage_node_that_cannot_write_checkpoints_keeps_the_journal_from_being_trimmed() {
    let found = found(|nodes| {
        let mut services = nodes.iter_mut().flat_map(|node| &mut node.services);
        let storage = services.find(|service| service.role == "storage").unwrap();
        storage.figures.insert("checkpoint_failing".to_owned(), 1);
    });
    assert_eq!(found, [(Severity::Warning, "journal-not-trimmed")]);
}

#[test]
fn a_node_of_another_cluster_is_told_apart() {
    let refused = meridian_client::KvError::WrongCluster {
        node: "b".to_owned(),
        ours: "1".to_owned(),
        theirs: "2".to_owned(),
    };
    let found = found(|nodes| nodes[1].unreachable = refused.to_string());
    assert!(
        found.contains(&(Severity::Problem, "wrong-cluster")),
        "{found:?} {refused}"
    );
}

#[test]
fn every_kind_of_finding_is_in_the_table_of_alarms() {
    let alarms = include_str!("../../../../docs/alarms.md");
    let sources = [
        include_str!("../doctor.rs"),
        include_str!("clocks.rs"),
        include_str!("journal.rs"),
    ];
    let is_word =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    // Each stands on a line of its own, as an argument.
    let kinds: Vec<&str> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","))
        .filter(|kind| is_word(kind))
        .collect();
    assert!(kinds.len() >= 14, "{kinds:?}");
    for kind in &kinds {
        assert!(
            alarms.contains(&format!("| `{kind}` |")),
            "docs/alarms.md lacks {kind}"
        );
    }
    let listed = alarms
        .lines()
        .filter(|line| line.starts_with("| `") && !line.starts_with("| `Meridian"));
    assert_eq!(
        listed.count(),
        kinds.len(),
        "docs/alarms.md has findings that do not exist"
    );
}
