//! Statuses of other nodes, made safe to read.
//!
//! tonic panics when it reads `grpc-status-details-bin` that is not base64. A peer must not be able to do that
//! to us, nor through us to a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::HeaderName;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use meridian_rpc::Transport;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tower::Service;

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Removes the details of a status if they cannot be decoded.
pub(crate) fn remove_broken_details(headers: &mut HeaderMap) {
    let is_sound = |value: &http::HeaderValue| {
        let alone = MetadataMap::from_headers(HeaderMap::from_iter([(DETAILS, value.clone())]));
        // Decoded as tonic will: what it takes here it takes there.
        alone
            .get_bin(DETAILS.as_str())
            .is_some_and(|details| details.to_bytes().is_ok())
    };
    if !headers.get_all(DETAILS).iter().all(is_sound) {
        headers.remove(DETAILS);
    }
}

/// Calls whose answers are safe to read.
#[derive(Clone)]
pub(crate) struct Checked(pub(crate) Transport);

impl Service<Request<Body>> for Checked {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        async move {
            let mut response = answer.await?;
            remove_broken_details(response.headers_mut());
            Ok(response.map(|body| Body::new(CheckedBody(body))))
        }
        .boxed()
    }
}

struct CheckedBody(Body);

impl HttpBody for CheckedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                remove_broken_details(trailers);
            }
            frame
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_rpc::KvError;

    #[test]
    fn sound_details_stay() {
        let error = KvError::unavailable("x");
        let response = Status::from(error.clone()).into_http::<Body>();
        let mut headers = response.headers().clone();
        remove_broken_details(&mut headers);
        assert_eq!(&headers, response.headers());
        let status = Status::from_header_map(&headers).unwrap();
        assert_eq!(KvError::from_status(&status), Some(error));
    }

    #[test]
    fn broken_details_go_and_the_rest_stays() {
        for broken in ["***", "A", "AAAAA", "====", "AA=A"] {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_STATUS, "14".parse().unwrap());
            headers.insert(DETAILS, broken.parse().unwrap());
            remove_broken_details(&mut headers);
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!(status.code(), tonic::Code::Unavailable, "{broken}");
            assert!(status.details().is_empty(), "{broken}");
        }
    }
}
