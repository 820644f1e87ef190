//! Counts and times the calls that a node serves, by method and by the reason of an error.
//!
//! Everything that a call needs is registered beforehand, so a call costs one look-up and a few atomic operations. A process that
//! publishes no metrics does not have this layer at all.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use meridian_metrics::{Counter, Counters, Gauge, Histogram, names};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service};

use crate::DESCRIPTORS;
use crate::error::{DOMAIN, KvError};

/// Services that every node has, beside those of its roles.
const EVERYWHERE: [&str; 1] = ["meridian.v1.Node"];
/// Everything that is not in our protos.
const OTHER: &str = "other";

/// The services of a role, by the names that they have in the protos.
fn services_of(role: &str) -> &'static [&'static str] {
    match role {
        "journal" => &["meridian.internal.v1.Journal"],
        "adjudicator" => &["meridian.internal.v1.Adjudicator", "meridian.internal.v1.Meta"],
        "storage" => &["meridian.internal.v1.Storage"],
        "query" => &["meridian.v1.Kv"],
        "router" => &["meridian.v1.Kv", "meridian.v1.Admin"],
        _ => &[],
    }
}

/// Counts and times every call of these routes. `roles`: what the node runs.
pub fn metered(routes: Routes, roles: &[&str]) -> Routes {
    let methods = Arc::new(Methods::of(roles));
    Routes::from(routes.prepare().into_axum_router().layer(MeterLayer { methods }))
}

/// The methods that a node serves.
struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

/// What is counted of one method.
struct Method {
    calls: Counter,
    open: Gauge,
    errors: Counters,
    /// Not of streams: how long those last says nothing.
    seconds: Option<Histogram>,
}

impl Method {
    fn new(name: &str, is_stream: bool) -> Arc<Self> {
        Arc::new(Self {
            calls: names::RPC_CALLS.counter(&[name]),
            open: names::RPC_OPEN.gauge(&[name]),
            errors: Counters::new(&names::RPC_ERRORS, &[name], REASONS),
            seconds: (!is_stream).then(|| names::RPC_SECONDS.histogram(&[name])),
        })
    }
}

impl Methods {
    fn of(roles: &[&str]) -> Self {
        let mut by_path = HashMap::new();
        for (service, method, is_stream) in methods() {
            let is_served = roles
                .iter()
                .flat_map(|role| services_of(role))
                .chain(&EVERYWHERE)
                .any(|served| *served == service);
            if is_served {
                let name = format!("{service}/{method}");
                by_path.insert(format!("/{name}"), Method::new(&name, is_stream));
            }
        }
        Self {
            by_path,
            // Health checks and reflection, among them streams.
            other: Method::new(OTHER, true),
        }
    }

    fn begin(&self, path: &str) -> Call {
        let method = self.by_path.get(path).unwrap_or(&self.other).clone();
        method.calls.increment(1);
        method.open.increment(1.0);
        Call {
            method,
            began: Instant::now(),
            ended: false,
        }
    }
}

/// Every method of our protos: its service, its name, and whether it is a stream.
fn methods() -> Vec<(String, String, bool)> {
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default().file;
    let mut found = Vec::new();
    for file in files {
        let package = file.package().to_owned();
        for service in file.service {
            let name = format!("{package}.{}", service.name());
            let each = service.method.iter().map(|method| {
                let is_stream = method.client_streaming() || method.server_streaming();
                (name.clone(), method.name().to_owned(), is_stream)
            });
            found.extend(each);
        }
    }
    found
}

/// What an error may be counted as: the reasons of our errors, and what is not ours.
pub const REASONS: &[&str] = &{
    let mut reasons = [""; KvError::REASONS.len() + 3];
    let mut place = 0;
    while place < KvError::REASONS.len() {
        reasons[place] = KvError::REASONS[place];
        place += 1;
    }
    reasons[place] = "CANCELLED";
    reasons[place + 1] = "UNIMPLEMENTED";
    // The last one: see `Counters::count`.
    reasons[place + 2] = "OTHER";
    reasons
};

/// The reason in the trailers of a call; `None` when it succeeded.
fn reason(trailers: &HeaderMap) -> Option<&'static str> {
    // What succeeded is seen at a glance.
    if trailers.get("grpc-status").is_some_and(|code| code == "0") {
        return None;
    }
    let status = Status::from_header_map(trailers)?;
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN);
    let ours = info.and_then(|info| REASONS.iter().copied().find(|reason| *reason == info.reason));
    Some(ours.unwrap_or(match status.code() {
        Code::Cancelled => "CANCELLED",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => "OTHER",
    }))
}

/// A call under way. It has ended when this goes.
struct Call {
    method: Arc<Method>,
    began: Instant,
    ended: bool,
}

impl Call {
    fn end(&mut self, reason: Option<&str>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.method.open.decrement(1.0);
        if let Some(reason) = reason {
            self.method.errors.count(reason);
        }
        if let Some(seconds) = &self.method.seconds {
            seconds.record(self.began.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Some("CANCELLED"));
    }
}

#[derive(Clone)]
struct MeterLayer {
    methods: Arc<Methods>,
}

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Meter<S> {
        Meter {
            inner,
            methods: self.methods.clone(),
        }
    }
}

#[derive(Clone)]
struct Meter<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, B, R> Service<Request<B>> for Meter<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Body,
{
    type Response = Response<MeteredBody<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = self.methods.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // An answer without a body has its status here.
            if response.headers().contains_key("grpc-status") {
                call.end(reason(response.headers()));
            }
            Ok(response.map(|inner| MeteredBody { inner, call }))
        })
    }
}

/// The body of an answer, with its call.
struct MeteredBody<B> {
    inner: B,
    call: Call,
}

impl<B: Body + Unpin> Body for MeteredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.end(reason(trailers));
                }
            }
            // Without trailers nobody knows how it ended.
            Poll::Ready(Some(Err(_)) | None) => self.call.end(Some("OTHER")),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_service_but_the_one_for_faults_is_of_a_role() {
        let roles = ["journal", "adjudicator", "storage", "query", "router"];
        let served: BTreeSet<&str> = roles
            .iter()
            .flat_map(|role| services_of(role))
            .chain(&EVERYWHERE)
            .copied()
            .collect();
        let all: BTreeSet<String> = methods().into_iter().map(|(service, ..)| service).collect();
        let missing: Vec<_> = all
            .iter()
            .filter(|service| !served.contains(service.as_str()))
            .collect();
        assert_eq!(missing, ["meridian.v1.Faults"]);
    }

    #[test]
    fn the_reason_of_an_error_is_read_from_its_trailers() {
        let of = |status: Status| {
            let mut trailers = HeaderMap::new();
            status
                .add_header(&mut trailers)
                .expect("a status fits into headers");
            reason(&trailers)
        };
        assert_eq!(of(Status::new(Code::Ok, "")), None);
        assert_eq!(of(KvError::ReadOnly.into()), Some("READ_ONLY"));
        assert_eq!(of(KvError::unavailable("gone").into()), Some("UNAVAILABLE"));
        assert_eq!(of(Status::unavailable("a proxy says so")), Some("OTHER"));
        assert_eq!(of(Status::cancelled("went away")), Some("CANCELLED"));
        assert_eq!(reason(&HeaderMap::new()), None);
    }
}
