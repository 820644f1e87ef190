//! Only so much at once, and what is told to the rest.

use std::time::Duration;

use meridian_router::Config;
use meridian_rpc::KvError;
use tonic::{Code, Status};

use crate::backend::Script;
use crate::sessions::Session;
use crate::world::{Wire, World, begin, config, error, get, until, within};

fn assert_overloaded(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted);
    match error(status) {
        Some(KvError::Overloaded {
            what: says,
            retry_after,
        }) => {
            assert!(says.contains(what), "{says}");
            let least = Duration::from_millis(config().retry_after_ms);
            assert!(
                retry_after >= least && retry_after <= 2 * least,
                "{retry_after:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_call_too_many_is_refused_until_another_has_ended() {
    let world = World::new(Wire::Tcp, &["qp-1"]).await;
    let max_requests = 2;
    let router = world
        .router(
            "router",
            Config {
                max_requests,
                ..config()
            },
        )
        .await;
    let calls: Vec<_> = (0..max_requests)
        .map(|_| {
            world.backends[0].script("Get", Script::Hang);
            let mut client = router.client();
            tokio::spawn(async move { client.get(get("qp-1")).await })
        })
        .collect();
    until("both hang", || world.backends[0].held() == max_requests).await;
    assert_eq!(router.figure("requests"), 2);
    assert_overloaded(&begin(&router.client()).await.unwrap_err(), "2 requests are open");
    assert_eq!(router.figure("refused_overloaded"), 1);
    // Sessions have a limit of their own.
    Session::open(&router.client()).await.unwrap();
    for call in calls {
        call.abort();
    }
    // A client that has gone leaves nothing behind.
    until("none hangs", || world.backends[0].held() == 0).await;
    until("there is room", || router.figure("requests") == 0).await;
    begin(&router.client()).await.unwrap();
}

#[tokio::test]
async fn one_session_too_many_is_refused_until_another_has_ended() {
    let world = World::new(Wire::Tcp, &["qp-1"]).await;
    let router = world
        .router(
            "router",
            Config {
                max_sessions: 1,
                ..config()
            },
        )
        .await;
    let mut session = Session::open(&router.client()).await.unwrap();
    let refused = Session::open(&router.client()).await.map(|_| ()).unwrap_err();
    assert_overloaded(&refused, "1 sessions are open");
    session.echo(1).await;
    begin(&router.client()).await.unwrap();
    drop(session);
    until("there is room", || router.figure("sessions") == 0).await;
    Session::open(&router.client()).await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_could_serve_nobody_is_refused() {
    let world = World::new(Wire::Local, &[]).await;
    let (_, run) = world.router_alone(config(), Default::default()).await;
    assert!(
        run.await
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("no query processor")
    );
    let world = World::new(Wire::Local, &["qp-1"]).await;
    type Zero = fn(&mut Config);
    let zeros: [(&str, Zero); 5] = [
        ("max_sessions", |config| config.max_sessions = 0),
        ("max_requests", |config| config.max_requests = 0),
        ("probe_timeout_ms", |config| config.probe_timeout_ms = 0),
        ("header_timeout_ms", |config| config.header_timeout_ms = 0),
        ("request_timeout_ms", |config| config.request_timeout_ms = 0),
    ];
    for (name, zero) in zeros {
        let mut config = config();
        zero(&mut config);
        let (_, run) = world.router_alone(config, Default::default()).await;
        let error = run.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn limits_may_be_as_large_as_one_likes() {
    let world = World::new(Wire::Local, &["qp-1"]).await;
    let config = Config {
        max_sessions: usize::MAX,
        max_requests: usize::MAX,
        drain_ms: u64::MAX,
        request_timeout_ms: u64::MAX,
        header_timeout_ms: u64::MAX,
        ..config()
    };
    let router = world.router("router", config).await;
    Session::open(&router.client()).await.unwrap().echo(1).await;
    begin(&router.client()).await.unwrap();
    router.shutdown.cancel();
    within(router.stopped).await.unwrap().unwrap();
}
