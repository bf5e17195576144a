//! Planned switchovers: under load without an error, given up without a trace, refused before anything happens.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use pgsteer::demo::node::Stop;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::harness::drivers::{Output, connect, conninfo, psql};
use crate::harness::proxy::ProxySpec;
use crate::harness::scene::{Scene, scene};
use crate::harness::{LIMIT, eventually, soon};

/// The superuser closes the old primary.
fn by_sql(spec: &mut ProxySpec) {
    spec.set("cluster.switchover.user", "postgres");
    spec.set("cluster.switchover.password", "postgres-secret");
}

/// Says something at the console, beside the test.
fn order(scene: &Scene, command: &str) -> JoinHandle<Output> {
    let conninfo = conninfo(&scene.proxy.console_config());
    let (programs, command) = (scene.cluster.programs().clone(), command.to_owned());
    tokio::spawn(async move { psql(&programs, &conninfo, &["-c", &command]).await })
}

async fn console(scene: &Scene, command: &str) -> Output {
    soon("an answer", order(scene, command)).await.unwrap()
}

/// An order that fails, with what it says.
async fn refused(scene: &Scene, command: &str) -> String {
    let output = console(scene, command).await;
    assert!(!output.ok, "{command}: {}", output.stdout);
    output.stderr
}

async fn wait_held(scene: &Scene) {
    eventually("writes are held", async || scene.proxy.topology().await.unwrap()["held"] == true).await;
}

const ROWS: &str = "SELECT count(*) FROM pgsteer_load";
const READ_ONLY: &str = "SHOW default_transaction_read_only";

/// Writers and readers, a prepared statement, settings, a transaction that ends while all others wait, a stranger at
/// the old primary: nobody of ours notices more than a pause.
async fn under_load(mode: &str) {
    let scene = scene(1, |spec| {
        by_sql(spec);
        spec.set("pool.mode", mode);
    })
    .await;
    let oracle = scene.oracle(6, 3).await;
    let (old, new) = (scene.cluster.n(0), scene.cluster.n(1));
    let driver = connect(&scene.proxy.config()).await.unwrap();
    driver.simple_query("CREATE TABLE kept (id int); SET work_mem = '7MB'").await.unwrap();
    let insert = driver.prepare("INSERT INTO kept VALUES ($1)").await.unwrap();
    driver.execute(&insert, &[&1]).await.unwrap();
    let mut inside = scene.raw().await;
    inside.query("BEGIN; INSERT INTO kept VALUES (2)").await;
    let mut stranger = scene.raw_direct().await;
    oracle.more_writes(100).await;

    let promoted = order(&scene, "PROMOTE node2 (TIMEOUT '25s')");
    wait_held(&scene).await;
    oracle.more_reads(50).await;
    assert_eq!(scene.proxy.page("/readyz").await.unwrap().0, 200, "a planned pause is no reason to leave");
    inside.query("INSERT INTO kept VALUES (3)").await;
    assert_eq!(inside.query("COMMIT").await.last().unwrap().body, b"I");
    let said = soon("the switchover", promoted).await.unwrap();
    assert!(said.text().starts_with("node1|node2|"), "{said:?}");
    assert!(said.text().contains("nothing of the old primary is missing"), "{said:?}");

    assert_eq!(driver.execute(&insert, &[&4]).await.unwrap(), 1, "prepared before, run after");
    assert_eq!(driver.value("SHOW work_mem").await.unwrap(), "7MB");
    assert_eq!(driver.value("SHOW port").await.unwrap(), new.port().to_string());
    assert_eq!(
        driver.value("SELECT string_agg(id::text, ',' ORDER BY id) FROM kept").await.unwrap(),
        "1,2,3,4"
    );
    assert_eq!(stranger.end().await[0].sqlstate(), "57P01", "others do not write on");
    let mut late = scene.raw_direct().await;
    assert_eq!(late.error("CREATE TABLE lost ()").await, "25006", "nor come back");
    let mut closed = old.sql_in("app").await.unwrap();
    let rows = closed.one(ROWS).await.unwrap();
    oracle.more_writes(200).await;
    assert_eq!(closed.one(ROWS).await.unwrap(), rows, "the old primary was written to");
    drop(closed);

    let report = async || scene.proxy.topology().await.unwrap()["outages"][0].clone();
    eventually("the report", async || report().await["end"] == "switchover").await;
    let report = report().await;
    assert_eq!(report["failed"].to_string(), "{}", "{report}");
    println!(
        "{mode}: writable after {} ms, answered after {} ms",
        report["writable_after_ms"], report["answered_after_ms"]
    );

    // Back again: as a standby the old primary is opened.
    old.stop(Stop::Fast).await.unwrap();
    scene.cluster.rejoin(old, new).await.unwrap();
    scene.wait_node(0, "reads", "qualified").await;
    old.wait_for(READ_ONLY, "off", LIMIT).await.unwrap();
    console(&scene, "PROMOTE node1 (TIMEOUT '20s')").await.text();
    assert_eq!(driver.execute(&insert, &[&5]).await.unwrap(), 1);
    oracle.more_writes(100).await;
    let summary = oracle.judge(old).await.summary();
    assert!(summary.errors.is_empty() && summary.in_doubt == 0, "{summary:?}");
    assert_eq!(summary.lost_connections, 0, "{summary:?}");
    drop((driver, inside, stranger, late));
    scene.finish().await;
}

