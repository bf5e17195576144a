//! The primary is lost in every way there is, a standby is promoted, and nobody's connection is closed.

use std::time::Duration;

use pgsteer::demo::node::Stop;
use serde_json::json;

use crate::harness::drivers::connect;
use crate::harness::link::Mode;
use crate::harness::loss::Loss;
use crate::harness::raw;
use crate::harness::scene::{Scene, linked_scene, scene};
use crate::harness::{LIMIT, eventually, soon};

/// Loses the primary. What the standbys have then is all they will ever get.
async fn strike(loss: Loss, scene: &Scene) {
    loss.strike(scene);
    if matches!(loss, Loss::Kill | Loss::StopFast | Loss::StopImmediate) {
        let receivers = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        for index in 1..scene.cluster.nodes().len() {
            scene.cluster.n(index).wait_for(receivers, "0", Duration::from_secs(10)).await.unwrap();
        }
    }
}

/// Writers, readers, an idle session with settings, one in a transaction, one that logs in while nobody is
/// primary: all keep their connection and go on at the new primary.
async fn survives(loss: Loss) {
    let scene = linked_scene(2, |_| {}).await;
    let oracle = scene.oracle(4, 2).await;
    let mut idle = scene.raw().await;
    idle.query("SET work_mem = '7MB'; SET application_name = 'patient'").await;
    let mut inside = scene.raw().await;
    inside.query("BEGIN").await;
    inside.query("CREATE TABLE unfinished ()").await;
    oracle.more_writes(50).await;

    strike(loss, &scene).await;
    let mut config = scene.proxy.config();
    config.application_name("newcomer");
    let newcomer = tokio::spawn(async move {
        let driver = connect(&config).await?;
        let wanted = "current_setting('application_name') || ' on ' || current_setting('port')";
        driver.value(&format!("CREATE TABLE newcomer AS SELECT 1; SELECT {wanted}")).await
    });
    oracle.more_reads(20).await;
    let (new, asked, writable) = scene.promote_best().await;
    let first = || oracle.ledger.first_ack_after(asked);
    eventually("a write on the new primary", async || first().is_some()).await;
    let gap = first().unwrap().saturating_duration_since(writable);
    eprintln!("{loss:?}: first write {gap:?} after the new primary was writable");
    // The promise is 50 ms at rest; here other tests share the cores.
    assert!(gap < Duration::from_secs(2), "{loss:?}: {gap:?}");

    let port = scene.cluster.n(new).port().to_string();
    assert_eq!(soon("the newcomer", newcomer).await.unwrap().unwrap(), format!("newcomer on {port}"));
    assert_eq!(idle.value("SHOW work_mem").await, "7MB");
    assert_eq!(idle.value("SHOW application_name").await, "patient");
    assert_eq!(idle.value("SHOW port").await, port);
    assert_eq!(inside.error("SELECT 1").await, "40001");
    assert_eq!(inside.query("ROLLBACK").await.last().unwrap().body, b"I");
    assert_eq!(inside.value("SHOW port").await, port);
    assert_eq!(inside.value("SELECT to_regclass('unfinished') IS NULL").await, "t");
    oracle.more_writes(50).await;
    oracle.more_reads(50).await;

    let ledger = oracle.judge(scene.cluster.n(new)).await;
    let summary = ledger.summary();
    assert_eq!(summary.lost_connections, 0, "{summary:?}");
    // The report appears when the last held session has gone on.
    let reports = async || scene.proxy.topology().await.unwrap()["outages"].clone();
    eventually("the report", async || reports().await[0]["end"] == "promotion").await;
    let report = reports().await[0].clone();
    let node = format!("node{}", new + 1);
    assert_eq!((&report["old_primary"], &report["new_primary"]), (&json!("node1"), &json!(node)), "{report}");
    let ms = |field: &str| report[field].as_f64().unwrap();
    assert!(ms("writable_after_ms") <= ms("answered_after_ms"), "{report}");
    assert!(!report["evidence"].as_str().unwrap().is_empty() && !report["fork_lsn"].is_null(), "{report}");
    let told: u64 = report["failed"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    // Each that was told, and the one inside a block.
    assert_eq!(told, summary.errors.values().sum::<u64>() + 1, "{report} {summary:?}");
    let honest = |code: &String| ["08007", "40001"].contains(&code.as_str());
    assert!(summary.errors.keys().all(honest), "{summary:?}");
    // At most what each writer had under way.
    assert!(summary.in_doubt <= 4, "{summary:?}");
    drop((idle, inside));
    scene.finish().await;
}

#[tokio::test]
async fn a_killed_primary() {
    survives(Loss::Kill).await;
}

#[tokio::test]
async fn a_primary_stopped_fast() {
    survives(Loss::StopFast).await;
}

#[tokio::test]
async fn a_primary_stopped_at_once() {
    survives(Loss::StopImmediate).await;
}

#[tokio::test]
async fn a_frozen_primary() {
    survives(Loss::Freeze).await;
}

#[tokio::test]
async fn a_primary_cut_off() {
    survives(Loss::Cut).await;
}

/// The old primary comes back to life as if nothing had happened: it must get nothing.
async fn zombie_gets_nothing(loss: Loss) {
    let scene = linked_scene(2, |_| {}).await;
    let oracle = scene.oracle(2, 2).await;
    oracle.more_writes(20).await;
    strike(loss, &scene).await;
    let (new, _, _) = scene.promote_best().await;
    oracle.more_writes(20).await;
    let old = scene.cluster.n(0);
    match loss {
        Loss::Freeze => old.thaw().unwrap(),
        Loss::Cut => scene.links[0].mend(),
        _ => old.start().await.unwrap(),
    }
    scene.wait_node(0, "role", "zombie").await;
    let mut sql = old.sql_in("app").await.unwrap();
    // A commit that was waiting when it froze may still end; after that nothing.
    let pending = "SELECT (SELECT count(*) FROM pg_stat_replication)
        + (SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event IS DISTINCT FROM 'SyncRep')";
    old.wait_for(pending, "0", LIMIT).await.unwrap();
    let rows = "SELECT count(*) FROM pgsteer_load";
    let before = sql.one(rows).await.unwrap();
    let reads = oracle.ledger.summary().served.get(&old.port()).map_or(0, |served| served.reads);
    oracle.more_writes(100).await;
    oracle.more_reads(100).await;
    assert_eq!(sql.one(rows).await.unwrap(), before, "the zombie was written to");
    let after = oracle.ledger.summary().served.get(&old.port()).map_or(0, |served| served.reads);
    assert_eq!(after, reads, "the zombie was read from");
    drop(sql);

    // As a standby of the new primary it is welcome again.
    old.stop(Stop::Immediate).await.unwrap();
    scene.cluster.rejoin(old, scene.cluster.n(new)).await.unwrap();
    scene.wait_node(0, "reads", "qualified").await;
    scene.wait_node(0, "role", "standby").await;
    let ledger = oracle.judge(scene.cluster.n(new)).await;
    assert_eq!(ledger.summary().lost_connections, 0);
    scene.finish().await;
}

#[tokio::test]
async fn a_revived_primary_gets_nothing() {
    zombie_gets_nothing(Loss::Kill).await;
}

#[tokio::test]
async fn a_thawed_primary_gets_nothing() {
    zombie_gets_nothing(Loss::Freeze).await;
}

#[tokio::test]
async fn a_mended_link_to_the_old_primary_changes_nothing() {
    zombie_gets_nothing(Loss::Cut).await;
}

#[tokio::test]
async fn a_new_proxy_does_not_believe_the_old_primary() {
    let scene = scene(1, |_| {}).await;
    let primary = scene.cluster.n(0);
    scene.raw().await.query("CREATE TABLE t AS SELECT 1").await;
    primary.freeze().unwrap();
    scene.promote_best().await;
    scene.wait_node(1, "role", "primary").await;
    primary.thaw().unwrap();
    let second = crate::harness::proxy::ProxySpec::new(&scene.cluster).start().await;
    let driver = connect(&second.config()).await.unwrap();
    let port = scene.cluster.n(1).port().to_string();
    assert_eq!(
        driver.value("SHOW port").await.unwrap(),
        port,
        "two say they are primary: the higher timeline"
    );
    drop(driver);
    second.stop().await;
    scene.finish().await;
}

#[tokio::test]
async fn without_a_primary_statements_wait_and_then_say_so() {
    let scene = scene(1, |spec| {
        spec.set("cluster.hold_timeout", "700ms");
    })
    .await;
    let mut raw = scene.raw().await;
    let mut reader = scene.raw_standby().await;
    scene.cluster.n(0).kill_and_wait().await.unwrap();
    // Nothing is under way when the loss is seen.
    scene.wait_node_not(0, "health", "up").await;
    assert_eq!(raw.error("SELECT 1").await, "57P03");
    assert_eq!(raw.error("SELECT 1").await, "57P03", "the connection stays");
    assert_eq!(reader.value("SELECT pg_is_in_recovery()").await, "t", "reads go on");
    scene.promote_best().await;
    eventually("writes again", async || raw.query("SELECT 1").await.iter().any(|frame| frame.tag == b'D'))
        .await;
    drop((raw, reader));
    scene.finish().await;
}

#[tokio::test]
async fn a_restart_in_place_is_waited_for() {
    let scene = scene(1, |_| {}).await;
    let oracle = scene.oracle(3, 1).await;
    oracle.more_writes(20).await;
    let primary = scene.cluster.n(0);
    primary.stop(Stop::Fast).await.unwrap();
    primary.start().await.unwrap();
    oracle.more_writes(50).await;
    assert_eq!(scene.node(0).await["role"], "primary");
    let ledger = oracle.judge(primary).await;
    assert_eq!(ledger.summary().lost_connections, 0, "{:?}", ledger.summary());
    scene.finish().await;
}

#[tokio::test]
async fn a_crash_of_one_backend_is_no_failover() {
    let scene = scene(1, |_| {}).await;
    let oracle = scene.oracle(2, 1).await;
    let victim = scene.raw().await;
    oracle.more_writes(20).await;
    pgsteer::demo::process::send(pgsteer::demo::process::Signal::Kill, &[victim.pid as u32]).unwrap();
    oracle.more_writes(50).await;
    let ledger = oracle.judge(scene.cluster.n(0)).await;
    assert_eq!(ledger.summary().lost_connections, 0, "{:?}", ledger.summary());
    assert_eq!(scene.node(0).await["role"], "primary");
    drop(victim);
    scene.finish().await;
}

#[tokio::test]
async fn a_session_ended_on_the_server_ends_alone() {
    let scene = scene(0, |_| {}).await;
    let (mut first, mut second) = (scene.raw().await, scene.raw().await);
    scene.cluster.n(0).one(&format!("SELECT pg_terminate_backend({})", first.pid)).await.unwrap();
    // As from a server: 57P01 and the end, or a session that goes on with a new backend.
    let frames = first.query_to_end("SELECT 1").await;
    assert!(frames.iter().any(|frame| frame.tag == b'E' || frame.tag == b'D'), "{frames:?}");
    assert!(second.is_alive().await);
    drop((first, second));
    scene.finish().await;
}

#[tokio::test]
async fn what_cannot_be_restored_is_told() {
    let scene = scene(1, |_| {}).await;
    let (mut lock, mut temp, mut held) = (scene.raw().await, scene.raw().await, scene.raw().await);
    lock.query("SELECT pg_advisory_lock(1)").await;
    temp.query("CREATE TEMP TABLE mine AS SELECT 1 AS a").await;
    held.query("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 3)").await;
    scene.cluster.n(0).kill().unwrap();
    scene.promote_best().await;
    assert_eq!(lock.error("SELECT 1").await, "40001", "the next statement of any kind");
    assert!(lock.is_alive().await);
    for (session, statement) in [(&mut temp, "SELECT a FROM mine"), (&mut held, "FETCH 1 FROM c")] {
        let code = session.error(statement).await;
        assert!(["40001", "42P01", "34000"].contains(&code.as_str()), "{statement}: {code}");
        assert!(session.is_alive().await);
    }
    drop((lock, temp, held));
    scene.finish().await;
}

#[tokio::test]
async fn readers_move_when_their_standby_goes_and_comes_back() {
    let scene = scene(2, |_| {}).await;
    let oracle = scene.oracle(1, 4).await;
    oracle.more_reads(50).await;
    scene.cluster.set_synchronous(scene.cluster.n(0), None).await.unwrap();
    let gone = scene.cluster.n(1);
    gone.kill_and_wait().await.unwrap();
    oracle.more_reads(100).await;
    scene.wait_node(1, "health", "down").await;
    gone.start().await.unwrap();
    scene.wait_node(1, "reads", "qualified").await;
    let other = scene.cluster.n(2);
    other.freeze().unwrap();
    oracle.more_reads(100).await;
    let served = oracle.ledger.summary().served;
    assert!(served.contains_key(&gone.port()), "{served:?}");
    other.thaw().unwrap();
    scene.wait_node(2, "reads", "qualified").await;
    let ledger = oracle.judge(scene.cluster.n(0)).await;
    let summary = ledger.summary();
    assert_eq!(summary.lost_connections, 0, "{summary:?}");
    scene.finish().await;
}

#[tokio::test]
async fn a_slow_link_to_the_primary_is_no_failover() {
    let scene = linked_scene(1, |_| {}).await;
    let oracle = scene.oracle(2, 1).await;
    scene.links[0].set_both(Mode::Delay(Duration::from_millis(60)));
    oracle.more_writes(10).await;
    scene.links[0].mend();
    let ledger = oracle.judge(scene.cluster.n(0)).await;
    assert_eq!((ledger.summary().lost_connections, ledger.summary().in_doubt), (0, 0));
    assert_eq!(scene.node(0).await["role"], "primary");
    scene.finish().await;
}

#[tokio::test]
async fn the_link_to_the_primary_is_reset() {
    let scene = linked_scene(1, |_| {}).await;
    let oracle = scene.oracle(3, 1).await;
    let mut idle = scene.raw().await;
    idle.query("SET work_mem = '7MB'").await;
    oracle.more_writes(20).await;
    scene.links[0].reset();
    oracle.more_writes(50).await;
    assert_eq!(idle.value("SHOW work_mem").await, "7MB", "idle sessions go on with a new backend");
    idle.send(&raw::terminate()).await;
    let ledger = oracle.judge(scene.cluster.n(0)).await;
    assert_eq!(ledger.summary().lost_connections, 0, "{:?}", ledger.summary());
    scene.finish().await;
}
