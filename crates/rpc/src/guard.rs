//! Who may talk to whom: every call between services names its cluster, its node and its format version,
//! and a node refuses callers of another cluster or of a format that it does not understand.
//!
//! The names travel in the call's metadata, so a long stream is checked once, when it opens.

use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{HeaderMap, HeaderValue, Request, Response};
use meridian_types::{ClusterId, NodeName};
use tonic::Status;
use tonic::service::Routes;
use tower::{Layer, Service};

use crate::FORMAT_VERSION;
use crate::error::KvError;

const CLUSTER: &str = "meridian-cluster";
const NODE: &str = "meridian-node";
const FORMAT: &str = "meridian-format";
/// Calls of these packages must name a cluster; clients' calls need not, but what they name must fit.
const INTERNAL_PATH: &str = "/meridian.internal.";

/// Which node of which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's name in it.
    pub node: NodeName,
}

impl Identity {
    /// The metadata that names this node as the caller.
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(3);
        // Names that do not fit into a header are refused by the configuration; a call without one is refused by its receiver.
        for (name, value) in [(CLUSTER, self.cluster.to_string()), (NODE, self.node.to_string())] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        headers.insert(FORMAT, HeaderValue::from(FORMAT_VERSION));
        headers
    }

    /// Whether this node may serve a call with such metadata.
    fn check(&self, path: &str, headers: &HeaderMap) -> Result<(), KvError> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let internal = path.starts_with(INTERNAL_PATH);
        match text(FORMAT) {
            None if !internal => {}
            Some(format) if format.parse() == Ok(FORMAT_VERSION) => {}
            other => {
                return Err(KvError::UnsupportedFormat {
                    node: self.node.to_string(),
                    ours: FORMAT_VERSION,
                    theirs: other.unwrap_or("none").to_owned(),
                });
            }
        }
        match text(CLUSTER) {
            None if !internal => Ok(()),
            Some(cluster) if ClusterId::from_str(cluster).is_ok_and(|theirs| theirs == self.cluster) => {
                Ok(())
            }
            other => Err(KvError::WrongCluster {
                node: self.node.to_string(),
                ours: self.cluster.to_string(),
                theirs: other.unwrap_or("none").to_owned(),
            }),
        }
    }
}

/// Whether a call comes from a node (of whichever cluster: the guard decides that) rather than from a client.
pub fn is_from_node(headers: &HeaderMap) -> bool {
    headers.contains_key(NODE)
}

/// Puts the check in front of a node's services.
pub fn guarded(routes: Routes, identity: Identity) -> Routes {
    Routes::from(routes.prepare().into_axum_router().layer(GuardLayer {
        identity: Arc::new(identity),
    }))
}

#[derive(Clone)]
struct GuardLayer {
    identity: Arc<Identity>,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard {
            inner,
            identity: self.identity.clone(),
        }
    }
}

#[derive(Clone)]
struct Guard<S> {
    inner: S,
    identity: Arc<Identity>,
}

impl<S, B, R> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<R>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.identity.check(request.uri().path(), request.headers()) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(error) => {
                tracing::warn!(node = %self.identity.node, path = request.uri().path(), %error, "call refused");
                Either::Left(ready(Ok(Status::from(error).into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn identity(cluster: u128) -> Identity {
        Identity {
            cluster: ClusterId(Uuid::from_u128(cluster)),
            node: "n1".into(),
        }
    }

    #[test]
    fn services_of_another_cluster_or_format_are_refused() {
        let path = "/meridian.internal.v1.Journal/Fence";
        let ours = identity(1);
        assert_eq!(ours.check(path, &identity(1).headers()), Ok(()));
        let foreign = ours.check(path, &identity(2).headers());
        assert!(
            matches!(foreign, Err(KvError::WrongCluster { .. })),
            "{foreign:?}"
        );
        let mut headers = identity(1).headers();
        headers.insert(FORMAT, HeaderValue::from(FORMAT_VERSION + 1));
        assert!(matches!(
            ours.check(path, &headers),
            Err(KvError::UnsupportedFormat { .. })
        ));
        assert!(
            ours.check(path, &HeaderMap::new()).is_err(),
            "a service must say who it is"
        );
    }

    #[test]
    fn clients_need_not_name_a_cluster_but_what_they_name_must_fit() {
        let path = "/meridian.v1.Kv/Get";
        assert_eq!(identity(1).check(path, &HeaderMap::new()), Ok(()));
        assert!(identity(1).check(path, &identity(2).headers()).is_err());
    }
}
