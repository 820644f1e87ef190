//! A session as a client sees it.

use std::collections::VecDeque;
use std::time::Duration;

use meridian_rpc::KvError;
use meridian_rpc::v1::session_op::Op;
use meridian_rpc::v1::session_reply::Reply;
use meridian_rpc::v1::{
    BeginRequest, CommitRequest, GetRequest, PutRequest, SessionHello, SessionOp, SessionReply,
    SessionRequest, SessionResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::cluster::Client;

pub struct Session {
    input: mpsc::Sender<SessionRequest>,
    output: Streaming<SessionResponse>,
    received: VecDeque<SessionReply>,
    next_id: u64,
    pub hello: SessionHello,
}

impl Session {
    pub async fn open(mut client: Client) -> Self {
        let (input, requests) = mpsc::channel(16);
        let output = client
            .session(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner();
        let mut session = Self {
            input,
            output,
            received: VecDeque::new(),
            next_id: 1,
            hello: SessionHello::default(),
        };
        match session.reply().await {
            (0, Reply::Hello(hello)) => session.hello = hello,
            other => panic!("{other:?}"),
        }
        session
    }

    /// Sends operations in one message; their ids.
    pub async fn send(&mut self, ops: Vec<(u64, Op)>) -> Vec<u64> {
        let first = self.next_id;
        let ops: Vec<SessionOp> = ops
            .into_iter()
            .map(|(txn, op)| {
                let id = self.next_id;
                self.next_id += 1;
                SessionOp {
                    id,
                    txn,
                    timeout_ms: 5_000,
                    op: Some(op),
                }
            })
            .collect();
        let ids = (first..self.next_id).collect();
        self.input.send(SessionRequest { ops }).await.unwrap();
        ids
    }

    pub async fn send_one(&mut self, txn: u64, op: Op) -> u64 {
        self.send(vec![(txn, op)]).await[0]
    }

    pub async fn reply(&mut self) -> (u64, Reply) {
        while self.received.is_empty() {
            let next = tokio::time::timeout(Duration::from_secs(8), self.output.message());
            let response = next
                .await
                .expect("a reply in time")
                .unwrap()
                .expect("the session goes on");
            self.received.extend(response.replies);
        }
        let reply = self.received.pop_front().unwrap();
        (reply.id, reply.reply.unwrap())
    }

    /// Whether nothing is answered for a moment.
    pub async fn is_silent(&mut self, moment: Duration) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        match tokio::time::timeout(moment, self.output.message()).await {
            Err(_) => true,
            Ok(response) => {
                self.received.extend(response.unwrap().unwrap().replies);
                false
            }
        }
    }

    /// Whether the server ends the stream.
    pub async fn ends(&mut self) -> bool {
        loop {
            match tokio::time::timeout(Duration::from_secs(3), self.output.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    pub async fn half_close(self) -> Streaming<SessionResponse> {
        self.output
    }
}

pub fn begin() -> Op {
    Op::Begin(BeginRequest::default())
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put(PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    })
}

pub fn get(key: &str) -> Op {
    Op::Get(GetRequest {
        key: key.to_owned().into(),
        ..GetRequest::default()
    })
}

pub fn commit() -> Op {
    Op::Commit(CommitRequest::default())
}

pub fn error(reply: Reply) -> KvError {
    match reply {
        Reply::Error(error) => KvError::from_proto(&error),
        other => panic!("{other:?}"),
    }
}
