//! Clients that are slow to say what they want, or never finish.

use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use meridian_router::Config;
use meridian_rpc::v1::{ExecuteRequest, PutRequest};
use tonic::Status;

use crate::backend::{Script, frame};
use crate::world::{
    WIRES, Wire, World, begin, config, config_without_probes, get, handle, open_body, until, within,
};

fn impatient() -> Config {
    Config {
        max_requests: 1,
        header_timeout_ms: 50,
        request_timeout_ms: 150,
        ..config()
    }
}

fn put() -> Bytes {
    frame(&PutRequest {
        transaction: handle("qp-1"),
        key: "k".into(),
        value: vec![0; 10_000].into(),
    })
}

fn execute() -> Bytes {
    frame(&ExecuteRequest {
        reads: vec![vec![b'k'; 1_000].into()],
        ..ExecuteRequest::default()
    })
}

/// Sends `first`, then the rest byte by byte for as long as somebody reads.
async fn trickle(wire: Wire, method: &str, request: Bytes, first: usize) {
    let world = World::new(wire, &["qp-1"]).await;
    let router = world.router("router", impatient()).await;
    let (sender, body) = open_body();
    let slow = tokio::spawn(async move {
        let send = async |bytes: Bytes| sender.send(Ok(Frame::data(bytes))).await.is_ok();
        send(request.slice(..first)).await;
        let mut rest = request.into_iter().skip(first).chain(std::iter::repeat(0));
        while send(Bytes::from(vec![rest.next().unwrap()])).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let response = router.raw(method, body).await.unwrap();
    assert_eq!(
        response.headers()["grpc-status"],
        "4",
        "{wire:?} {method} {first}"
    );
    drop(response);
    // The slot is free, and nobody reads what else the client has to say.
    until("there is room", || router.figure("requests") == 0).await;
    begin(&router.client()).await.unwrap();
    within(slow).await.unwrap();
    assert_eq!(router.figure("query_processors_ready"), 1);
}

#[tokio::test]
async fn a_request_that_trickles_gives_its_slot_back() {
    for wire in WIRES {
        // The handle never comes; it comes, and the rest does not; there is no handle.
        trickle(wire, "Put", put(), 0).await;
        trickle(wire, "Put", put(), 1_000).await;
        trickle(wire, "Execute", execute(), 100).await;
    }
}

#[tokio::test]
async fn a_request_that_is_complete_but_never_ends_gives_its_slot_back() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", impatient()).await;
        for (method, request) in [("Put", put()), ("Execute", execute()), ("Execute", Bytes::new())] {
            let (sender, body) = open_body();
            sender.send(Ok(Frame::data(request))).await.unwrap();
            let response = router.raw(method, body).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "4", "{wire:?} {method}");
            within(sender.closed()).await;
            until("there is room", || router.figure("requests") == 0).await;
        }
        begin(&router.client()).await.unwrap();
    }
}

/// Who cannot even be routed is given up sooner.
#[tokio::test]
async fn a_request_whose_handle_never_comes_is_given_up_first() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let request_timeout_ms = 3_600_000;
        let config = Config {
            request_timeout_ms,
            ..impatient()
        };
        let router = world.router("router", config).await;
        let (sender, body) = open_body();
        sender.send(Ok(Frame::data(put().slice(..8)))).await.unwrap();
        let response = router.raw("Put", body).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4", "{wire:?}");
        within(sender.closed()).await;
        assert_eq!(world.backends[0].calls(), [""; 0]);
        begin(&router.client()).await.unwrap();
    }
}

/// The time is for the request. The answer may take as long as the query processor likes.
#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", impatient()).await;
        world.backends[0].script("Get", Script::Hang);
        let mut client = router.client();
        let call = tokio::spawn(async move { client.get(get("qp-1")).await });
        until("it hangs", || world.backends[0].held() == 1).await;
        let timeout = Duration::from_millis(impatient().request_timeout_ms);
        tokio::time::sleep(3 * timeout).await;
        assert!(!call.is_finished(), "{wire:?}");
        assert_eq!(world.backends[0].held(), 1);
        call.abort();
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_is_not_held_against_the_query_processor() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config_without_probes()).await;
        for method in ["Put", "Execute", "Session"] {
            world.backends[0].script(method, Script::Hang);
            let (sender, body) = open_body();
            sender.send(Ok(Frame::data(put().slice(..5_000)))).await.unwrap();
            let break_off = async {
                until("it is handed on", || world.backends[0].count(method) == 1).await;
                sender.send(Err(Status::internal("gone"))).await.unwrap();
            };
            let (response, ()) = tokio::join!(router.raw(method, body), break_off);
            if let Ok(response) = response {
                assert_ne!(response.headers()["grpc-status"], "0", "{wire:?} {method}");
            }
            until("it is over", || {
                router.figure("requests") + router.figure("sessions") == 0
            })
            .await;
            until("the query processor has seen it", || {
                world.backends[0].held() == 0
            })
            .await;
            assert_eq!(router.figure("query_processors_ready"), 1, "{wire:?} {method}");
        }
    }
}
