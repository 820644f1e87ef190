//! What a router reports of itself.

use meridian_rpc::v1::ExecuteRequest;

use crate::backend::Script;
use crate::sessions::Session;
use crate::world::{WIRES, World, begin, config, get, until, within};

#[tokio::test]
async fn calls_and_sessions_that_were_served_are_counted() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut client = router.client();
        for _ in 0..3 {
            begin(&client).await.unwrap();
        }
        // A refusal of the query processor is an answer as well.
        let refusal = meridian_rpc::KvError::ReadOnly;
        world.backends[0].script("Execute", Script::Refuse(refusal));
        within(client.execute(ExecuteRequest::default()))
            .await
            .unwrap_err();
        for _ in 0..2 {
            drop(Session::open(&client).await.unwrap());
        }
        assert_eq!(router.figure("requests_served"), 4);
        assert_eq!(router.figure("sessions_served"), 2);
        until("all is over", || {
            router.figure("sessions") + router.figure("requests") == 0
        })
        .await;
        // What did not get through was not served.
        world.cut(0);
        within(client.get(get("qp-1"))).await.unwrap_err();
        assert_eq!(router.figure("requests_served"), 4);
        assert_eq!(router.figure("answers_broken"), 0);
        assert_eq!(router.service.status().role, "router");
    }
}
