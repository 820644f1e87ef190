//! Answers that break, and answers that are not what they should be.

use http::{HeaderMap, HeaderValue};
use meridian_rpc::v1::admin_client::AdminClient;
use meridian_rpc::v1::{ClusterStatusRequest, ExecuteRequest, ScanPage, ScanRequest};
use tonic::{Code, Status, Streaming};

use crate::backend::Script;
use crate::world::{
    Client, WIRES, Wire, World, assert_unknown, begin, config, config_without_probes, get, handle, until,
    within,
};

async fn scan(client: &Client) -> Result<Streaming<ScanPage>, Status> {
    let request = ScanRequest {
        transaction: handle("qp-1"),
        ..ScanRequest::default()
    };
    Ok(within(client.clone().scan(request)).await?.into_inner())
}

/// The first page arrives, and then what the answer ends with.
async fn end_of_scan(client: &Client) -> Result<Option<ScanPage>, Status> {
    let mut pages = scan(client).await?;
    assert!(within(pages.message()).await.unwrap().is_some());
    within(pages.message()).await
}

#[tokio::test]
async fn an_answer_that_breaks_ends_in_a_status() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        for script in [Script::Break, Script::Stop] {
            world.backends[0].script("Scan", script.clone());
            assert_unknown(&end_of_scan(&router.client()).await.unwrap_err());
            world.backends[0].script("Execute", script);
            let executed = within(router.client().execute(ExecuteRequest::default())).await;
            assert_unknown(&executed.unwrap_err());
        }
        until("nothing is open", || router.figure("requests") == 0).await;
        assert_eq!(router.figure("answers_broken"), 4);
    }
}

#[tokio::test]
async fn an_answer_whose_line_is_cut_ends_in_a_status() {
    let world = World::new(Wire::Tcp, &["qp-1"]).await;
    let router = world.router("router", config()).await;
    world.backends[0].script("Scan", Script::Stall);
    let mut pages = scan(&router.client()).await.unwrap();
    assert!(within(pages.message()).await.unwrap().is_some());
    world.cut(0);
    assert_unknown(&within(pages.message()).await.unwrap_err());
    until("nothing is open", || router.figure("requests") == 0).await;
}

#[tokio::test]
async fn a_complete_answer_is_passed_on_to_its_end() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut pages = scan(&router.client()).await.unwrap();
        assert!(!within(pages.message()).await.unwrap().unwrap().last);
        assert!(within(pages.message()).await.unwrap().unwrap().last);
        assert!(within(pages.message()).await.unwrap().is_none());
        let own = HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), HeaderValue::from_static("9")),
            ("grpc-message".parse().unwrap(), HeaderValue::from_static("no")),
            ("x-more".parse().unwrap(), HeaderValue::from_static("kept")),
        ]);
        for script in [Script::Head(own.clone()), Script::Trailers(own)] {
            world.backends[0].script("Get", script);
            let status = within(router.client().get(get("qp-1"))).await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{wire:?}");
            assert_eq!(status.message(), "no");
            assert_eq!(status.metadata().get("x-more").unwrap(), "kept");
        }
        assert_eq!(router.figure("answers_broken"), 0);
    }
}

/// tonic takes details that are not base64 for a bug of its own, and panics.
fn indecent() -> HeaderMap {
    HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), HeaderValue::from_static("14")),
        (
            "grpc-status-details-bin".parse().unwrap(),
            HeaderValue::from_static("***"),
        ),
    ])
}

#[tokio::test]
async fn details_that_are_not_base64_are_left_out() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config_without_probes()).await;
        for script in [Script::Head(indecent()), Script::Trailers(indecent())] {
            world.backends[0].script("Get", script.clone());
            let status = within(router.client().get(get("qp-1"))).await.unwrap_err();
            assert_unknown(&status);
            world.backends[0].script("Begin", script);
            assert_unknown(&begin(&router.client()).await.unwrap_err());
        }
        begin(&router.client()).await.unwrap();
    }
}

#[tokio::test]
async fn a_probe_survives_details_that_are_not_base64() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        for script in [Script::Head(indecent()), Script::Trailers(indecent())] {
            world.backends[0].script("Status", script);
        }
        let router = world.router("router", config()).await;
        until("the probe failed", || !router.service.is_ready()).await;
        until("the next one did not", || router.service.is_ready()).await;
        assert!(!router.stopped.is_finished());
    }
}

#[tokio::test]
async fn the_status_of_the_cluster_survives_them_too() {
    let world = World::new(Wire::Tcp, &["qp-1", "qp-2"]).await;
    let router = world.router("router", config_without_probes()).await;
    // The router's first look at them is over.
    until("both answered", || router.service.is_ready()).await;
    for script in [Script::Head(indecent()), Script::Trailers(indecent())] {
        world.backends[0].script("Status", script);
    }
    let mut admin = AdminClient::new(router.transport.clone());
    let mut unreachable = 0;
    for _ in 0..3 {
        let asked = within(admin.cluster_status(ClusterStatusRequest {})).await;
        let nodes = asked.unwrap().into_inner().nodes;
        assert_eq!(nodes.len(), 2);
        assert_eq!(
            (nodes[0].node.as_str(), nodes[0].address.as_str()),
            ("qp-1", "qp-1:1")
        );
        assert_eq!(nodes[1].unreachable, "");
        unreachable += usize::from(!nodes[0].unreachable.is_empty());
    }
    assert!(unreachable >= 1, "{unreachable}");
}