#[tokio::test]
async fn nobody_notices_a_switchover() {
    under_load("session").await;
}

#[tokio::test]
async fn nobody_notices_a_switchover_in_transaction_mode() {
    under_load("transaction").await;
}

#[tokio::test]
async fn a_standby_that_does_not_catch_up_is_not_promoted() {
    let scene = scene(1, |spec| {
        by_sql(spec);
        spec.set("cluster.max_lag", "1h");
        spec.set("cluster.max_lag_bytes", "1GB");
    })
    .await;
    let oracle = scene.oracle(3, 0).await;
    oracle.more_writes(20).await;
    scene.cluster.n(1).pause_replay().await.unwrap();
    oracle.more_writes(50).await;
    let said = refused(&scene, "PROMOTE node2 (TIMEOUT '5s')").await;
    assert!(said.contains("node2 has replayed") && said.contains("node1 goes on as the primary"), "{said}");
    oracle.more_writes(100).await;
    let mut raw = scene.raw().await;
    assert_eq!(raw.value(READ_ONLY).await, "off");
    assert_eq!(scene.cluster.n(1).one("SELECT pg_is_in_recovery()").await.unwrap(), "t");
    let view = scene.proxy.topology().await.unwrap();
    assert_eq!((view["held"].to_string(), view["epoch"].to_string()), ("false".to_owned(), "1".to_owned()));
    scene.cluster.n(1).resume_replay().await.unwrap();
    let summary = oracle.judge(scene.cluster.n(0)).await.summary();
    assert!(summary.errors.is_empty() && summary.lost_connections == 0, "{summary:?}");
    drop(raw);
    scene.finish().await;
}

