//! Over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_journal::run;
use meridian_rpc::guard::Identity;
use meridian_rpc::internal::FenceRequest;
use meridian_rpc::internal::append_reply::Result as Reply;
use meridian_rpc::internal::journal_client::JournalClient;
use meridian_rpc::{Listener, LocalNodes, Network, TcpDialer, Transport};
use meridian_types::ClusterId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::*;

fn client(cluster: ClusterId, address: &str) -> JournalClient<Transport> {
    let identity = Identity {
        cluster,
        node: "a1".into(),
    };
    let addresses = BTreeMap::from([("j1".into(), address.to_owned())]);
    let network = Network::new(
        &identity,
        LocalNodes::default(),
        Arc::new(TcpDialer::new(addresses)),
    );
    JournalClient::new(network.transport(&"j1".into()))
}

#[tokio::test]
async fn fencing_and_previous_positions_hold_over_tcp() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(run(
        small_config(),
        World::default().env("j1"),
        Listener::Tcp(socket),
        identity("j1", 1),
        names(),
        Arc::new(registered("j1", 1)),
        shutdown.clone(),
    ));
    let fence = |epoch| FenceRequest {
        stream: STREAM,
        epoch,
        owner: "a1".to_owned(),
    };
    let mut ours = client(cluster_id(), &address);
    assert_eq!(
        ours.fence(fence(4)).await.unwrap().into_inner().refused_by_epoch,
        0
    );
    assert_eq!(
        ours.fence(fence(4)).await.unwrap().into_inner().refused_by_epoch,
        4
    );
    let stranger = client(ClusterId(Uuid::from_u128(8)), &address)
        .fence(fence(9))
        .await
        .unwrap_err();
    assert!(stranger.message().contains("wrong cluster"), "{stranger}");
    let mut link = Link::open(ours.clone(), "a1").await;
    assert_eq!(
        link.append(append(3, (0, 0), vec![opened(3, 1)], 0)).await,
        Reply::RefusedByEpoch(4)
    );
    assert_eq!(
        link.append(append(4, (3, 1), vec![opened(4, 2)], 0)).await,
        Reply::Mismatch(position(0, 0))
    );
    // Pipelined: replies come in order, whatever was synced together.
    for lsn in 1..=50 {
        let prev = if lsn == 1 { (0, 0) } else { (4, lsn - 1) };
        link.send(vec![append(4, prev, vec![commit(4, lsn, b"payload")], 0)], vec![])
            .await;
    }
    let mut replies = Vec::new();
    while replies.len() < 50 {
        replies.extend(
            link.replies()
                .await
                .unwrap()
                .into_iter()
                .filter_map(|reply| reply.result),
        );
    }
    assert_eq!(replies, (1..=50).map(|lsn| matched(4, lsn)).collect::<Vec<_>>());
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
