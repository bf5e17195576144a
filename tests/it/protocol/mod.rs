//! The protocol as the server speaks it: the same bytes are sent to both, the same messages must come back.

mod first_packets;
mod scripts;

use std::time::Duration;

use crate::harness::raw::{self, Frame, Raw, bind, close, describe, execute, flush, parse, query, sync};
use crate::harness::scene::{Scene, scene};
use scripts::Script;

/// What may differ: the process id and key, the nonces of a login, when a parameter is reported.
fn comparable(frames: &[Frame]) -> Vec<String> {
    let fixed = frames.iter().filter(|frame| !matches!(frame.tag, b'K' | b'S' | b'R'));
    fixed.map(ToString::to_string).collect()
}

/// Sends the bytes after a login, then says goodbye; everything that comes back.
async fn talk(address: &str, bytes: &[u8], goodbye: bool) -> Vec<String> {
    let mut raw = Raw::login(address, "app", "app-secret", "app").await;
    raw.query("CREATE TEMP TABLE t (a int)").await;
    raw.try_send(bytes).await;
    if goodbye {
        raw.send(&query("SELECT 'goodbye'")).await;
        raw.send(&raw::terminate()).await;
    }
    comparable(&raw.end().await)
}

async fn compare(scene: &Scene, scripts: &[Script], goodbye: bool) {
    for (name, bytes) in scripts {
        eprintln!("{name}");
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
    compare(&scene, &scripts::violations(), false).await;
    assert!(scene.raw().await.is_alive().await, "others go on");
    scene.finish().await;
}

#[tokio::test]
async fn ten_thousand_pipelined_queries_answer_in_order() {
    let scene = scene(0, |_| {}).await;
    let mut raw = scene.raw().await;
    let one = |i: usize| {
        [parse("", "SELECT $1::int"), bind("", "", &[&i.to_string()]), execute("", 0), sync()].concat()
    };
    let all: Vec<u8> = (0..10_000).flat_map(one).collect();
    let mut sender = Vec::new();
    // In slices, so that neither side has to hold all of it.
    for slice in all.chunks(32_768) {
        raw.send(slice).await;
        while let Some(frame) = raw.within(Duration::from_millis(1)).await {
            sender.push(frame);
        }
    }
    while sender.iter().filter(|frame| frame.tag == b'Z').count() < 10_000 {
        sender.push(raw.frame().await);
    }
    let values =
        sender.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.columns()[0].clone().unwrap());
    assert!(values.eq((0..10_000).map(|i| i.to_string())), "order or number");
    scene.finish().await;
}
