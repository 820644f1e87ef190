//! Many calls over one long-lived bidirectional stream to another node.
//!
//! ```text
//! call ──id──> queue ──batch──> stream ──> node
//!   ^                                       │
//!   └── waiter[id] <── reader task <────────┘
//! ```
//! A request counts as sent from the moment when the outgoing stream took it. A call that ends without an
//! answer says which: what was surely not sent may be tried again at will, what was lost after sending may
//! have been done.
//!
//! A call may be told something before its answer, if the protocol has such replies.
//!
//! Caveat: the order of two calls is kept on the way there, not on the way back.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use meridian_rpc::batch::Batches;
use meridian_rpc::{KvError, Transport};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::retry::{Backoff, Retry};

/// How long a stream may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The outgoing side of a stream. (A type of its own: the compiler cannot prove a future that holds a boxed stream
/// across a generated call to be `Send`.)
pub(crate) struct Outgoing<T>(BoxStream<'static, Vec<T>>);

impl<T> Stream for Outgoing<T> {
    type Item = Vec<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Vec<T>>> {
        self.0.poll_next_unpin(cx)
    }
}

/// The incoming side: replies with the id of their request.
pub(crate) type Incoming<T> = BoxStream<'static, Result<Vec<(u64, T)>, Status>>;

/// Which stream is multiplexed.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// What is sent.
    type Request: Send + Unpin + 'static;
    /// What comes back.
    type Reply: Send + 'static;

    /// Writes the correlation id into the request.
    fn set_id(request: &mut Self::Request, id: u64);
    /// Reads it.
    fn id(request: &Self::Request) -> u64;
    /// About the size of the request in a message, in bytes.
    fn size(request: &Self::Request) -> usize;
    /// Whether this is the answer; otherwise it is told early, and the answer is still to come.
    fn is_answer(_reply: &Self::Reply) -> bool {
        true
    }
    /// Opens the stream.
    fn open(
        transport: Transport,
        requests: Outgoing<Self::Request>,
    ) -> BoxFuture<'static, Result<Incoming<Self::Reply>, Status>>;
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// The other node has surely not seen the request, and never will.
    NotSent(String),
    /// It may have.
    Lost(String),
}

impl CallError {
    /// What happened.
    pub(crate) fn what(&self) -> &str {
        match self {
            Self::NotSent(what) | Self::Lost(what) => what,
        }
    }
}

/// Bounds of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MuxLimits {
    /// Requests that may wait to be sent.
    pub(crate) queue: usize,
    /// Most requests of one message.
    pub(crate) batch: usize,
    /// About the most bytes of one message.
    pub(crate) batch_bytes: usize,
}

/// Calls to one node. Connects when it is first used, and again after a break, with a pause that grows.
pub(crate) struct Mux<P: Protocol> {
    transport: Transport,
    limits: MuxLimits,
    retry: Retry,
    shutdown: CancellationToken,
    next_id: AtomicU64,
    state: Mutex<State<P>>,
}

struct State<P: Protocol> {
    connection: Option<Connection<P>>,
    backoff: Option<Backoff>,
    /// No new connection before this.
    not_before: Option<Instant>,
}

struct Connection<P: Protocol> {
    queue: mpsc::Sender<P::Request>,
    waiters: Arc<Waiters<P::Reply>>,
}

impl<P: Protocol> Clone for Connection<P> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            waiters: self.waiters.clone(),
        }
    }
}

/// The calls of one connection that have no answer yet.
struct Waiters<R> {
    inner: Mutex<WaitersInner<R>>,
}

struct WaitersInner<R> {
    /// Why the connection ended, once it has.
    broken: Option<String>,
    /// Whether it ever answered.
    answered: bool,
    calls: BTreeMap<u64, Waiter<R>>,
}

struct Waiter<R> {
    sent: bool,
    /// Takes the first early reply.
    early: Option<oneshot::Sender<R>>,
    answer: oneshot::Sender<Result<R, CallError>>,
}

impl<R> Waiters<R> {
    fn new() -> Self {
        Self {
            inner: Mutex::new(WaitersInner {
                broken: None,
                answered: false,
                calls: BTreeMap::new(),
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WaitersInner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request may still go out: its caller waits, and now counts on "may have been seen".
    fn mark_sent(&self, id: u64) -> bool {
        match self.lock().calls.get_mut(&id) {
            Some(waiter) => {
                waiter.sent = true;
                true
            }
            None => false,
        }
    }

    /// A reply without a waiter is one whose caller gave up.
    fn answer(&self, replies: Vec<(u64, R)>, is_answer: fn(&R) -> bool) {
        let mut inner = self.lock();
        inner.answered = true;
        for (id, reply) in replies {
            if is_answer(&reply) {
                if let Some(waiter) = inner.calls.remove(&id) {
                    let _ = waiter.answer.send(Ok(reply));
                }
            } else if let Some(early) = inner.calls.get_mut(&id).and_then(|waiter| waiter.early.take()) {
                let _ = early.send(reply);
            }
        }
    }

    /// Ends every call. Returns whether the connection ever answered.
    fn fail(&self, why: &str) -> bool {
        let mut inner = self.lock();
        inner.broken = Some(why.to_owned());
        for (_, waiter) in std::mem::take(&mut inner.calls) {
            let error = if waiter.sent {
                CallError::Lost(why.to_owned())
            } else {
                CallError::NotSent(why.to_owned())
            };
            let _ = waiter.answer.send(Err(error));
        }
        inner.answered
    }
}

/// Withdraws a call whose caller has gone.
struct Withdraw<'a, R> {
    waiters: &'a Waiters<R>,
    id: u64,
}

impl<R> Withdraw<'_, R> {
    /// Withdraws it now; whether it had been sent. `None` when it is being answered at this moment.
    fn withdraw(&self) -> Option<bool> {
        self.waiters
            .lock()
            .calls
            .remove(&self.id)
            .map(|waiter| waiter.sent)
    }
}

impl<R> Drop for Withdraw<'_, R> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

impl<P: Protocol> Mux<P> {
    pub(crate) fn new(
        transport: Transport,
        limits: MuxLimits,
        retry: Retry,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            transport,
            limits,
            retry,
            shutdown,
            next_id: AtomicU64::new(1),
            state: Mutex::new(State {
                connection: None,
                backoff: None,
                not_before: None,
            }),
        })
    }

