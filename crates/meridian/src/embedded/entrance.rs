//! Where clients enter an embedded cluster: the router of a region, whether it runs at the moment or not, and the faults.

use std::convert::Infallible;
use std::sync::Weak;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::Body as HttpBody;
use meridian_rpc::Transport;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{BoxError, Service};

use super::Inner;
use super::faults::FaultService;

/// The services of the router that `router` leads to, and those of the cluster as a whole.
pub(super) fn routes(router: Transport, cluster: Weak<Inner>) -> Routes {
    let whole = Routes::new(FaultService::server(cluster)).prepare();
    Routes::from(whole.into_axum_router().fallback_service(Pass(router)))
}

/// Passes calls on to the router.
#[derive(Clone)]
struct Pass(Transport);

impl<B> Service<Request<B>> for Pass
where
    B: HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The transport is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.0.call(request.map(Body::new));
        // Without details, which says nothing: it may have been applied.
        async move {
            Ok(answer
                .await
                .unwrap_or_else(|error| Status::from_error(Box::new(error)).into_http()))
        }
        .boxed()
    }
}
