//! The HTTP listener over real sockets, with raw requests.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::admin::{fixture, status};
use crate::topology::Health;

async fn start() -> (Arc<AdminState>, SocketAddr) {
    let state = fixture::state();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    state.tasks.spawn(serve(listener, Arc::clone(&state)));
    (state, address)
}

/// Sends bytes and reads to the end of the connection.
async fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A reset after a refusal is as good as an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    raw(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn every_path_answers() {
    let (_state, address) = start().await;
    for (path, content) in [
        ("/", "text/html; charset=utf-8"),
        ("/livez", "alive"),
        ("/metrics", "# TYPE pgsteer_statements_total counter"),
        ("/readyz", "ready"),
        ("/topology", "\"lag_bytes\": 220"),
        ("/topology?x=1", "\"primary\": \"127.0.0.1:5432\""),
    ] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
        assert!(answer.contains(content), "{path}: {answer}");
        assert!(answer.contains("cache-control: no-store"), "{path}");
    }
    let unknown = get(address, "/nodes").await;
    assert!(unknown.starts_with("HTTP/1.1 404") && unknown.contains("/topology"), "{unknown}");
}

#[tokio::test]
async fn head_has_no_body_and_other_methods_are_refused() {
    let (_state, address) = start().await;
    let head = raw(address, b"HEAD /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: 6"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    for method in ["POST", "DELETE", "OPTIONS", "NONSENSE"] {
        let request = format!(
            "{method} /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
        );
        let answer = raw(address, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"),
            "{method}: {answer}"
        );
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let (state, address) = start().await;
    let mut topology = (*state.store.load()).clone();
    topology.nodes[0].health = Health::Down;
    topology.nodes[0].reason = "connection refused".to_owned();
    topology.alarms.push("the state file cannot be written".to_owned());
    state.store.publish(topology.clone());
    state.listening.store(false, Ordering::Relaxed);
    let answer = get(address, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.ends_with(
            "not accepting clients\nthe primary 127.0.0.1:5432 is down: connection refused\n\
             warning: the state file cannot be written\n"
        ),
        "{answer}"
    );
    topology.primary = None;
    state.store.publish(topology);
    assert!(get(address, "/readyz").await.contains("no primary is known"));
}

#[tokio::test]
async fn bad_requests_hurt_nobody() {
    let (_state, address) = start().await;
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    for request in [
        &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
        b"GET\r\n\r\n",
        b"\x16\x03\x01",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // May be cut off while writing.
        let _ = stream.write_all(request).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(get(address, "/livez").await.contains("alive"));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let (_state, address) = start().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 503"));
    drop(idle);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !get(address, "/livez").await.contains("alive") {
        assert!(tokio::time::Instant::now() < deadline, "places are not given back");
    }
}

#[tokio::test]
async fn a_shutdown_ends_idle_connections() {
    let (state, address) = start().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    state.tasks.stop();
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), idle.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn status_reads_what_http_writes() {
    let (state, address) = start().await;
    let url = format!("http://{address}");
    let read = status::report(&url).await.unwrap();
    let written = Report::of(&state);
    assert_eq!((read.nodes, read.events), (written.nodes, written.events));
    status::healthcheck(&url).await.unwrap();
    let mut out = Vec::new();
    status::print(&url, false, &mut out).await.unwrap();
    assert!(String::from_utf8(out).unwrap().contains("writes go to 127.0.0.1:5432"));
    let mut json = Vec::new();
    status::print(&url, true, &mut json).await.unwrap();
    serde_json::from_slice::<Report>(&json).unwrap();
}
