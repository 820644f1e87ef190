//! Serving: the caller supplies the sockets, so that a test or a simulation can supply its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use crate::network::{CONNECTION_WINDOW_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW_BYTES};

/// How long streams may go on after shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls and streams that one connection may have open at once.
const MAX_CONCURRENT_STREAMS: u32 = 4_096;

/// A connection of any kind.
pub struct Io(Pin<Box<dyn ReadWrite>>);

/// What a connection must be able to do.
pub trait ReadWrite: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> ReadWrite for T {}

impl Io {
    /// Wraps a connection.
    pub fn new(io: impl ReadWrite + 'static) -> Self {
        Self(Box::pin(io))
    }
}

impl Connected for Io {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// Where connections come from.
pub enum Listener {
    /// A bound TCP socket.
    Tcp(TcpListener),
    /// Any other source of connections.
    Incoming(BoxStream<'static, io::Result<Io>>),
    /// None: the node is called by nodes of the same process only.
    Local,
}

/// Serves until `shutdown` is cancelled; then open calls may end, within a bound.
pub async fn serve(listener: Listener, routes: Routes, shutdown: CancellationToken) -> io::Result<()> {
    serve_renewed(listener, routes, None, shutdown).await
}

/// [`serve`], and asks who is connected for longer than `max_age` to connect anew for new calls; open calls go on.
pub async fn serve_renewed(
    listener: Listener,
    routes: Routes,
    max_age: Option<Duration>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    match listener {
        Listener::Tcp(socket) => {
            serve_incoming(
                TcpIncoming::from(socket).with_nodelay(Some(true)),
                routes,
                max_age,
                shutdown,
            )
            .await
        }
        Listener::Incoming(incoming) => serve_incoming(incoming, routes, max_age, shutdown).await,
        Listener::Local => {
            shutdown.cancelled().await;
            Ok(())
        }
    }
}

async fn serve_incoming<C>(
    incoming: impl Stream<Item = io::Result<C>> + Send + 'static,
    routes: Routes,
    max_age: Option<Duration>,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let mut server = Server::builder();
    if let Some(max_age) = max_age {
        server = server.max_connection_age(max_age);
    }
    let server = server
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        served = server => served.map_err(io::Error::other),
        () = drained => Ok(()),
    }
}
