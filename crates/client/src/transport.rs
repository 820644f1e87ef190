//! Where calls go: a named endpoint behind a boxed transport (TCP, or a service of this process).

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use meridian_rpc::{KvError, network};
use tonic::body::Body;
use tonic::transport::Endpoint as TonicEndpoint;
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};

pub(crate) type BoxTransport = BoxCloneService<Request<Body>, Response<Body>, TransportError>;

/// Whatever a transport fails with. A type of its own: the compiler cannot prove that a future which holds
/// a bare boxed error is `Send`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct TransportError(BoxError);

/// One place to call.
pub(crate) struct Target {
    pub(crate) name: String,
    // A boxed service is not `Sync`; it is only ever cloned out of here.
    transport: Mutex<BoxTransport>,
}

impl Target {
    /// A router's address: `host:port` or `http://host:port`.
    pub(crate) fn tcp(address: &str) -> Result<Self, KvError> {
        let url = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let endpoint = TonicEndpoint::from_shared(url)
            .ok()
            .filter(|endpoint| endpoint.uri().host().is_some_and(|host| !host.is_empty()))
            .ok_or_else(|| KvError::invalid(format!("endpoint {address:?} is not of the form host:port")))?;
        Ok(Self::new(
            address.to_owned(),
            network::tuned(endpoint).connect_lazy(),
        ))
    }

    /// Any transport on which generated clients run.
    pub(crate) fn new<T, B>(name: String, transport: T) -> Self
    where
        T: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        T::Future: Send + 'static,
        T::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let boxed = transport
            .map_response(|response: Response<B>| response.map(Body::new))
            .map_err(|error| TransportError(error.into()));
        Self {
            name,
            transport: Mutex::new(BoxCloneService::new(boxed)),
        }
    }

    pub(crate) fn transport(&self) -> BoxTransport {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
