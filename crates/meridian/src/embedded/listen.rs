//! The routers of an embedded cluster, served to other processes.

use std::net::SocketAddr;

use meridian_types::NodeName;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{File, Role};
use crate::error::Error;

/// A region's router, served to other processes.
pub(super) struct Listening {
    pub(super) region: String,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<std::io::Result<()>>,
}

/// Where a router is served to other processes.
pub(super) struct Socket {
    pub(super) router: NodeName,
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// Binds an address for the router of each region, and writes it into the configuration, where others learn of it. Comes before
/// anything else: an address that is taken is the likeliest reason not to start.
pub(super) async fn bind_all(file: &mut File, listen: Option<SocketAddr>) -> Result<Vec<Socket>, Error> {
    let mut sockets = Vec::new();
    let routers = file.nodes.iter_mut().filter(|node| node.has(Role::Router));
    let Some(first) = listen else { return Ok(sockets) };
    for (node, number) in routers.zip(0..) {
        let port = match first.port() {
            0 => 0,
            port => port.saturating_add(number),
        };
        let (socket, address) = bind(SocketAddr::new(first.ip(), port)).await?;
        node.address = address.to_string();
        sockets.push(Socket {
            router: node.node_name(),
            socket,
            address,
        });
    }
    Ok(sockets)
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let listen_error = |source| Error::Listen {
        address: address.to_string(),
        source,
    };
    let socket = TcpListener::bind(address).await.map_err(listen_error)?;
    let address = socket.local_addr().map_err(listen_error)?;
    Ok((socket, address))
}
