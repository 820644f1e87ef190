//! What a router does between being told to stop and having stopped.

use std::time::Duration;

use meridian_router::Config;
use meridian_rpc::v1::{ExecuteRequest, OutcomeRequest, ScanRequest};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::backend::Script;
use crate::sessions::Session;
use crate::world::{
    WIRES, World, assert_not_applied, assert_unknown, begin, config, get, handle, until, who, within,
};

fn patient() -> Config {
    Config {
        drain_ms: 3_600_000,
        ..config()
    }
}

#[tokio::test]
async fn calls_that_hang_are_cut_and_so_is_what_they_asked_for() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let backend = &world.backends[0];
        backend.script("Get", Script::Hang);
        backend.script("Execute", Script::Hang);
        let (mut reader, mut writer) = (router.client(), router.client());
        let read = tokio::spawn(async move { reader.get(get("qp-1")).await });
        let write = tokio::spawn(async move { writer.execute(ExecuteRequest::default()).await });
        until("both hang", || backend.held() == 2).await;
        router.shutdown.cancel();
        within(router.stopped).await.unwrap().unwrap();
        // They may have been done.
        assert_unknown(&within(read).await.unwrap().unwrap_err());
        assert_unknown(&within(write).await.unwrap().unwrap_err());
        until("the query processor has seen it", || backend.held() == 0).await;
    }
}

#[tokio::test]
async fn a_session_is_cut_on_both_sides() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        session.echo(1).await;
        router.shutdown.cancel();
        // Before the cut: in process nothing is on its way that nobody asks for.
        session.is_asked_to_close().await;
        within(router.stopped).await.unwrap().unwrap();
        assert_unknown(&session.reply().await.unwrap_err());
        // The client has not closed its side; the query processor must not wait for it.
        until("the query processor has seen it", || {
            world.backends[0].session_ends() == ["broke"]
        })
        .await;
        drop(session.ops);
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        world.backends[0].script("Scan", Script::Endless);
        let request = ScanRequest {
            transaction: handle("qp-1"),
            ..ScanRequest::default()
        };
        let mut pages = within(router.client().scan(request)).await.unwrap().into_inner();
        router.shutdown.cancel();
        let end = within(async {
            loop {
                if let Err(status) = pages.message().await {
                    break status;
                }
            }
        });
        assert_unknown(&end.await);
        within(router.stopped).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_open_goes_on_and_what_is_new_is_sent_elsewhere() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", patient()).await;
        let mut client = router.client();
        let transaction = begin(&client).await.unwrap();
        let mut session = Session::open(&client).await.unwrap();
        router.shutdown.cancel();
        until("it says so", || !router.service.is_ready()).await;
        assert_eq!(router.service.status().state, "shutting down");

        assert_not_applied(&begin(&client).await.unwrap_err());
        assert_not_applied(
            &within(client.execute(ExecuteRequest::default()))
                .await
                .unwrap_err(),
        );
        assert_not_applied(&Session::open(&client).await.map(|_| ()).unwrap_err());
        assert_eq!(router.figure("refused_draining"), 3);

        assert_eq!(who(&client, &transaction).await.unwrap(), "qp-1");
        within(client.outcome(OutcomeRequest::default())).await.unwrap();
        session.is_asked_to_close().await;
        session.echo(1).await;

        // It has stopped as soon as nothing is open.
        assert!(!router.stopped.is_finished());
        drop(session);
        within(router.stopped).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn after_the_cut_nothing_is_passed_on() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let transaction = begin(&router.client()).await.unwrap();
        let client = router.client();
        router.shutdown.cancel();
        within(router.stopped).await.unwrap().unwrap();
        assert_not_applied(&who(&client, &transaction).await.unwrap_err());
        assert_eq!(world.backends[0].count("Get"), 0);
    }
}

#[tokio::test]
async fn a_router_alone_listens_until_it_has_drained() {
    let world = World::new(WIRES[1], &["qp-1"]).await;
    let shutdown = CancellationToken::new();
    let (client, run) = world.router_alone(patient(), shutdown.clone()).await;
    let transaction = begin(&client).await.unwrap();
    let session = Session::open(&client).await.unwrap();
    shutdown.cancel();
    // Until its connection hears of it, a client may still get something new.
    within(async {
        while let Ok(_begun) = begin(&client).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_not_applied(&begin(&client).await.unwrap_err());
    assert_eq!(who(&client, &transaction).await.unwrap(), "qp-1");
    assert!(!run.is_finished());
    drop(session);
    within(run).await.unwrap().unwrap();
    assert_eq!(begin(&client).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_router_alone_stops_although_calls_hang() {
    let world = World::new(WIRES[1], &["qp-1"]).await;
    let shutdown = CancellationToken::new();
    let (client, run) = world.router_alone(config(), shutdown.clone()).await;
    world.backends[0].script("Get", Script::Ignore);
    let mut reader = client.clone();
    let read = tokio::spawn(async move { reader.get(get("qp-1")).await });
    let mut session = Session::open(&client).await.unwrap();
    until("it hangs", || world.backends[0].held() == 1).await;
    shutdown.cancel();
    within(run).await.unwrap().unwrap();
    assert_unknown(&within(read).await.unwrap().unwrap_err());
    session.is_asked_to_close().await;
    assert_unknown(&session.reply().await.unwrap_err());
}
