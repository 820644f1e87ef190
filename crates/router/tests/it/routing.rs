//! Which query processor gets a call, and who gets it when that one is gone.

use std::collections::BTreeSet;

use meridian_rpc::KvError;
use meridian_rpc::v1::{ExecuteRequest, GetRequest, OutcomeRequest};

use crate::backend::Script;
use crate::sessions::Session;
use crate::world::{
    WIRES, Wire, World, assert_not_applied, assert_unknown, begin, config, config_without_probes, error, get,
    until, who, within,
};

#[tokio::test]
async fn a_transaction_stays_at_its_query_processor_whichever_router_is_asked() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1", "qp-2", "qp-3"]).await;
        let one = world.router("router-1", config()).await;
        let other = world.router("router-2", config()).await;
        let mut begun_at = BTreeSet::new();
        for _ in 0..3 {
            let transaction = begin(&one.client()).await.unwrap();
            let mine = who(&one.client(), &transaction).await.unwrap();
            for _ in 0..3 {
                assert_eq!(
                    who(&other.client(), &transaction).await.unwrap(),
                    mine,
                    "{wire:?}"
                );
            }
            begun_at.insert(mine);
        }
        // New transactions are spread over all of them.
        assert_eq!(begun_at.len(), 3, "{wire:?}");
    }
}

#[tokio::test]
async fn a_call_that_names_no_open_transaction_is_refused() {
    let world = World::new(Wire::Local, &["qp-1"]).await;
    let router = world.router("router", config()).await;
    let refused = |request: GetRequest| {
        let mut client = router.client();
        async move { error(&within(client.get(request)).await.unwrap_err()).unwrap() }
    };
    let stranger = refused(get("qp-9")).await;
    assert!(
        matches!(stranger, KvError::TransactionNotFound { .. }),
        "{stranger:?}"
    );
    for handle in ["", "what is this?"] {
        let request = GetRequest {
            transaction: handle.into(),
            ..get("qp-1")
        };
        let invalid = refused(request).await;
        assert!(matches!(invalid, KvError::Invalid { .. }), "{invalid:?}");
    }
    assert_eq!(world.backends[0].calls(), [""; 0]);
}

#[tokio::test]
async fn what_is_new_goes_to_the_query_processor_that_is_left() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1", "qp-2"]).await;
        let router = world.router("router", config_without_probes()).await;
        let mut client = router.client();
        let mut orphan = begin(&client).await.unwrap();
        while who(&client, &orphan).await.unwrap() != "qp-1" {
            orphan = begin(&client).await.unwrap();
        }
        world.cut(0);
        for _ in 0..4 {
            let transaction = begin(&client).await.unwrap();
            assert_eq!(who(&client, &transaction).await.unwrap(), "qp-2", "{wire:?}");
            within(client.execute(ExecuteRequest::default())).await.unwrap();
            within(client.outcome(OutcomeRequest::default())).await.unwrap();
            assert_eq!(Session::open(&client).await.unwrap().node, "qp-2", "{wire:?}");
        }
        // What only the lost one could answer is refused, and surely not applied.
        assert_not_applied(&who(&client, &orphan).await.unwrap_err());
        assert_eq!(router.figure("query_processors_ready"), 1);
    }
}

#[tokio::test]
async fn without_any_query_processor_nothing_is_applied() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1", "qp-2"]).await;
        let router = world.router("router", config()).await;
        world.cut(0);
        world.cut(1);
        let mut client = router.client();
        assert_not_applied(
            &within(client.execute(ExecuteRequest::default()))
                .await
                .unwrap_err(),
        );
        assert_not_applied(&begin(&client).await.unwrap_err());
        until("no query processor is ready", || !router.service.is_ready()).await;
    }
}

#[tokio::test]
async fn a_query_processor_that_comes_back_is_used_again() {
    let world = World::new(Wire::Local, &["qp-1"]).await;
    let router = world.router("router", config()).await;
    world.cut(0);
    until("it is found gone", || !router.service.is_ready()).await;
    world.restore(0);
    until("it is found ready", || router.service.is_ready()).await;
    begin(&router.client()).await.unwrap();
}

#[tokio::test]
async fn a_query_processor_that_takes_nothing_new_is_left_alone() {
    let world = World::new(Wire::Local, &["qp-1", "qp-2"]).await;
    let router = world.router("router", config_without_probes()).await;
    let refusal = KvError::unavailable("shutting down");
    world.backends[0].script("Begin", Script::Refuse(refusal.clone()));
    let mut refused = 0;
    for _ in 0..6 {
        match begin(&router.client()).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(error(&status), Some(refusal.clone()));
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 1);
    assert_eq!(world.backends[0].count("Begin"), 1);
}

/// It says that something behind the query processor is missing, not that it takes nothing.
#[tokio::test]
async fn a_refusal_within_a_transaction_does_not_take_the_query_processor_away() {
    let world = World::new(Wire::Local, &["qp-1"]).await;
    let router = world.router("router", config_without_probes()).await;
    let refusal = KvError::unavailable("no storage node answers");
    world.backends[0].script("Get", Script::Refuse(refusal.clone()));
    world.backends[0].script("Execute", Script::Refuse(refusal.clone()));
    let status = within(router.client().get(get("qp-1"))).await.unwrap_err();
    assert_eq!(error(&status), Some(refusal.clone()));
    let status = within(router.client().execute(ExecuteRequest::default())).await;
    assert_eq!(error(&status.unwrap_err()), Some(refusal));
    assert!(router.service.is_ready());
}

#[tokio::test]
async fn what_was_handed_on_before_the_line_broke_is_not_tried_again() {
    let world = World::new(Wire::Tcp, &["qp-1", "qp-2"]).await;
    let router = world.router("router", config_without_probes()).await;
    for backend in &world.backends {
        backend.script("Execute", Script::Hang);
    }
    let mut client = router.client();
    let call = tokio::spawn(async move { client.execute(ExecuteRequest::default()).await });
    let taken = || world.backends.iter().position(|backend| backend.held() == 1);
    until("one has it", || taken().is_some()).await;
    let taken_by = taken().unwrap();
    world.cut(taken_by);
    assert_unknown(&within(call).await.unwrap().unwrap_err());
    assert_eq!(world.backends[1 - taken_by].calls(), [""; 0]);
}

#[tokio::test]
async fn an_unknown_call_is_unimplemented() {
    let world = World::new(Wire::Local, &["qp-1"]).await;
    let router = world.router("router", config()).await;
    let response = router.raw("Guess", tonic::body::Body::empty()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
}
