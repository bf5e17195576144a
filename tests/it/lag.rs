//! A standby that falls behind gets no reads; one that has caught up gets them again.

use std::collections::BTreeSet;

use crate::harness::eventually;
use crate::harness::raw::Raw;
use crate::harness::scene::{Scene, scene};

/// Writes until a condition holds: without writes nobody falls behind.
async fn writing(scene: &Scene, what: &str, mut look: impl AsyncFnMut() -> bool) {
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE IF NOT EXISTS noise (a int)").await;
    eventually(what, async || {
        writer.query("INSERT INTO noise VALUES (1)").await;
        look().await
    })
    .await;
}

async fn port(raw: &mut Raw) -> String {
    raw.value("SHOW port").await
}

#[tokio::test]
async fn a_lagging_standby_loses_its_readers_and_gets_them_back() {
    let scene = scene(2, |spec| {
        spec.set("cluster.max_lag", "300ms");
    })
    .await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(scene.raw_standby().await);
    }
    let (slow, good) = (scene.cluster.n(1), scene.cluster.n(2));
    slow.pause_replay().await.unwrap();
    writing(&scene, "the slow standby to be out", async || scene.node(1).await["reads"] != "qualified").await;
    for reader in &mut readers {
        assert_eq!(port(reader).await, good.port().to_string(), "moved without noticing");
    }
    slow.resume_replay().await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    let mut ports = BTreeSet::new();
    for _ in 0..8 {
        let mut reader = scene.raw_standby().await;
        ports.insert(port(&mut reader).await);
        readers.push(reader);
    }
    assert!(ports.contains(&slow.port().to_string()), "{ports:?}");
    drop(readers);
    scene.finish().await;
}

#[tokio::test]
async fn lag_in_bytes_counts_too() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "1h").set("cluster.max_lag_bytes", "64kB");
    })
    .await;
    scene.cluster.n(1).pause_replay().await.unwrap();
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)").await;
    scene.wait_node_not(1, "reads", "qualified").await;
    scene.cluster.n(1).resume_replay().await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    drop(writer);
    scene.finish().await;
}

#[tokio::test]
async fn listeners_and_sessions_may_have_limits_of_their_own() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "300ms").listener(1, "max_lag = \"1h\"");
    })
    .await;
    let [primary, standby] = [0, 1].map(|index| scene.cluster.n(index).port().to_string());
    scene.cluster.n(1).pause_replay().await.unwrap();
    writing(&scene, "the standby to be out", async || scene.node(1).await["reads"] != "qualified").await;
    let hinted = "/* pgsteer: standby */ SHOW port";
    assert_eq!(scene.raw().await.value(hinted).await, primary, "the cluster's limit");
    let mut lenient = scene.raw().await;
    lenient.query("SET pgsteer.max_lag = '1h'").await;
    assert_eq!(lenient.value(hinted).await, standby, "the session's limit");
    assert_eq!(port(&mut scene.raw_standby().await).await, standby, "the listener's limit");
    let mut strict = scene.raw_standby().await;
    strict.query("SET pgsteer.max_lag = '300ms'").await;
    assert_eq!(port(&mut strict).await, primary, "the session's limit comes before the listener's");
    scene.cluster.n(1).resume_replay().await.unwrap();
    eventually("the strict one to be back", async || port(&mut strict).await == standby).await;
    drop((lenient, strict));
    scene.finish().await;
}

#[tokio::test]
async fn without_a_fresh_standby_the_primary_reads_but_does_not_write() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "300ms");
    })
    .await;
    let mut reader = scene.raw_standby().await;
    scene.cluster.n(1).pause_replay().await.unwrap();
    writing(&scene, "the standby to be out", async || scene.node(1).await["reads"] != "qualified").await;
    assert_eq!(port(&mut reader).await, scene.cluster.n(0).port().to_string(), "fallback = primary");
    assert_eq!(reader.error("CREATE TABLE no ()").await, "25006", "read-only it stays");
    scene.cluster.n(1).resume_replay().await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    let standby = scene.cluster.n(1).port().to_string();
    eventually("the reader to be back", async || port(&mut reader).await == standby).await;
    drop(reader);
    scene.finish().await;
}

#[tokio::test]
async fn without_a_fresh_standby_the_least_stale_reads() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "300ms").set("cluster.fallback", "least_stale");
    })
    .await;
    let mut reader = scene.raw_standby().await;
    scene.cluster.n(1).pause_replay().await.unwrap();
    writing(&scene, "the standby to be out", async || scene.node(1).await["reads"] != "qualified").await;
    assert_eq!(port(&mut reader).await, scene.cluster.n(1).port().to_string());
    drop(reader);
    scene.cluster.n(1).resume_replay().await.unwrap();
    scene.finish().await;
}

#[tokio::test]
async fn an_idle_primary_makes_nobody_lag() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "1s");
    })
    .await;
    // Longer than the limit without a single write: `now() - last replay` would grow beyond it.
    let began = tokio::time::Instant::now();
    while began.elapsed().as_millis() < 2500 {
        assert_eq!(scene.node(1).await["reads"], "qualified");
    }
    scene.finish().await;
}

#[tokio::test]
async fn a_standby_without_its_source_serves_nothing() {
    let scene = scene(2, |_| {}).await;
    let orphan = scene.cluster.n(1);
    orphan.repoint("host=127.0.0.1 port=1 user=replicator").await.unwrap();
    writing(&scene, "the orphan to be out", async || scene.node(1).await["reads"] != "qualified").await;
    scene.cluster.repoint(orphan, scene.cluster.n(0)).await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    scene.finish().await;
}
