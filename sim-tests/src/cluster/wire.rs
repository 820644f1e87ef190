//! Connections of the simulated network, as the services' network seam wants them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use meridian_rpc::network::tuned;
use meridian_rpc::{Dialer, listen::Io};
use meridian_types::NodeName;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::TcpStream;

use super::sockets::{PORT, Sockets};
use crate::trace::Trace;

/// How connections break by themselves. Shared by the whole run.
#[derive(Clone)]
pub struct Cuts {
    /// Connections live this long on average.
    pub mean: Option<Duration>,
    /// Whether they break at present.
    pub active: Arc<AtomicBool>,
}

/// Opens connections from one node or client.
#[derive(Clone)]
pub struct SimDialer {
    from: Arc<str>,
    /// `None`: who dials lives on the host of the simulated network itself, as clients do.
    sockets: Option<Sockets>,
    trace: Trace,
    cuts: Cuts,
    rng: Arc<Mutex<StdRng>>,
}

impl SimDialer {
    /// What `from` dials with.
    pub fn new(from: &str, sockets: Option<Sockets>, trace: Trace, cuts: Cuts, rng: StdRng) -> Self {
        Self {
            from: from.into(),
            sockets,
            trace,
            cuts,
            rng: Arc::new(Mutex::new(rng)),
        }
    }

    /// A channel to the host, connected when it is first used.
    pub fn channel(&self, host: &str) -> Option<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}")).ok()?;
        let (host, dialer) = (Arc::<str>::from(host), self.clone());
        let connector = tower::service_fn(move |_| {
            let (host, dialer) = (host.clone(), dialer.clone());
            async move { dialer.connect(host).await.map(TokioIo::new) }
        });
        Some(tuned(endpoint).connect_with_connector_lazy(connector))
    }

    async fn connect(&self, host: Arc<str>) -> io::Result<Wire> {
        let stream = match &self.sockets {
            Some(sockets) => Io::new(sockets.connect(host.clone()).await?),
            None => Io::new(TcpStream::connect((host.to_string(), PORT)).await?),
        };
        Ok(Wire {
            stream: Some(stream),
            from: self.from.clone(),
            to: host,
            trace: self.trace.clone(),
            breaks: self.lifetime().map(|life| Box::pin(tokio::time::sleep(life))),
            cuts: self.cuts.active.clone(),
        })
    }

    fn lifetime(&self) -> Option<Duration> {
        let mean = self.cuts.mean?;
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let share: f64 = rng.random_range(0.0..2.0);
        Some(mean.mul_f64(share))
    }
}

impl Dialer for SimDialer {
    fn dial(&self, node: &NodeName) -> Option<Channel> {
        self.channel(&node.0)
    }
}

/// One end of a connection.
struct Wire {
    /// `None` once it broke.
    stream: Option<Io>,
    from: Arc<str>,
    to: Arc<str>,
    trace: Trace,
    breaks: Option<Pin<Box<Sleep>>>,
    cuts: Arc<AtomicBool>,
}

impl Wire {
    /// The stream, unless the connection breaks now: then what is under way in it is lost.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut Io>> {
        if let Some(breaks) = &mut self.breaks
            && breaks.as_mut().poll(cx).is_ready()
        {
            self.breaks = None;
            if self.cuts.load(Ordering::Relaxed) {
                tracing::debug!(to = %self.to, "the connection breaks");
                self.stream = None;
            }
        }
        match &mut self.stream {
            Some(stream) => Ok(Pin::new(stream)),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_stream(cx)?.poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            let sent = bytes.get(..*count).unwrap_or_default();
            self.trace.wire(&self.from, &self.to, sent);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_stream(cx)?.poll_shutdown(cx)
    }
}

/// Connections from others to `node`, as they come.
pub fn accept(node: Arc<str>, sockets: &Sockets, trace: Trace) -> BoxStream<'static, io::Result<Io>> {
    let accepted = sockets.listen().map(move |(stream, peer)| {
        Ok(Io::new(Wire {
            stream: Some(Io::new(stream)),
            from: node.clone(),
            to: peer.into(),
            trace: trace.clone(),
            breaks: None,
            cuts: Arc::default(),
        }))
    });
    accepted.boxed()
}
