//! Bad words during a login: what is asked for is a password, and anything else ends the connection as at the server.

use super::{same, words};
use crate::harness::raw::{Raw, V3_0, copy_data, cstr, message, query, startup, sync, terminate};
use crate::harness::scene::scene;

/// SASLInitialResponse for a mechanism with these bytes of it, of which `claimed` are announced.
fn initial(mechanism: &str, claimed: i32, data: &str) -> Vec<u8> {
    message(b'p', &[&cstr(mechanism)[..], &claimed.to_be_bytes(), data.as_bytes()].concat())
}

fn scram(data: &str) -> Vec<u8> {
    initial("SCRAM-SHA-256", i32::try_from(data.len()).unwrap(), data)
}

fn header(tag: u8, length: i32) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes()].concat()
}

/// Answers to the request for SASL.
fn first_answers() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a query", query("SELECT 1")),
        ("a sync", sync()),
        ("copy data", copy_data(b"1")),
        ("terminate", terminate()),
        ("an unknown type", message(b'y', b"what")),
        ("zeros", vec![0; 20]),
        ("nothing", Vec::new()),
        ("half a header", b"p\0\0".to_vec()),
        ("half a message", scram("n,,n=,r=abc")[..12].to_vec()),
        ("length 0", header(b'p', 0)),
        ("length 3", header(b'p', 3)),
        ("negative length", header(b'p', -1)),
        ("2 GiB", header(b'p', i32::MAX)),
        ("100 kB", header(b'p', 100_000)),
        ("an empty body", message(b'p', b"")),
        ("a password", message(b'p', b"app-secret\0")),
        ("no mechanism", initial("", 0, "")),
        ("an unknown mechanism", initial("PLAIN", 2, "ab")),
        ("binding without TLS", initial("SCRAM-SHA-256-PLUS", 11, "n,,n=,r=abc")),
        ("a longer length than there is", initial("SCRAM-SHA-256", 100, "n,,n=,r=abc")),
        ("a shorter length than there is", initial("SCRAM-SHA-256", 3, "n,,n=,r=abc")),
        ("no first message", initial("SCRAM-SHA-256", -1, "")),
        ("an empty first message", scram("")),
        ("a zero in it", scram("n,,n=,r=a\0bc")),
        ("no flag", scram("x,,n=,r=abc")),
        ("binding wanted", scram("p=tls-server-end-point,,n=,r=abc")),
        ("another identity", scram("n,a=other,n=,r=abc")),
        ("no name", scram("n,,r=abc")),
        ("no nonce", scram("n,,n=")),
        ("an extension", scram("n,,m=x,n=,r=abc")),
        ("an odd nonce", scram("n,,n=,r=a\u{7f}c")),
        ("garbage behind the comma", scram("n,,")),
    ]
}

/// Answers to the server's nonce; `NONCE` stands for it.
const SECOND_ANSWERS: [&str; 10] = [
    "",
    "c=biws",
    "c=biws,r=NONCE",
    "c=biws,r=NONCE,p=",
    "c=biws,r=NONCE,p=!!!!",
    "c=biws,r=NONCE,p=YWJj",
    "c=biws,r=NONCE,p=dHdlbnR5LW5pbmUgYnl0ZXMsIG5vdCAzMi4=",
    "c=biws,r=other,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "c=eSws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "x=biws,r=NONCE,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
];

async fn begin(address: &str) -> Raw {
    let mut raw = Raw::tcp(address).await;
    raw.send(&startup(V3_0, &[("user", "app"), ("database", "app")])).await;
    raw.expect("R").await;
    raw
}

#[tokio::test]
async fn broken_logins_are_refused_as_by_the_server() {
    let scene = scene(0, |_| {}).await;
    let addresses = [scene.cluster.n(0).address(), scene.proxy.address()];
    let mut wrong = Vec::new();
    for (name, bytes) in first_answers() {
        let mut said = Vec::new();
        for address in &addresses {
            let mut raw = begin(address).await;
            raw.try_send(&bytes).await;
            raw.half_close().await;
            let mut words = words(&raw.end().await);
            // The nonce of a server that goes on is its own.
            words.retain(|word| !word.starts_with('R'));
            said.push(words);
        }
        wrong.extend((!same(&said[0], &said[1])).then(|| format!("{name}: {said:?}")));
    }
    for answer in SECOND_ANSWERS {
        let mut said = Vec::new();
        for address in &addresses {
            let mut raw = begin(address).await;
            raw.send(&scram("n,,n=,r=abcdefgh")).await;
            let asked = String::from_utf8(raw.expect("R").await.remove(0).body[4..].to_vec()).unwrap();
            let nonce = asked.strip_prefix("r=").and_then(|rest| rest.split(',').next()).unwrap();
            raw.send(&message(b'p', answer.replace("NONCE", nonce).as_bytes())).await;
            said.push(words(&raw.end().await));
        }
        wrong.extend((!same(&said[0], &said[1])).then(|| format!("{answer}: {said:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(scene.raw().await.is_alive().await, "others go on");
    scene.finish().await;
}
