//! Read-only sessions: how they are declared, where they run, where they go when their standby is not fit.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::drivers::psql;
use crate::harness::eventually;
use crate::harness::raw::{Raw, V3_0, query};
use crate::harness::scene::{Scene, scene};

const LIMIT: Duration = Duration::from_secs(20);

async fn login(scene: &Scene, database: &str, more: &[(&str, &str)]) -> Raw {
    let mut raw = Raw::tcp(&scene.proxy.address()).await;
    let params = [&[("user", "app"), ("database", database)], more].concat();
    let frames = raw.start(V3_0, &params, "app-secret").await;
    assert_eq!(frames.last().map(|last| last.tag), Some(b'Z'), "{frames:?}");
    raw
}

/// Writes until the proxy has taken the standby out.
async fn out(scene: &Scene, index: usize) {
    let mut writer = scene.raw().await;
    writer.query("CREATE TABLE IF NOT EXISTS noise (a int)").await;
    eventually("the standby to be out", async || {
        writer.query("INSERT INTO noise VALUES (1)").await;
        scene.node(index).await["reads"] != "qualified"
    })
    .await;
}

#[tokio::test]
async fn read_only_is_declared_in_every_way() {
    let scene = scene(2, |spec| {
        spec.set("route.database_suffix", "_ro");
    })
    .await;
    let on = [("options", "-c default_transaction_read_only=on")];
    let mut declared = vec![
        login(&scene, "app_ro", &[]).await,
        login(&scene, "app", &on).await,
        login(&scene, "app", &[("default_transaction_read_only", "on")]).await,
        scene.raw_standby().await,
    ];
    for raw in &mut declared {
        assert_eq!(raw.value("SELECT pg_is_in_recovery() AND current_database() = 'app'").await, "t");
        assert_eq!(raw.params["in_hot_standby"], "on");
        assert_eq!(raw.params["default_transaction_read_only"], "on");
        assert_eq!(raw.value("SHOW default_transaction_read_only").await, "on");
        assert_eq!(raw.error("CREATE TABLE no ()").await, "25006");
    }
    let mut writer = login(&scene, "app", &[]).await;
    assert_eq!(writer.value("SELECT pg_is_in_recovery()").await, "f");
    let mut ports = BTreeSet::new();
    // One that answers much more slowly than the other is left alone for a while.
    eventually("both standbys to be used", async || {
        let mut raw = scene.raw_standby().await;
        ports.insert(raw.value("SHOW port").await);
        declared.push(raw);
        ports.len() == 2
    })
    .await;
    drop((declared, writer));

    // libpq's own choice among both listeners, in both orders.
    let (a, b) = (scene.proxy.port(), scene.proxy.standby_port());
    for ports in [format!("{a},{b}"), format!("{b},{a}")] {
        let hosts = format!(
            "host=127.0.0.1,127.0.0.1 port={ports} user=app password=app-secret dbname=app \
             target_session_attrs"
        );
        for (attrs, recovers) in [
            ("primary", "f"),
            ("read-write", "f"),
            ("standby", "t"),
            ("prefer-standby", "t"),
            ("read-only", "t"),
        ] {
            let conninfo = format!("{hosts}={attrs}");
            let said = psql(scene.cluster.programs(), &conninfo, &["-c", "SELECT pg_is_in_recovery()"]).await;
            assert_eq!(said.text(), recovers, "{attrs} of {ports}");
        }
    }
    scene.finish().await;
}

#[tokio::test]
async fn with_fallback_error_nothing_is_read_from_a_stale_standby() {
    let scene = scene(1, |spec| {
        spec.set("cluster.max_lag", "300ms").set("cluster.fallback", "error");
    })
    .await;
    let standby = scene.cluster.n(1);
    let (mut reader, mut bound, mut running) =
        (scene.raw_standby().await, scene.raw_standby().await, scene.raw_standby().await);
    assert_eq!(reader.value("SELECT 1").await, "1");
    bound.query("SELECT pg_advisory_lock(7)").await;
    running.send(&query("SELECT pg_sleep(600)")).await;
    standby
        .wait_for("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "1", LIMIT)
        .await
        .unwrap();
    standby.pause_replay().await.unwrap();
    out(&scene, 1).await;
    for _ in 0..3 {
        assert_eq!(reader.error("SELECT 1").await, "57P03");
        assert_eq!(bound.error("SELECT 1").await, "57P03");
    }
    assert!(running.within(Duration::from_millis(50)).await.is_none(), "nothing is killed for lag");
    let mut refused = Raw::tcp(&scene.proxy.standby_address()).await;
    let frames = refused.start(V3_0, &[("user", "app"), ("database", "app")], "app-secret").await;
    assert!(frames.iter().any(|frame| matches!(frame.tag, b'E' | b'Z')), "{frames:?}");
    standby.resume_replay().await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    assert_eq!(reader.value("SELECT pg_is_in_recovery()").await, "t");
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
    assert_eq!(bound.value(held).await, "1", "what bound it to its backend is still there");
    drop((reader, bound, running, refused));
    scene.finish().await;
}

#[tokio::test]
async fn a_read_on_a_silent_standby_is_given_up_and_the_session_moves() {
    let scene = scene(2, |_| {}).await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(scene.raw_standby().await);
    }
    let silent = scene.cluster.n(1);
    let mut stuck = Vec::new();
    let mut moving = Vec::new();
    for mut reader in readers {
        if reader.value("SHOW port").await == silent.port().to_string() {
            reader.send(&query("SELECT pg_sleep(600)")).await;
            stuck.push(reader);
        } else {
            moving.push(reader);
        }
    }
    assert!(!stuck.is_empty() && !moving.is_empty(), "both standbys serve");
    let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    silent.wait_for(asleep, &stuck.len().to_string(), LIMIT).await.unwrap();
    silent.freeze().unwrap();
    for reader in &mut stuck {
        let frames = reader.until(b'Z').await;
        assert_eq!(frames[0].sqlstate(), "40001", "{frames:?}");
    }
    let other = scene.cluster.n(2).port().to_string();
    for reader in stuck.iter_mut().chain(&mut moving) {
        assert_eq!(reader.value("SHOW port").await, other);
    }
    silent.thaw().unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    drop((stuck, moving));
    scene.finish().await;
}
