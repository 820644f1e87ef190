//! Sessions: streams that are passed on both ways until one side ends them.

use bytes::Bytes;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{GetRequest, PutRequest, SessionOp, SessionReply, SessionRequest, SessionResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::world::{Client, WIRES, Wire, World, assert_unknown, config, until, within};

/// A session that has been greeted.
pub struct Session {
    pub node: String,
    pub ops: mpsc::Sender<SessionRequest>,
    pub replies: Streaming<SessionResponse>,
}

impl Session {
    pub async fn open(client: &Client) -> Result<Self, Status> {
        let (ops, receiver) = mpsc::channel(16);
        let mut client = client.clone();
        let opened = client.session(ReceiverStream::new(receiver));
        let mut session = Self {
            node: String::new(),
            ops,
            replies: within(opened).await?.into_inner(),
        };
        let Some(Reply::Hello(hello)) = session.reply().await?.unwrap().reply else {
            panic!("no greeting");
        };
        session.node = hello.node;
        Ok(session)
    }

    /// One reply; `None` at the end.
    pub async fn reply(&mut self) -> Result<Option<SessionReply>, Status> {
        let message = within(self.replies.message()).await?;
        Ok(message.map(|mut message| message.replies.remove(0)))
    }

    /// The router asks for another session.
    pub async fn is_asked_to_close(&mut self) {
        let reply = self.reply().await.unwrap().unwrap();
        assert!(
            matches!(reply.reply, Some(Reply::Closing(_))) && reply.id == 0,
            "{reply:?}"
        );
    }

    pub async fn send(&self, id: u64, op: Op) {
        let op = SessionOp {
            id,
            op: Some(op),
            ..SessionOp::default()
        };
        within(self.ops.send(SessionRequest { ops: vec![op] }))
            .await
            .unwrap();
    }

    /// Asks for a key, and gets it back.
    pub async fn echo(&mut self, id: u64) {
        let key = Bytes::from(format!("key {id}"));
        let get = GetRequest {
            key: key.clone(),
            ..GetRequest::default()
        };
        self.send(id, Op::Get(get)).await;
        let reply = self.reply().await.unwrap().unwrap();
        assert_eq!(reply.id, id);
        let Some(Reply::Value(value)) = reply.reply else {
            panic!("{reply:?}");
        };
        assert_eq!(value.value, Some(key));
    }
}

#[tokio::test]
async fn a_session_is_passed_on_both_ways_until_the_client_ends_it() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        assert_eq!(session.node, "qp-1");
        for id in 1..100 {
            session.echo(id).await;
        }
        assert_eq!(router.figure("sessions"), 1);
        assert_eq!(router.figure("sessions_at_qp-1"), 1);
        let (ops, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut session.ops, ops));
        assert!(session.reply().await.unwrap().is_none());
        assert_eq!(world.backends[0].session_ends(), ["ended"], "{wire:?}");
        until("the session is over", || router.figure("sessions") == 0).await;
        assert_eq!(router.figure("sessions_at_qp-1"), 0);
    }
}

#[tokio::test]
async fn sessions_are_spread_by_their_number() {
    let world = World::new(Wire::Tcp, &["qp-1", "qp-2"]).await;
    let router = world.router("router", config()).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(Session::open(&router.client()).await.unwrap());
        begin_one(&router.client()).await;
    }
    assert_eq!(router.figure("sessions_at_qp-1"), 5);
    assert_eq!(router.figure("sessions_at_qp-2"), 5);
}

/// Takes a turn, which must not matter to sessions.
async fn begin_one(client: &Client) {
    crate::world::begin(client).await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_session() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        drop(Session::open(&router.client()).await.unwrap());
        until("the query processor has seen it", || {
            !world.backends[0].session_ends().is_empty()
        })
        .await;
        until("the session is over", || router.figure("sessions") == 0).await;
    }
}

/// The answer is over, so nobody will read what the client goes on to send.
#[tokio::test]
async fn a_query_processor_that_hangs_up_ends_the_session() {
    for wire in WIRES {
        let world = World::new(wire, &["qp-1"]).await;
        let router = world.router("router", config()).await;
        let mut session = Session::open(&router.client()).await.unwrap();
        session.send(1, Op::Put(PutRequest::default())).await;
        assert!(session.reply().await.unwrap().is_none());
        assert_eq!(world.backends[0].session_ends(), ["hung up"]);
        until("the session is over", || router.figure("sessions") == 0).await;
        within(session.ops.closed()).await;
    }
}

#[tokio::test]
async fn a_session_whose_query_processor_is_lost_ends_with_an_error_and_another_one_takes_the_next() {
    let world = World::new(Wire::Tcp, &["qp-1", "qp-2"]).await;
    let router = world.router("router", config()).await;
    let mut session = Session::open(&router.client()).await.unwrap();
    let lost = usize::from(session.node == "qp-2");
    world.cut(lost);
    assert_unknown(&session.reply().await.unwrap_err());
    let mut next = Session::open(&router.client()).await.unwrap();
    assert_ne!(next.node, session.node);
    next.echo(1).await;
}
