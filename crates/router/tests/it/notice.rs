//! Clients are asked to open other sessions before theirs end: by a router that is to stop, for age, and in a drained region.

use std::sync::Arc;
use std::time::Duration;

use meridian_router::Config;
use meridian_types::RangeMap;

use crate::sessions::Session;
use crate::world::{WIRES, World, assert_not_applied, begin, config, until, within};

fn patient() -> Config {
    Config {
        drain_ms: 3_600_000,
        ..config()
    }
}

#[tokio::test]
async fn a_router_that_is_to_stop_asks_and_ends_when_its_clients_have_left() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", patient()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        session.echo(1).await;
        router.shutdown.cancel();
        session.is_asked_to_close().await;
        // What is open goes on, nothing new is let in.
        session.echo(2).await;
        assert_not_applied(&Session::open(&router.client()).await.err().unwrap());
        drop(session);
        within(router.stopped).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_old_session_is_to_be_renewed_and_goes_on_meanwhile() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let config = Config {
            max_connection_age_ms: 200,
            ..config()
        };
        let router = world.router("router", config).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        session.is_asked_to_close().await;
        session.echo(1).await;
        let mut next = Session::open(&router.client()).await.unwrap();
        next.echo(1).await;
        session.echo(2).await;
    }
}

#[tokio::test]
async fn in_a_drained_region_clients_are_sent_away_until_it_is_used_again() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        let map = RangeMap::single(vec!["a".into(), "b".into()]);
        let adjudicators = vec![("a".into(), "here".to_owned()), ("b".into(), "there".to_owned())];
        let drained = map.with_drained("here", &adjudicators).unwrap();
        world.map.send_replace(Arc::new(drained.clone()));
        session.is_asked_to_close().await;
        session.echo(1).await;
        assert_not_applied(&Session::open(&router.client()).await.err().unwrap());
        assert_not_applied(&begin(&router.client()).await.unwrap_err());
        assert_eq!(router.service.status().figures["region_drained"], 1);
        world
            .map
            .send_replace(Arc::new(drained.with_undrained("here").unwrap()));
        let mut again = Session::open(&router.client()).await.unwrap();
        again.echo(1).await;
        // One that was sent away leaves; nobody cuts it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        session.echo(2).await;
        drop(session);
        until("one session is left", || {
            router.service.status().figures["sessions"] == 1
        })
        .await;
    }
}