    /// One call. Waits for room in the queue and for the answer, both until `deadline`.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: P::Request,
        deadline: Instant,
    ) -> Result<P::Reply, CallError> {
        self.call_with(request, deadline, None).await
    }

    /// One call; `early` takes what is told before the answer.
    pub(crate) async fn call_with(
        self: &Arc<Self>,
        mut request: P::Request,
        deadline: Instant,
        early: Option<oneshot::Sender<P::Reply>>,
    ) -> Result<P::Reply, CallError> {
        let connection = self.connection()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        P::set_id(&mut request, id);
        let permit = match tokio::time::timeout_at(deadline, connection.queue.reserve()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(CallError::NotSent(self.named("the stream ended"))),
            Err(_) => return Err(CallError::NotSent(self.named("its queue stayed full"))),
        };
        let (answer, answered) = oneshot::channel();
        {
            let mut inner = connection.waiters.lock();
            if let Some(why) = &inner.broken {
                return Err(CallError::NotSent(why.clone()));
            }
            let waiter = Waiter {
                sent: false,
                early,
                answer,
            };
            inner.calls.insert(id, waiter);
        }
        let call = Withdraw {
            waiters: &connection.waiters,
            id,
        };
        permit.send(request);
        let mut answered = answered;
        match tokio::time::timeout_at(deadline, &mut answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CallError::Lost(self.named("the stream ended"))),
            Err(_) => match call.withdraw() {
                Some(false) => Err(CallError::NotSent(self.named("not sent in time"))),
                Some(true) => Err(CallError::Lost(self.named("no answer in time"))),
                None => answered
                    .try_recv()
                    .unwrap_or_else(|_| Err(CallError::Lost(self.named("no answer in time")))),
            },
        }
    }

    fn named(&self, what: &str) -> String {
        format!("{}: {what}", self.transport.target())
    }

    /// The open connection, or a new one, unless the last one broke a moment ago.
    fn connection(self: &Arc<Self>) -> Result<Connection<P>, CallError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = &state.connection {
            return Ok(connection.clone());
        }
        if self.shutdown.is_cancelled() {
            return Err(CallError::NotSent("this node is shutting down".to_owned()));
        }
        if state
            .not_before
            .is_some_and(|not_before| Instant::now() < not_before)
        {
            return Err(CallError::NotSent(self.named("not reachable a moment ago")));
        }
        let (queue, requests) = mpsc::channel(self.limits.queue.max(1));
        let connection = Connection {
            queue,
            waiters: Arc::new(Waiters::new()),
        };
        state.connection = Some(connection.clone());
        tokio::spawn(self.clone().run(requests, connection.waiters.clone()));
        Ok(connection)
    }

    /// The life of one connection.
    async fn run(self: Arc<Self>, requests: mpsc::Receiver<P::Request>, waiters: Arc<Waiters<P::Reply>>) {
        let ended = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => "this node is shutting down".to_owned(),
            why = self.exchange(requests, &waiters) => self.named(&why),
        };
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.connection = None;
            // A connection that worked is opened again at once; one that never did, later and later.
            if waiters.lock().answered {
                state.backoff = None;
            }
            let pause = state.backoff.get_or_insert_with(|| self.retry.backoff()).next();
            state.not_before = Some(Instant::now() + pause);
        }
        let answered = waiters.fail(&ended);
        tracing::debug!(node = %self.transport.target(), answered, why = %ended, "stream ended");
    }

    async fn exchange(
        &self,
        requests: mpsc::Receiver<P::Request>,
        waiters: &Arc<Waiters<P::Reply>>,
    ) -> String {
        let batches = Batches::new(requests, self.limits.batch, self.limits.batch_bytes, P::size);
        let marking = waiters.clone();
        let outgoing = batches.filter_map(move |mut batch| {
            batch.retain(|request| marking.mark_sent(P::id(request)));
            std::future::ready((!batch.is_empty()).then_some(batch))
        });
        let open = P::open(self.transport.clone(), Outgoing(outgoing.boxed()));
        let mut incoming = match tokio::time::timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(incoming)) => incoming,
            Ok(Err(status)) => return describe(&status),
            Err(_) => return format!("did not open the stream in {OPEN_TIMEOUT:?}"),
        };
        loop {
            match incoming.next().await {
                Some(Ok(replies)) => waiters.answer(replies, P::is_answer),
                Some(Err(status)) => return describe(&status),
                None => return "ended the stream".to_owned(),
            }
        }
    }
}

/// Our own errors speak for themselves; of others the code helps.
fn describe(status: &Status) -> String {
    match KvError::from_status(status) {
        Some(error) => error.to_string(),
        None => format!("{:?} {}", status.code(), status.message()),
    }
}
