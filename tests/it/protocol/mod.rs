//! The protocol as the server speaks it: the same bytes are sent to both, the same messages must come back.

mod first_packets;
mod logins;
mod mutants;
mod pooled;
mod scripts;

use std::time::Duration;

use crate::harness::raw::{self, Frame, Raw, bind, close, describe, execute, flush, parse, query, sync};
use crate::harness::scene::{Scene, scene};
use scripts::Script;

/// What a connection says, without what differs from login to login: process id, key and nonces, and where in it
/// parameters are told.
fn comparable(frames: &[Frame]) -> Vec<String> {
    let fixed = frames.iter().filter(|frame| !matches!(frame.tag, b'K' | b'S' | b'R'));
    fixed.map(ToString::to_string).collect()
}

fn words(frames: &[Frame]) -> Vec<String> {
    frames.iter().map(ToString::to_string).collect()
}

/// The table of the scripts. Not a temporary one, which would keep a session on its backend.
async fn fresh_table(raw: &mut Raw) {
    raw.query("DROP TABLE IF EXISTS t").await;
    raw.query("CREATE TABLE t (a int)").await;
}

/// Sends the bytes after a login, then says goodbye; everything that comes back.
async fn talk(address: &str, bytes: &[u8], goodbye: bool) -> Vec<String> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    fresh_table(&mut raw).await;
    raw.try_send(bytes).await;
    if goodbye {
        // Some conversations have made the server hang up by now.
        raw.try_send(&query("SELECT 'goodbye'")).await;
        raw.try_send(&raw::terminate()).await;
    }
    words(&raw.end().await)
}

async fn compare(scene: &Scene, scripts: &[Script], goodbye: bool) {
    for (name, bytes) in scripts {
        let direct = talk(&scene.cluster.n(0).address(), bytes, goodbye).await;
        let proxied = talk(&scene.proxy.address(), bytes, goodbye).await;
        assert!(same(&direct, &proxied), "{name}:\n  direct {direct:?}\n proxied {proxied:?}");
        assert!(!direct.is_empty() || !goodbye, "{name}: nothing came back");
    }
}

/// The same words; or one that says what was wrong where the server only closes the connection.
fn same(direct: &[String], proxied: &[String]) -> bool {
    let told = |one: &String| one.starts_with("E FATAL 08P01 ");
    // The proxy itself speaks 3.2, whatever the server behind it does.
    let newest = |one: &String| one.replace("3.0 to 3.0", "3.0 to 3.2");
    let direct: Vec<String> = direct.iter().map(newest).collect();
    direct == proxied || (direct.is_empty() && matches!(proxied, [one] if told(one)))
}

#[tokio::test]
async fn conversations_are_the_servers_own() {
    let scene = scene(0, |_| {}).await;
    compare(&scene, &scripts::conversations(), true).await;
    scene.finish().await;
}

#[tokio::test]
async fn each_reply_comes_at_its_flush() {
    let scene = scene(0, |_| {}).await;
    step_by_step(&scene).await;
    scene.finish().await;
}

/// Each reply of a batch comes at its Flush, before anything more is sent.
async fn step_by_step(scene: &Scene) {
    let steps = [
        (parse("", "SELECT i FROM generate_series(1, 3) i"), "1"),
        (describe(b'S', ""), "tT"),
        (bind("", "", &[]), "2"),
        (describe(b'P', ""), "T"),
        (execute("", 2), "DDs"),
        (execute("", 2), "DC"),
        (close(b'P', ""), "3"),
    ];
    let mut raw = scene.raw().await;
    for (message, replies) in steps {
        raw.send(&[message, flush()].concat()).await;
        raw.expect(replies).await;
    }
    raw.send(&sync()).await;
    raw.expect("Z").await;
    // An error at a Flush is told there; the rest is passed over up to the Sync.
    let fails = parse("", "SELECT 1 / i FROM generate_series(0, 0) i");
    raw.send(&[fails, bind("", "", &[]), execute("", 0), flush()].concat()).await;
    raw.expect("12E").await;
    raw.send(&[parse("", "SELECT 1"), flush()].concat()).await;
    assert_eq!(raw.within(Duration::from_millis(50)).await, None);
    raw.send(&sync()).await;
    raw.expect("Z").await;
    assert!(raw.is_alive().await);
}

#[tokio::test]
async fn broken_messages_are_answered_as_by_the_server() {
    let scene = scene(0, |_| {}).await;
    let scripts = scripts::violations();
    compare(&scene, &scripts, false).await;
    let lines = scene.proxy.log_text().matches("client broke the protocol").count();
    assert!((1..=scripts.len()).contains(&lines), "{lines} lines in the log, at most one for each client");
    assert!(scene.raw().await.is_alive().await, "others go on");
    scene.finish().await;
}

/// The bytes of all answers to a pipeline with that many Syncs.
async fn pipeline(address: &str, bytes: &[u8], syncs: usize) -> Vec<u8> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    let (mut answers, mut ready) = (Vec::new(), 0);
    // In slices, so that neither side has to hold all of it.
    for slice in bytes.chunks(32_768) {
        raw.send(slice).await;
        while let Some(frame) = raw.within(Duration::from_millis(1)).await {
            ready += usize::from(frame.tag == b'Z');
            answers.extend(frame.bytes());
        }
    }
    while ready < syncs {
        let frame = raw.frame().await;
        ready += usize::from(frame.tag == b'Z');
        answers.extend(frame.bytes());
    }
    answers
}

#[tokio::test]
async fn ten_thousand_pipelined_queries_get_the_same_bytes_in_the_same_order() {
    let scene = scene(0, |_| {}).await;
    let one = |i: usize| match i % 10 {
        8 => query(&format!("SELECT {i}")),
        9 => [parse("", "SELECT 1 / $1::int"), bind("", "", &["0"]), execute("", 0), sync()].concat(),
        _ => [parse("", "SELECT $1::int"), bind("", "", &[&i.to_string()]), execute("", 0), sync()].concat(),
    };
    let all: Vec<u8> = (0..10_000).flat_map(one).collect();
    let direct = pipeline(&scene.cluster.n(0).address(), &all, 10_000).await;
    let proxied = pipeline(&scene.proxy.address(), &all, 10_000).await;
    assert!(direct == proxied, "{} and {} bytes", direct.len(), proxied.len());
    scene.finish().await;
}

#[tokio::test]
async fn a_conversation_may_come_byte_by_byte() {
    let scene = scene(0, |_| {}).await;
    let all = [query("SELECT 1"), parse("", "SELECT 2"), bind("", "", &[]), execute("", 0), sync()].concat();
    let mut raw = scene.raw().await;
    for byte in all {
        raw.send(&[byte]).await;
    }
    raw.expect("TDCZ12DCZ").await;
    scene.finish().await;
}
