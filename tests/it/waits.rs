//! Clients that wait for a server and do not want to any more.

use std::time::Duration;

use pgsteer::demo::node::Promote;
use tokio::time::Instant;

use crate::harness::raw::{self, Raw, query};
use crate::harness::scene::{Scene, scene};
use crate::harness::{eventually, soon};

async fn waiting(scene: &Scene, wanted: bool) {
    let what = format!("a session waits for a backend: {wanted}");
    eventually(&what, async || (scene.proxy.metric("pgsteer_sessions_waiting").await > 0.0) == wanted).await;
}

#[tokio::test]
async fn a_statement_held_from_a_frozen_primary_is_cancelled_at_once() {
    let scene = scene(0, |_| {}).await;
    let mut session = scene.raw().await;
    assert_eq!(session.value("SELECT 1").await, "1");
    scene.cluster.n(0).freeze().unwrap();
    scene.wait_node(0, "health", "down").await;
    session.send(&query("SELECT 2")).await;
    eventually("a held session", async || scene.proxy.metric("pgsteer_sessions_held").await > 0.0).await;
    let asked = Instant::now();
    // Returns when the proxy closes the connection: not when the frozen server would.
    soon("the end of the request", session.cancel(&scene.proxy.address())).await;
    let frames = session.expect("EZ").await;
    assert_eq!(frames[0].sqlstate(), "57014");
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    scene.cluster.n(0).thaw().unwrap();
    assert_eq!(session.value("SELECT 3").await, "3", "the connection stays");
    drop(session);
    scene.finish().await;
}

#[tokio::test]
async fn a_statement_that_waits_for_its_turn_can_be_cancelled() {
    let scene = scene(1, |spec| {
        spec.raw("pool.size", "1");
    })
    .await;
    let mut first = scene.raw().await;
    assert_eq!(first.value("SELECT 1").await, "1");
    scene.cluster.n(0).kill().unwrap();
    scene.wait_node(0, "health", "down").await;
    // Logged in from memory: it has no backend, and there is only one at the new primary.
    let mut second = scene.raw().await;
    scene.cluster.n(1).promote_and_wait(Promote::PgCtl).await.unwrap();
    first.query("BEGIN").await;
    second.send(&query("SELECT 2")).await;
    waiting(&scene, true).await;
    second.cancel(&scene.proxy.address()).await;
    let frames = second.expect("EZ").await;
    assert_eq!(frames[0].sqlstate(), "57014");
    waiting(&scene, false).await;
    drop(first);
    assert_eq!(second.value("SELECT 3").await, "3", "the connection stays");
    drop(second);
    scene.finish().await;
}

#[tokio::test]
async fn a_client_that_waits_for_its_turn_gives_it_up_by_leaving() {
    let scene = scene(0, |spec| {
        spec.raw("pool.size", "1");
    })
    .await;
    let mut first = scene.raw().await;
    first.query("BEGIN").await;
    // Where a login waits there is no key yet to cancel with: closing the connection is what libpq does then.
    let mut second = Raw::tcp(&scene.proxy.address()).await;
    let waiter = tokio::spawn(async move {
        second.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
        second.query("SELECT 2").await
    });
    waiting(&scene, true).await;
    waiter.abort();
    waiting(&scene, false).await;
    drop(first);
    let mut third = soon("a login", scene.raw()).await;
    assert_eq!(third.value("SELECT 1").await, "1");
    drop(third);
    scene.finish().await;
}

#[tokio::test]
async fn reads_without_a_standby_leave_the_primary_a_backend_for_writes() {
    // No standby at all: whoever only reads goes to the primary.
    let scene = scene(0, |spec| {
        spec.raw("pool.size", "4").raw("pool.reserve", "1");
    })
    .await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = soon("a reader", scene.raw_standby()).await;
        reader.query("BEGIN").await;
        readers.push(reader);
    }
    let mut fourth = Raw::tcp(&scene.proxy.standby_address()).await;
    let fourth = tokio::spawn(async move {
        fourth.start(raw::V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
        fourth.query("BEGIN").await;
        fourth
    });
    waiting(&scene, true).await;
    let mut writer = soon("a writer", scene.raw()).await;
    assert_eq!(writer.value("CREATE TEMP TABLE written AS SELECT 1; SELECT 2").await, "2");
    waiting(&scene, true).await;
    drop((writer, readers.pop()));
    let mut fourth = soon("the fourth reader", fourth).await.unwrap();
    assert_eq!(fourth.value("SELECT 4").await, "4");
    drop((fourth, readers));
    scene.finish().await;
}

/// So many may wait for a primary; the next one is told at once, and is served again when there is one.
#[tokio::test]
async fn not_more_wait_for_a_primary_than_may() {
    let scene = scene(1, |spec| {
        spec.raw("cluster.max_held", "2").set("cluster.hold_timeout", "10min");
    })
    .await;
    let mut waiting = [scene.raw().await, scene.raw().await];
    let mut refused = scene.raw().await;
    scene.cluster.n(0).kill_and_wait().await.unwrap();
    for raw in &mut waiting {
        raw.send(&query("SHOW port")).await;
    }
    let held = async || scene.proxy.metric("pgsteer_sessions_held").await;
    eventually("two wait", async || held().await >= 2.0).await;
    let frames = refused.query("SHOW port").await;
    assert_eq!(frames[0].sqlstate(), "57P03", "{frames:?}");
    assert!(frames[0].field(b'D').unwrap().contains("cluster.max_held"), "{frames:?}");
    assert_eq!(frames[1].body, b"I", "{frames:?}");
    scene.promote_best().await;
    let port = scene.cluster.n(1).port().to_string();
    for raw in &mut waiting {
        let frames = raw.until(b'Z').await;
        assert_eq!(frames[1].columns()[0].as_deref(), Some(&port[..]), "{frames:?}");
    }
    assert_eq!(refused.value("SHOW port").await, port);
    drop((waiting, refused));
    scene.finish().await;
}
