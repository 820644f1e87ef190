//! The smallest server that Prometheus can ask.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::error::Error;

const PATH: &str = "/metrics";
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Who asks while so many are being answered waits.
const CONNECTIONS: usize = 4;
/// A connection carries one question, and its answer within this time.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After the system had no connection to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What a question may take of memory.
const QUESTION_BYTES: usize = 16 << 10;

/// Answers with `text` for ever.
pub(super) async fn serve<F>(socket: TcpListener, text: F)
where
    F: Fn() -> Result<String, Error> + Send + Sync + 'static,
{
    let text = Arc::new(text);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match socket.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "nobody could be let in to ask for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let text = text.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(TIMEOUT, answer(stream, &*text))
                .await
                .is_err()
            {
                tracing::debug!("who asked for metrics took too long");
            }
            drop(place);
        });
    }
}

async fn answer(stream: TcpStream, text: &(impl Fn() -> Result<String, Error> + Sync)) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = respond(request.method(), request.uri().path(), text);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(QUESTION_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "who asked for metrics went away");
    }
}

fn respond(method: &Method, path: &str, text: &impl Fn() -> Result<String, Error>) -> Response<Full<Bytes>> {
    let (status, body) = match (path, method) {
        (PATH, &Method::GET) => match text() {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        (PATH, _) => (StatusCode::METHOD_NOT_ALLOWED, "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, format!("only {PATH} is here\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(CONTENT_TYPE),
    );
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, header::HeaderValue::from_static("GET"));
    }
    response
}