#[tokio::test]
async fn a_transaction_without_an_end_is_not_cut() {
    let scene = scene(1, by_sql).await;
    let mut open = scene.raw().await;
    open.query("CREATE TABLE mine (a int)").await;
    open.query("BEGIN").await;
    open.query("INSERT INTO mine VALUES (1)").await;
    let said = refused(&scene, "PROMOTE node2 (TIMEOUT '300ms')").await;
    assert!(said.contains("1 sessions are still in a transaction"), "{said}");
    open.query("INSERT INTO mine VALUES (2)").await;
    assert_eq!(open.query("COMMIT").await.last().unwrap().body, b"I");
    assert_eq!(open.value("SELECT count(*) FROM mine").await, "2");
    assert_eq!(scene.node(0).await["role"], "primary");
    drop(open);
    scene.finish().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anybody_waits() {
    let scene = scene(1, |_| {}).await;
    for (command, wanted) in [
        ("PROMOTE nobody", "there is no node \"nobody\""),
        ("PROMOTE node2", "nothing is configured to close the old primary"),
        ("PROMOTE node2 (TIMEOUT '40s')", "less than cluster.hold_timeout"),
        (
            "PROMOTE node2 (SOLE ENTRY)",
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO pgsteer",
        ),
    ] {
        let said = refused(&scene, command).await;
        assert!(said.contains(wanted), "{command}: {said}");
    }
    assert!(!scene.proxy.log_text().contains("switchover node1 -> node2 begins"));
    let grant = "GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO pgsteer";
    scene.cluster.n(0).one(&format!("{grant}; SELECT 1")).await.unwrap();
    scene
        .cluster
        .n(1)
        .wait_for(
            "SELECT has_function_privilege('pgsteer', 'pg_promote(boolean, integer)', 'EXECUTE')",
            "t",
            LIMIT,
        )
        .await
        .unwrap();
    let switchover = async |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteer"));
        command.arg("switchover").arg("-c").arg(scene.proxy.config_file()).args(arguments);
        command.env("PGPASSWORD", "postgres-secret").kill_on_drop(true);
        soon("the command", command.output()).await.unwrap()
    };
    let output = switchover(&["--to", "node2"]).await;
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("nothing is configured")
    );
    let mut idle = scene.raw().await;
    let output = switchover(&["--to", "node2", "--sole-entry", "--timeout", "15s"]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("new_primary  node2"), "{said}");
    assert_eq!(idle.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    assert!(refused(&scene, "PROMOTE node1").await.contains("not a standby"), "the old primary is fenced");
    drop(idle);
    scene.finish().await;
}

#[tokio::test]
async fn a_closed_primary_is_opened_by_promoting_it() {
    let scene = scene(1, by_sql).await;
    let mut raw = scene.raw().await;
    // As a proxy leaves it that dies in the middle of a switchover.
    scene.cluster.n(0).one("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    scene.cluster.n(0).one("SELECT pg_reload_conf()").await.unwrap();
    scene.primary_says(READ_ONLY, "on").await;
    eventually("it is closed", async || raw.value(READ_ONLY).await == "on").await;
    console(&scene, "PROMOTE node1").await.text();
    scene.primary_says(READ_ONLY, "off").await;
    raw.query("CREATE TABLE again ()").await;
    assert_eq!(raw.value("SELECT to_regclass('again') IS NOT NULL").await, "t");
    drop(raw);
    scene.finish().await;
}

/// A clean shutdown by the operator's own program: the standby gets all of it, and sessions that wait notice nothing.
#[tokio::test]
async fn fence_command_closes_the_old_primary() {
    let folder = tempfile::tempdir().unwrap();
    let (script, data) = (folder.path().join("fence"), folder.path().join("data"));
    let stop =
        "kill -INT $(head -1 $data/postmaster.pid); while test -e $data/postmaster.pid; do sleep 0.05; done";
    let say = "echo \"$PGSTEER_REASON of $PGSTEER_OLD_PRIMARY\"";
    let text = format!("#!/bin/sh\n{say}\ndata=$(cat {})\n{stop}\n", data.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let scene = scene(1, |spec| {
        spec.raw("cluster.fence_command", &format!("[{:?}]", script.display().to_string()));
        spec.set("cluster.switchover.user", "postgres");
        spec.set("cluster.switchover.password", "postgres-secret");
    })
    .await;
    std::fs::write(&data, scene.cluster.n(0).data().display().to_string()).unwrap();
    let oracle = scene.oracle(3, 1).await;
    let mut idle = scene.raw().await;
    idle.query("SET work_mem = '7MB'").await;
    oracle.more_writes(50).await;
    let said = console(&scene, "PROMOTE node2 (TIMEOUT '25s')").await;
    assert!(said.text().contains("nothing of the old primary is missing"), "{said:?}");
    oracle.more_writes(50).await;
    assert_eq!(idle.value("SHOW work_mem").await, "7MB");
    let log = scene.proxy.log_text();
    assert_eq!(
        log.matches("switchover of node1").count(),
        1,
        "the fence is not run again at the promotion: {log}"
    );
    assert!(!log.contains("failover of node1"), "{log}");
    let summary = oracle.judge(scene.cluster.n(1)).await.summary();
    assert!(summary.errors.is_empty() && summary.lost_connections == 0, "{summary:?}");
    drop(idle);
    scene.finish().await;
}
