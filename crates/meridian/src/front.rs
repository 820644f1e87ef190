//! A router and a query processor behind one port.
//!
//! Routers and query processors serve the same public interface: the router's is for clients, the query processor's
//! for routers. Where one node is both, calls that name a node as their caller go past its router:
//!
//! ```text
//! client ────────> Kv of the router ──as this node──> Kv of a query processor (perhaps this node's own)
//! another router ────────────────────────────────────^
//! ```

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use meridian_rpc::guard::is_from_node;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{BoxError, Layer, Service};

/// Served by routers and query processors.
const KV: &str = "/meridian.v1.Kv/";
/// Served by routers only.
const ADMIN: &str = "/meridian.v1.Admin/";

/// Clients' calls of the public interface go to `front`, all others to `back`.
pub(crate) fn combine(front: Routes, back: Routes) -> Routes {
    Routes::from(
        front
            .prepare()
            .into_axum_router()
            .layer(FrontLayer { back: back.prepare() }),
    )
}

fn is_for_front<B>(request: &Request<B>) -> bool {
    let path = request.uri().path();
    path.starts_with(ADMIN) || (path.starts_with(KV) && !is_from_node(request.headers()))
}

#[derive(Clone)]
struct FrontLayer {
    back: Routes,
}

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, front: S) -> Front<S> {
        Front {
            front,
            back: self.back.clone(),
        }
    }
}

#[derive(Clone)]
struct Front<S> {
    front: S,
    back: Routes,
}

impl<S, B, R> Service<Request<B>> for Front<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are always ready.
        self.front.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_for_front(&request) {
            let answer = self.front.call(request);
            return async move { Ok(answer.await?.map(Body::new)) }.boxed();
        }
        let answer = self.back.call(request);
        answer.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_meet_the_router_and_nodes_the_query_processor() {
        let request = |path: &str, node: Option<&str>| {
            let mut request = Request::builder().uri(path);
            if let Some(node) = node {
                request = request.header("meridian-node", node);
            }
            request.body(()).unwrap()
        };
        assert!(is_for_front(&request("/meridian.v1.Kv/Get", None)));
        assert!(!is_for_front(&request("/meridian.v1.Kv/Get", Some("router-2"))));
        assert!(is_for_front(&request(
            "/meridian.v1.Admin/ClusterStatus",
            Some("x")
        )));
        assert!(!is_for_front(&request(
            "/meridian.internal.v1.Journal/Fence",
            None
        )));
        assert!(!is_for_front(&request("/meridian.v1.Node/Status", None)));
    }
}
