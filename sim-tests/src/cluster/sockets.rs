//! What a node's operating system does for its process: the sockets. They live on the node's host in the simulated
//! network, go on while the process is paused, send what a dead process had already written, and then close.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use turmoil::net::{TcpListener, TcpStream};

/// Every node is served here, on its own host.
pub const PORT: u16 = 7400;
/// What a socket holds for a process that does not read, and for a network that does not send.
const BUFFER_BYTES: usize = 64 << 10;

/// A connection that was accepted, and where it comes from.
pub type Accepted = (DuplexStream, String);

/// A process asks for a connection.
struct Dial {
    host: Arc<str>,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

/// The sockets of one node. Clones share them.
#[derive(Clone, Default)]
pub struct Sockets {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// `None` while the machine has no power.
    dials: Option<mpsc::UnboundedSender<Dial>>,
    /// `None` while no process listens.
    listener: Option<mpsc::UnboundedSender<Accepted>>,
}

impl Sockets {
    /// Connects to a host, for the node's process.
    pub async fn connect(&self, host: Arc<str>) -> io::Result<DuplexStream> {
        let (answer, connected) = oneshot::channel();
        let dials = self.lock().dials.clone().ok_or(io::ErrorKind::NetworkDown)?;
        dials
            .send(Dial { host, answer })
            .map_err(|_| io::ErrorKind::NetworkDown)?;
        connected.await.map_err(|_| io::ErrorKind::NetworkDown)?
    }

    /// From now on the node's process accepts connections.
    pub fn listen(&self) -> impl Stream<Item = Accepted> + Send + use<> {
        let (sender, accepted) = mpsc::unbounded_channel();
        self.lock().listener = Some(sender);
        futures::stream::unfold(accepted, |mut accepted| async move {
            let next = accepted.recv().await?;
            Some((next, accepted))
        })
    }

    /// The process is gone: connections are refused.
    pub fn close(&self) {
        self.lock().listener = None;
    }

    /// The host of the simulated network.
    pub async fn run(self) -> turmoil::Result {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        let (sender, mut dials) = mpsc::unbounded_channel();
        self.lock().dials = Some(sender);
        loop {
            tokio::select! {
                biased;
                Some(dial) = dials.recv() => drop(tokio::spawn(connect(dial))),
                accepted = listener.accept() => {
                    let (stream, peer) = accepted?;
                    let (near, far) = tokio::io::duplex(BUFFER_BYTES);
                    let process = self.lock().listener.clone();
                    // Nobody listens: both ends are dropped, which closes the connection.
                    if process.is_some_and(|process| process.send((far, peer.to_string())).is_ok()) {
                        relay(stream, near);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(mut dial: Dial) {
    let connected = tokio::select! {
        biased;
        () = dial.answer.closed() => return,
        connected = TcpStream::connect((dial.host.to_string(), PORT)) => connected,
    };
    let answer = connected.map(|stream| {
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        relay(stream, near);
        far
    });
    // Who asked may have given up, or died: then its end of the connection is dropped, which closes it.
    let _ = dial.answer.send(answer);
}

/// Passes bytes on, each way until it ends.
fn relay(stream: TcpStream, pipe: DuplexStream) {
    let (mut from_net, mut to_net) = stream.into_split();
    let (mut from_process, mut to_process) = tokio::io::split(pipe);
    tokio::spawn(async move {
        // What ends a direction, an end or a break, is told to the other side as an end.
        let _ = tokio::io::copy(&mut from_net, &mut to_process).await;
        let _ = to_process.shutdown().await;
    });
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_process, &mut to_net).await;
        let _ = to_net.shutdown().await;
    });
}
