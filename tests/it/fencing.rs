//! The old primary lives on beside the new one, which nobody has told it: nothing of a client's goes there any more.

use std::time::{Duration, Instant};

use pgsteer::demo::node::{Node, Promote};

use crate::harness::drivers::connect;
use crate::harness::proxy::{ProxySpec, TestProxy};
use crate::harness::raw::query;
use crate::harness::scene::scene;
use crate::harness::{LIMIT, eventually, soon};

/// Promotes a standby while the primary lives; when it was out of recovery.
async fn promote_beside(node: &Node) -> Instant {
    node.promote_and_wait(Promote::PgCtl).await.unwrap().into()
}

async fn wait_primary(proxy: &TestProxy, name: &str) {
    let what = format!("{name} is the primary");
    eventually(&what, async || proxy.topology().await.unwrap()["primary"] == name).await;
}

/// Server processes of clients at a node.
const CLIENTS: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";

#[tokio::test]
async fn work_at_the_old_primary_is_cut_at_once() {
    let scene = scene(1, |_| {}).await;
    let (mut running, mut open, mut idle) = (scene.raw().await, scene.raw().await, scene.raw().await);
    open.query("CREATE TABLE t (a int)").await;
    open.query("BEGIN").await;
    open.query("LOCK TABLE t; INSERT INTO t VALUES (1)").await;
    running.send(&query("INSERT INTO t SELECT 1 FROM pg_sleep(600)")).await;
    idle.query("SET work_mem = '7MB'").await;
    scene.primary_says("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", "1").await;
    let writable = promote_beside(scene.cluster.n(1)).await;
    // Nobody else would ever end these: the old primary serves them well.
    let frames = running.until(b'Z').await;
    println!("cut {:?} after the new primary took writes", writable.elapsed());
    assert_eq!(frames[0].sqlstate(), "08007", "{frames:?}");
    assert_eq!(open.error("INSERT INTO t VALUES (2)").await, "40001");
    assert_eq!(idle.value("SHOW work_mem").await, "7MB");
    assert_eq!(idle.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    scene.primary_says(CLIENTS, "0").await;
    scene.primary_says("SELECT count(*) FROM pg_locks WHERE relation = to_regclass('t')", "0").await;
    drop((running, open, idle));
    scene.finish().await;
}

#[tokio::test]
async fn the_old_primary_is_never_dialled_for_clients() {
    let scene = scene(1, |_| {}).await;
    let old = scene.cluster.n(0);
    old.one("ALTER SYSTEM SET log_connections = on").await.unwrap();
    old.one("SELECT pg_reload_conf()").await.unwrap();
    // Logins of clients at that node since it was told to log them; the monitor's own are none.
    let logins = || {
        let log = std::fs::read_to_string(old.log()).unwrap();
        let lines = log.lines().filter(|line| line.contains("connection authorized"));
        lines.filter(|line| !line.contains("application_name=pgsteer monitor")).count()
    };
    eventually("a login is logged", async || {
        scene.raw_direct().await;
        logins() > 0
    })
    .await;
    promote_beside(scene.cluster.n(1)).await;
    scene.wait_node(0, "role", "zombie").await;
    scene.primary_says(CLIENTS, "0").await;
    let before = logins();
    for _ in 0..5 {
        let (mut writer, mut reader) = (scene.raw().await, scene.raw_standby().await);
        assert_eq!(writer.value("SHOW port").await, scene.cluster.n(1).port().to_string());
        assert_eq!(reader.value("SHOW port").await, scene.cluster.n(1).port().to_string());
    }
    scene.wait_node(0, "role", "zombie").await;
    let newer: Vec<String> = {
        let log = std::fs::read_to_string(old.log()).unwrap();
        log.lines().filter(|line| line.contains("user=app")).map(str::to_owned).collect()
    };
    assert_eq!(logins(), before, "{newer:#?}");
    scene.finish().await;
}

#[tokio::test]
async fn two_proxies_write_to_one_branch() {
    let scene = scene(1, |_| {}).await;
    let second = ProxySpec::new(&scene.cluster).start().await;
    wait_primary(&second, "node1").await;
    let drivers = [connect(&scene.proxy.config()).await.unwrap(), connect(&second.config()).await.unwrap()];
    drivers[0].simple_query("CREATE TABLE branch (port text)").await.unwrap();
    let write = "INSERT INTO branch SELECT current_setting('port') RETURNING port";
    for driver in &drivers {
        driver.value(write).await.unwrap();
    }
    promote_beside(scene.cluster.n(1)).await;
    wait_primary(&scene.proxy, "node2").await;
    wait_primary(&second, "node2").await;
    let mut old = scene.cluster.n(0).sql_in("app").await.unwrap();
    let before = old.one("SELECT count(*) FROM branch").await.unwrap();
    let port = scene.cluster.n(1).port().to_string();
    for _ in 0..20 {
        for driver in &drivers {
            assert_eq!(driver.value(write).await.unwrap(), port);
        }
    }
    assert_eq!(old.one("SELECT count(*) FROM branch").await.unwrap(), before);
    drop((drivers, old));
    second.stop().await;
    scene.finish().await;
}

/// The new primary is away, the old one is back, and the proxy was restarted: it remembers that there was another.
#[tokio::test]
async fn a_restarted_proxy_remembers_the_highest_timeline() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let scene = scene(1, |spec| {
        spec.set("cluster.state_file", &state);
    })
    .await;
    let (old, new) = (scene.cluster.n(0), scene.cluster.n(1));
    promote_beside(new).await;
    wait_primary(&scene.proxy, "node2").await;
    new.freeze().unwrap();
    let mut spec = ProxySpec::new(&scene.cluster);
    spec.set("cluster.state_file", &state);
    spec.set("cluster.start_grace", "1ms").set("cluster.hold_timeout", "1s");
    // It is not ready, which `start` would wait for.
    let second = spec.spawn();
    let fenced = async || second.topology().await.is_ok_and(|view| view["nodes"][0]["role"] == "zombie");
    eventually("the old primary is fenced", fenced).await;
    assert!(second.topology().await.unwrap()["primary"].is_null());
    let refused = soon("an answer", second.config().connect(tokio_postgres::NoTls)).await;
    let Err(refused) = refused else { panic!("a login without a primary") };
    assert!(refused.as_db_error().is_some_and(|error| error.code().code() == "57P03"), "{refused:?}");
    assert_eq!(old.one(CLIENTS).await.unwrap(), "0");
    new.thaw().unwrap();
    wait_primary(&second, "node2").await;
    let driver = connect(&second.config()).await.unwrap();
    assert_eq!(driver.value("SHOW port").await.unwrap(), new.port().to_string());
    drop(driver);
    tokio::time::timeout(LIMIT + Duration::from_secs(20), second.stop()).await.unwrap();
    scene.finish().await;
}
