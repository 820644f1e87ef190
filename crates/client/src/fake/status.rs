//! A status as a small cluster would give it. Fixed: the fake has no nodes.

use std::collections::HashMap;

use meridian_rpc::v1::{
    AppliedStatus, ClusterStatusResponse, NodeStatus, OwnedRangeStatus, ServiceStatus, StreamStatus,
};

const LEASE_END: u64 = 1_700_000_000_500_000_000;

pub(super) fn sample() -> ClusterStatusResponse {
    let journal = service("journal", |service| {
        service.streams.push(StreamStatus {
            stream: 1,
            promised_epoch: 3,
            owner: "n1".to_owned(),
            last_epoch: 3,
            last_lsn: 120,
            committed_lsn: 118,
            lease_end: LEASE_END,
            bytes: 65_536,
        });
    });
    let adjudicator = service("adjudicator", |service| {
        service.ranges.push(OwnedRangeStatus {
            range: 1,
            stream: 1,
            epoch: 3,
            role: "owner".to_owned(),
            floor: LEASE_END - 1,
            window_low: 1,
            lease_end: LEASE_END,
            lead_ns: 2_000_000,
            last_lsn: 120,
            committed_lsn: 118,
            closed: LEASE_END - 2,
            replicas: HashMap::from([("n1".to_owned(), 120), ("n2".to_owned(), 115)]),
            candidates: vec!["n1".to_owned(), "n2".to_owned()],
            ..OwnedRangeStatus::default()
        });
    });
    let storage = service("storage", |service| {
        service.applied.push(AppliedStatus {
            stream: 1,
            applied_lsn: 117,
            closed: LEASE_END - 3,
        });
        service.figures.insert("keys".to_owned(), 42);
    });
    let alive = NodeStatus {
        node: "n1".to_owned(),
        region: "a".to_owned(),
        cluster_id: "00000000-0000-0000-0000-000000000001".to_owned(),
        version: "0.1.0".to_owned(),
        clock_bound: 1_000_000,
        clock_healthy: true,
        services: vec![journal, adjudicator, storage],
        unreachable: String::new(),
        address: "127.0.0.1:7401".to_owned(),
        ..NodeStatus::default()
    };
    let dead = NodeStatus {
        node: "n2".to_owned(),
        region: "a".to_owned(),
        unreachable: "connection refused".to_owned(),
        address: "127.0.0.1:7402".to_owned(),
        ..NodeStatus::default()
    };
    ClusterStatusResponse {
        nodes: vec![alive, dead],
    }
}

fn service(role: &str, fill: impl FnOnce(&mut ServiceStatus)) -> ServiceStatus {
    let mut service = ServiceStatus {
        role: role.to_owned(),
        state: "ready".to_owned(),
        ..ServiceStatus::default()
    };
    fill(&mut service);
    service
}
