//! What operators see of shared backends: pins, prepared statements and waits, the same in tables and metrics.

#![expect(clippy::float_cmp, reason = "counts are whole numbers")]

use std::time::Instant;

use tokio_postgres::SimpleQueryMessage;

use crate::harness::drivers::connect;
use crate::harness::eventually;
use crate::harness::raw::{bind, execute, parse, query, sync};
use crate::harness::scene::{Scene, scene};

/// The values of a column in every row of a console table.
async fn column(scene: &Scene, table: &str, column: &str) -> Vec<String> {
    let console = connect(&scene.proxy.console_config()).await.unwrap();
    let messages = console.simple_query(&format!("SHOW {table}")).await.unwrap();
    let value = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(column).unwrap().to_owned()),
        _ => None,
    };
    messages.into_iter().filter_map(value).collect()
}

/// The same where there is one row.
async fn only(scene: &Scene, table: &str, name: &str) -> String {
    let values = column(scene, table, name).await;
    let [value] = &values[..] else { panic!("{table}.{name}: {values:?}") };
    value.clone()
}

async fn shared(size: u32) -> Scene {
    scene(0, |spec| {
        spec.set("pool.mode", "transaction");
        spec.raw("pool.size", &size.to_string()).raw("pool.max_pinned", &size.to_string());
    })
    .await
}

async fn sample(scene: &Scene, name: &str) -> f64 {
    scene.proxy.metrics().await.get(name).copied().unwrap_or_else(|| panic!("no {name}"))
}

/// Figures of the pools are gathered by their janitor.
async fn becomes(scene: &Scene, name: &str, wanted: f64) {
    let what = format!("{name} to be {wanted}");
    eventually(&what, async || scene.proxy.metric(name).await == wanted).await;
}

#[tokio::test]
async fn pins_are_seen_by_cause() {
    let scene = shared(2).await;
    let mut session = scene.raw().await;
    let (now, total) = ("pgsteer_sessions_pinned{cause=\"listen\"}", "pgsteer_pins_total{cause=\"listen\"}");
    assert_eq!(session.value("SELECT 1").await, "1");
    assert_eq!((sample(&scene, now).await, sample(&scene, total).await), (0.0, 0.0));
    assert_eq!(only(&scene, "POOLS", "pinned").await, "0");
    session.query("LISTEN news").await;
    session.query("CREATE TEMP TABLE mine (a int)").await;
    assert_eq!((sample(&scene, now).await, sample(&scene, total).await), (1.0, 1.0));
    assert_eq!(only(&scene, "CLIENTS", "pins").await, "listen, temporary table");
    assert_eq!(only(&scene, "POOLS", "pinned").await, "1");
    assert_eq!(only(&scene, "BACKENDS", "pinned").await, "t");
    becomes(&scene, "pgsteer_backends_pinned", 1.0).await;
    session.query("UNLISTEN *").await;
    assert_eq!((sample(&scene, now).await, sample(&scene, total).await), (0.0, 1.0));
    assert_eq!(sample(&scene, "pgsteer_sessions_pinned{cause=\"temporary table\"}").await, 1.0);
    // It leaves with what it has: nothing of it is counted any more.
    drop(session);
    becomes(&scene, "pgsteer_sessions_pinned", 0.0).await;
    becomes(&scene, "pgsteer_backends_pinned", 0.0).await;
    assert_eq!(only(&scene, "POOLS", "pinned").await, "0");
    scene.finish().await;
}

#[tokio::test]
async fn a_pin_that_only_the_server_knows_the_end_of_is_seen_to_end() {
    let scene = shared(1).await;
    let mut session = scene.raw().await;
    session.query("SELECT pg_advisory_lock(1), pg_advisory_lock(2)").await;
    session.query("SELECT pg_advisory_unlock(1)").await;
    assert_eq!(only(&scene, "CLIENTS", "pins").await, "advisory lock");
    session.query("SELECT pg_advisory_unlock(2)").await;
    eventually("the pin to end", async || only(&scene, "CLIENTS", "pins").await.is_empty()).await;
    assert_eq!(sample(&scene, "pgsteer_sessions_pinned{cause=\"advisory lock\"}").await, 0.0);
    assert_eq!(only(&scene, "BACKENDS", "pinned").await, "f");
    drop(session);
    scene.finish().await;
}

#[tokio::test]
async fn prepared_statements_and_their_memory_are_seen() {
    let scene = shared(1).await;
    let mut sessions = [scene.raw().await, scene.raw().await];
    let prepare = parse("mine", "SELECT 1");
    for session in &mut sessions {
        session.send(&[prepare.clone(), bind("", "mine", &[]), execute("", 0), sync()].concat()).await;
        session.expect("12DCZ").await;
    }
    // Both have the statement, and share it on the backend.
    assert_eq!(column(&scene, "CLIENTS", "prepared").await, ["1", "1"]);
    let bytes = prepare.len().to_string();
    assert_eq!(column(&scene, "CLIENTS", "prepared_bytes").await, [&bytes[..], &bytes[..]]);
    assert_eq!(scene.proxy.metric("pgsteer_prepared_bytes").await, 2.0 * prepare.len() as f64);
    assert_eq!(only(&scene, "BACKENDS", "prepared").await, "1");
    assert_eq!(only(&scene, "POOLS", "prepared").await, "1");
    becomes(&scene, "pgsteer_prepared_statements", 1.0).await;
    drop(sessions);
    becomes(&scene, "pgsteer_prepared_bytes", 0.0).await;
    scene.finish().await;
}

#[tokio::test]
async fn waits_are_seen() {
    let scene = shared(1).await;
    let (mut holder, mut waiter) = (scene.raw().await, scene.raw().await);
    holder.query("BEGIN").await;
    let sent = Instant::now();
    waiter.send(&query("SELECT 1")).await;
    let milliseconds = async |name| only(&scene, "POOLS", name).await.parse::<f64>().unwrap();
    eventually("a wait of 50 ms", async || milliseconds("longest_wait_ms").await >= 50.0).await;
    assert_eq!(only(&scene, "POOLS", "waiting").await, "1");
    assert_eq!(scene.proxy.metric("pgsteer_sessions_waiting").await, 1.0);
    holder.query("COMMIT").await;
    waiter.expect("TDCZ").await;
    let answered = sent.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(only(&scene, "POOLS", "waiting").await, "0");
    let (pool, all) = (
        milliseconds("wait_p99_ms").await,
        sample(&scene, "pgsteer_checkout_wait_seconds{quantile=\"0.99\"}").await * 1000.0,
    );
    // The longest of a handful; the histograms have two digits. Who has got a backend goes on a little later.
    assert!(pool >= 49.0 && pool <= all * 1.02 && all <= answered * 1.02, "{pool}, {all} and {answered}");
    // Transactions that found a backend idle count, too.
    for _ in 0..400 {
        assert_eq!(waiter.value("SELECT 1").await, "1");
    }
    assert!(milliseconds("wait_p99_ms").await < 40.0);
    drop((holder, waiter));
    scene.finish().await;
}
