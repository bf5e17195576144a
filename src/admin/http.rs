//! The HTTP listener: metrics, health, the topology as JSON and a live page.
//!
//! In: requests of scrapers, orchestrators and browsers. Out: read-only answers from snapshots. It must not
//! change anything, and nothing a caller does may hurt the proxy: connections, header size and every wait have
//! a limit. Plain HTTP/1; put it on a loopback or private address.

mod io;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::report::Report;
use super::{AdminState, Pulse};

/// Connections at once; scrapers and browsers need a handful.
const CONNECTIONS_MAX: usize = 64;
/// Request line and headers, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// From the first wait for a request to the end of its headers; idle connections end after it too.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PATHS: &str = "/          live page\n\
                     /livez     200 while the process works\n\
                     /readyz    200 while clients can be served, else the reasons\n\
                     /metrics   Prometheus text\n\
                     /topology  nodes and events as JSON\n";

/// Accepts until the tasks are told to stop. Each connection is a task of its own.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut stopping = pin!(state.tasks.stopping());
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopping => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => {
                exhausted = false;
                stream
            }
            Err(error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    warn!(%error, "HTTP listener cannot accept");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // No place to wait in either: the answer fits any socket buffer, or is lost.
            let _ = stream.try_write(
                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            );
            continue;
        };
        let state_of_connection = Arc::clone(&state);
        state.tasks.spawn(async move {
            connection(stream, state_of_connection).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<AdminState>) {
    let service = service_fn(|request| {
        let response = respond(&request, &state);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(io::Timer)
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io::Socket::new(stream), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = state.tasks.stopping() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "HTTP connection ended");
    }
}

fn respond(request: &Request<Incoming>, state: &AdminState) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/" => page(),
        "/livez" => livez(state),
        "/metrics" => metrics(state),
        "/readyz" => readyz(state),
        "/topology" => topology(state),
        _ => text(StatusCode::NOT_FOUND, format!("no such path; there are:\n{PATHS}")),
    }
}

/// 200 while every loop turns.
fn livez(state: &AdminState) -> Response<Full<Bytes>> {
    let mut blocked = String::new();
    for (worker, pulse) in state.pulses.iter().enumerate() {
        let silence = pulse.silence();
        if silence > Pulse::LIMIT {
            // Writing to a String cannot fail.
            let _ = writeln!(blocked, "worker {worker} has stood still for {} s", silence.as_secs());
        }
    }
    if blocked.is_empty() {
        text(StatusCode::OK, "alive\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, blocked)
    }
}

/// 200 while the listeners accept and a primary takes writes.
fn readyz(state: &AdminState) -> Response<Full<Bytes>> {
    let readiness = state.readiness();
    let mut body = String::new();
    for reason in &readiness.reasons {
        let _ = writeln!(body, "{reason}");
    }
    for warning in &readiness.warnings {
        let _ = writeln!(body, "warning: {warning}");
    }
    if readiness.reasons.is_empty() {
        text(StatusCode::OK, format!("ready\n{body}"))
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

fn metrics(state: &AdminState) -> Response<Full<Bytes>> {
    let body = state.render_metrics();
    response(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn topology(state: &AdminState) -> Response<Full<Bytes>> {
    match serde_json::to_string_pretty(&Report::of(state)) {
        Ok(body) => response(StatusCode::OK, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn page() -> Response<Full<Bytes>> {
    const PAGE: &str = include_str!("page.html");
    let mut response = response(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    // The page loads nothing from anywhere; node names that look like markup stay text.
    let policy =
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
