//! The message seam: in front of a node's services, calls are lost before or after they are executed, come late or twice, and
//! commit requests, and what adjudicators tell one another, overtake one another within a stream and come again long after.
//!
//! turmoil's own loss breaks a whole connection, and within a connection nothing is ever lost or reordered. But a caller
//! that tries again, a proxy, or a network that heals sees to the same at the level of calls, so services have to bear it.

mod batches;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::Status;
use tonic::service::Routes;
use tower::{Layer, Service};

use crate::plan::MessageFaults;
use batches::{Replays, Stream};

/// Calls of one request and one answer which the protocol lets be made again, by anybody at any time.
const REPEATABLE: [&str; 10] = [
    "/meridian.internal.v1.Journal/Fence",
    "/meridian.internal.v1.Journal/State",
    "/meridian.internal.v1.Adjudicator/Locate",
    "/meridian.internal.v1.Adjudicator/CloseThrough",
    "/meridian.internal.v1.Adjudicator/RaiseFloor",
    "/meridian.internal.v1.Adjudicator/Outcome",
    "/meridian.internal.v1.Adjudicator/AttemptOutcome",
    "/meridian.v1.Kv/Commit",
    "/meridian.v1.Kv/Execute",
    "/meridian.v1.Kv/Outcome",
];
/// After this a caller learns at the latest that its connection is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// It never arrives.
    RequestLost,
    /// It is executed, and the caller is not told.
    ReplyLost,
    /// It is executed after this, whether anybody still waits or not.
    Late(Duration),
    /// It is executed, and again after this; the caller hears the last answer if so it is.
    Twice(Duration, bool),
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "Delivered",
            Self::RequestLost => "RequestLost",
            Self::ReplyLost => "ReplyLost",
            Self::Late(_) => "RequestLate",
            Self::Twice(..) => "RequestTwice",
        }
    }
}

/// What happens to messages in a run. Clones share it.
#[derive(Clone)]
pub struct Messages {
    faults: Option<MessageFaults>,
    seed: u64,
    /// Whether anything happens at present.
    active: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    replays: Replays,
}

impl Messages {
    /// Nothing happens yet.
    pub fn new(faults: Option<MessageFaults>, seed: u64) -> Self {
        Self {
            faults,
            seed,
            active: Arc::default(),
            counts: Arc::default(),
            replays: Replays::default(),
        }
    }

    /// From now on messages are lost and so on, or no more.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// How much of what happened.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.lock_counts().clone()
    }

    /// In front of a node's services.
    pub fn before(&self, routes: Routes, node: &str, start: u64) -> Routes {
        let purpose = format!("messages {node} {start}");
        let seam = Seam {
            messages: self.clone(),
            node: node.into(),
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(crate::seams::derive(
                self.seed, &purpose,
            )))),
        };
        Routes::from(routes.prepare().into_axum_router().layer(seam))
    }

    fn count(&self, what: &str, node: &str) {
        let role = node.split('-').next().unwrap_or_default();
        *self.lock_counts().entry(format!("{what} {role}")).or_default() += 1;
    }

    fn lock_counts(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The seam of one process.
#[derive(Clone)]
struct Seam {
    messages: Messages,
    node: Arc<str>,
    rng: Arc<Mutex<StdRng>>,
}

impl Seam {
    /// What happens at present; `None` when nothing does.
    fn faults(&self) -> Option<MessageFaults> {
        let is_active = self.messages.active.load(Ordering::Relaxed);
        self.messages.faults.filter(|_| is_active)
    }

    fn rng(&self) -> MutexGuard<'_, StdRng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, path: &str) -> Fate {
        let Some(faults) = self.faults().filter(|_| REPEATABLE.contains(&path)) else {
            return Fate::Delivered;
        };
        let mut rng = self.rng();
        let longest = if rng.random_bool(0.3) { 4_000 } else { 200 };
        let later = Duration::from_millis(rng.random_range(0..=longest));
        let fate = if rng.random_bool(faults.lost) {
            match rng.random_bool(0.5) {
                true => Fate::RequestLost,
                false => Fate::ReplyLost,
            }
        } else if rng.random_bool(faults.late) {
            Fate::Late(later)
        } else if rng.random_bool(faults.twice) {
            Fate::Twice(later, rng.random_bool(0.3))
        } else {
            Fate::Delivered
        };
        drop(rng);
        if fate != Fate::Delivered {
            tracing::debug!(node = %self.node, path, ?fate, "fault: a message");
            self.messages.count(fate.name(), &self.node);
        }
        fate
    }
}

impl<S> Layer<S> for Seam {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        let seam = self.clone();
        Faulty { inner, seam }
    }
}

#[derive(Clone)]
struct Faulty<S> {
    inner: S,
    seam: Seam,
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if let Some(stream) = Stream::of(path).filter(|_| self.seam.messages.faults.is_some()) {
            let seam = self.seam.clone();
            let request = request.map(|body| batches::disturbed(stream, body, seam));
            return self.inner.call(request).boxed();
        }
        match self.seam.fate(path) {
            Fate::Delivered => self.inner.call(request).boxed(),
            Fate::RequestLost => gone().boxed(),
            Fate::ReplyLost => {
                // It goes on when its caller has gone away.
                let executed = tokio::spawn(self.inner.call(request));
                async move {
                    let _ = executed.await;
                    gone().await
                }
                .boxed()
            }
            Fate::Late(delay) => late(self.inner.clone(), request, delay).boxed(),
            Fate::Twice(delay, hears_last) => twice(self.inner.clone(), request, delay, hears_last).boxed(),
        }
    }
}

/// The caller learns nothing but that its connection is gone.
async fn gone() -> Answer {
    tokio::time::sleep(SILENCE).await;
    Ok(Status::unknown("the connection is gone").into_http())
}

async fn late<S>(mut inner: S, request: Request<Body>, delay: Duration) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let executed = tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        inner.call(request).await
    });
    match executed.await {
        Ok(answer) => answer,
        Err(_) => gone().await,
    }
}

async fn twice<S>(mut inner: S, request: Request<Body>, delay: Duration, hears_last: bool) -> Answer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let (parts, body) = request.into_parts();
    // The caller went away before it had sent everything.
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return gone().await;
    };
    let again = Request::from_parts(parts.clone(), Body::from(body.clone()));
    let last = tokio::spawn(late(inner.clone(), again, delay));
    let first = tokio::spawn(inner.call(Request::from_parts(parts, Body::from(body))));
    let heard = if hears_last { last } else { first };
    match heard.await {
        Ok(answer) => answer,
        Err(_) => gone().await,
    }
}
