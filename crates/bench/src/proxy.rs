//! A TCP proxy that stands for the distance between two regions: what is sent arrives, in order, after the link's delay, however much
//! it is. All systems get their distances from it.
//!
//! ```text
//! region a            |  this process            |  region b
//! node or client ---> accept, note the time ---> wait until it is due ---> node
//! ```
//!
//! A proxy leads to one node. Mostly there is one for each region that it is reached from. Where all nodes have to know a node under one
//! address there is one for all, which tells by the process that connects how far away it is ([`Distance::ByProcess`]).
//!
//! Caveats: opening a connection costs the round trip only with the first answer, as the proxy accepts at once.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meridian::embedded::Timer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::cpu::owns_connection;

/// Most bytes that travel as one.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction of a connection; who sends more waits.
const MAX_CHUNKS: usize = 1_024;

/// How long each way takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// From who connects to the node.
    pub there: Duration,
    /// From the node to who connected.
    pub back: Duration,
}

/// How far away those are who connect.
#[derive(Clone)]
pub enum Distance {
    /// All the same.
    Fixed(Delays),
    /// Each of these processes as it is listed, everybody else not at all.
    ByProcess(Arc<Mutex<BTreeMap<u32, Delays>>>),
}

impl Distance {
    fn of(&self, client: SocketAddr) -> Delays {
        match self {
            Self::Fixed(delays) => *delays,
            Self::ByProcess(listed) => {
                let listed = listed.lock().unwrap_or_else(PoisonError::into_inner);
                let found = listed.iter().find(|(pid, _)| owns_connection(**pid, client));
                found.map(|(_, delays)| *delays).unwrap_or_default()
            }
        }
    }
}

/// A proxy to one node. It ends, with all of its connections, when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    task: AbortHandle,
}

impl Proxy {
    /// Listens on a free port of this machine.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(target: SocketAddr, distance: Distance, timer: Timer) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, target, distance, timer)).abort_handle();
        Ok(Self { address, task })
    }

    /// Where to connect instead of to the node.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, distance: Distance, timer: Timer) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((near, client)) => {
                    connections.spawn(relay(near, target, distance.of(client), timer.clone()));
                }
                // Out of descriptors, mostly: it may pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
        }
    }
}

/// Carries both ways until both have ended. When the node cannot be reached the connection is closed at once.
async fn relay(near: TcpStream, target: SocketAddr, delays: Delays, timer: Timer) -> io::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(
        carry(near_read, far_write, delays.there, &timer),
        carry(far_read, near_write, delays.back, &timer)
    );
    Ok(())
}

/// Carries one way until its end has arrived.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    timer: &Timer,
) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS);
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = from.read_buf(&mut chunk).await;
            // Most chunks are small, and many may be under way.
            chunk.shrink_to_fit();
            let is_end = !matches!(read, Ok(1..));
            // The end takes its time as well.
            if sender.send((Instant::now() + delay, chunk)).await.is_err() || is_end {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, chunk)) = under_way.recv().await {
            timer.at(due).await;
            if to.write_all(&chunk).await.is_err() {
                break;
            }
        }
        // So that who sends is not held up for ever by who does not read any more.
        drop(under_way);
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Echoes whatever it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    fn delays(there: u64, back: u64) -> Delays {
        Delays {
            there: Duration::from_millis(there),
            back: Duration::from_millis(back),
        }
    }

    async fn proxied(distance: Distance) -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await, distance, Timer::start().unwrap()).await;
        let proxy = proxy.unwrap();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    #[tokio::test]
    async fn everything_arrives_in_order_and_not_before_its_time() {
        let (_proxy, mut stream) = proxied(Distance::Fixed(delays(30, 20))).await;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let began = Instant::now();
        let (mut read, mut write) = stream.split();
        let (mut first, mut rest) = ([0; 1], vec![0; sent.len() - 1]);
        let both = tokio::join!(write.write_all(&sent), async {
            read.read_exact(&mut first).await.unwrap();
            let after = began.elapsed();
            read.read_exact(&mut rest).await.unwrap();
            after
        });
        assert!(both.0.is_ok());
        assert!(both.1 >= Duration::from_millis(50), "{:?}", both.1);
        assert_eq!([first.as_slice(), rest.as_slice()].concat(), sent);
    }

    /// A thousand small messages sent at once are not delayed one after the other.
    #[tokio::test]
    async fn delays_do_not_add_up() {
        let (_proxy, mut stream) = proxied(Distance::Fixed(delays(50, 0))).await;
        stream.set_nodelay(true).unwrap();
        let began = Instant::now();
        for _ in 0..1_000 {
            stream.write_all(&[7]).await.unwrap();
        }
        let mut echoed = vec![0; 1_000];
        stream.read_exact(&mut echoed).await.unwrap();
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(50) && took < Duration::from_secs(20),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn the_end_arrives_too_and_a_node_that_is_not_there_closes() {
        let (_proxy, mut stream) = proxied(Distance::Fixed(delays(5, 5))).await;
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut echoed = Vec::new();
        stream.read_to_end(&mut echoed).await.unwrap();
        assert_eq!(echoed, b"last");
        let nobody = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let timer = Timer::start().unwrap();
        let proxy = Proxy::start(nobody, Distance::Fixed(delays(0, 0)), timer)
            .await
            .unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn the_process_that_connects_decides_where_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let client = stream.local_addr().unwrap();
        let listed = |pid| Distance::ByProcess(Arc::new(Mutex::new(BTreeMap::from([(pid, delays(20, 30))]))));
        assert_eq!(listed(std::process::id()).of(client), delays(20, 30));
        assert_eq!(listed(1).of(client), Delays::default());
        assert_eq!(Distance::Fixed(delays(1, 2)).of(client), delays(1, 2));
    }
}
