//! Messages that nobody accepts.

use bytes::Bytes;
use http_body_util::Full;
use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::{ExecuteRequest, Mutation, PutRequest};
use meridian_types::limits::MAX_MESSAGE_BYTES;
use tonic::body::Body;
use tonic::{Code, Status};

use crate::backend::frame;
use crate::sessions::Session;
use crate::world::{WIRES, World, begin, config, error, get, handle, until, within};

fn put(value_bytes: usize) -> PutRequest {
    PutRequest {
        transaction: handle("qp-1"),
        key: "k".into(),
        value: vec![0; value_bytes].into(),
    }
}

fn execute(value_bytes: usize) -> ExecuteRequest {
    let mutation = Mutation {
        key: "k".into(),
        value: Some(vec![0; value_bytes].into()),
    };
    ExecuteRequest {
        mutations: vec![mutation],
        ..ExecuteRequest::default()
    }
}

fn assert_too_large(status: &Status) {
    match error(status) {
        Some(KvError::LimitExceeded { limit, allowed, got }) => {
            assert_eq!(limit, "message size in bytes");
            assert_eq!(allowed, MAX_MESSAGE_BYTES as u64);
            assert!(got > allowed);
        }
        other => panic!("{other:?}: {status:?}"),
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_name() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut client = router.client();
        assert_too_large(&within(client.put(put(MAX_MESSAGE_BYTES))).await.unwrap_err());
        assert_too_large(
            &within(client.execute(execute(MAX_MESSAGE_BYTES)))
                .await
                .unwrap_err(),
        );
        // Below it: the largest that any router passes on.
        within(client.put(put(MAX_MESSAGE_BYTES - 64))).await.unwrap();
        within(client.execute(execute(MAX_MESSAGE_BYTES - 64)))
            .await
            .unwrap();
        assert_eq!(router.figure("query_processors_ready"), 1);
    }
}

#[tokio::test]
async fn a_session_with_a_message_over_the_limit_is_ended_by_name() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        session.echo(1).await;
        session.send(2, Op::Put(put(MAX_MESSAGE_BYTES))).await;
        let status = session.reply().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains("message size in bytes"), "{status:?}");
        // Bare: what came before it in the session may have been done.
        assert_eq!(error(&status), None);
        until("the session is over", || router.figure("sessions") == 0).await;
        until("the query processor has seen it", || {
            world.backends[0].session_ends() == ["broke"]
        })
        .await;
    }
}

#[tokio::test]
async fn a_compressed_message_is_refused() {
    let world = World::new(WIRES[1], &["qp-1"]).await;
    let router = world.router("router", config()).await;
    for method in ["Get", "Execute"] {
        let mut bytes = frame(&get("qp-1")).to_vec();
        bytes[0] = 1;
        let body = Body::new(Full::new(Bytes::from(bytes)));
        let response = router.raw(method, body).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "12", "{method}");
    }
    begin(&router.client()).await.unwrap();
}
